"""How far drafts agree with the gold text from the left: the figures that training is judged by."""

from dataclasses import dataclass
from typing import Any, Self

import array_api_compat.numpy as xp
import numpy as np
from numpy.typing import NDArray

from dspec.core.objectives import accepted_prefix, wasted_hits


@dataclass(frozen=True)
class Acceptance:
    """Counts over validation blocks; adding two adds their blocks.

    A block is followed up to its first error or its first unsupervised slot, the end of the text.

    Args:
        reached: (K,) blocks whose slots 1..k-1 all hit and whose slot k is supervised.
        accepted: (K,) those of them whose slot k hit too.
        wasted: right tokens after a block's first error, which no verifier can use.
        supervised: all supervised slots.
    """

    reached: NDArray[np.int64]
    accepted: NDArray[np.int64]
    wasted: int
    supervised: int

    @classmethod
    def count(cls, hit: NDArray[np.bool_], mask: NDArray[np.bool_]) -> Self:
        """Return the counts of N blocks.

        Args:
            hit: (N, K) bool, the drafter's argmax is the gold token.
            mask: (N, K) bool, the slot is supervised.

        Returns:
            The counts.

        Example:
            >>> hit, mask = np.array([[1, 0, 1], [1, 1, 1]], dtype=bool), np.ones((2, 3), dtype=bool)
            >>> counts = Acceptance.count(hit, mask)
            >>> counts.tau, counts.rates, counts.waste == 1 / 6
            (3.0, (1.0, 0.5, 1.0), True)
        """
        slot = np.arange(hit.shape[1])
        prefix = accepted_prefix(hit, mask, xp=xp)[:, None]
        reached = mask & (slot <= prefix)
        wasted = wasted_hits(hit, mask, xp=xp).sum()
        return cls(reached.sum(0), (reached & hit).sum(0), int(wasted), int(mask.sum()))

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.reached + other.reached,
            self.accepted + other.accepted,
            self.wasted + other.wasted,
            self.supervised + other.supervised,
        )

    @property
    def rates(self) -> tuple[float | None, ...]:
        """For each slot, the share of blocks that hit there among those that got there; None: none did."""
        return tuple(int(a) / int(r) if r else None for a, r in zip(self.accepted, self.reached))

    @property
    def tau(self) -> float:
        """1 + the mean accepted prefix, from the products of `rates`.

        Equal to the plain mean where no block is cut; a block cut by the end of its text counts as
        far as it goes, where the plain mean would take the end for an error.
        """
        rates = np.array([rate or 0.0 for rate in self.rates])
        return 1.0 + float(np.cumprod(rates).sum())

    @property
    def waste(self) -> float:
        """Share of the supervised tokens that are right and useless; 0 where none is supervised."""
        return self.wasted / self.supervised if self.supervised else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return `tau`, `waste` and `acceptance` (the rates) for a metrics line."""
        return {"tau": self.tau, "waste": self.waste, "acceptance": list(self.rates)}
