"""Terms that weigh a slot by how much accepted length hangs on it: chain, D-PACE and what follows."""

from dataclasses import dataclass
from typing import Any, ClassVar

from dspec.core.numerics import indices_like
from dspec.core.schedules import Number
from dspec.core.slots import TINY, Blocks
from dspec.core.terms import StopGradient, Term
from dspec.core.types import Array


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

    weight: Number = 40.0
    name: ClassVar[str] = "chain"
    sign: ClassVar[int] = -1

    def coefficients(self, blocks: Blocks) -> Array:
        """Return (N, K): the tail sums of the prefix products, over K."""
        return blocks.credit(blocks.log_prob) / blocks.log_prob.shape[-1]

    def numerator(self, blocks: Blocks, stop_gradient: StopGradient) -> Array:
        """Return the sum over blocks of the reward; the gradient flows through it."""
        return blocks.xp.sum(blocks.prefix_product(blocks.log_prob)) / blocks.log_prob.shape[-1]


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

    alpha: Number = 0.5
    weight: Number = 1.0
    name: ClassVar[str] = "dpace"

    def coefficients(self, blocks: Blocks) -> Array:
        """Return (N, K): the tail sums of the smoothed prefix products."""
        return blocks.credit(smoothed(self, blocks))


@dataclass(frozen=True)
class DpaceCumulative(Term):
    """Cross-entropy weighted by the smoothed prefix product alone: half of D-PACE, its ablation.

    Spec: OB-14.

    Args:
        alpha: smoothing of the probabilities; in [0, 1].
        weight: factor of the term; finite, >= 0.

    Raises:
        ConfigError: a value is out of range.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> yes = np.ones((1, 2), dtype=bool)
        >>> half = Blocks(np.log([[0.5, 0.5]]), yes, yes, xp)
        >>> DpaceCumulative(alpha=0.0).coefficients(half).round(3).tolist()
        [[0.5, 0.25]]

    Source: D-PACE (arXiv 2605.18810), ablation.
    """

    alpha: Number = 0.5
    weight: Number = 1.0
    name: ClassVar[str] = "dpace_cumulative"

    def coefficients(self, blocks: Blocks) -> Array:
        """Return (N, K): the smoothed prefix products."""
        return blocks.prefix_product(smoothed(self, blocks))


@dataclass(frozen=True)
class DpaceContinuation(Term):
    """Cross-entropy weighted by what may follow if the slot is right: the other half of D-PACE.

    Spec: OB-14.

    Args:
        alpha: smoothing of the probabilities; in [0, 1].
        weight: factor of the term; finite, >= 0.

    Raises:
        ConfigError: a value is out of range.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> yes = np.ones((1, 2), dtype=bool)
        >>> half = Blocks(np.log([[0.5, 0.5]]), yes, yes, xp)
        >>> DpaceContinuation(alpha=0.0).coefficients(half).round(3).tolist()
        [[1.5, 1.0]]

    Source: D-PACE (arXiv 2605.18810), ablation.
    """

    alpha: Number = 0.5
    weight: Number = 1.0
    name: ClassVar[str] = "dpace_continuation"

    def coefficients(self, blocks: Blocks) -> Array:
        """Return (N, K): sum over supervised j >= k of the factors strictly between k and j, and j's."""
        xp, factors = blocks.xp, smoothed(self, blocks)
        slot = indices_like(factors, xp=xp)
        after = slot[:, None, :] > slot[:, :, None]
        # Not a quotient of prefix products: a dead prefix would be 0 / 0.
        spread = blocks.where(after, xp.broadcast_to(factors[:, None, :], after.shape))
        paths = xp.exp(xp.cumulative_sum(spread, axis=-1))
        counted = (after | (slot[:, None, :] == slot[:, :, None])) & blocks.mask[:, None, :]
        return blocks.where(blocks.mask, xp.sum(blocks.where(counted, paths), axis=-1))


@dataclass(frozen=True)
class Revive(Term):
    """D-PACE whose smoothing fades where the prefix up to the slot is alive.

    Spec: OB-20.

    Args:
        alpha: smoothing where the prefix is dead; in [0, 1].
        weight: factor of the term; finite, >= 0.

    Raises:
        ConfigError: a value is out of range.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> yes = np.ones((1, 2), dtype=bool)
        >>> Revive(alpha=0.5).coefficients(Blocks(np.log([[0.5, 0.5]]), yes, yes, xp)).round(4).tolist()
        [[1.0547, 0.4297]]

    Source: this library's own; D-PACE (arXiv 2605.18810) smooths everywhere.
    """

    alpha: Number = 0.5
    weight: Number = 1.0
    name: ClassVar[str] = "revive"

    def coefficients(self, blocks: Blocks) -> Array:
        """Return (N, K): the tail sums of prefix products, smoothed by how dead the prefix is."""
        xp, chance = blocks.xp, blocks.xp.exp(blocks.log_prob)
        alive = xp.exp(xp.cumulative_sum(blocks.log_prob, axis=-1))
        factors = chance + self.alpha * (1 - alive) * (1 - chance)
        floor = xp.full_like(factors, TINY)  # without smoothing an impossible token has no logarithm
        return blocks.credit(xp.log(xp.where(factors > floor, factors, floor)))


def smoothed(term: Any, blocks: Blocks) -> Array:
    """Return (N, K): logarithms of the gold probabilities, smoothed by the term's alpha."""
    return blocks.smoothed(blocks.log_prob, term.alpha)
