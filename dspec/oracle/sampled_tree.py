"""Trees of sampled drafts, as the clause RS-24 says it.

Types and letters as in `dspec.oracle.several`: parents are node numbers, entry n - 1 is of node n, and the
anchor is node 0.
"""

import heapq
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from dspec.oracle.rejection import Draw, Law, draw, one_hot
from dspec.oracle.several import PathLaw, verify_several, without_replacement

# (below which a, in hundredths; r): RS-24
RANK_COSTS = ((33, Fraction(1, 4)), (44, Fraction(1, 2)), (56, 1), (67, 2), (77, 4), (85, 8), (101, 16))
OfNode = Callable[[int], Any]
"""A node's number -> its uniform, or its uniforms in the form `draw` takes."""


class Walk(NamedTuple):
    """What one pass found.

    Args:
        tokens: n_accepted + 1 ids: the nodes that stand, then the closing token.
        first: of each node with children that was reached, whether its first child was the next one.
    """

    tokens: list[int]
    first: list[bool]


def rank_cost(stood: int, reached: int) -> Fraction | int:
    """Return r, what a rank costs beside a slot.

    Spec: RS-24.

    Args:
        stood: s.
        reached: n.

    Example:
        >>> rank_cost(0, 0), rank_cost(0, 2), rank_cost(97, 98)
        (1, Fraction(1, 4), 16)
    """
    a = Fraction(stood + 1, reached + 2)
    return next(cost for bound, cost in RANK_COSTS if a < Fraction(bound, 100))


def fixed_form(budget: int, num_drafts: int, vocab_size: int, rank_cost: Fraction | int) -> list[int]:
    """Return the parents of the nodes of a tree's form, which is fixed before they are drawn.

    All nodes that extend the tree by a child, or by one more of its siblings, wait in a heap.

    Spec: RS-24.

    Args:
        budget: how many nodes at most.
        num_drafts: K, the depth at most.
        vocab_size: V, children of a node at most.
        rank_cost: r.

    Example:
        >>> fixed_form(6, 2, 2, 1)  # the pass has no more: two nodes below each of two
        [0, 0, 1, 1, 2, 2]
    """
    parents: list[int] = []
    heap: list[tuple[Fraction, int, tuple[int, ...], int]] = []

    def offer(cost: Fraction, ranks: tuple[int, ...], parent: int) -> None:
        if len(ranks) < num_drafts:
            for rank in range(vocab_size):
                more = 1 + Fraction(rank_cost) * rank
                heapq.heappush(heap, (cost + more, len(ranks) + 1, (*ranks, rank), parent))

    offer(Fraction(0), (), 0)
    while heap and len(parents) < budget:
        cost, _, ranks, parent = heapq.heappop(heap)
        parents.append(parent)
        offer(cost, ranks, len(parents))
    return parents


def draw_children(
    law: Law, count: int, uniforms: Sequence[Any], *, raw: Law | None = None, draw: Draw = draw
) -> tuple[list[int], list[Law]]:
    """Return the drafts of one slot, drawn without replacement, and the law of each given those before it.

    Spec: RS-2, RS-22, RS-24.

    Args:
        law: the drafter's, under the settings.
        count: how many.
        uniforms: `count` of them, in the form `draw` takes; those of drafts that are picked are not read.
        raw: the drafter's law without the settings: what is picked by, once `law` is used up; None: `law`.
        draw: map from a law and uniforms to a token.

    Example:
        >>> draw_children([0.5, 0.0, 0.5], 3, [0.75, 0.75, 0.75])
        ([2, 0, 1], [[0.5, 0.0, 0.5], [1.0, 0.0, 0.0], [0, 1, 0]])
    """
    tokens: list[int] = []
    laws: list[Law] = []
    likely = law if raw is None else raw
    for j in range(count):
        others = [token for token in range(len(law)) if token not in tokens]
        if any(law[token] > 0 for token in others):
            laws.append(without_replacement(law, tokens))
            tokens.append(draw(laws[-1], uniforms[j]))
        else:
            tokens.append(max(others, key=lambda token: (likely[token], -token)))
            laws.append(one_hot(tokens[-1], len(law)))
    return tokens, laws


def walk_sampled_tree(
    target_of_path: PathLaw,
    rows: Sequence[Law],
    parents: Sequence[int],
    draft: OfNode,
    accept: OfNode,
    close: OfNode,
    *,
    raw: Sequence[Law] | None = None,
    draw: Draw = draw,
) -> Walk:
    """Return what one pass emits over a tree whose nodes are drawn: those along the way, as it reaches them.

    Spec: RS-24.

    Args:
        target_of_path: see `PathLaw`.
        rows: K laws of the drafter, under the settings.
        parents: of the nodes; see `fixed_form`.
        draft: uniforms of a node's own draw.
        accept: the uniform of its acceptance.
        close: uniforms of the token at a node where no child stands.
        raw: K laws without the settings; None: `rows`.
        draw: map from a law and uniforms to a token.

    Returns:
        The walk.

    Example:
        >>> half = [0.5, 0.5]
        >>> u = lambda node: 0.25
        >>> walk_sampled_tree(lambda path: half, [half, half], [0, 1], u, u, u)  # both stand, then a draw
        Walk(tokens=[0, 0, 0], first=[True, True])
    """
    path: tuple[int, ...] = ()
    first: list[bool] = []
    node: int | None = 0
    while node is not None:
        children = [n for n, parent in enumerate(parents, 1) if parent == node]
        slot = min(len(path), len(rows) - 1)  # of a node without children none is read
        own = None if raw is None else raw[slot]
        drafts = draw_children(rows[slot], len(children), _Asked(draft, children), raw=own, draw=draw)
        law, tried = target_of_path(path), _Asked(accept, children)
        _, token = verify_several(law, *drafts, tried, node, draw=lambda law, at: draw(law, close(at)))
        path += (token,)
        node = children[drafts[0].index(token)] if token in drafts[0] else None
        first += [node == children[0]] if children else []
    return Walk(list(path), first)


class _Asked(Sequence[Any]):
    """Uniforms of some nodes, asked for where they are read: those that are not would double the paths."""

    def __init__(self, of_node: OfNode, nodes: Sequence[int]) -> None:
        self.of_node, self.nodes = of_node, nodes

    def __getitem__(self, j: Any) -> Any:
        return self.of_node(self.nodes[j])

    def __len__(self) -> int:
        return len(self.nodes)
