"""What speculation is worth as more requests are decoded side by side."""

from dataclasses import dataclass
from typing import Any

from dspec.errors import ConfigError, explain
from dspec.evaluation.roofline import Plan


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """Plans of several batch sizes, on one machine and at one context length.

    A pass over one row reads all weights for a few tokens; rows added to it share that reading, so that a
    token without drafts grows cheaper and drafts are worth less, until they cost more than they save.

    Args:
        plans: one a batch size, smallest first.

    Raises:
        ConfigError: no plans, or not of growing batch sizes.

    Example:
        >>> from dspec.evaluation.roofline import PassTimes, make_plan
        >>> one = PassTimes(context=0, verify={1: 1.0, 4: 1.0}, rest={1: 0.0, 4: 0.0})
        >>> eight = PassTimes(context=0, verify={1: 1.0, 4: 4.0}, rest={1: 0.0, 4: 0.0}, rows=8)
        >>> BatchPlan(plans=tuple(make_plan(t, [0.9], block_sizes=[4]) for t in (one, eight))).stops_at
        8
    """

    plans: tuple[Plan, ...]

    def __post_init__(self) -> None:
        rows = [plan.times.rows for plan in self.plans]
        if not rows or rows != sorted(set(rows)):
            raise ConfigError(explain("batch sizes", rows, "one plan each, the smallest first"))

    @property
    def stops_at(self) -> int | None:
        """The batch size from which on, of those planned, speculation never pays; None: it still does."""
        at = None
        for plan in reversed(self.plans):
            if plan.pays:
                break
            at = plan.times.rows
        return at

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as plain values."""
        return {"stops_at": self.stops_at, "plans": [plan.as_dict() for plan in self.plans]}
