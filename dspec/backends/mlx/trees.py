"""Draft trees on mlx-lm's models: a position and a mask a node, and which models take them."""

from dataclasses import replace

import mlx.core as mx

from dspec.backends.mlx.nodes import NodeCache, by_node
from dspec.backends.mlx.taps import Body, tapped
from dspec.backends.tree_nodes import PROBE, ancestors
from dspec.core.tree import Tree
from dspec.errors import BackendUnavailable, explain


def refuse_unless_trees(body: Body) -> None:
    """Raise unless the model reads draft trees: takes a position and a mask a node, and obeys them.

    Two passes over seven tokens at most: the nodes of a path beside other branches, and the path alone.

    Spec: DL-11.

    Args:
        body: the model's layers.

    Raises:
        BackendUnavailable: names what is in the way.
    """
    nodes, tokens = tree_body(body), PROBE.tokens(body.embedding.weight.shape[0])
    ids, path = mx.array([tokens]), mx.array(PROBE.path)
    positions, masks = tree_layout(body, PROBE.tree, 0)
    caches = [body.new_cache(len(tokens)) for _ in range(2)]
    beside = tapped(nodes, ids, (), cache=NodeCache(caches[0], positions), stop=False, masks=masks)[0]
    alone = tapped(body, ids[:, path], (), cache=caches[1], stop=False)[0].astype(mx.float32)
    apart = mx.abs(beside[:, path].astype(mx.float32) - alone).mean()
    if not (apart <= PROBE.same * mx.abs(alone).mean()).item():
        _refuse("other states in a tree than along its path", "positions and masks that are obeyed")


def tree_body(body: Body) -> Body:
    """Return the layers as they run over the nodes of a tree; the model is not changed.

    Spec: DL-11.

    Args:
        body: the model's layers.

    Raises:
        BackendUnavailable: some hold a recurrent state, or turn by no position a node.
    """
    if body.recurrent:
        _refuse("layers with a recurrent state", "keys and values of past positions, of which nodes see some")
    return replace(body, layers=tuple(by_node(layer) for layer in body.layers))


def tree_layout(body: Body, tree: Tree, start: int) -> tuple[mx.array, dict[int | None, mx.array]]:
    """Return where anchor and nodes stand, and who sees what.

    Spec: DL-11.

    Args:
        body: the model's layers.
        tree: the nodes after the anchor, N of them.
        start: the anchor's position; all before it are committed.

    Returns:
        Positions (N + 1,), and by window of a layer booleans (N + 1, start + N + 1).
    """
    own = mx.array([0, *tree.depths]) + start
    before = mx.ones((own.size, start), dtype=mx.bool_)
    seen = mx.concatenate([before, mx.array(ancestors(tree))], axis=1)
    age = own[:, None] - mx.concatenate([mx.arange(start), own])
    return own, {w: seen if w is None else seen & (age < w) for w in set(body.windows)}


def _refuse(got: str, needed: str) -> None:
    raise BackendUnavailable(explain("target", got, needed, remedy="Use Speculative().", clause="DL-11"))
