"""Running a body, and taps: the raw outputs of chosen decoder layers, caught while it runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_causal_mask

# Bodies that are nothing but embedding, one causal mask, rotary angles, layers in turn and a norm: those
# whose layers may be called one by one. Beside them transformers' forward slices its list of layers, looks
# through its config for each and collects outputs nobody asked for: 0.25 to 0.4 ms a pass, whatever its size.
# Scoring with the shipped target (6 layers, one CPU thread, after 200 positions) takes 0.92 times as long
# without it over 1 token, 0.93 over 16. A mask kept from pass to pass would save another 0.01: not taken.
PLAIN = ("LlamaModel", "Qwen2Model", "Qwen3Model")


class _LastTap(Exception):
    """Raised by the deepest tap to leave the body."""


@contextmanager
def tapped(
    layers: Sequence[nn.Module], layer_ids: Sequence[int], *, stop: bool
) -> Iterator[dict[int, Tensor]]:
    """Catch the outputs of some layers while the body runs inside.

    What a layer returns is its residual stream, before the final norm. transformers' own
    `output_hidden_states` would keep every layer's, and gives the last one after the norm.

    Spec: BD-5.

    Args:
        layers: all decoder layers.
        layer_ids: 0-based ids of those to catch.
        stop: leave the body after the deepest of them.

    Yields:
        A dict that holds (B, S, D) by layer id once the body has run. The hooks are gone afterwards,
        whatever happened inside.
    """
    caught: dict[int, Tensor] = {}
    last = max(layer_ids, default=None)

    def catch(layer_id: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            caught[layer_id] = output[0] if isinstance(output, tuple) else output
            if stop and layer_id == last:
                raise _LastTap

        return hook

    handles = []
    try:
        for layer_id in set(layer_ids):
            handles.append(layers[layer_id].register_forward_hook(catch(layer_id)))
        yield caught
    except _LastTap:
        pass
    finally:
        for handle in handles:
            handle.remove()


def read_body(
    body: Any, ids: Tensor, cache: Any, layer_ids: Sequence[int], *, plain: bool, **layout: Any
) -> tuple[Tensor, dict[int, Tensor]]:
    """Run a body over new positions, which the cache takes in but does not commit.

    Spec: BD-5, DL-7.

    Args:
        body: of transformers.
        ids: (B, S) token ids.
        cache: a `KeyValueCache`.
        layer_ids: 0-based ids of the layers whose outputs are wanted.
        plain: what `is_plain` said of the body.
        **layout: "position_ids" and "attention_mask" where they are not those of a chain (draft trees).

    Returns:
        (B, S, D) states after the final norm, and (B, S, D) by layer id; the same bits either way.
    """
    if not plain:
        with tapped(body.layers, layer_ids, stop=False) as caught:
            output = body(input_ids=ids, past_key_values=cache, use_cache=True, **layout)
        return output.last_hidden_state, caught
    hidden, caught, start = body.embed_tokens(ids), {}, cache.get_seq_length()
    positions = layout.get("position_ids")
    if positions is None:
        positions = torch.arange(start, start + ids.shape[1], device=ids.device)[None]
    mask = layout.get("attention_mask")  # a whole one is returned as it is
    shared = {
        "attention_mask": create_causal_mask(body.config, hidden, mask, cache, positions),
        "position_embeddings": body.rotary_emb(hidden, positions),
        "position_ids": positions,
        "past_key_values": cache,
        "use_cache": True,
    }
    for layer_id, layer in enumerate(body.layers):
        hidden = layer(hidden, **shared)
        if layer_id in layer_ids:
            caught[layer_id] = hidden
    return body.norm(hidden), caught


def is_plain(body: Any, new_cache: Callable[[], Any]) -> bool:
    """Return whether a body's layers may be called one by one: of a known kind, and shown to be so.

    A body with hooks of its own, or with another forward (compiled, or spread over devices), is none.

    Args:
        body: of transformers.
        new_cache: makes an empty cache of at least 5 positions.
    """
    kinds = set(getattr(body.config, "layer_types", None) or ())
    compiled = body._compiled_call_impl is not None  # calling its layers would leave the compiled code out
    changed = "forward" in vars(body) or body._forward_hooks or body._forward_pre_hooks or compiled
    known = type(body).__name__ in PLAIN and type(body).__module__.startswith("transformers.models.")
    if (
        not known
        or changed
        or kinds - {"full_attention"}
        or getattr(body.config, "is_causal", None) is not None
    ):
        return False
    weight, cache = body.embed_tokens.weight, new_cache()
    first, second = (torch.arange(5, device=weight.device) % weight.shape[0])[None].split((2, 3), dim=1)
    try:
        read_body(body, first, cache, (), plain=True)
        cache.advance(2)
        ours, theirs = (read_body(body, second, cache, (), plain=plain)[0] for plain in (True, False))
    except (AttributeError, TypeError):  # a version of transformers whose parts are called otherwise
        return False
    return torch.equal(ours, theirs)
