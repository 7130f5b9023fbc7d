"""config.json of a DFlash v1 drafter: the published keys, their variants, and what is refused.

Every key is on one of the lists below. A key that is on none could change the mathematics, so it is
refused rather than ignored.
"""

import dataclasses
from collections.abc import Mapping, Set
from typing import Any

from dspec.config import DrafterConfig
from dspec.errors import CheckpointError, ConfigError, explain

ARCHITECTURE = "DFlashDraftModel"
TYPED = frozenset(f.name for f in dataclasses.fields(DrafterConfig)) - {"extra"}
NESTED = ("mask_token_id", "target_layer_ids", "block_size")  # these stand in dflash_config
OPTIONAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
# Their defaults in the field differ from reader to reader: a file must say them.
REQUIRED = {f.name for f in dataclasses.fields(DrafterConfig) if f.default is dataclasses.MISSING} - {"extra"}
REQUIRED |= {"rms_norm_eps", "rope_theta"}
# Keys that change nothing, whatever they hold.
HARMLESS = {"architectures", "auto_map", "model_type", "transformers_version", "use_cache"}
HARMLESS |= {"_name_or_path", "name_or_path", "return_dict", "output_attentions", "output_hidden_states"}
HARMLESS |= {"max_window_layers", "id2label", "label2id", "problem_type", "chunk_size_feed_forward"}
HARMLESS |= {"is_encoder_decoder", "_attn_implementation", "_attn_implementation_autoset"}
# Keys that would change the mathematics, with the values at which they do not.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "hidden_act": ("silu",),
    "attention_dropout": (0, None),
    "is_causal": (False, None),
    "causal": (False, None),
    "use_sliding_window": (False,),
    "use_swa": (False, None),
    "attention_sink_bias": (False, None),
    "projector_type": (None,),
    "shift_label": (False, None),
    "sample_from_anchor": (False, None),
    "pure_draft_prefix_len": (0, None),
    "use_aux_hidden_state": (True, None),
    "partial_rotary_factor": (1, None),
    "quantization": (None,),
    "quantization_config": (None,),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "pretraining_tp": (1,),
}
# Read by `_check_layers` and `_rope`.
STRUCTURAL = frozenset(
    ["dflash_config", "layer_types", "sliding_window", "swa_window_size", "torch_dtype", "rope_parameters"]
)


def config_from_json(raw: Mapping[str, Any], *, where: str) -> DrafterConfig:
    """Return the config that a parsed config.json states.

    Spec: BD-7.

    Args:
        raw: the JSON object.
        where: file, for errors.

    Raises:
        CheckpointError: another architecture, a missing or unknown key, or a value that changes the
            mathematics; the message names file, key, found, needed.
    """
    _check_architecture(raw, where)
    nested = raw.get("dflash_config", {})
    if not isinstance(nested, dict):
        raise CheckpointError(
            explain(f"{where}: dflash_config", repr(nested), "a JSON object", clause="BD-7")
        )
    _check_keys(raw, TYPED | HARMLESS | STRUCTURAL | set(NEUTRAL), where)
    _check_keys(nested, {*NESTED, *NEUTRAL}, f"{where}: dflash_config")
    _check_layers(raw, where)
    values = {key: raw[key] for key in TYPED if key in raw}
    for key in NESTED:
        _merge(values, key, nested, where)
    values |= _rope(raw, where)
    if "dtype" not in values and "torch_dtype" in raw:
        values["dtype"] = raw["torch_dtype"]
    missing = sorted(REQUIRED - set(values))
    if missing:
        raise CheckpointError(explain(where, "no " + ", ".join(missing), "these keys", clause="BD-7"))
    values["extra"] = _extra(raw)
    try:
        return DrafterConfig(**values)
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from error


def config_json(config: DrafterConfig) -> dict[str, Any]:
    """Return the published key set of a config; what was read is written back key for key.

    Spec: BD-7.
    """
    flat = {key: getattr(config, key) for key in TYPED - set(NESTED[:2])}
    for key in OPTIONAL_IDS:
        if flat[key] is None and key not in config.extra:
            del flat[key]
    flat["dflash_config"] = {
        "mask_token_id": config.mask_token_id,
        "target_layer_ids": list(config.target_layer_ids),
        **config.extra.get("dflash_config", {}),
    }
    merged = {**_published(config), **config.extra, **flat}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in sorted(merged.items())}


def _published(config: DrafterConfig) -> dict[str, Any]:
    """Keys that other engines expect and whose values are fixed in DFlash v1."""
    return {
        "architectures": [ARCHITECTURE],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "layer_types": ["full_attention"] * config.num_hidden_layers,
        "max_window_layers": config.num_hidden_layers,
        "model_type": "qwen3",
        "sliding_window": None,
        # The version whose spelling of the keys this is (flat rope_theta, dtype).
        "transformers_version": "4.57.1",
        "use_cache": True,
        "use_sliding_window": False,
    }


def _check_architecture(raw: Mapping[str, Any], where: str) -> None:
    checks = (
        ("architectures", raw.get("architectures", [ARCHITECTURE]), [ARCHITECTURE]),
        ("model_type", raw.get("model_type", "qwen3"), "qwen3"),
    )
    for key, found, needed in checks:
        if found != needed:
            remedy = "Only DFlash v1 drafters are read; convert others with their own tools."
            message = explain(
                f"{where}: {key}", repr(found)[:200], repr(needed), remedy=remedy, clause="BD-7"
            )
            raise CheckpointError(message)


def _check_keys(raw: Mapping[str, Any], known: Set[str], where: str) -> None:
    """Refuse unknown keys, and known ones at a value that changes the mathematics."""
    for key, value in raw.items():
        if key not in known:
            remedy = "It may change the mathematics, so it is not ignored."
            found = f"the unknown key {key[:200]!r} = {repr(value)[:200]}"
            raise CheckpointError(explain(where, found, "keys of DFlash v1", remedy=remedy, clause="BD-7"))
        # `1 == True` in Python: compare the kind as well.
        allowed = NEUTRAL.get(key, (value,))
        if not any(value == a and isinstance(value, bool) == isinstance(a, bool) for a in allowed):
            needed = " or ".join(repr(a) for a in allowed)
            message = explain(f"{where}: {key}", repr(value)[:200], needed, clause="BD-7")
            raise CheckpointError(message)


def _check_layers(raw: Mapping[str, Any], where: str) -> None:
    """Full attention in every layer: no sliding window in use."""
    types = raw.get("layer_types")
    full = isinstance(types, list) and types == ["full_attention"] * len(types)
    if types is not None and not (full and len(types) == raw.get("num_hidden_layers")):
        needed = "full_attention, once a layer (sliding windows are not built)"
        raise CheckpointError(explain(f"{where}: layer_types", repr(types)[:200], needed, clause="BD-7"))
    for key, switch in (("sliding_window", "use_sliding_window"), ("swa_window_size", "use_swa")):
        if raw.get(key) is not None and raw.get(switch) is not False:
            found = f"{repr(raw[key])[:200]} without {switch} = false"
            raise CheckpointError(
                explain(f"{where}: {key}", found, "null: windows are not built", clause="BD-7")
            )


def _merge(values: dict[str, Any], key: str, other: Mapping[str, Any], where: str) -> None:
    """Take `key` from a second place; two places must agree."""
    if key in other:
        if key in values and values[key] != other[key]:
            found = f"{repr(values[key])[:200]} and {repr(other[key])[:200]} in two places"
            raise CheckpointError(explain(f"{where}: {key}", found, "one value", clause="BD-7"))
        values[key] = other[key]


def _rope(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return rope_theta and rope_scaling from the flat spelling, `rope_parameters`, or both."""
    values: dict[str, Any] = {key: raw[key] for key in ("rope_theta", "rope_scaling") if key in raw}
    scaling = raw.get("rope_parameters")
    if scaling is not None:
        if not isinstance(scaling, dict):
            raise CheckpointError(explain(f"{where}: rope_parameters", repr(scaling)[:200], "a JSON object"))
        _merge(values, "rope_theta", scaling, where)
        _check_keys(
            {k: v for k, v in scaling.items() if k in NEUTRAL}, set(NEUTRAL), f"{where}: rope_parameters"
        )
        rest = {k: v for k, v in scaling.items() if k != "rope_theta" and k not in NEUTRAL}
        if values.get("rope_scaling") is None:
            values["rope_scaling"] = rest or None
        else:
            _merge(values, "rope_scaling", {"rope_scaling": rest}, where)
    if values.get("rope_scaling") in ({"rope_type": "default"}, {"type": "default"}):
        values["rope_scaling"] = None
    return values


def _extra(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Keys that no field holds, for the way back; variants of a spelling go to the published one."""
    extra = {
        k: v for k, v in raw.items() if k not in TYPED | {"torch_dtype", "rope_parameters", "dflash_config"}
    }
    extra |= {key: None for key in OPTIONAL_IDS if key in raw and raw[key] is None}
    if nested := {k: v for k, v in raw.get("dflash_config", {}).items() if k not in NESTED}:
        extra["dflash_config"] = nested
    return extra
