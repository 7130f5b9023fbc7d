"""Draft trees as sets of prefixes: the reading of RS-23. A node is the drafts from the anchor to it."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

from dspec.oracle.rejection import Draw, Law, draw

Prefix = tuple[int, ...]


def likeliest_prefixes(laws: Sequence[Law], budget: int) -> list[Prefix]:
    """Return the `budget` likeliest prefixes of independently drawn slots, node 1 first.

    All of them are made and sorted by (-probability, depth, ids).

    Spec: RS-23.

    Args:
        laws: of the slots 1..K.
        budget: most prefixes.

    Returns:
        Prefixes; the first n of them contain whatever they extend, for each n.

    Example:
        >>> likeliest_prefixes([[0.9, 0.1], [0.2, 0.8]], 3)
        [(0,), (0, 1), (0, 0)]
    """
    found: list[tuple[Any, int, Prefix]] = []
    for depth in range(1, len(laws) + 1):
        for ids in product(*(range(len(law)) for law in laws[:depth])):
            chance: Any = 1
            for law, token in zip(laws, ids, strict=False):
                chance *= law[token]
            found.append((-chance, depth, ids))
    return [ids for _, _, ids in sorted(found)[:budget]]


def verify_tree(
    target: Callable[[Prefix], Law],
    nodes: Sequence[Prefix],
    uniforms: Callable[[int], Any],
    *,
    draw: Draw = draw,
) -> list[int]:
    """Return the tokens that a pass over a tree emits.

    Spec: RS-23.

    Args:
        target: law of the next token after some drafts.
        nodes: node i is nodes[i - 1]; node 0, the anchor, is not listed.
        uniforms: of the closing draw at the node of that number.
        draw: map from a law and uniforms to a token.

    Returns:
        Drafts that stand and the closing token.

    Example:
        >>> verify_tree(lambda drafts: [0.5, 0.5], [(1,), (0,), (0, 1)], lambda node: (0.0, 0.6)[node > 0])
        [0, 1, 1]
    """
    numbers = {ids: number for number, ids in enumerate(nodes, 1)} | {(): 0}
    here: Prefix = ()
    while True:
        token = draw(target(here), uniforms(numbers[here]))
        here = (*here, token)
        if here not in numbers:
            return list(here)
