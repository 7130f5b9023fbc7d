"""A pass over the nodes of a tree: mlx-lm's attention turns each by a position of its own.

mlx-lm's attention calls `self.rope(keys, offset=cache.offset)`: one offset a pass, or one a row of a batch.
For the pass, its nodes are those rows, in the rotary embedding alone: keys and values stay one row. Rows of
length 1 were once turned wrongly on Metal, where they shared an offset (ml-explore/mlx#3795); here they have
one each, and `trees.refuse_unless_trees` would see it.
"""

import copy
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.rope_utils import Llama3RoPE, YarnRoPE

from dspec.backends.mlx.cache import CacheLayer, KeyValueCache
from dspec.errors import BackendUnavailable, explain

# Those that take an offset a row: what they do with it is `mx.fast.rope`'s affair alone.
BY_ROW = (nn.RoPE, Llama3RoPE, YarnRoPE)


class NodeLayer:
    """One layer of a cache, whose next positions are those of nodes.

    Args:
        layer: written as in any pass.
        positions: (n,) of the nodes.
    """

    def __init__(self, layer: CacheLayer, positions: mx.array) -> None:
        self.offset = positions
        self.update_and_fetch = layer.update_and_fetch


class NodeCache:
    """A target's cache for one pass over nodes, written and not advanced.

    Args:
        cache: without recurrent layers.
        positions: (n,) of the nodes.
    """

    def __init__(self, cache: KeyValueCache, positions: mx.array) -> None:
        self.length = cache.length
        self.layers = [NodeLayer(layer, positions) for layer in cache.layers if isinstance(layer, CacheLayer)]


def by_node(layer: nn.Module) -> nn.Module:
    """Return a decoder layer for passes over a `NodeCache`: the model's own parts, but for what turns.

    Layer and attention are copied, their modules and weights are not: the model stays as it is, whoever
    else runs it.

    Spec: DL-11.

    Args:
        layer: of mlx-lm, with `self_attn.rope`.

    Raises:
        BackendUnavailable: its rotary embedding takes no position a node.
    """
    turned, attention = copy.copy(layer), copy.copy(layer.self_attn)
    attention.rope = turned_by_node(layer.self_attn.rope)
    turned.self_attn = attention
    return turned


def turned_by_node(rope: Any) -> Callable[..., mx.array]:
    """Return a rotary embedding that takes a position a node.

    Spec: DL-11.

    Args:
        rope: the model's own.

    Returns:
        Of queries or keys (1, H, n, d) and `offset` (n,), those turned.

    Raises:
        BackendUnavailable: the model's own takes no offset a row.

    Example:
        >>> rope, x = nn.RoPE(4), mx.arange(8.0).reshape(1, 1, 2, 4)
        >>> siblings = turned_by_node(rope)(x, offset=mx.array([7, 7]))
        >>> mx.array_equal(siblings[:, :, 1:], rope(x[:, :, 1:], offset=7)).item()
        True
    """
    if not isinstance(rope, BY_ROW):
        needed = "one of " + ", ".join(kind.__name__ for kind in BY_ROW) + ", which take an offset a row"
        got, remedy = f"rotary embedding {type(rope).__name__}", "Use Speculative()."
        raise BackendUnavailable(explain("target", got, needed, remedy=remedy, clause="DL-11"))

    def turned(x: mx.array, *, offset: mx.array) -> mx.array:
        return rope(x.swapaxes(0, 2), offset=offset).swapaxes(0, 2)

    return turned
