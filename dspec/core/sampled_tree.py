"""Trees of drafts that were sampled: their fixed form, the draw of all nodes, and what stands at each.

Letters: K slots, V vocabulary, N nodes, P of the nodes 0..N have children, W of them at least j + 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from dspec.core.numerics import draw, indices_like, widen
from dspec.core.several import verify_several
from dspec.core.tree import best_first
from dspec.core.types import Array, Sampling
from dspec.core.warp import warp

# Below how many hundredths of a what a rank costs beside a slot: ln(1 - a)/ln a to the nearest power of 2.
RANK_COSTS = ((33, 0.25), (44, 0.5), (56, 1.0), (67, 2.0), (77, 4.0), (85, 8.0), (101, 16.0))


@dataclass(frozen=True)
class Families:
    """Which nodes have children, and which: the order in which arrays of a sampled tree are laid out.

    Args:
        owners: P nodes with children, those with the most first.
        children: of each owner, its children in the order in which they are drawn and tried.
        leaves: the nodes without children.
        slots: of the children of each owner, from 0: the owner's depth.
    """

    owners: tuple[int, ...]
    children: tuple[tuple[int, ...], ...]
    leaves: tuple[int, ...]
    slots: tuple[int, ...]

    @cached_property
    def rounds(self) -> list[list[int]]:
        """The nodes that are first children, those that are second ones, ...; in the owners' order."""
        most = len(self.children[0])
        return [[nodes[j] for nodes in self.children if j < len(nodes)] for j in range(most)]

    @cached_property
    def table(self) -> list[list[int]]:
        """(P, most children) the children of each owner, then 0."""
        most = len(self.children[0])
        return [[*nodes, *[0] * (most - len(nodes))] for nodes in self.children]


@dataclass
class FirstChildren:
    """How often the first child of a node stood in the passes of one request: what the next form goes by.

    In the form that is best for drafts accepted 0.3 of the time, drafts accepted 0.86 of the time gave 3.7
    tokens a pass; in the one that follows 7.4 (32 nodes, 15 slots; benchmarks/results/policies.json).

    Spec: RS-24.

    Args:
        stood: nodes whose first child was the next one.
        reached: nodes with children that walks came to.

    Example:
        >>> seen = FirstChildren()
        >>> seen.note(families((0, 0, 1)), (1,))
        >>> seen
        FirstChildren(stood=1, reached=2)
        >>> seen.rank_cost
        1.0
    """

    stood: int = 0
    reached: int = 0

    def note(self, tree: Families, path: Sequence[int]) -> None:
        """Count a walk: the nodes that stood below the anchor."""
        on_the_way = {0, *path}
        self.reached += len(on_the_way.intersection(tree.owners))
        self.stood += len(on_the_way.intersection(children[0] for children in tree.children))

    @property
    def rank_cost(self) -> float:
        """What the next form takes a rank to cost; whole numbers are compared, so that all machines agree."""
        share = 100 * (self.stood + 1)
        return next(cost for bound, cost in RANK_COSTS if share < bound * (self.reached + 2))


@cache
def fixed_form(budget: int, n_slots: int, vocab_size: int, rank_cost: float) -> tuple[int, ...]:
    """Return the parents of a tree whose form is fixed before anything is drawn.

    The j-th child of a node, from 0, costs what the node does plus 1 + j `rank_cost`, and the tree has the
    `budget` cheapest nodes: `best_first` on the ranks of children in the place of their tokens.

    Spec: RS-24.

    Args:
        budget: most nodes, the anchor not counted; >= 1.
        n_slots: K >= 1: nodes lie no deeper.
        vocab_size: V: a node has no more children.
        rank_cost: r > 0, a power of 2, so that sums are exact and ties are ties.

    Returns:
        Parents of the nodes 1..N; of one node's children the lower number is the lower rank.

    Example:
        >>> fixed_form(5, 2, 9, 1.0), fixed_form(5, 4, 9, 16.0)
        ((0, 0, 1, 0, 1), (0, 1, 2, 3, 0))
    """
    ranks = range(min(budget, vocab_size))
    costs = [-1.0 - rank_cost * rank for rank in ranks]
    return best_first([costs] * n_slots, [ranks] * n_slots, budget).parents


@cache
def families(parents: tuple[int, ...]) -> Families:
    """Return the nodes with children, and the others.

    Args:
        parents: of the nodes 1..N.

    Example:
        >>> families((0, 1, 1))
        Families(owners=(1, 0), children=((2, 3), (1,)), leaves=(2, 3), slots=(1, 0))
    """
    children: list[list[int]] = [[] for _ in range(len(parents) + 1)]
    depths = [0]
    for node, parent in enumerate(parents, 1):
        children[parent].append(node)
        depths.append(depths[parent] + 1)
    owners = sorted((n for n, own in enumerate(children) if own), key=lambda n: -len(children[n]))
    leaves = tuple(n for n, own in enumerate(children) if not own)
    slots = tuple(depths[n] for n in owners)
    return Families(tuple(owners), tuple(tuple(children[n]) for n in owners), leaves, slots)


def draw_children(
    logits: Array, probs: Array, slots: Array, widths: Sequence[int], uniforms: Array, *, xp: Any
) -> Array:
    """Draw all nodes of a tree: the first children of all nodes at once, then the second ones, ...

    The children of a node are drawn without replacement from its slot's law; where that has no token left,
    the likeliest of the others is taken, and is deterministic (RS-22). -1 where a slot has no law.

    Spec: RS-2, RS-16, RS-22, RS-24.

    Args:
        logits: (K, V) of the slots.
        probs: (K, V) `warp` of them.
        slots: (P,) integer: of the children of each owner, in the order of `families`.
        widths: of each round, how many nodes it has: the owners' first so many have another child.
        uniforms: (N, 2), in the order of the rounds.
        xp: array namespace of all arrays.

    Returns:
        (N,) int32, in the order of the rounds.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> laws, u = np.array([[0.5, 0.5, 0.0]]), np.full((3, 2), 0.75)
        >>> draw_children(np.array([[1.0, 1.0, 0.0]]), laws, np.array([0]), [1, 1, 1], u, xp=xp).tolist()
        [1, 0, 2]
    """
    logits = widen(logits, xp=xp)
    sound = xp.take(xp.isfinite(xp.max(logits, axis=-1)), slots, axis=0)
    lowest = xp.full_like(logits, xp.finfo(logits.dtype).min)
    scores = xp.take(xp.where(logits > lowest, logits, lowest), slots, axis=0)
    left = xp.take(probs, slots, axis=0)
    ids = indices_like(left, xp=xp)
    found, start = [], 0
    for width in widths:
        left, scores = left[:width, :], scores[:width, :]
        drawn = draw(left, uniforms[start : start + width, :], xp=xp)
        next_best = xp.astype(xp.argmax(scores, axis=-1), xp.int32)
        token = xp.where(xp.sum(left, axis=-1) > 0, drawn, next_best)
        found.append(xp.where(sound[:width], token, xp.full_like(token, -1)))
        taken = ids[:width, :] == token[:, None]
        left = xp.where(taken, xp.zeros_like(left), left)
        scores = xp.where(taken, xp.full_like(scores, -xp.inf), scores)
        start += width
    return xp.concat(found, axis=0)


def judge_children(
    logits: Array,
    sampling: Sampling,
    probs: Array,
    drafted: Array,
    places: tuple[Array, Array, Array],
    accept: Array,
    close: Array,
    *,
    xp: Any,
    warp: Any = warp,
) -> Array:
    """Return the token at every node: a child that stands or a correction, at leaves the target's own.

    Spec: RS-13, RS-16, RS-22, RS-24.

    Args:
        logits: (N + 1, V) target logits of one tree pass.
        sampling: settings of the request.
        probs: (K, V) the laws of the slots.
        drafted: (P, C) tokens of the owners' children, -1 where there are fewer.
        places: (P,) owners, (P,) the slot of their children, (N + 1 - P,) leaves; integers.
        accept: (P, C) uniforms.
        close: (N + 1, 2) uniforms, row n of node n.
        xp: array namespace of all arrays.
        warp: `dspec.core.warp.warp`, or what a backend runs in its place.

    Returns:
        (N + 1,) int32: of the owners, then of the leaves; -1 where a law is malformed.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> half, at = np.log([[0.5, 0.5]] * 2), (np.array([0]), np.array([0]), np.array([1]))
        >>> u = np.array([[0.0]]), np.full((2, 2), 0.75)
        >>> law = np.array([[0.5, 0.5]])
        >>> judge_children(half, Sampling(temperature=1.0), law, np.array([[0]]), at, *u, xp=xp).tolist()
        [0, 1]
    """
    logits = widen(logits, xp=xp)
    owners, slots, leaves = places
    laws = warp(logits, sampling, xp=xp)
    choice = verify_several(
        xp.take(laws, owners, axis=0),
        drafted,
        xp.take(probs, slots, axis=0),
        accept,
        xp.take(close, owners, axis=0),
        xp=xp,
    )
    own = draw(xp.take(laws, leaves, axis=0), xp.take(close, leaves, axis=0), xp=xp)
    sound = xp.take(xp.isfinite(xp.max(logits, axis=-1)), leaves, axis=0)
    return xp.concat([choice.tokens, xp.where(sound, own, xp.full_like(own, -1))], axis=0)
