"""The kinds of model that dspec drives on MLX, and what mlx-lm's code takes for granted about each.

mlx-lm reads fewer settings than transformers, and some otherwise: it has no sliding windows in Qwen2 and
Gemma 2, no rotary scaling in Gemma, and takes Gemma 3's layers from one number. So a config is translated
before mlx-lm sees it, and one that mlx-lm cannot honour is refused: the same folder is the same model in
both rooms or none.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from mlx_lm.models import gemma, gemma2, gemma3_text, llama, qwen2, qwen3, qwen3_5, qwen3_moe

from dspec.errors import BackendUnavailable, explain

# Rotary settings by type that mlx-lm computes as transformers does. Others there are not: transformers'
# "dynamic" and "longrope" change with the length, and a yarn's own attention factor is not read.
ROPES = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow"),
}
TANH, SILU = ("gelu_pytorch_tanh",), ("silu",)


class TanhGemma(gemma.Model):
    """Gemma with the tanh form of GELU, as it was trained; mlx-lm's own takes the exact one."""

    def __init__(self, args: Any) -> None:
        super().__init__(args)
        for layer in self.model.layers:
            layer.mlp = gemma2.MLP(args.hidden_size, args.intermediate_size)


@dataclass(frozen=True)
class Kind:
    """What has been compared with transformers, and what must hold of a config for that.

    Args:
        module: of mlx-lm.
        model: its class, or one that mends it.
        needs: config field -> the values that mlx-lm's code takes for granted.
        set_fields: fields that must have a value.
        ropes: rotary types that the module reads.
        windows: "layer_types": the config says which layers have a sliding window; "all": every one, if
            there is a window; "none".
        scaled: embeddings are multiplied by the root of their width.
        array_masks: attention knows no mask called "causal".
        nested: the module's arguments hold those of the language model as `text_config`.
    """

    module: ModuleType
    model: type
    needs: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    set_fields: tuple[str, ...] = ()
    ropes: tuple[str, ...] = tuple(ROPES)
    windows: str = "none"
    scaled: bool = False
    array_masks: bool = False
    nested: bool = False

    @property
    def arguments(self) -> type:
        """The class of what the language model is built of."""
        return self.module.TextModelArgs if self.nested else self.module.ModelArgs


_PLAIN = {"hidden_act": SILU, "attention_bias": (False,)}
_GEMMA = {"attention_bias": (False,), "use_bidirectional_attention": (False, None)}
KINDS = {
    "llama": Kind(llama, llama.Model, {"hidden_act": SILU}),
    "mistral": Kind(llama, llama.Model, {"hidden_act": SILU}, windows="all"),
    "qwen2": Kind(qwen2, qwen2.Model, {"hidden_act": SILU}, windows="layer_types"),
    "qwen3": Kind(qwen3, qwen3.Model, _PLAIN, windows="layer_types"),
    "qwen3_moe": Kind(qwen3_moe, qwen3_moe.Model, _PLAIN, ropes=("default",), windows="all"),
    "gemma": Kind(
        gemma,
        TanhGemma,
        {**_GEMMA, "hidden_act": TANH, "tie_word_embeddings": (True,)},
        ropes=("default",),
        scaled=True,
    ),
    "gemma2": Kind(
        gemma2,
        gemma2.Model,
        {**_GEMMA, "hidden_activation": TANH, "tie_word_embeddings": (True,)},
        set_fields=("attn_logit_softcapping", "final_logit_softcapping"),
        ropes=("default",),
        windows="layer_types",
        scaled=True,
        array_masks=True,
    ),
    "gemma3_text": Kind(
        gemma3_text,
        gemma3_text.Model,
        {
            **_GEMMA,
            "hidden_activation": TANH,
            "attn_logit_softcapping": (None,),
            "final_logit_softcapping": (None,),
        },
        windows="layer_types",
        scaled=True,
    ),
    "qwen3_5_text": Kind(
        qwen3_5, qwen3_5.Model, _PLAIN, ropes=("default",), windows="layer_types", nested=True
    ),
}
# Configs of several models, of which dspec drives the one for text.
WHOLE = {"qwen3_5": "qwen3_5_text"}


def kind_of(model_type: str) -> Kind:
    """Return the kind of a config's `model_type`.

    Spec: DL-8.

    Raises:
        BackendUnavailable: one that has not been compared with transformers.

    Example:
        >>> kind_of("gemma2").array_masks
        True
    """
    if model_type not in KINDS:
        remedy = "Use the torch backend for it."
        raise BackendUnavailable(
            explain("target", f"model_type {model_type!r}", "one of " + ", ".join(KINDS), remedy=remedy)
        )
    return KINDS[model_type]


def windows_of(config: Any) -> tuple[int | None, ...]:
    """Return every layer's sliding window, itself included; None: it sees all positions before it.

    Spec: DL-8.

    Args:
        config: of transformers, of a kind that is driven.

    Raises:
        BackendUnavailable: layers of yet another kind.
    """
    kind, window = kind_of(config.model_type), getattr(config, "sliding_window", None)
    if kind.windows == "layer_types":
        spans = {"full_attention": None, "sliding_attention": window}
        spans |= {"linear_attention": None} if kind.nested else {}
        others = set(config.layer_types) - set(spans)
        _refuse(config, bool(others), "layers of kind " + ", ".join(sorted(others)), ", ".join(spans))
        return tuple(spans[layer_type] for layer_type in config.layer_types)
    return (window if kind.windows == "all" else None,) * config.num_hidden_layers


def language_of(config: Any) -> Any:
    """Return the config of the language model alone.

    Args:
        config: of transformers.

    Raises:
        BackendUnavailable: of a kind that has not been compared, or whose parts contradict each other.
    """
    kind_of(WHOLE.get(config.model_type, config.model_type))
    text = config.get_text_config(decoder=True)
    ties = (config.tie_word_embeddings, text.tie_word_embeddings)
    _refuse(config, ties[0] != ties[1], f"tie_word_embeddings {ties[0]}", f"{ties[1]}, as text_config says")
    return text


def recurrent_of(config: Any) -> frozenset[int]:
    """Return the layers that hold a state in place of keys and values."""
    kinds = getattr(config, "layer_types", None) or ()
    return frozenset(i for i, kind in enumerate(kinds) if kind == "linear_attention")


def inner(model: Any) -> Any:
    """Return the language model of an mlx-lm model, which may be the model itself."""
    return getattr(model, "language_model", model)


def arguments_of(config: Any) -> dict[str, Any]:
    """Return what mlx-lm's model is to be built of, so that it is the one that transformers builds.

    Args:
        config: of transformers, of a kind that is driven.

    Returns:
        Every field that mlx-lm reads of this kind, by its name there.

    Raises:
        BackendUnavailable: a setting that mlx-lm does not honour; the message names it.
    """
    kind = kind_of(config.model_type)
    for name, values in kind.needs.items():
        got = getattr(config, name, values[0])
        _refuse(config, got not in values, f"{name} {got!r}", " or ".join(map(repr, values)))
    for name in kind.set_fields:
        _refuse(config, getattr(config, name, None) is None, f"no {name}", "a number")
    fields = inspect.signature(kind.arguments).parameters
    width = config.hidden_size // config.num_attention_heads
    other_width = "head_dim" not in fields and (getattr(config, "head_dim", None) or width) != width
    _refuse(config, other_width, "a head_dim of its own", f"{width}, hidden_size by heads")
    values = {name: getattr(config, name) for name in fields if hasattr(config, name)}
    # The windows are dspec's own masks; llama.py would find no full layer to start from.
    plain: dict[str, Any] = {"rope_traditional": False, "rope_parameters": None, "layer_types": None}
    if kind.module is llama:
        plain["sliding_window"] = None
    plain |= _rotary(config, kind)
    return values | {name: value for name, value in plain.items() if name in fields}


def _rotary(config: Any, kind: Kind) -> dict[str, Any]:
    """Rotary settings by mlx-lm's names."""
    rope = config.rope_parameters
    if kind.nested:
        share = (rope or {}).get("partial_rotary_factor", 1.0)
        # Of text alone all three sections of a position are the same number.
        plain = {name: rope[name] for name in rope if name not in ("mrope_section", "mrope_interleaved")}
        base = _rope(config, {**plain, "partial_rotary_factor": 1.0}, kind.ropes)["rope_theta"]
        made = {"type": "default", "rope_theta": base, "partial_rotary_factor": share}
        found = {"rope_theta": base, "partial_rotary_factor": share, "rope_scaling": None}
        found["rope_parameters"] = made
        return found | {"full_attention_interval": _pattern(config, "linear_attention")}
    if kind.module is gemma3_text:
        near = _rope(config, rope.get("sliding_attention"), ("default",))
        far = _rope(config, rope.get("full_attention"), kind.ropes)
        return {
            **far,
            "rope_local_base_freq": near["rope_theta"],
            "sliding_window_pattern": _pattern(config, "sliding_attention"),
        }
    return _rope(config, rope, kind.ropes)


def _rope(config: Any, rope: Any, allowed: tuple[str, ...]) -> dict[str, Any]:
    """One set of rotary settings; whatever mlx-lm would not read is refused."""
    rope = {name: value for name, value in (rope or {}).items() if value is not None}
    kind = rope.pop("rope_type", "default")
    _refuse(config, kind not in allowed, f"rotary scaling of type {kind!r}", " or ".join(allowed))
    _refuse(config, "rope_theta" not in rope, f"rotary settings {rope}", "one rope_theta")
    base = rope.pop("rope_theta")
    unread = {
        name: value
        for name, value in rope.items()
        if name not in ("type", *ROPES[kind]) and (name, value) != ("partial_rotary_factor", 1.0)
    }
    _refuse(config, bool(unread), f"rotary settings {unread}", f"those of type {kind!r} alone")
    scaling = {"rope_type": kind} | {name: rope[name] for name in ROPES[kind] if name in rope}
    return {"rope_theta": base, "rope_scaling": None if kind == "default" else scaling}


def _pattern(config: Any, other: str) -> int:
    """Return n where every nth layer is full and the rest are not: all that mlx-lm's models can be."""
    kinds = config.layer_types
    found = next((n for n in range(1, len(kinds) + 1) if kinds == _every(n, len(kinds), other)), 0)
    _refuse(config, not found, f"layer_types {kinds}", f"every nth layer full, the rest {other}")
    return found


def _every(n: int, count: int, other: str) -> list[str]:
    return [other if (i + 1) % n else "full_attention" for i in range(count)]


def _refuse(config: Any, wrong: bool, found: str, needed: str) -> None:
    if wrong:
        remedy = "mlx-lm would build another model; use the torch backend for this one."
        raise BackendUnavailable(
            explain(f"{config.model_type} on MLX", found, needed, remedy=remedy, clause="DL-8")
        )
