"""config.json of a block-diffusion model: what it states, what changes nothing, what is not built."""

import pytest

from dspec.block_config import FAMILIES, ExpertConfig
from dspec.errors import CheckpointError, ConfigError
from dspec.io.block_json import block_config_from_json, read_block_config
from dspec.io.block_tensors import block_tensor_shapes
from tests.block_models import MASK, parsed, written
from tests.published_configs import PUBLISHED

ROPES = {
    "linear": {"rope_type": "linear", "factor": 2.0},
    "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256},
}
ROPES["llama3"]["original_max_position_embeddings"] = 64


@pytest.mark.clause("SS-1", "SS-23")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_states_its_family_and_shape(family):
    config = parsed(family)
    assert (config.family, config.shifted) == (family, family == "fast_dllm_v2")
    assert (config.qk_norm, config.attention_bias) == (family != "fast_dllm_v2", family == "fast_dllm_v2")
    assert (config.hidden_size, config.head_dim, config.vocab_size, config.eos_ids) == (64, 16, 300, (257,))
    assert config.rotary_dim == (8 if family == "llada2" else 16)
    assert (config.experts is not None) == (family == "llada2")


@pytest.mark.clause("SS-23")
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_read(name):
    raw, (tensors, mask, block_size) = PUBLISHED[name]
    config = block_config_from_json(raw, where="config.json")
    assert len(block_tensor_shapes(config)) == tensors
    assert (config.mask_token_id, config.block_size, config.dtype) == (mask, block_size, "bfloat16")


@pytest.mark.clause("SS-23")
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        (
            "sdar",
            {"auto_map": {"AutoModel": "modeling_sdar.SDARModel"}, "fuse_cross_entropy": True, "ep_size": 1},
        ),
        ("sdar", {"attention_dropout": 0.1, "use_cache": False, "attn_implementation": "flex_attention"}),
        ("fast_dllm_v2", {"sliding_window": 131072, "max_window_layers": 28, "use_sliding_window": False}),
        (
            "fast_dllm_v2",
            {"attention_bias": True, "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}},
        ),
        (
            "llada2",
            {"embedding_dropout": 0.1, "score_function": "sigmoid", "router_dtype": "fp32", "rotary_dim": 8},
        ),
        ("llada2", {"num_shared_experts": 1, "norm_topk_prob": True, "moe_router_enable_expert_bias": True}),
    ],
)
def test_what_changes_no_arithmetic_is_ignored(family, changes):
    assert parsed(family, **changes) == parsed(family)


@pytest.mark.clause("SS-23")
@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("sdar", "use_sliding_window", True),
        ("sdar", "layer_types", ["full_attention", "sliding_attention"] * 2),
        ("sdar", "hidden_act", "gelu"),
        ("sdar", "attention_bias", True),
        ("sdar", "mlp_bias", True),
        ("sdar", "rope_scaling", {"rope_type": "dynamic", "factor": 2.0}),
        ("sdar", "rope_scaling", {"rope_type": "longrope"}),
        ("sdar", "rope_scaling", {"rope_type": "linear"}),
        ("sdar", "rope_scaling", "linear"),
        ("sdar", "rope_theta", None),
        ("sdar", "head_dim", None),
        ("sdar", "partial_rotary_factor", 0.5),
        ("sdar", "num_experts", 128),
        ("sdar", "embedding_multiplier", True),
        ("sdar", "quantization_config", {"bits": 4}),
        ("sdar", "final_logit_softcapping", 30.0),
        ("sdar", "hidden_size", "64"),
        ("sdar", "tie_word_embeddings", "yes"),
        ("sdar", "dtype", "float8_e4m3fn"),
        ("fast_dllm_v2", "attention_bias", False),
        ("fast_dllm_v2", "use_qk_norm", True),
        ("fast_dllm_v2", "vocab_size", "300"),
        ("llada2", "use_qkv_bias", True),
        ("llada2", "use_bias", True),
        ("llada2", "norm_head", True),
        ("llada2", "use_qk_norm", False),
        ("llada2", "score_function", "softmax"),
        ("llada2", "norm_topk_prob", False),
        ("llada2", "moe_router_enable_expert_bias", False),
        ("llada2", "num_nextn_predict_layers", 1),
        ("llada2", "partial_rotary_factor", 1.5),
        ("llada2", "partial_rotary_factor", None),
        ("llada2", "rotary_dim", 16),
        ("llada2", "num_experts_per_tok", 5),
        ("llada2", "n_group", 8),
        ("llada2", "moe_intermediate_size", 50),
    ],
)
def test_what_is_not_built_is_refused(family, key, value):
    with pytest.raises(CheckpointError, match=f"config.json.*{key}.* got .*needs|config.json: got no {key}"):
        parsed(family, **{key: value})


@pytest.mark.clause("SS-23")
@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("sdar", {"num_key_value_heads": 3}, "num_attention_heads: got 4; needs a multiple of 3"),
        ("sdar", {"eos_token_id": 300}, r"eos_ids: got \(300,\); needs < 300"),
        ("fast_dllm_v2", {"num_attention_heads": 5}, "head_dim: got none, and 64 over 5 heads"),
        ("llada2", {"n_group": 3}, "num_experts: got 8; needs a multiple of n_group"),
    ],
)
def test_values_that_do_not_fit_each_other_are_refused(family, changes, words):
    with pytest.raises(CheckpointError, match=f"config.json: {words}"):
        parsed(family, **changes)


@pytest.mark.clause("SS-23")
def test_a_message_names_file_key_found_needed_and_clause():
    words = r"^config.json: hidden_act: got gelu; needs 'silu'. \[SS-23\]$"
    with pytest.raises(CheckpointError, match=words):
        parsed("sdar", hidden_act="gelu")
    with pytest.raises(CheckpointError, match=r"rope_theta: got 10000.0 and 5.0 in two places"):
        parsed("sdar", rope_parameters={"rope_theta": 5.0, "rope_type": "default"})


@pytest.mark.clause("SS-23")
@pytest.mark.parametrize(
    ("kind", "asked", "words"),
    [
        ("Fast_dLLM_Qwen", "sdar", "family='sdar': got a config of Fast_dLLM_Qwen; .* family='fast_dllm_v2'"),
        ("qwen3", "llada2", "family='llada2': got a config of qwen3; needs a config of llada2_moe. .*'sdar'"),
        ("qwen3", None, "family: got none, and a config of qwen3, .* one of sdar, fast_dllm_v2, llada2"),
        ("llama", None, "family: got none, and a config of llama"),
        (None, None, "family: got none, and a config of None"),
        ("sdar", "dream", "family: got 'dream'; needs one of sdar, fast_dllm_v2, llada2"),
    ],
)
def test_a_family_that_is_not_the_configs_is_refused(kind, asked, words):
    with pytest.raises(ConfigError, match=words):
        parsed("sdar", asked=asked, model_type=kind)


@pytest.mark.clause("SS-1")
def test_plain_weights_belong_to_the_family_that_is_said():
    assert parsed("sdar", asked="sdar", model_type="qwen3").family == "sdar"
    assert parsed("fast_dllm_v2", asked="fast_dllm_v2", model_type="qwen2").family == "fast_dllm_v2"


@pytest.mark.clause("SS-23")
@pytest.mark.parametrize(("family", "known"), list(zip(FAMILIES, (151669, 151665, 156895))))
def test_the_mask_token_is_the_callers_the_configs_or_the_familys(family, known):
    assert parsed(family, mask=7, mask_token_id=8).mask_token_id == 7
    assert parsed(family, mask=None, mask_token_id=8).mask_token_id == 8
    assert parsed(family, mask=None, vocab_size=known + 1).mask_token_id == known
    with pytest.raises(
        ConfigError, match=f"mask_token_id: .* without the {known} of {family}; .*mask_token_id="
    ):
        parsed(family, mask=None, vocab_size=known)
    with pytest.raises(ConfigError, match=r"mask_token_id: got 300; needs an id in \[0, 300\)"):
        parsed(family, mask=300)
    with pytest.raises(CheckpointError, match="mask_token_id: got 300; needs < 300"):
        parsed(family, mask=None, mask_token_id=300)


def test_block_size_and_end_tokens_come_from_the_files(tmp_path):
    assert [parsed(family).block_size for family in FAMILIES] == [4, 8, 32]
    assert parsed("sdar", block_size=16).block_size == 16
    assert parsed("sdar", eos_token_id=[1, 2]).eos_ids == (1, 2)
    assert parsed("sdar", eos_token_id=None).eos_ids == ()
    folder = written("sdar", tmp_path / "new")
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 257]}')
    assert read_block_config(folder, mask_token_id=MASK).eos_ids == (5, 257)


@pytest.mark.clause("SS-23")
@pytest.mark.parametrize("kind", ROPES)
def test_both_spellings_of_a_scaling_are_one(kind):
    flat = parsed("llada2", rope_scaling=ROPES[kind])
    other = {**ROPES[kind], "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    assert flat.rope_scaling == ROPES[kind]
    assert parsed("llada2", rope_theta=None, partial_rotary_factor=None, rope_parameters=other) == flat


@pytest.mark.clause("SS-23")
@pytest.mark.parametrize(
    "wrong",
    [
        {"num_experts": 9},
        {"topk_group": 5},
        {"num_experts_per_tok": 5},
        {"n_group": 8},
        {"routed_scaling_factor": 0},
    ],
)
def test_experts_must_fit_their_groups(wrong):
    sound = {
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "n_group": 4,
        "topk_group": 2,
        "moe_intermediate_size": 8,
    }
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ExpertConfig(**{**sound, **wrong})
