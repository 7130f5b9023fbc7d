"""The terms an objective is a sum of: decay, first_error, chain, dpace.

A term sees a block only through the drafter's log-probability of each gold token and whether the
argmax hit it. It says two things about them: its numerator and denominator (whose quotient is its
value), and the coefficients whose weighted cross-entropy has the gradient of that numerator.

Letters: N blocks, K drafted slots (block_size - 1), slot k = 1..K at index k - 1.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from dspec.core.numerics import indices_like
from dspec.core.types import Array
from dspec.errors import ConfigError, explain

StopGradient = Callable[[Array], Array]
REDUCTIONS = ("block_sum", "weighted_mean")
# Keeps the mean over blocks with an error finite; the paper (LTR, eq. 10) names it but not its value.
EPSILON = 1e-6


@dataclass(frozen=True)
class Blocks:
    """N blocks as a term sees them.

    Args:
        log_prob: (N, K) float32 or float64, nats, <= 0; drafter's log-probability of the gold token,
            0 where the slot is not supervised, so that it is a factor 1 in prefix products (OB-9).
        hit: (N, K) bool; the drafter's argmax is the gold token.
        mask: (N, K) bool; the slot is supervised.
        xp: their array namespace.
    """

    log_prob: Array
    hit: Array
    mask: Array
    xp: Any

    def where(self, condition: Array, x: Array) -> Array:
        """Return (N, K): x where the condition holds, else 0."""
        return self.xp.where(condition, x, self.xp.zeros_like(x))

    def n_valid(self) -> Array:
        """Return the number of blocks with at least one supervised slot, a 0-d float."""
        valid = self.xp.any(self.mask, axis=-1)
        return self.xp.sum(self.xp.astype(valid, self.log_prob.dtype))

    def decay(self, gamma: float) -> Array:
        """Return (N, K): exp(-(k - 1) / gamma) at slot k, supervised or not."""
        before = self.xp.astype(indices_like(self.log_prob, xp=self.xp), self.log_prob.dtype)
        return self.xp.exp(-before / gamma)

    def first_error(self) -> Array:
        """Return (N, K) bool: true at a block's first supervised slot whose argmax missed, if any."""
        miss = self.mask & ~self.hit
        so_far = self.xp.cumulative_sum(self.xp.astype(miss, self.xp.int32), axis=-1)
        return miss & (so_far == 1)

    def prefix_product(self, alpha: float) -> Array:
        """Return (N, K): the product over j <= k of (1 - alpha) p_j + alpha, 0 where not supervised.

        The product runs in log space: log-probabilities are <= 0, so nothing overflows, and
        underflow to 0 is the right limit (OB-10).
        """
        factors = self.log_prob
        if alpha > 0:
            chance = self.xp.exp(self.log_prob)
            # Not (1 - alpha) p + alpha, which rounds below 1 at the p = 1 of an unsupervised slot.
            factors = self.xp.log(chance + alpha * (1 - chance))
        return self.where(self.mask, self.xp.exp(self.xp.cumulative_sum(factors, axis=-1)))

    def tail_sum(self, x: Array) -> Array:
        """Return (N, K): the sum of x over slots j >= k, 0 where slot k is not supervised.

        A K x K mask instead of total minus prefix: the tail may be 1e-30 of the total.
        """
        slot = indices_like(x, xp=self.xp)
        later = slot[:, None, :] >= slot[:, :, None]
        spread = self.xp.broadcast_to(x[:, None, :], later.shape)
        return self.where(self.mask, self.xp.sum(self.where(later, spread), axis=-1))

    def cross_entropy(self, weight: Array) -> Array:
        """Return the sum of weight * -log_prob, a 0-d float; a slot of weight 0 adds 0 even at -inf."""
        return self.xp.sum(weight * self.where(weight > 0, -self.log_prob))


class Term(ABC):
    """One summand of an objective: `sign * weight * numerator / denominator`."""

    name: ClassVar[str]
    sign: ClassVar[int] = 1
    epsilon: ClassVar[float] = 0.0
    weight: float

    @abstractmethod
    def coefficients(self, blocks: Blocks) -> Array:
        """Return (N, K) >= 0: minus the derivative of sign * numerator with respect to log_prob."""

    def numerator(self, blocks: Blocks, stop_gradient: StopGradient) -> Array:
        """Return a 0-d float, additive over blocks: here, the cross-entropy under fixed coefficients."""
        return blocks.cross_entropy(stop_gradient(self.coefficients(blocks)))

    def denominator(self, blocks: Blocks, reduction: str) -> Array:
        """Return a 0-d float, additive over blocks: here, the number of blocks with a supervised slot."""
        return blocks.n_valid()


@dataclass(frozen=True)
class Decay(Term):
    """Cross-entropy weighted by exp(-(k - 1) / gamma); gamma = inf is position-uniform.

    Under `weighted_mean` it is divided by the sum of its weights instead of the number of blocks.

    Spec: OB-2, OB-7.

    Args:
        gamma: slots over which the weight falls by e; > 0, inf allowed.
        weight: factor of the term; finite, >= 0.

    Raises:
        ConfigError: a value is out of range.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> yes = np.ones((1, 2), dtype=bool)
        >>> Decay(gamma=1.0).coefficients(Blocks(np.zeros((1, 2)), yes, yes, xp)).round(3).tolist()
        [[1.0, 0.368]]

    Source: DFlash (arXiv 2602.06036); LTR (arXiv 2606.11552), equations 7 and 9.
    """

    gamma: float = float("inf")
    weight: float = 1.0
    name: ClassVar[str] = "decay"

    def __post_init__(self) -> None:
        _check_gamma(self.name, self.gamma)
        _check_weight(self.name, self.weight)

    def coefficients(self, blocks: Blocks) -> Array:
        """Return (N, K): the decay at supervised slots."""
        return blocks.where(blocks.mask, blocks.decay(self.gamma))

    def denominator(self, blocks: Blocks, reduction: str) -> Array:
        """Return the number of valid blocks, or the sum of the weights under `weighted_mean`."""
        if reduction == "weighted_mean":
            return blocks.xp.sum(self.coefficients(blocks))
        return blocks.n_valid()


@dataclass(frozen=True)
class FirstError(Term):
    """Cross-entropy at each block's first slot whose argmax missed, a weighted mean over such blocks.

    The slot is picked without gradient; a block without an error adds nothing to either sum.

    Spec: OB-3.

    Args:
        weight: factor of the term; finite, >= 0.
        gamma: decay of a block's weight with the slot of its error; > 0, inf allowed; None: that of
            the decay terms in the sum, or inf without one.

    Raises:
        ConfigError: a value is out of range.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> hit, mask = np.array([[True, False, False]]), np.ones((1, 3), dtype=bool)
        >>> FirstError().coefficients(Blocks(np.zeros((1, 3)), hit, mask, xp)).tolist()
        [[0.0, 1.0, 0.0]]

    Source: LTR (arXiv 2606.11552), equation 10.
    """

    weight: float = 0.3
    gamma: float | None = None
    name: ClassVar[str] = "first_error"
    epsilon: ClassVar[float] = EPSILON

    def __post_init__(self) -> None:
        _check_weight(self.name, self.weight)
        if self.gamma is not None:
            _check_gamma(self.name, self.gamma)

    def coefficients(self, blocks: Blocks) -> Array:
        """Return (N, K): the decay at the first error."""
        gamma = float("inf") if self.gamma is None else self.gamma
        return blocks.where(blocks.first_error(), blocks.decay(gamma))

    def denominator(self, blocks: Blocks, reduction: str) -> Array:
        """Return the sum of the weights of the blocks with an error."""
        return blocks.xp.sum(self.coefficients(blocks))


@dataclass(frozen=True)
class Chain(Term):
    """The share of the K drafted slots whose whole gold prefix the drafter would draw, subtracted.

    (1/K) sum_k prod_{j<=k} p_j, mean over valid blocks; fully differentiable.

    Spec: OB-4.

    Args:
        weight: factor of the term; finite, >= 0.

    Raises:
        ConfigError: the weight is out of range.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> yes = np.ones((1, 2), dtype=bool)
        >>> Chain().coefficients(Blocks(np.log([[0.5, 0.5]]), yes, yes, xp)).round(3).tolist()
        [[0.375, 0.125]]

    Source: LTR (arXiv 2606.11552), equation 12.
    """

    weight: float = 40.0
    name: ClassVar[str] = "chain"
    sign: ClassVar[int] = -1

    def __post_init__(self) -> None:
        _check_weight(self.name, self.weight)

    def coefficients(self, blocks: Blocks) -> Array:
        """Return (N, K): the tail sums of the prefix products, over K."""
        return blocks.tail_sum(blocks.prefix_product(0.0)) / blocks.log_prob.shape[-1]

    def numerator(self, blocks: Blocks, stop_gradient: StopGradient) -> Array:
        """Return the sum over blocks of the reward; the gradient flows through it."""
        return blocks.xp.sum(blocks.prefix_product(0.0)) / blocks.log_prob.shape[-1]


@dataclass(frozen=True)
class Dpace(Term):
    """Cross-entropy weighted by the smoothed chance that slot k's token is of use (D-PACE).

    c_k = sum_{j>=k} prod_{i<=j} ((1 - alpha) p_i + alpha), without gradient. It is divided by the
    number of valid blocks: dividing by the sum of c_k would cancel the credit it assigns.

    Spec: OB-5.

    Args:
        alpha: smoothing of the probabilities; in [0, 1].
        weight: factor of the term; finite, >= 0.

    Raises:
        ConfigError: a value is out of range.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> yes = np.ones((1, 2), dtype=bool)
        >>> Dpace(alpha=0.0).coefficients(Blocks(np.log([[0.5, 0.5]]), yes, yes, xp)).round(3).tolist()
        [[0.75, 0.25]]

    Source: D-PACE (arXiv 2605.18810).
    """

    alpha: float = 0.5
    weight: float = 1.0
    name: ClassVar[str] = "dpace"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ConfigError(explain("dpace alpha", self.alpha, "a number in [0, 1]", clause="OB-5"))
        _check_weight(self.name, self.weight)

    def coefficients(self, blocks: Blocks) -> Array:
        """Return (N, K): the tail sums of the smoothed prefix products."""
        return blocks.tail_sum(blocks.prefix_product(self.alpha))


TERMS: dict[str, Any] = {term.name: term for term in (Decay, FirstError, Chain, Dpace)}


def _check_gamma(name: str, gamma: float) -> None:
    if not gamma > 0:
        raise ConfigError(explain(f"{name} gamma", gamma, "a number > 0; inf is uniform", clause="OB-2"))


def _check_weight(name: str, weight: float) -> None:
    if not 0 <= weight < float("inf"):
        raise ConfigError(explain(f"{name} weight", weight, "a finite number >= 0", clause="OB-6"))
