"""How many nodes of a draft tree are worth verifying: chosen from what earlier passes of a request showed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dspec.core.draft_length import MEMORY
from dspec.core.settings import read_integer, read_number
from dspec.errors import ConfigError, explain

# First passes, of the largest tree, that show what every smaller one would have given.
FIRST_PASSES = 4
# Passes after which one has the largest tree again: a text that turned easy is seen no later.
TRY_PASSES = 32


@dataclass(frozen=True, kw_only=True)
class TreeCosts:
    """What a pass costs by the budget of its tree, in seconds or any one unit.

    Spec: DL-14.

    Args:
        passes: budget -> cost of the whole pass, proposal and verdict included; > 0. The budgets are those
            that are chosen from; 0, a pass of the target alone, is among them.

    Raises:
        ConfigError: not such a mapping, no 0, no tree, or a cost that is no finite number > 0.

    Example:
        >>> TreeCosts(passes={0: 1.0, 16: 1.9, 8: 1.5}).budgets
        (0, 8, 16)
    """

    passes: Mapping[int, float]

    def __post_init__(self) -> None:
        if not isinstance(self.passes, Mapping) or len(self.passes) < 2 or 0 not in self.passes:
            needed = "a mapping of budget to cost, 0 and at least one tree in it"
            raise ConfigError(explain("costs.passes", repr(self.passes), needed, clause="DL-14"))
        big, needed = float("inf"), "finite numbers > 0"
        read = {}
        for budget, cost in self.passes.items():
            key = read_integer("costs.passes", budget, 0, 2**31, "budgets >= 0", clause="DL-14")
            read[key] = read_number("costs.passes", cost, lambda x: 0 < x < big, needed, clause="DL-14")
        object.__setattr__(self, "passes", dict(sorted(read.items())))

    @property
    def budgets(self) -> tuple[int, ...]:
        """All budgets, 0 first."""
        return tuple(self.passes)


class AutoBudget:
    """Chooses the budget of one request's passes: most expected tokens for their cost.

    Trees of one pass are nested, so that a pass shows what every smaller tree would have given: the nodes
    that stood up to the first that it lacks. Nothing is modelled. A larger tree is known from when it was
    last tried; it is tried in the first passes, and now and then, unless it could not pay if all its
    depth stood: then the smallest is.

    Spec: DL-14.

    Args:
        costs: of passes by budget.
        n_slots: K, the most depth of a tree.
        memory: weight that a pass keeps after each later one that shows the same budget; in (0, 1].
        first_passes: that have the largest tree; >= 1.
        try_passes: passes after which one has the largest tree again; >= 1.

    Example:
        >>> budget = AutoBudget(TreeCosts(passes={0: 1.0, 8: 1.5, 16: 2.5}), n_slots=3)
        >>> budget.choose()
        16
        >>> for _ in range(4):
        ...     budget.observe(16, (2, 5))  # both nodes are in a tree of 8
        >>> budget.choose()
        8

    Source: expected tokens over time, arXiv 2211.17192, section 3.3.
    """

    def __init__(
        self,
        costs: TreeCosts,
        *,
        n_slots: int,
        memory: float = MEMORY,
        first_passes: int = FIRST_PASSES,
        try_passes: int = TRY_PASSES,
    ) -> None:
        self._costs, self._n_slots, self._memory = costs.passes, n_slots, memory
        self._try_passes = try_passes
        self._tries_left, self._since = first_passes, 0
        self._tokens = dict.fromkeys(costs.budgets, 0.0)
        self._weight = dict.fromkeys(costs.budgets, 0.0)

    @property
    def largest(self) -> int:
        """The most nodes that it chooses."""
        return max(self._costs)

    @property
    def emitted(self) -> dict[int, float]:
        """Tokens of a pass by budget, as far as budgets were shown; of no tree 1."""
        return {
            b: self._tokens[b] / self._weight[b] if b else 1.0
            for b in self._costs
            if not b or self._weight[b]
        }

    def choose(self) -> int:
        """Return the budget of the next pass; the smallest of equals."""
        if self._since >= self._try_passes:
            # At least the smallest: without any the features that wait for the drafter would pile up.
            return max(self._best(), self._hopeful(), min(filter(None, self._costs)))
        return max(self._best(), self._hopeful()) if self._tries_left else self._best()

    def observe(self, budget: int, path: Sequence[int]) -> None:
        """Take in what became of a pass.

        Args:
            budget: of its tree.
            path: numbers of the nodes that stood, from the anchor on: ascending.
        """
        tried = 0 < budget >= self._hopeful()
        self._since = 0 if tried else self._since + 1
        self._tries_left -= tried and self._tries_left > 0
        for size in self._costs:
            if 0 < size <= budget:
                stood = sum(node <= size for node in path)
                self._tokens[size] = self._memory * self._tokens[size] + 1 + stood
                self._weight[size] = self._memory * self._weight[size] + 1

    def _best(self) -> int:
        rates = self._rates()
        return max(rates, key=lambda budget: rates[budget])

    def _hopeful(self) -> int:
        """The largest budget that would pay if all its depth stood; 0: none."""
        known = max(self._rates().values())
        able = [b for b, cost in self._costs.items() if (1 + min(b, self._n_slots)) / cost > known]
        return max(able, default=0)

    def _rates(self) -> dict[int, float]:
        return {budget: tokens / self._costs[budget] for budget, tokens in self.emitted.items()}
