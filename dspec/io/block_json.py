"""config.json of a block-diffusion model: what it states, and what is refused because it is not built.

Published configs carry many keys of training and serving code; those are ignored. Every key known to
change the arithmetic is read, or must stand at the value at which it changes nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dspec.block_config import BLOCK_SIZES, FAMILIES, MASK_IDS, BlockModelConfig, ExpertConfig
from dspec.errors import CheckpointError, ConfigError, explain
from dspec.io.strict_json import read_object
from dspec.rules import ROPE_TYPES

CONFIG = "config.json"
GENERATION = "generation_config.json"
# family -> the model_type of its own checkpoints, then those of plain weights that a caller may name.
MODEL_TYPES = {
    "sdar": ("sdar", "qwen3"),
    "fast_dllm_v2": ("Fast_dLLM_Qwen", "qwen2"),
    "llada2": ("llada2_moe",),
}
SHAPES: tuple[str, ...] = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)
SHAPES += ("num_key_value_heads", "max_position_embeddings", "rms_norm_eps")
EXPERTS: tuple[str, ...] = (
    "num_experts",
    "num_experts_per_tok",
    "n_group",
    "topk_group",
    "moe_intermediate_size",
)
EXPERTS += ("first_k_dense_replace", "routed_scaling_factor")
# Their defaults differ from reader to reader: a file must say them.
REQUIRED = {
    "sdar": (*SHAPES, "head_dim"),
    "fast_dllm_v2": SHAPES,
    "llada2": (*SHAPES, *EXPERTS, "partial_rotary_factor"),
}
OFF, ONE = (None, False), (None, 1)
# Keys that would change the arithmetic, with the values at which they do not.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    **dict.fromkeys(("use_sliding_window", "use_swa", "mlp_bias", "use_bias", "attention_out_bias"), OFF),
    **dict.fromkeys(("quantization", "quantization_config", "compression_config"), (None,)),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping", "logit_softcap"), (None,)),
    **dict.fromkeys(("embedding_multiplier", "residual_multiplier", "logits_scaling", "logit_scale"), ONE),
    **dict.fromkeys(("attention_multiplier", "query_pre_attn_scalar", "no_rope_layers"), (None,)),
    **dict.fromkeys(("attention_sink_bias", "attn_output_gate", "rope_interleave", "use_mrope"), OFF),
    **dict.fromkeys(("norm_head", "norm_softmax", "using_split_qkv_in_self_attention"), OFF),
    **dict.fromkeys(("is_encoder_decoder", "add_cross_attention", "use_parallel_residual"), OFF),
    "num_nextn_predict_layers": (None, 0),
    "decoder_sparse_step": ONE,
    "mlp_only_layers": (None, []),
    "pruned_heads": (None, {}),
    "use_rmsnorm": (None, True),
    "score_function": (None, "sigmoid"),
    "norm_topk_prob": (None, True),
    "moe_router_enable_expert_bias": (None, True),
    "router_dtype": (None, "fp32"),
}
DENSE: dict[str, tuple[Any, ...]] = {"num_experts": (None, 0), "partial_rotary_factor": ONE}
# The same that only some families may have, or must.
OF_FAMILY: dict[str, dict[str, tuple[Any, ...]]] = {
    "sdar": {"attention_bias": OFF, "use_qkv_bias": OFF, "use_qk_norm": (None, True), **DENSE},
    "fast_dllm_v2": {
        "attention_bias": (None, True),
        "use_qkv_bias": (None, True),
        "use_qk_norm": OFF,
        **DENSE,
    },
    "llada2": {"attention_bias": OFF, "use_qkv_bias": OFF, "use_qk_norm": (None, True)},
}


def read_block_config(
    folder: str | Path, *, family: str | None = None, mask_token_id: int | None = None
) -> BlockModelConfig:
    """Return the config of the block-diffusion model in a folder.

    Spec: SS-1, SS-23.

    Args:
        folder: holds config.json; the end tokens of a generation_config.json count before its own.
        family: see `block_config_from_json`.
        mask_token_id: see there.

    Raises:
        CheckpointError: no or malformed config.json, or one that asks for what is not built.
        ConfigError: family or mask token missing, unknown, or contradicted by the config.
    """
    folder = Path(folder)
    path, generation = folder / CONFIG, folder / GENERATION
    raw = read_object(path)
    if generation.is_file():
        ends = read_object(generation).get("eos_token_id")
        raw = raw if ends is None else {**raw, "eos_token_id": ends}
    return block_config_from_json(raw, where=str(path), family=family, mask_token_id=mask_token_id)


def block_config_from_json(
    raw: Mapping[str, Any], *, where: str, family: str | None = None, mask_token_id: int | None = None
) -> BlockModelConfig:
    """Return the config that a parsed config.json states.

    Spec: SS-1, SS-23.

    Args:
        raw: the JSON object.
        where: file, for errors.
        family: one of `FAMILIES`; None: the one whose own model_type stands in the config.
        mask_token_id: None: the config's, else the one of the family's published models.

    Raises:
        CheckpointError: a key is missing, or asks for what is not built; the message names file, key,
            found, needed.
        ConfigError: family or mask token missing, unknown, or contradicted by the config.
    """
    family = _family(raw.get("model_type"), family)
    raw = {**raw, **_rope(raw, where)}
    for key, allowed in {**NEUTRAL, **OF_FAMILY[family]}.items():
        if key in raw:
            _check_neutral(key, raw[key], allowed, where)
    _check_layers(raw, where)
    missing = [key for key in (*REQUIRED[family], "rope_theta") if raw.get(key) is None]
    if missing:
        raise CheckpointError(explain(where, "no " + ", ".join(missing), "these keys", clause="SS-23"))
    if type(raw["vocab_size"]) is not int:
        message = explain(f"{where}: vocab_size", _short(raw["vocab_size"]), "an integer", clause="SS-23")
        raise CheckpointError(message)
    mask = _mask_id(raw, family, mask_token_id)
    try:
        return BlockModelConfig(family=family, mask_token_id=mask, **_values(raw, family, where))
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from error


def _values(raw: Mapping[str, Any], family: str, where: str) -> dict[str, Any]:
    """Every other field of the config."""
    head_dim, ends, dtype = _head_dim(raw, where), raw.get("eos_token_id"), raw.get("dtype")
    sizes = ("bd_size", "block_size", "block_length")
    dtype = raw.get("torch_dtype") if dtype is None else dtype
    experts = {key: raw[key] for key in EXPERTS} if family == "llada2" else None
    shared = raw.get("num_shared_experts") or 0
    return {
        **{key: raw[key] for key in SHAPES},
        "head_dim": head_dim,
        "rotary_dim": _rotary_dim(raw, head_dim, where),
        "rope_theta": raw["rope_theta"],
        "rope_scaling": raw["rope_scaling"],
        "block_size": next((raw[key] for key in sizes if raw.get(key) is not None), BLOCK_SIZES[family]),
        "qk_norm": family != "fast_dllm_v2",
        "attention_bias": family == "fast_dllm_v2",
        "tie_word_embeddings": raw.get("tie_word_embeddings") or False,
        "eos_ids": () if ends is None else tuple(ends) if isinstance(ends, list) else (ends,),
        "dtype": dtype.removeprefix("torch.") if isinstance(dtype, str) else dtype,
        "experts": None if experts is None else ExpertConfig(**experts, num_shared_experts=shared),
    }


def _family(found: Any, asked: str | None) -> str:
    """The family asked for, if the config may belong to it, or the one whose own type the config has."""
    known = ", ".join(FAMILIES)
    if asked is None:
        for family, types in MODEL_TYPES.items():
            if found == types[0]:
                return family
        got = f"none, and a config of {_short(found)}, which does not tell"
        remedy = "Say family=... if the weights were trained as one of these."
        raise ConfigError(explain("family", got, f"one of {known}", remedy=remedy, clause="SS-23"))
    if asked not in MODEL_TYPES:
        raise ConfigError(explain("family", repr(asked), f"one of {known}", clause="SS-23"))
    if found not in MODEL_TYPES[asked]:
        needed = "a config of " + " or ".join(MODEL_TYPES[asked])
        fits = [family for family, types in MODEL_TYPES.items() if found in types]
        remedy = f"Say family={fits[0]!r}." if fits else ""
        got = f"a config of {_short(found)}"
        raise ConfigError(explain(f"family={asked!r}", got, needed, remedy=remedy, clause="SS-23"))
    return asked


def _mask_id(raw: Mapping[str, Any], family: str, asked: int | None) -> int:
    """The caller's, the config's, or that of the family's published models where it fits."""
    vocab = raw["vocab_size"]
    if asked is not None:
        if type(asked) is not int or not 0 <= asked < vocab:
            raise ConfigError(explain("mask_token_id", repr(asked), f"an id in [0, {vocab})", clause="SS-23"))
        return asked
    named = [raw[key] for key in ("mask_token_id", "mask_id") if raw.get(key) is not None]
    if named:
        return named[0]  # type: ignore[no-any-return]
    if MASK_IDS[family] < vocab:
        return MASK_IDS[family]
    got = f"none, and a vocabulary of {vocab} without the {MASK_IDS[family]} of {family}"
    remedy = "Give mask_token_id=, the token that stands for an undecided position."
    raise ConfigError(
        explain("mask_token_id", got, "the id of the mask token", remedy=remedy, clause="SS-23")
    )


def _check_neutral(key: str, value: Any, allowed: tuple[Any, ...], where: str) -> None:
    """Refuse a value that changes the arithmetic; `1 == True` in Python, so kinds are compared too."""
    if not any(value == a and isinstance(value, bool) == isinstance(a, bool) for a in allowed):
        needed = " or ".join(repr(a) for a in allowed)
        raise CheckpointError(explain(f"{where}: {key}", _short(value), needed, clause="SS-23"))


def _check_layers(raw: Mapping[str, Any], where: str) -> None:
    """Full attention in every layer: a window would hide what a block must see."""
    types = raw.get("layer_types")
    if types is not None and types != ["full_attention"] * len(types):
        needed = "full_attention in every layer (sliding windows are not built)"
        raise CheckpointError(explain(f"{where}: layer_types", _short(types), needed, clause="SS-23"))


def _rope(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Rotary settings in the flat spelling, from `rope_parameters` where the file has that one."""
    flat = {key: raw.get(key) for key in ("rope_theta", "rope_scaling", "partial_rotary_factor")}
    nested = raw.get("rope_parameters")
    scaling = dict(_mapping(flat["rope_scaling"], f"{where}: rope_scaling"))
    if nested is not None:
        scaling = dict(_mapping(nested, f"{where}: rope_parameters"))
        for key in ("rope_theta", "partial_rotary_factor"):
            inner = scaling.pop(key, None)
            if None not in (inner, flat[key]) and inner != flat[key]:
                found = f"{_short(flat[key])} and {_short(inner)} in two places"
                raise CheckpointError(explain(f"{where}: {key}", found, "one value", clause="SS-23"))
            flat[key] = flat[key] if inner is None else inner
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ROPE_TYPES:
        needed = "one of " + ", ".join(ROPE_TYPES)
        raise CheckpointError(explain(f"{where}: rope_scaling", _short(kind), needed, clause="SS-23"))
    flat["rope_scaling"] = None if kind == "default" else scaling
    return flat


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise CheckpointError(explain(where, _short(value), "a JSON object, or null", clause="SS-23"))
    return value or {}


def _head_dim(raw: Mapping[str, Any], where: str) -> Any:
    """As stated, or the width over the heads."""
    width, heads = raw["hidden_size"], raw["num_attention_heads"]
    if raw.get("head_dim") is not None:
        return raw["head_dim"]
    if type(width) is not int or type(heads) is not int or heads < 1 or width % heads:
        found = f"none, and {_short(width)} over {_short(heads)} heads"
        raise CheckpointError(explain(f"{where}: head_dim", found, "the width of a head", clause="SS-23"))
    return width // heads


def _rotary_dim(raw: Mapping[str, Any], head_dim: Any, where: str) -> Any:
    """The turned part of a head; a second word for it must agree."""
    part, said = raw.get("partial_rotary_factor"), raw.get("rotary_dim")
    if part is None:
        return head_dim
    if type(part) not in (int, float) or not 0 < part <= 1 or type(head_dim) is not int:
        needed = "a number in (0, 1]"
        raise CheckpointError(
            explain(f"{where}: partial_rotary_factor", _short(part), needed, clause="SS-23")
        )
    found = int(head_dim * part)
    if said not in (None, found):
        needed = f"{found}, {part:g} of head_dim"
        raise CheckpointError(explain(f"{where}: rotary_dim", _short(said), needed, clause="SS-23"))
    return found


def _short(value: Any) -> str:
    return repr(value)[:200] if not isinstance(value, str) else value[:200]
