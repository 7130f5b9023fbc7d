"""Draft trees: the likeliest prefixes of a block's slots, and the walk along what the target says."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from heapq import heappop, heappush
from typing import Any

from dspec.core.numerics import draw, widen
from dspec.core.types import Array, Sampling
from dspec.core.warp import warp
from dspec.errors import ShapeError, explain


@dataclass(frozen=True)
class Tree:
    """Drafts that share prefixes, on the host. Node 0 is the anchor and is not listed.

    Spec: RS-23, RS-24, DL-11.

    Args:
        tokens: token ids of the nodes 1..N; N >= 1.
        parents: of each, a number below its own; 0 is the anchor.
        probs: (K, V) on the device: the slots' laws that the children of every node were drawn from, without
            replacement, in the order of their numbers; None: the drafts are deterministic.

    Raises:
        ShapeError: no nodes, another number of parents, a parent that is not before its child, or two
            children of one node with the same token.

    Example:
        >>> Tree(tokens=(7, 9, 7), parents=(0, 1, 1)).depths
        (1, 2, 2)
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    probs: Array | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.tokens or len(self.tokens) != len(self.parents):
            got = f"{len(self.tokens)} tokens, {len(self.parents)} parents"
            raise ShapeError(explain("tree", got, "as many parents as tokens, at least one", clause="RS-23"))
        for number, parent in enumerate(self.parents, 1):
            if not 0 <= parent < number:
                needed = f"a number in [0, {number})"
                raise ShapeError(explain(f"tree: parent of node {number}", parent, needed, clause="RS-23"))
        if len(self.children) < len(self.tokens):
            got = "two children of one node with the same token"
            raise ShapeError(explain("tree", got, "distinct ones", clause="RS-23"))

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Depth of each node: 1 for a child of the anchor."""
        depths = [0]
        for parent in self.parents:
            depths.append(depths[parent] + 1)
        return tuple(depths[1:])

    @cached_property
    def children(self) -> dict[tuple[int, int], int]:
        """(parent, token) -> the child's number."""
        return {key: n for n, key in enumerate(zip(self.parents, self.tokens, strict=True), 1)}


def best_first(log_probs: Sequence[Sequence[float]], ids: Sequence[Sequence[int]], budget: int) -> Tree:
    """Return the tree of the likeliest prefixes, where the slots are drawn independently.

    A prefix is as likely as the product of its slots' probabilities. Prefixes are numbered in the order
    of (-log-probability, depth, ids); a prefix is never likelier than what it extends, so that parents
    come first. The heap holds, of every node taken, its next sibling and its first child: of budget nodes
    O(budget log budget) steps, each comparing K ids at most.

    Spec: RS-23.

    Args:
        log_probs: (K, R) floats, nats, no NaN; the R likeliest of each slot, in any order, R >= 1.
        ids: (K, R) their token ids, distinct in a slot.
        budget: most nodes, the anchor not counted; >= 1. R = min(budget, V) is all that it can use.

    Returns:
        The tree; it has `budget` nodes wherever the slots have that many prefixes, so that its size does
        not hang on the drafter's laws.

    Raises:
        ShapeError: no slots, or none of its tokens.

    Example:
        >>> best_first([[-0.1, -3.0], [-0.2, -2.0]], [[5, 6], [8, 9]], 3)
        Tree(tokens=(5, 8, 9), parents=(0, 1, 1))

    Source: the tree of DDTree; the search is the usual one for the k least sums.
    """
    slots = [sorted(zip((-p for p in row), of, strict=True)) for row, of in zip(log_probs, ids, strict=True)]
    if not slots or not all(slots):
        raise ShapeError(
            explain("best_first", "no drafted slots", "at least one, with tokens", clause="RS-23")
        )
    tokens: list[int] = []
    parents: list[int] = []
    # Cost, depth and ids order the nodes; behind them, where a node hangs: parent, its cost, and the rank.
    cost, token = slots[0][0]
    heap: list[tuple[float, int, tuple[int, ...], int, float, int]] = [(cost, 1, (token,), 0, 0.0, 0)]
    while heap and len(tokens) < budget:
        cost, depth, path, parent, above, rank = heappop(heap)
        tokens.append(path[-1])
        parents.append(parent)
        if rank + 1 < len(slots[depth - 1]):
            more, token = slots[depth - 1][rank + 1]
            heappush(heap, (above + more, depth, (*path[:-1], token), parent, above, rank + 1))
        if depth < len(slots):
            more, token = slots[depth][0]
            heappush(heap, (cost + more, depth + 1, (*path, token), len(tokens), cost, 0))
    return Tree(tuple(tokens), tuple(parents))


def walk(tree: Tree, drawn: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Return the nodes that stand and the closing token, given the target's token at every node.

    Spec: RS-23.

    Args:
        tree: what was drafted.
        drawn: N + 1 token ids, entry i the target's own after node i; only those on the way are read.

    Returns:
        Numbers of the nodes below the anchor that stand, from it on, and the closing token.

    Example:
        >>> walk(Tree((5, 6, 8), (0, 0, 2)), [6, 1, 8, 3])
        ((2, 3), 3)
        >>> walk(Tree((5, 6, 8), (0, 0, 2)), [7, 1, 8, 3])
        ((), 7)
    """
    path: list[int] = []
    node: int | None = tree.children.get((0, drawn[0]))
    while node is not None:
        path.append(node)
        node = tree.children.get((node, drawn[node]))
    return tuple(path), drawn[path[-1] if path else 0]


def draw_nodes(logits: Array, sampling: Sampling, uniforms: Array | None, *, xp: Any) -> Array:
    """Return the target's own token at every node, -1 where its logits give no law.

    Spec: RS-11, RS-13, RS-16, RS-23.

    Args:
        logits: (B, N + 1, V) target logits of one tree pass.
        sampling: settings of the request.
        uniforms: (B, N + 1, 2), row i for node i; not read if greedy.
        xp: array namespace of both.

    Returns:
        (B, N + 1) int32.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> draw_nodes(np.array([[[0.0, 2.0], [np.nan, 0.0]]]), Sampling(), None, xp=xp).tolist()
        [[1, -1]]
    """
    logits = widen(logits, xp=xp)
    sound = xp.isfinite(xp.max(logits, axis=-1))
    if sampling.greedy:
        tokens = xp.astype(xp.argmax(logits, axis=-1), xp.int32)
    else:
        tokens = draw(warp(logits, sampling, xp=xp), uniforms, xp=xp)
    return xp.where(sound, tokens, xp.full_like(tokens, -1))
