"""Several drafts for one slot, and trees of drafts, as the clauses RS-22 and RS-23 say it.

Types and letters as in `dspec.oracle.rejection`: `Fraction`, float or symbolic uniforms. A tree is two
lists, tokens and parents: entry n - 1 is of node n, parents are node numbers, and the anchor is node 0.
"""

import heapq
from collections.abc import Callable, Sequence
from typing import Any

from dspec.errors import ConfigError, explain
from dspec.oracle.rejection import Draw, Law, Number, Uniform, accepts, draw, one_hot, residual
from dspec.oracle.warp import normalised

PathLaw = Callable[[tuple[int, ...]], Law]
"""Tokens below the anchor -> the target's law of the next token."""


def verify_several(
    target: Law,
    tokens: Sequence[int],
    laws: Sequence[Law] | None,
    accept: Sequence[Uniform],
    close: Any,
    *,
    draw: Draw = draw,
) -> tuple[int | None, int]:
    """Return which of k drafts of one slot stands, or None, and the token of the slot.

    Each rejection leaves a residual; the next draft is tried against it, as it was against the target.

    Spec: RS-22.

    Args:
        target: the target's law at the slot.
        tokens: k ids, in the order in which they are tried.
        laws: k laws, law j the law draft j was drawn from given the drafts before it; None: one-hot.
        accept: k uniforms, entry j of draft j.
        close: uniforms of the token if no draft stands, in the form `draw` takes.
        draw: map from a law and uniforms to a token.

    Returns:
        (index of the draft that stands, counted from 0, or None; token).

    Example:
        >>> half = [0.5, 0.5]
        >>> verify_several([0.25, 0.75], [0, 1], [half, half], [0.6, 0.9], 0.0)  # 1 is all that is owed
        (1, 1)
        >>> verify_several([0.25, 0.75], [0, 0], None, [0.6, 0.0], 0.0)
        (None, 1)

    Source: arXiv 2310.15141; arXiv 2305.09781.
    """
    owed: Law = target
    for j, token in enumerate(tokens):
        drafter = one_hot(token, len(target)) if laws is None else laws[j]
        if accepts(owed, drafter, token, accept[j]):
            return j, token
        owed = normalised(residual(owed, drafter))
    return None, draw(owed, close)


def without_replacement(law: Law, taken: Sequence[int]) -> list[Number]:
    """Return the law of one more draft that is none of those taken: `law` off them, renormalised.

    Spec: RS-22.

    Args:
        law: V numbers, the law of the first draft.
        taken: ids that were drawn before.

    Returns:
        V numbers of sum 1, 0 at what is taken.

    Raises:
        ConfigError: the law has no other token.

    Example:
        >>> without_replacement([0.5, 0.25, 0.25], [0])
        [0.0, 0.5, 0.5]

    Source: arXiv 2310.15141; arXiv 2305.09781.
    """
    left = [0 * mass if token in taken else mass for token, mass in enumerate(law)]
    if not sum(left) > 0:
        got = f"{len(taken)} drafts taken"
        raise ConfigError(explain("law", got, "a token of positive mass beside them", clause="RS-22"))
    return normalised(left)


def is_tree(tokens: Sequence[int], parents: Sequence[int]) -> bool:
    """Return whether two lists are a tree: parents come before children, children of a node differ.

    Spec: RS-23.

    Args:
        tokens: one id for each node below the anchor.
        parents: their parents' numbers.

    Returns:
        Whether `walk_tree` may be given them.

    Example:
        >>> is_tree([5, 5, 6], [0, 1, 0]), is_tree([5, 5], [0, 0]), is_tree([5, 6], [2, 0])
        (True, False, False)

    Source: RS-23.
    """
    ordered = all(0 <= parent < node for node, parent in enumerate(parents, 1))
    distinct = len(set(zip(parents, tokens))) == len(tokens)
    return len(tokens) == len(parents) and ordered and distinct


def walk_tree(
    target_of_path: PathLaw,
    tokens: Sequence[int],
    parents: Sequence[int],
    close: Sequence[Any],
    *,
    draw: Draw = draw,
) -> list[int]:
    """Return what one pass emits over a tree: target draws, down the tree as long as a child has the token.

    Exact for any tree that does not depend on `close`.

    Spec: RS-23.

    Args:
        target_of_path: see `PathLaw`; at temperature 0 its laws are one-hot.
        tokens: one id for each node below the anchor.
        parents: their parents' numbers; see `is_tree`.
        close: entry n holds the uniforms of the draw at node n, the anchor's at 0.
        draw: map from a law and uniforms to a token.

    Returns:
        n_accepted + 1 ids: the nodes that stand, then the closing token.

    Example:
        >>> half = lambda path: [0.5, 0.5]
        >>> walk_tree(half, [0, 1, 1], [0, 0, 2], [0.7, 0.9, 0.8, 0.1])  # nodes 2 and 3 stand
        [1, 1, 0]

    Source: the walk of DDTree; sample-match, RS-18.
    """
    children = {(parent, token): node for node, (token, parent) in enumerate(zip(tokens, parents), 1)}
    path: tuple[int, ...] = ()
    node: int | None = 0
    while node is not None:
        token = draw(target_of_path(path), close[node])
        path += (token,)
        node = children.get((node, token))
    return list(path)


def best_first(rows: Sequence[Law], budget: int) -> tuple[list[int], list[int]]:
    """Return the tree of the `budget` likeliest non-empty prefixes of the drafter, slots independent.

    Nodes are numbered by (-probability, depth, path of token ids), smallest first. So parents come before
    children: a prefix has at least the probability of its extensions, which are it times factors of at most
    1, and is shallower than they are. For the same reason the heap, which holds all extensions by one token
    of what was taken, always holds the next node: whatever else is left lies below an entry, and after it.

    Spec: RS-23.

    Args:
        rows: K laws; the probability of a prefix is the product of its tokens' masses.
        budget: how many nodes at most; prefixes of probability 0 are never nodes.

    Returns:
        tokens, parents; see `is_tree`.

    Example:
        >>> best_first([[0.5, 0.5], [0.75, 0.25]], 3)  # 0: 1/2, 1: 1/2, 00: 3/8
        ([0, 1, 0], [0, 0, 1])

    Source: the tree of DDTree.
    """
    tokens: list[int] = []
    parents: list[int] = []
    heap: list[tuple[Number, int, tuple[int, ...], int]] = []

    def extend(chance: Number, path: tuple[int, ...], node: int) -> None:
        if len(path) == len(rows):
            return
        for token, mass in enumerate(rows[len(path)]):
            if chance * mass > 0:
                heapq.heappush(heap, (-(chance * mass), len(path) + 1, (*path, token), node))

    extend(1, (), 0)
    while heap and len(tokens) < budget:
        negative, _, path, parent = heapq.heappop(heap)
        tokens.append(path[-1])
        parents.append(parent)
        extend(-negative, path, len(tokens))
    return tokens, parents
