"""What must hold of a model before it is a target, checked on one short pass."""

from typing import Any

import torch
from torch import Tensor

from dspec.backends.torch.cache import KeyValueCache, refuse_unless_rewindable
from dspec.backends.torch.taps import is_plain
from dspec.errors import BackendUnavailable, explain

PROBE_TOKENS = 2


def check_model(model: Any, logits: Any) -> bool:
    """Raise unless dspec drives this model as the model drives itself.

    One pass over two tokens must show that the layers read `get_input_embeddings()(ids)`, that every
    layer writes the cache it is given, and that the logits are those of dspec's own head: some models
    scale embeddings or logits on the way, and a drafter would silently learn from other numbers.

    Spec: DL-8, BD-6.

    Args:
        model: a transformers causal language model.
        logits: dspec's function from final hidden states to logits.

    Returns:
        Whether its layers may be called one by one, see `taps.is_plain`.

    Raises:
        BackendUnavailable: names what differs.
    """
    refuse_unless_rewindable(model)
    _refuse_shape(model)
    body, seen = model.get_decoder(), {}

    def first_input(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen["input"] = args[0] if args else kwargs["hidden_states"]

    def last_output(module: Any, args: Any, output: Any) -> None:
        seen["hidden"] = output.last_hidden_state

    hooks = [
        body.layers[0].register_forward_pre_hook(first_input, with_kwargs=True),
        body.register_forward_hook(last_output),
    ]
    device = model.get_input_embeddings().weight.device
    ids = torch.arange(PROBE_TOKENS, device=device)[None]
    cache = KeyValueCache(len(body.layers), capacity=PROBE_TOKENS)
    try:
        with torch.no_grad():
            own = model(input_ids=ids, past_key_values=cache, use_cache=True).logits
            embedded, ours = model.get_input_embeddings()(ids), logits(seen["hidden"])
    finally:
        for hook in hooks:
            hook.remove()
    unused = [i for i, layer in enumerate(cache.layers) if not layer.is_initialized]
    _refuse(model, bool(unused), f"layers {unused} that keep no keys and values", "a cache in every layer")
    scaled = not _same(embedded, seen["input"])
    _refuse(
        model, scaled, "embeddings changed before the first layer", "get_input_embeddings()(ids) as input"
    )
    _refuse(
        model, not _same(ours, own), "logits changed after the head", "hidden @ head.T, softcapped or not"
    )
    with torch.no_grad():
        return is_plain(body, lambda: KeyValueCache(len(body.layers), capacity=8))


def _refuse_shape(model: Any) -> None:
    """The parts that dspec reads must be there."""
    parts = ("get_decoder", "get_input_embeddings", "get_output_embeddings")
    lacks = [name for name in parts if getattr(model, name, lambda: None)() is None]
    if not lacks and not hasattr(model.get_decoder(), "layers"):
        lacks = ["decoder layers under the name `layers`"]
    _refuse(model, bool(lacks), "no " + ", ".join(lacks), "a transformers causal language model")
    bias = getattr(model.get_output_embeddings(), "bias", None)
    _refuse(model, bias is not None, "a head with a bias", "a head that is one matrix")


def _refuse(model: Any, wrong: bool, found: str, needed: str) -> None:
    if wrong:
        remedy = "This kind of target is not supported with this version of transformers."
        raise BackendUnavailable(explain(type(model).__name__, found, needed, remedy=remedy))


def _same(ours: Tensor, theirs: Tensor) -> bool:
    """Same up to the rounding of half-width numbers: what is looked for is a factor, not an ulp."""
    scale = theirs.float().abs().max()
    return bool((ours.float() - theirs.float()).abs().max() <= 0.02 * scale)
