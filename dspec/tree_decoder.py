"""The settings of draft trees, one of `dspec.decoders`."""

from dataclasses import dataclass

from dspec.core.settings import read_integer
from dspec.core.tree_budget import TreeCosts
from dspec.errors import ConfigError, explain

# Every node has a mask entry for every other: of 4,096 nodes that is 16 MB a pass.
MOST_NODES = 4096
DRAFTS = ("likeliest", "sampled")
AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Draft a tree over the slots of a block, verify it in one target pass: exact.

    More stands in a pass than of one block, for a pass over `budget` + 1 tokens in place of K + 1.

    Spec: RS-23, RS-24, DL-11.

    Args:
        budget: nodes of a tree, the anchor not counted; in [1, 4096]. "auto": as many as pay, none where
            none does, by how much of larger trees stood in the request's earlier passes.
        drafts: "likeliest": the drafter's likeliest prefixes, whatever the settings; "sampled": drawn from
            its laws under the request's settings, siblings without replacement, in a tree of a fixed form.
            At temperature 0 nothing is drawn, and both are the likeliest.
        costs: of passes, for budget="auto", which chooses from their budgets; None: measured once an engine,
            so that two runs may choose other trees, and emit other tokens of the same law.

    Raises:
        ConfigError: a value out of range, another word, or costs that are none or have no use.

    Example:
        >>> Tree(budget=16).budget
        16
    """

    budget: int | str = 32
    drafts: str = "likeliest"
    costs: TreeCosts | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.budget, str) and self.budget == AUTO):
            needed = f"an integer in [1, {MOST_NODES}], or 'auto'"
            value = read_integer("budget", self.budget, 1, MOST_NODES + 1, needed, clause="RS-23")
            object.__setattr__(self, "budget", value)
        if self.drafts not in DRAFTS:
            needed = f"one of {', '.join(DRAFTS)}"
            raise ConfigError(explain("drafts", repr(self.drafts), needed, clause="RS-24"))
        self._check_costs()

    def _check_costs(self) -> None:
        if self.costs is None:
            return
        if not isinstance(self.costs, TreeCosts):
            needed = "dspec.decoders.TreeCosts(...) or None"
            raise ConfigError(explain("costs", repr(self.costs), needed, clause="DL-14"))
        if self.budget != AUTO:
            remedy = "Leave costs out, or ask for budget='auto'."
            got = f"{self.costs!r} with budget={self.budget!r}"
            raise ConfigError(explain("costs", got, "budget='auto'", remedy=remedy, clause="DL-14"))
        if max(self.costs.budgets) > MOST_NODES:
            needed = f"budgets of at most {MOST_NODES}"
            raise ConfigError(explain("costs.passes", max(self.costs.budgets), needed, clause="DL-14"))
