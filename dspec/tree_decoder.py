"""The settings of draft trees, one of `dspec.decoders`."""

from dataclasses import dataclass

from dspec.core.settings import read_integer
from dspec.errors import ConfigError, explain

# Every node has a mask entry for every other: of 4,096 nodes that is 16 MB a pass.
MOST_NODES = 4096
DRAFTS = ("likeliest", "sampled")


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Draft a tree over the slots of a block, verify it in one target pass: exact.

    More stands in a pass than of one block, for a pass over `budget` + 1 tokens in place of K + 1.

    Spec: RS-23, RS-24, DL-11.

    Args:
        budget: nodes of a tree, the anchor not counted; in [1, 4096].
        drafts: "likeliest": the drafter's likeliest prefixes, whatever the settings; "sampled": drawn from
            its laws under the request's settings, siblings without replacement, in a tree of a fixed form.
            At temperature 0 nothing is drawn, and both are the likeliest.

    Raises:
        ConfigError: a value out of range, or another word.

    Example:
        >>> Tree(budget=16).budget
        16
    """

    budget: int = 32
    drafts: str = "likeliest"

    def __post_init__(self) -> None:
        needed = f"an integer in [1, {MOST_NODES}]"
        value = read_integer("budget", self.budget, 1, MOST_NODES + 1, needed, clause="RS-23")
        object.__setattr__(self, "budget", value)
        if self.drafts not in DRAFTS:
            raise ConfigError(
                explain("drafts", repr(self.drafts), f"one of {', '.join(DRAFTS)}", clause="RS-24")
            )
