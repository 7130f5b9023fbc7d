"""What must hold of a model before it is a target, checked on one short pass."""

from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import RotatingKVCache

from dspec.backends.mlx.model_kinds import TanhGemma, arguments_of, inner, kind_of
from dspec.backends.mlx.taps import Body, tapped
from dspec.errors import BackendUnavailable, explain

PROBE_TOKENS = 2


def check_model(model: Any, body: Body, logits: Any) -> None:
    """Raise unless dspec drives this model as the model drives itself.

    One pass over two tokens must show that every layer writes the cache it is given, and that dspec's
    own way through the layers and its head ends in the model's logits: some models scale embeddings or
    logits on the way, and a drafter would silently learn from other numbers.

    Spec: DL-8, BD-6.

    Args:
        model: of mlx-lm.
        body: its layers as dspec runs them.
        logits: dspec's function from final hidden states to logits.

    Raises:
        BackendUnavailable: names what differs.
    """
    ids = mx.arange(PROBE_TOKENS)[None]
    caches = [body.new_cache(PROBE_TOKENS) for _ in range(2)]
    own = model(ids, cache=caches[0].layers)
    ours = logits(tapped(body, ids, (), cache=caches[1], stop=False)[0])
    unused = [i for i, layers in enumerate(zip(*(c.layers for c in caches), strict=True)) if _idle(layers)]
    _refuse(model, bool(unused), f"layers {unused} that keep no keys and values", "a cache in every layer")
    needed = "the layers in order, the norm, then hidden @ head.T, softcapped or not"
    _refuse(model, not _same(ours, own), "logits made in another way", needed)


def check_built(model: Any, config: Any, windows: tuple[int | None, ...]) -> None:
    """Raise unless a loaded model is the one that its config describes.

    Spec: DL-8.

    Args:
        model: of mlx-lm.
        config: of transformers.
        windows: the layers' sliding windows by that config.

    Raises:
        BackendUnavailable: names what mlx-lm built otherwise.
    """
    kind, args = kind_of(config.model_type), inner(model).args
    _refuse(model, not isinstance(model, kind.module.Model), f"a {type(model)}", f"a {kind.module.Model}")
    wanted = {n: v for n, v in arguments_of(config).items() if n not in ("layer_types", "rope_parameters")}
    if kind.nested:
        wanted.pop("model_type")
    if kind.module is not kind_of("gemma3_text").module:
        wanted.pop("sliding_window", None)  # mlx-lm does not read it, or dspec's masks stand for it
    for name, value in wanted.items():
        built = getattr(args, name)
        if name == "rope_scaling" and built and built.get("rope_type", built.get("type")) == "default":
            built = None
        _refuse(model, built != value, f"{name} {built!r}", f"{value!r}, as its config says")
    caches = model.make_cache() if hasattr(model, "make_cache") else []
    own = tuple(cache.max_size if isinstance(cache, RotatingKVCache) else None for cache in caches)
    _refuse(model, any(own) and own != windows, f"sliding windows {own}", f"{windows}, as its config says")


def refuse_exact_gelu(model: Any, config: Any) -> None:
    """Raise for a Gemma of mlx-lm's own making: its activation is not the one the config names.

    Raises:
        BackendUnavailable: load it by its folder instead.
    """
    if config.model_type == "gemma" and not isinstance(model, TanhGemma):
        remedy = "Give the folder or hub id: dspec then builds it with the right one."
        found, needed = "exact GELU, which mlx-lm has for Gemma", "its tanh form, as its config says"
        raise BackendUnavailable(explain(type(model).__name__, found, needed, remedy=remedy))


def _idle(layers: Any) -> bool:
    """Whether one of the caches of a layer was not written."""
    return any(not layer.arrays for layer in layers)


def _refuse(model: Any, wrong: bool, found: str, needed: str) -> None:
    if wrong:
        remedy = "This kind of target is not supported with this version of mlx-lm."
        raise BackendUnavailable(explain(type(model).__name__, found, needed, remedy=remedy, clause="DL-8"))


def _same(ours: mx.array, theirs: mx.array) -> bool:
    """Same up to the rounding of half-width numbers: what is looked for is a factor, not an ulp."""
    ours, theirs = ours.astype(mx.float32), theirs.astype(mx.float32)
    return bool((mx.abs(ours - theirs).max() <= 0.02 * mx.abs(theirs).max()).item())
