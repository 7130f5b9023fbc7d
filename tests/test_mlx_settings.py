"""Settings that the tiny models leave at their defaults: the same numbers in transformers and on MLX."""

import numpy as np
import pytest
import torch
import transformers as tf

from dspec.backends.mlx.target import Target
from tests.rooms import ROOMS
from tests.test_mlx_targets import TOKENS, scores
from tests.tiny_models import COMMON, GEMMA, GROUPED, WINDOW
from tests.tolerances import TWO_FRAMEWORKS, TWO_RECURRENCES

pytestmark = [pytest.mark.mlx, pytest.mark.clause("DL-8")]

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SLIDING = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2}
HALF = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": WINDOW}
RECURRENT = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
}
MODELS = {
    "llama with biases": (tf.LlamaForCausalLM, GROUPED, {"attention_bias": True, "mlp_bias": True}),
    "llama, heads of their own width": (tf.LlamaForCausalLM, GROUPED, {"head_dim": 16}),
    "llama, a key a query, tied": (tf.LlamaForCausalLM, COMMON, {"tie_word_embeddings": True}),
    "mistral without a window": (tf.MistralForCausalLM, GROUPED, {"sliding_window": None}),
    "qwen2 tied": (tf.Qwen2ForCausalLM, GROUPED, {"tie_word_embeddings": True}),
    "qwen3 sliding": (tf.Qwen3ForCausalLM, GEMMA, SLIDING),
    "qwen3, another epsilon and base": (
        tf.Qwen3ForCausalLM,
        GEMMA,
        {"rms_norm_eps": 0.1, "rope_theta": 77.0},
    ),
    "experts in some layers": (
        tf.Qwen3MoeForCausalLM,
        GEMMA,
        {**EXPERTS, "norm_topk_prob": True, "mlp_only_layers": [1], "decoder_sparse_step": 2},
    ),
    "experts sliding": (tf.Qwen3MoeForCausalLM, GEMMA, {**EXPERTS, **SLIDING}),
    "gemma 2, other scale and caps": (
        tf.Gemma2ForCausalLM,
        GEMMA,
        {**HALF, "query_pre_attn_scalar": 7, "attn_logit_softcapping": 2.0},
    ),
    "gemma 3 untied": (
        tf.Gemma3ForCausalLM,
        GEMMA,
        {**HALF, "query_pre_attn_scalar": 7, "tie_word_embeddings": False},
    ),
    "qwen3.5 tied": (tf.Qwen3_5ForCausalLM, GEMMA, {**RECURRENT, "tie_word_embeddings": True}),
}


@pytest.fixture(params=MODELS)
def model(request):
    """With weights of its own in every norm and bias, which are born as ones and zeros."""
    cls, common, settings = MODELS[request.param]
    torch.manual_seed(7)
    made = cls(cls.config_class(**common, **settings)).eval().requires_grad_(False)
    for weight in made.parameters():
        if weight.ndim == 1:
            weight += 0.3 * torch.randn_like(weight)
    return made


def test_a_model_is_the_same_on_mlx(model, tmp_path):
    model.save_pretrained(tmp_path)
    out = model(torch.tensor(TOKENS), output_hidden_states=True)
    features = torch.cat([out.hidden_states[1], out.hidden_states[3]], dim=-1)
    limit = TWO_RECURRENCES if "linear_attention" in str(model.config) else TWO_FRAMEWORKS
    for ours, theirs in zip(scores(ROOMS["mlx"], Target.load(tmp_path)), (out.logits, features), strict=True):
        assert np.abs(ours - theirs.numpy()).max() <= limit * theirs.abs().max()
