"""The groups of a batch's rows: which are judged by one call, and where they are."""

from dataclasses import dataclass
from typing import Any

from dspec.core.policies import Policy
from dspec.core.types import Array, Sampling


@dataclass(frozen=True)
class Group:
    """Rows that one call judges.

    Args:
        policy: theirs.
        sampling: theirs.
        n_slots: k, how many drafts of each of them count; None: all of the pass.
        rows: their numbers on the host.
        index: rows of all groups on the device; None: they are all rows in order, and nothing is picked.
        part: where its own stand in it.
        reports: settings of the law whose log-probabilities they report; None: they report none.
    """

    policy: Policy
    sampling: Sampling
    n_slots: int | None
    rows: tuple[int, ...]
    index: Array | None
    part: slice
    reports: Sampling | None

    def pick(self, x: Array, *, xp: Any) -> Array:
        """Return the rows of the group, of an array (B, ...)."""
        # Sliced here: kept from pass to pass, a lazy slice would belong to the thread that made it (MLX).
        return x if self.index is None else xp.take(x, self.index[self.part], axis=0)


@dataclass(frozen=True)
class Groups:
    """All rows of a pass.

    Args:
        each: the groups; every row is in one.
        back: index on the device that puts the groups' rows, one group after the other, into the order
            of the rows; None: there is one group.
    """

    each: tuple[Group, ...]
    back: Array | None
