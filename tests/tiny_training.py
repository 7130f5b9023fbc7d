"""A random target and drafters small enough to train in a test, on records of token ids."""

import numpy as np
import torch
import transformers as tf

from dspec.backends.torch.drafter import Drafter
from dspec.backends.torch.learner import Learner
from dspec.backends.torch.target import Target
from dspec.config import DrafterConfig, TrainConfig
from dspec.core.objectives import Objective
from dspec.io.examples import Example

VOCABULARY = 97
MASK = 96
SETTINGS = {"block_size": 4, "layers": 1, "batch_size": 4, "seq_len": 64, "anchors": 6, "warmup": 0.0}


def make_target(*, softcap=None):
    torch.manual_seed(3)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    config = tf.Qwen3Config(vocab_size=VOCABULARY, max_position_embeddings=128, **shape, **heads)
    target = Target(tf.Qwen3ForCausalLM(config))
    target.softcap = softcap
    return target


def make_drafter(target, *, block_size=4, layers=1, seed=1):
    taps = {"mask_token_id": MASK, "target_layer_ids": (0, 1)}
    config = DrafterConfig.for_target(target.facts, block_size=block_size, layers=layers, **taps)
    return Drafter(config).initialise(torch.Generator().manual_seed(seed))


def make_learner(target, config, objective="ltr", **options):
    drafter = make_drafter(target, block_size=config.block_size, layers=config.layers)
    parsed = Objective.parse(objective, reduction=config.reduction)
    return Learner(drafter, target, config, objective=parsed, **options)


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
