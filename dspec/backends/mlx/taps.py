"""Taps: the raw outputs of chosen decoder layers, kept while the layers run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from dspec.backends.mlx.cache import KeyValueCache, make_mask
from dspec.backends.mlx.nodes import NodeCache
from dspec.backends.mlx.row_cache import RowCache


@dataclass(frozen=True)
class Body:
    """A model's layers, run one by one: nothing of the model is changed, so that threads can share it.

    The masks are dspec's own: some of mlx-lm's models know no sliding window.

    Args:
        embedding: of token ids.
        layers: decoder layers, each called with hidden states, mask and cache.
        norm: after the last of them.
        windows: every layer's sliding window, itself included; None: it sees all positions before it.
        recurrent: layers that hold a state in place of keys and values; they need no mask.
        scale: factor of the embeddings, or None.
        array_masks: the layers know no mask called "causal".
    """

    embedding: nn.Module
    layers: Sequence[nn.Module]
    norm: nn.Module
    windows: tuple[int | None, ...]
    recurrent: frozenset[int] = frozenset()
    scale: float | None = None
    array_masks: bool = False

    def new_cache(self, capacity: int) -> KeyValueCache:
        """Return an empty cache of these layers."""
        return KeyValueCache(len(self.layers), capacity=capacity, recurrent=self.recurrent)

    def embed(self, ids: mx.array) -> mx.array:
        """Return (B, S, D) embeddings of (B, S) token ids, as the first layer reads them."""
        found = self.embedding(ids)
        # In the embeddings' dtype, as transformers rounds it.
        return found if self.scale is None else found * mx.array(self.scale, dtype=found.dtype)


def tapped(
    body: Body,
    ids: mx.array,
    layer_ids: Sequence[int],
    *,
    cache: KeyValueCache | RowCache | NodeCache | None = None,
    stop: bool,
    masks: Mapping[int | None, Any] | None = None,
) -> tuple[mx.array, dict[int, mx.array]]:
    """Run the layers over new positions, and keep the outputs of some.

    What a layer returns is its residual stream, before the final norm.

    Spec: BD-5.

    Args:
        body: the layers.
        ids: (B, S) token ids, after the committed positions of the cache.
        layer_ids: 0-based ids of the layers to keep.
        cache: written, not advanced; None: the ids are all there is.
        stop: leave after the deepest of them.
        masks: by window; None: causal ones, after the committed positions.

    Returns:
        (B, S, D) normed states of the last layer that ran, and a dict that holds (B, S, D) by layer id.
    """
    caught: dict[int, mx.array] = {}
    hidden = body.embed(ids)
    if masks is None:
        start = 0 if cache is None else cache.length
        end, as_array = start + ids.shape[1], body.array_masks
        masks = {w: make_mask(start, end, window=w, as_array=as_array) for w in set(body.windows)}
    depth = max(layer_ids, default=-1) + 1 if stop else len(body.layers)
    for i, layer in enumerate(body.layers[:depth]):
        mask = None if i in body.recurrent else masks[body.windows[i]]
        hidden = layer(hidden, mask, None if cache is None else cache.layers[i])
        if i in layer_ids:
            caught[i] = hidden
    return body.norm(hidden), caught
