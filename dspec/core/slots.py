"""N blocks of K drafted slots as the terms of an objective see them.

Slot k = 1..K stands at index k - 1. What is not supervised is neutral: a factor 1, a loss of 0.
"""

from dataclasses import dataclass
from typing import Any

from dspec.core.numerics import indices_like, widen
from dspec.core.types import Array
from dspec.errors import ConfigError, ShapeError, explain

# Below it a factor's logarithm is that of this number; S_k / a_k stays <= K, since S_k <= K a_k (OB-17).
TINY = 1e-30


@dataclass(frozen=True)
class Law:
    """What the target's own law says of each slot.

    Spec: OB-12.

    Args:
        overlap: (N, K) sum_v min(p(v), q(v)); None where no term reads it.
        divergence: (N, K) KL(p || q), nats; None likewise.
        confidence: (N, K) the target's log-probability of the gold token, nats; None likewise.
    """

    overlap: Array | None = None
    divergence: Array | None = None
    confidence: Array | None = None


@dataclass(frozen=True)
class Blocks:
    """N blocks as a term sees them.

    Args:
        log_prob: (N, K) float32 or float64, nats, <= 0; drafter's log-probability of the gold token,
            0 where the slot is not supervised, so that it is a factor 1 in prefix products (OB-9).
        hit: (N, K) bool; the drafter's argmax is the gold token.
        mask: (N, K) bool; the slot is supervised.
        xp: their array namespace.
        law: of the target, neutral where not supervised; None if nobody asked the target.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> yes, half = np.ones((1, 2), dtype=bool), np.log([[0.5, 0.5]])
        >>> Blocks(half, yes, yes, xp).credit(half).round(3).tolist()
        [[0.75, 0.25]]
    """

    log_prob: Array
    hit: Array
    mask: Array
    xp: Any
    law: Law | None = None

    @classmethod
    def view(cls, log_prob: Array, hit: Array, mask: Array, law: Law | None, *, xp: Any) -> "Blocks":
        """Return the checked view of arrays as they come: wide, and neutral where not supervised.

        Raises:
            ShapeError: the arrays do not agree, or a flag is not boolean.
        """
        given = {"log_prob": log_prob, "hit": hit, "mask": mask}
        given |= {name: x for name, x in vars(law or Law()).items() if x is not None}
        if len(log_prob.shape) != 2 or len({tuple(x.shape) for x in given.values()}) != 1:
            got = ", ".join(str(tuple(x.shape)) for x in given.values())
            raise ShapeError(explain(", ".join(given), got, "one shape (N, K)", clause="OB-1"))
        for name in ("hit", "mask"):
            if not xp.isdtype(given[name].dtype, "bool"):
                raise ShapeError(explain(name, given[name].dtype, "booleans", clause="OB-1"))

        def neutral(x: Array | None, rest: float) -> Array | None:
            if x is None:
                return None
            x = widen(x, xp=xp)
            return xp.where(mask, x, xp.full_like(x, rest))

        log_prob = neutral(log_prob, 0.0)
        if law is not None:
            law = Law(neutral(law.overlap, 1.0), neutral(law.divergence, 0.0), neutral(law.confidence, 0.0))
        return cls(log_prob, hit, mask, xp, law)

    def where(self, condition: Array, x: Array) -> Array:
        """Return (N, K): x where the condition holds, else 0."""
        return self.xp.where(condition, x, self.xp.zeros_like(x))

    def number(self, condition: Array) -> Array:
        """Return the condition as 0 and 1 in the dtype of the log-probabilities."""
        return self.xp.astype(condition, self.log_prob.dtype)

    def n_valid(self) -> Array:
        """Return the number of blocks with at least one supervised slot, a 0-d float."""
        return self.xp.sum(self.number(self.xp.any(self.mask, axis=-1)))

    def decay(self, gamma: float) -> Array:
        """Return (N, K): exp(-(k - 1) / gamma) at slot k, supervised or not."""
        before = self.xp.astype(indices_like(self.log_prob, xp=self.xp), self.log_prob.dtype)
        return self.xp.exp(-before / gamma)

    def misses(self) -> Array:
        """Return (N, K) int32: supervised misses up to and with slot k."""
        miss = self.xp.astype(self.mask & ~self.hit, self.xp.int32)
        return self.xp.cumulative_sum(miss, axis=-1)

    def first_error(self) -> Array:
        """Return (N, K) bool: true at a block's first supervised slot whose argmax missed, if any."""
        return self.mask & ~self.hit & (self.misses() == 1)

    def until_error(self) -> Array:
        """Return (N, K) bool: supervised slots up to and with the first error; all without one."""
        return self.mask & ((self.misses() == 0) | self.first_error())

    def smoothed(self, log_chance: Array, alpha: float) -> Array:
        """Return (N, K): the logarithm of (1 - alpha) chance + alpha, 0 where the chance is 1."""
        if alpha == 0:
            return log_chance
        chance = self.xp.exp(log_chance)
        # Not (1 - alpha) p + alpha, which rounds below 1 at the p = 1 of an unsupervised slot.
        return self.xp.log(chance + alpha * (1 - chance))

    def prefix_product(self, log_factors: Array) -> Array:
        """Return (N, K): the product over j <= k of the factors, 0 where not supervised.

        It runs in log space: logarithms are <= 0, so nothing overflows, and underflow to 0 is the
        right limit (OB-10).
        """
        return self.where(self.mask, self.xp.exp(self.xp.cumulative_sum(log_factors, axis=-1)))

    def before(self, x: Array) -> Array:
        """Return (N, K): x of the slot before; 0 at the first."""
        return self.xp.concat([self.xp.zeros_like(x[:, :1]), x[:, :-1]], axis=-1)

    def tail_sum(self, x: Array) -> Array:
        """Return (N, K): the sum of x over slots j >= k, 0 where slot k is not supervised.

        A K x K mask instead of total minus prefix: the tail may be 1e-30 of the total.
        """
        slot = indices_like(x, xp=self.xp)
        later = slot[:, None, :] >= slot[:, :, None]
        spread = self.xp.broadcast_to(x[:, None, :], later.shape)
        return self.where(self.mask, self.xp.sum(self.where(later, spread), axis=-1))

    def credit(self, log_factors: Array) -> Array:
        """Return (N, K): the sum over supervised j >= k of the prefix product at j."""
        return self.tail_sum(self.prefix_product(log_factors))

    def log_overlap(self) -> Array:
        """Return (N, K) <= 0: logarithm of the overlap, not below that of `TINY`."""
        overlap = self.overlap()
        low, high = self.xp.full_like(overlap, TINY), self.xp.ones_like(overlap)
        overlap = self.xp.where(overlap < low, low, overlap)
        return self.xp.log(self.xp.where(overlap > high, high, overlap))

    def overlap(self) -> Array:
        """Return (N, K): the overlap of the two laws; ConfigError without the target's."""
        return self._of_law("overlap")

    def divergence(self) -> Array:
        """Return (N, K): the divergence from the target's law; ConfigError without it."""
        return self._of_law("divergence")

    def confidence(self) -> Array:
        """Return (N, K): the target's log-probability of the gold token; ConfigError without it."""
        return self._of_law("confidence")

    def loss(self, signal: str) -> Array:
        """Return (N, K) >= 0: what a slot loses by a signal: cross-entropy, 1 - overlap or divergence."""
        if signal == "gold":
            return -self.log_prob
        return 1 - self.overlap() if signal == "overlap" else self._of_law(signal)

    def weighted(self, weight: Array, loss: Array) -> Array:
        """Return the sum of weight * loss, a 0-d float; a slot of weight 0 adds 0 even at a loss of inf."""
        return self.xp.sum(weight * self.where(weight > 0, loss))

    def _of_law(self, name: str) -> Array:
        found = getattr(self.law, name, None)
        if found is None:
            remedy = "give law=Law(...), or train through dspec.train, which reads the target"
            raise ConfigError(
                explain("objective", f"no {name}", "the target's law", remedy=remedy, clause="OB-12")
            )
        return found
