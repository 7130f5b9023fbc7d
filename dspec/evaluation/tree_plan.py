"""What draft trees are worth, by their number of nodes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dspec.errors import ConfigError, explain
from dspec.evaluation.roofline import rate_of


@dataclass(frozen=True, kw_only=True)
class TreeTimes:
    """Seconds of the parts of a tree pass, by budget, on one machine and at one context length.

    Args:
        context: committed positions before each pass.
        verify: of the target's pass over budget + 1 tokens.
        draft: of a proposal and of the tree made from it on the host.
        rest: of the target's own tokens, the walk along them, and keeping what stands.

    Raises:
        ConfigError: no budget, different ones, or a time that is no number >= 0.

    Example:
        >>> TreeTimes(context=9, verify={4: 1.0}, draft={4: 0.5}, rest={4: 0.5}).total(4)
        2.0
    """

    context: int
    verify: Mapping[int, float]
    draft: Mapping[int, float]
    rest: Mapping[int, float]

    def __post_init__(self) -> None:
        if not self.verify or not self.verify.keys() == self.draft.keys() == self.rest.keys():
            found = f"{sorted(self.verify)}, {sorted(self.draft)} and {sorted(self.rest)}"
            raise ConfigError(explain("verify, draft, rest", found, "the same budgets, at least one"))
        for seconds in (*self.verify.values(), *self.draft.values(), *self.rest.values()):
            if not 0 <= seconds < float("inf"):
                raise ConfigError(explain("seconds", seconds, "a finite number >= 0"))

    def total(self, budget: int) -> float:
        """Return the seconds of a whole pass; of a measured budget."""
        return self.verify[budget] + self.draft[budget] + self.rest[budget]


@dataclass(frozen=True, kw_only=True)
class TreeForecast:
    """What a budget is worth.

    Args:
        budget: nodes of a tree; a pass reads one token more.
        tau: tokens of a pass, of a decode.
        predicted: tokens per second.
        measured: those of that decode, whose prompts may be shorter than the timed context; None: of none.
    """

    budget: int
    tau: float
    predicted: float
    measured: float | None = None


@dataclass(frozen=True, kw_only=True)
class TreePlan:
    """Predicted speeds of trees by budget, for one request alone.

    Args:
        times: what the prediction stands on.
        forecasts: one a budget, smallest first.
        measured_block: tokens per second of the drafter's own blocks on the prompts that trees were
            decoded on; None: not measured.
    """

    times: TreeTimes
    forecasts: tuple[TreeForecast, ...]
    measured_block: float | None = None

    @property
    def best(self) -> TreeForecast:
        """The forecast of the highest predicted speed."""
        return max(self.forecasts, key=lambda forecast: forecast.predicted)

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as plain values."""
        return {
            "times": asdict(self.times),
            "forecasts": [asdict(f) for f in self.forecasts],
            "best_budget": self.best.budget,
            "measured_block": self.measured_block,
        }


def plan_trees(
    times: TreeTimes,
    taus: Mapping[int, float],
    *,
    measured: Mapping[int, float] | None = None,
    measured_block: float | None = None,
) -> TreePlan:
    """Predict tokens per second of each budget: tau / (t_verify(1 + budget) + t_draft + t_rest).

    The tau of a tree does not follow from the acceptance of a block's slots: it has to be measured.

    Spec: DL-2, DL-11.

    Args:
        times: measured, or invented.
        taus: by budget, of those that have times.
        measured: tokens per second of the decodes that had these taus; None: there were none.
        measured_block: see `TreePlan`.

    Returns:
        The plan.

    Raises:
        ConfigError: other budgets than those of the times, or a tau below 1.

    Example:
        >>> free = {4: 0.0, 8: 0.0}
        >>> times = TreeTimes(context=0, verify={4: 1.5, 8: 2.5}, draft=free, rest=free)
        >>> plan_trees(times, {4: 1.5, 8: 2.0}).best.budget
        4
    """
    if taus.keys() != times.verify.keys():
        raise ConfigError(explain("taus", f"budgets {sorted(taus)}", f"{sorted(times.verify)}, as timed"))
    if not all(tau >= 1 for tau in taus.values()):
        raise ConfigError(explain("taus", list(taus.values()), "numbers >= 1: a pass emits a token"))
    forecasts = tuple(
        TreeForecast(
            budget=budget,
            tau=taus[budget],
            predicted=rate_of(taus[budget], times.total(budget)),
            measured=None if measured is None else measured[budget],
        )
        for budget in sorted(taus)
    )
    return TreePlan(times=times, forecasts=forecasts, measured_block=measured_block)
