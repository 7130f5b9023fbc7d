"""Small transformers models with random weights: one a kind that dspec drives, and some it refuses."""

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path

import torch
import transformers as tf

VOCABULARY, WIDTH, WINDOW = 60, 32, 5
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # Far from the usual 0.02, so that attention is not almost uniform.
    "initializer_range": 0.4,
}
GROUPED = {**COMMON, "num_key_value_heads": 2}
GEMMA = {**GROUPED, "head_dim": 16}
MIXED = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": WINDOW}
SLIDING = {"use_sliding_window": True, "max_window_layers": 2, "sliding_window": WINDOW}
DRIVEN = {
    "qwen3": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**GEMMA)),
    "qwen3_tied": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**GEMMA, tie_word_embeddings=True)),
    "qwen3_moe": lambda: tf.Qwen3MoeForCausalLM(
        tf.Qwen3MoeConfig(**GEMMA, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
    ),
    "qwen2": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**GROUPED)),
    "qwen2_sliding": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**GROUPED, **SLIDING)),
    "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**GROUPED)),
    "mistral_sliding": lambda: tf.MistralForCausalLM(tf.MistralConfig(**GROUPED, sliding_window=WINDOW)),
    "gemma": lambda: tf.GemmaForCausalLM(tf.GemmaConfig(**GEMMA)),
    "gemma2": lambda: tf.Gemma2ForCausalLM(
        tf.Gemma2Config(**GEMMA, **MIXED, final_logit_softcapping=3.0, query_pre_attn_scalar=16)
    ),
    "gemma3": lambda: tf.Gemma3ForCausalLM(tf.Gemma3TextConfig(**GEMMA, **MIXED, query_pre_attn_scalar=16)),
}
# Recurrent layers and attention in turn: driven on MLX alone.
HYBRID = {
    "qwen3_5": lambda: tf.Qwen3_5ForCausalLM(
        tf.Qwen3_5TextConfig(
            **GEMMA,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            layer_types=["linear_attention", "full_attention"] * 2,
        )
    ),
}
# Rotary scaling whose effect shows within a few positions.
SCALED = {
    "linear": {"rope_type": "linear", "factor": 3.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "yarn_betas": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
    },
}
REFUSED = {
    # name: (model, words of the message)
    "t5": (
        lambda: tf.T5ForConditionalGeneration(
            tf.T5Config(vocab_size=60, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4)
        ),
        "encoder",
    ),
    "mamba": (
        lambda: tf.MambaForCausalLM(
            tf.MambaConfig(vocab_size=60, hidden_size=32, state_size=4, num_hidden_layers=2)
        ),
        "linear_attention",
    ),
    "rwkv": (
        lambda: tf.RwkvForCausalLM(tf.RwkvConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2)),
        "recurrent state",
    ),
    "lfm2": (
        lambda: tf.Lfm2ForCausalLM(tf.Lfm2Config(**GROUPED, layer_types=["conv", "full_attention"] * 2)),
        "conv",
    ),
    "granite_logits": (
        lambda: tf.GraniteForCausalLM(tf.GraniteConfig(**GROUPED, logits_scaling=8.0)),
        "logits changed after the head",
    ),
    "granite_embeddings": (
        lambda: tf.GraniteForCausalLM(tf.GraniteConfig(**GROUPED, embedding_multiplier=12.0)),
        "embeddings changed before the first layer",
    ),
    "phi_bias": (lambda: tf.PhiForCausalLM(tf.PhiConfig(**COMMON)), "head with a bias"),
}


def make(kind):
    """A model with weights that depend on the kind alone."""
    torch.manual_seed(7)
    made = DRIVEN | HYBRID
    return made[kind]() if kind in made else REFUSED[kind][0]()


@functools.cache
def _root():
    place = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return Path(place)


@functools.cache
def folder(kind):
    """The folder that transformers writes of `make(kind)`; written once a process, and not to be changed."""
    make(kind).save_pretrained(_root() / kind)
    return _root() / kind


def changed(kind, place, **settings):
    """A copy of `folder(kind)` at `place`, with other settings in its config.json; None takes one away."""
    shutil.copytree(folder(kind), place)
    values = json.loads((place / "config.json").read_text()) | settings
    values = {name: value for name, value in values.items() if value is not None}
    (place / "config.json").write_text(json.dumps(values))
    return place


def opened(kind, room):
    """The room's target of `folder(kind)`."""
    return room.target.Target.load(folder(kind), device=room.device)
