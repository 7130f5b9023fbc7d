"""The settings of draft trees, one of `dspec.decoders`."""

from dataclasses import dataclass

from dspec.core.settings import read_integer

# Every node has a mask entry for every other: of 4,096 nodes that is 16 MB a pass.
MOST_NODES = 4096


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Draft a tree of the likeliest prefixes of a block, verify it in one target pass: exact.

    More stands in a pass than of one block, for a pass over `budget` + 1 tokens in place of K + 1.

    Spec: RS-23, DL-11.

    Args:
        budget: nodes of a tree, the anchor not counted; in [1, 4096].

    Example:
        >>> Tree(budget=16).budget
        16
    """

    budget: int = 32

    def __post_init__(self) -> None:
        needed = f"an integer in [1, {MOST_NODES}]"
        value = read_integer("budget", self.budget, 1, MOST_NODES + 1, needed, clause="RS-23")
        object.__setattr__(self, "budget", value)
