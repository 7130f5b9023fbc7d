"""Taps: the raw outputs of chosen decoder layers, caught while the body runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


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
