"""A random target and drafters small enough to train in a test, on records of token ids.

Weights are drawn by numpy and reach both rooms through files: they are the same numbers in each.
"""

import json
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from dspec.config import DrafterConfig, TrainConfig
from dspec.core.objectives import Objective
from dspec.io.checkpoints import tensor_shapes, write_checkpoint
from dspec.io.examples import Example

VOCABULARY = 97
MASK = 96
SETTINGS = {"block_size": 4, "layers": 1, "batch_size": 4, "seq_len": 64, "anchors": 6, "warmup": 0.0}
SETTINGS |= {"precision": "float32"}  # "auto" would be bfloat16 on Metal
WIDTH, INNER, HEADS, GROUPS, HEAD = 32, 48, 4, 2, 8
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "dtype": "float32",
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": 3,
    "num_attention_heads": HEADS,
    "num_key_value_heads": GROUPS,
    "head_dim": HEAD,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
LAYER = {
    "input_layernorm": (WIDTH,),
    "post_attention_layernorm": (WIDTH,),
    "self_attn.q_proj": (HEADS * HEAD, WIDTH),
    "self_attn.k_proj": (GROUPS * HEAD, WIDTH),
    "self_attn.v_proj": (GROUPS * HEAD, WIDTH),
    "self_attn.o_proj": (WIDTH, HEADS * HEAD),
    "self_attn.q_norm": (HEAD,),
    "self_attn.k_norm": (HEAD,),
    "mlp.gate_proj": (INNER, WIDTH),
    "mlp.up_proj": (INNER, WIDTH),
    "mlp.down_proj": (WIDTH, INNER),
}
FOLDERS = tempfile.TemporaryDirectory(prefix="dspec-tiny-")


def draw(shapes, *, seed, std):
    """Weights by name: matrices normal, gains 1."""
    random = np.random.default_rng(seed)
    matrices = {name: random.normal(0.0, std, shape) for name, shape in shapes.items() if len(shape) > 1}
    return {name: matrices.get(name, np.ones(shape)).astype(np.float32) for name, shape in shapes.items()}


@cache
def target_folder(*, seed=3):
    """A folder with a target of three layers, as the hub has them."""
    folder = Path(FOLDERS.name) / f"target-{seed}"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(QWEN3))
    ends = {"model.embed_tokens": (VOCABULARY, WIDTH), "model.norm": (WIDTH,), "lm_head": (VOCABULARY, WIDTH)}
    layers = {f"model.layers.{i}.{name}": shape for i in range(3) for name, shape in LAYER.items()}
    shapes = {f"{name}.weight": shape for name, shape in (ends | layers).items()}
    weights = draw(shapes, seed=seed, std=0.2)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make_target(room, *, softcap=None):
    target = room.target.Target.load(target_folder(), device=room.device, dtype="float32")
    target.softcap = softcap
    return target


def make_drafter(room, target, *, block_size=4, layers=1, seed=1):
    taps = {"mask_token_id": MASK, "target_layer_ids": (0, 1)}
    config = DrafterConfig.for_target(target.facts, block_size=block_size, layers=layers, **taps)
    weights = draw(tensor_shapes(config), seed=seed, std=config.initializer_range)
    with tempfile.TemporaryDirectory(dir=FOLDERS.name) as folder:
        write_checkpoint(folder, config, lambda path: save_file(weights, path))
        return room.drafter.load_drafter(folder, device=room.device, dtype="float32")


def make_learner(room, target, config, objective="ltr", **options):
    drafter = make_drafter(room, target, block_size=config.block_size, layers=config.layers)
    parsed = Objective.parse(objective, reduction=config.reduction)
    return room.learner.Learner(drafter, target, config, objective=parsed, **options)


def make_config(**changes):
    return TrainConfig(**{**SETTINGS, "steps": 6, "lr": 3e-3, **changes})


def make_examples(count=16, *, length=48, seed=0):
    """Token walks of which each step is one of two, after a prompt; some too short for all anchors."""
    random = np.random.default_rng(seed)
    examples = []
    for row in range(count):
        steps = random.choice([1, 3], size=length if row % 4 else 9)
        tokens = (random.integers(90) + np.cumsum(steps)) % 90
        loss_mask = np.arange(len(tokens)) >= 4
        examples.append(Example(tokens.astype(np.int64), loss_mask))
    return tuple(examples)
