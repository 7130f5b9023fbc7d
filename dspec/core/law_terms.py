"""Terms that hold the drafter's law against the target's: divergences, overlaps, and credit of overlaps."""

from dataclasses import dataclass
from typing import Any, ClassVar

from dspec.core.overlap import divergence_share
from dspec.core.schedules import Number, ends
from dspec.core.slots import Blocks
from dspec.core.terms import (
    EPSILON,
    StopGradient,
    Term,
    by_place,
    mass_or_blocks,
)
from dspec.core.types import Array


class LawTerm(Term):
    """A term that reads the target's law at a temperature."""

    reads_law: ClassVar[bool] = True
    temperature: Any  # Number; a dataclass field of every such term


class PlacedTerm(LawTerm):
    """A loss of the two laws weighted by exp(-(k - 1) / gamma)."""

    gamma: Any

    def coefficients(self, blocks: Blocks) -> Array:
        """Return (N, K): the decay at supervised slots."""
        return by_place(self, blocks)

    def denominator(self, blocks: Blocks, reduction: str) -> Array:
        """Return the number of valid blocks, or the sum of the decays under `weighted_mean`."""
        return mass_or_blocks(by_place(self, blocks), blocks, reduction)


@dataclass(frozen=True)
class Kl(PlacedTerm):
    """The divergence KL(p || q) of the drafter's law from the target's, decaying with the slot.

    Spec: OB-16.

    Args:
        gamma: slots over which the weight falls by e; > 0, inf allowed.
        weight: factor of the term; finite, >= 0.
        temperature: of the target's law; > 0.

    Raises:
        ConfigError: a value is out of range.

    Example:
        >>> Kl(10)
        Kl(gamma=10, weight=1.0, temperature=1.0)

    Source: distillation, as the baseline of LK (arXiv 2602.23881).
    """

    gamma: Number = float("inf")
    weight: Number = 1.0
    temperature: Number = 1.0
    name: ClassVar[str] = "kl"
    signal: ClassVar[str] = "divergence"


@dataclass(frozen=True)
class Tv(PlacedTerm):
    """The chance that a draft is refused, 1 - overlap, decaying with the slot.

    Spec: OB-16.

    Args:
        gamma: slots over which the weight falls by e; > 0, inf allowed.
        weight: factor of the term; finite, >= 0.
        temperature: of the target's law; > 0.

    Raises:
        ConfigError: a value is out of range.

    Example:
        >>> Tv()
        Tv(gamma=inf, weight=1.0, temperature=1.0)

    Source: LK (arXiv 2602.23881), where it is a baseline.
    """

    gamma: Number = float("inf")
    weight: Number = 1.0
    temperature: Number = 1.0
    name: ClassVar[str] = "tv"
    signal: ClassVar[str] = "overlap"


@dataclass(frozen=True)
class Lk(PlacedTerm):
    """A divergence that turns into 1 - overlap as the overlap grows: lambda KL + (1 - lambda) TV.

    lambda = exp(-eta * overlap) a slot, without gradient. The mix is one signal: it needs its row alone.

    Spec: OB-16.

    Args:
        eta: how fast it turns; finite, >= 0.
        gamma: slots over which the weight falls by e; > 0, inf allowed.
        weight: factor of the term; finite, >= 0.
        temperature: of the target's law; > 0.

    Raises:
        ConfigError: a value is out of range.

    Example:
        >>> Lk(gamma=10).eta
        3.0

    Source: LK (arXiv 2602.23881), the adaptive mix.
    """

    eta: Number = 3.0
    gamma: Number = float("inf")
    weight: Number = 1.0
    temperature: Number = 1.0
    name: ClassVar[str] = "lk"
    signal: ClassVar[str] = "mixed"

    def numerator(self, blocks: Blocks, stop_gradient: StopGradient) -> Array:
        """Return the sum of both losses under the decay, parted between them by lambda."""
        eta: Any = self.eta
        share = stop_gradient(divergence_share(blocks.overlap(), eta, xp=blocks.xp))
        weight = by_place(self, blocks)
        # In two sums: at a lambda of 0 a divergence of inf adds nothing.
        far = blocks.weighted(weight * (1 - share), 1 - blocks.overlap())
        return far + blocks.weighted(weight * share, blocks.divergence())


@dataclass(frozen=True)
class LogOverlap(PlacedTerm):
    """Minus the logarithm of the chance that a draft is accepted, decaying with the slot.

    Spec: OB-16.

    Args:
        gamma: slots over which the weight falls by e; > 0, inf allowed.
        weight: factor of the term; finite, >= 0.
        temperature: of the target's law; > 0.

    Raises:
        ConfigError: a value is out of range.

    Example:
        >>> LogOverlap(10).gamma
        10

    Source: LK (arXiv 2602.23881), the likelihood form.
    """

    gamma: Number = float("inf")
    weight: Number = 1.0
    temperature: Number = 1.0
    name: ClassVar[str] = "log_overlap"
    signal: ClassVar[str] = "overlap"

    def coefficients(self, blocks: Blocks) -> Array:
        """Return (N, K): the decay over overlap + 1e-6."""
        return by_place(self, blocks) / (blocks.overlap() + EPSILON)

    def numerator(self, blocks: Blocks, stop_gradient: StopGradient) -> Array:
        """Return the sum of decay * -log(overlap + 1e-6)."""
        return blocks.weighted(by_place(self, blocks), -blocks.xp.log(blocks.overlap() + EPSILON))


@dataclass(frozen=True)
class OverlapChain(LawTerm):
    """The share of the K slots that rejection sampling would accept with all before them, subtracted.

    (1/K) sum_k prod_{j<=k} overlap_j, mean over valid blocks; fully differentiable.

    Spec: OB-17.

    Args:
        weight: factor of the term; finite, >= 0.
        temperature: of the target's law; > 0.

    Raises:
        ConfigError: a value is out of range.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> from dspec.core.slots import Law
        >>> yes, law = np.ones((1, 2), dtype=bool), Law(overlap=np.array([[0.5, 0.5]]))
        >>> OverlapChain().coefficients(Blocks(np.zeros((1, 2)), yes, yes, xp, law)).round(3).tolist()
        [[0.75, 0.25]]

    Source: e2e-TV (arXiv 2606.12370), as a reward beside LTR's terms.
    """

    weight: Number = 40.0
    temperature: Number = 1.0
    name: ClassVar[str] = "overlap_chain"
    sign: ClassVar[int] = -1
    signal: ClassVar[str] = "overlap"

    def coefficients(self, blocks: Blocks) -> Array:
        """Return (N, K): the tail sums of the products of overlaps, over K times the slot's own."""
        log_overlap = blocks.log_overlap()
        return blocks.credit(log_overlap) / (blocks.xp.exp(log_overlap) * log_overlap.shape[-1])

    def numerator(self, blocks: Blocks, stop_gradient: StopGradient) -> Array:
        """Return the sum over blocks of the reward; the gradient flows through it."""
        return blocks.xp.sum(blocks.prefix_product(blocks.log_overlap())) / blocks.log_prob.shape[-1]


@dataclass(frozen=True)
class Reach(LawTerm):
    """The divergence from the target, weighted by the accepted length that hangs on the slot.

    c_k = f^follow sum_{j>=k} prod_{i<=j} ((1 - alpha) overlap_i + alpha), without gradient, where f is
    the target's own probability of the gold text before slot k.

    Spec: OB-19.

    Args:
        alpha: smoothing of the overlaps; in [0, 1].
        weight: factor of the term; finite, >= 0.
        follow: power of f; finite, >= 0; 0 asks for no confidence.
        temperature: of the target's law; > 0.

    Raises:
        ConfigError: a value is out of range.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> from dspec.core.slots import Law
        >>> yes, law = np.ones((1, 2), dtype=bool), Law(overlap=np.array([[0.5, 0.5]]))
        >>> Reach(alpha=0.0).coefficients(Blocks(np.zeros((1, 2)), yes, yes, xp, law)).round(3).tolist()
        [[0.75, 0.25]]

    Source: this library's own; the credit is D-PACE's (arXiv 2605.18810), f that of PARD-2 (2605.08632).
    """

    alpha: Number = 0.5
    weight: Number = 1.0
    follow: Number = 0.0
    temperature: Number = 1.0
    name: ClassVar[str] = "reach"
    signal: ClassVar[str] = "divergence"

    @property
    def reads_confidence(self) -> bool:  # type: ignore[override]
        """Whether the target's probability of the gold tokens plays a part."""
        return max(ends(self.follow)) > 0

    def coefficients(self, blocks: Blocks) -> Array:
        """Return (N, K): the tail sums of the smoothed products of overlaps, times f^follow."""
        alpha, follow = self.alpha, self.follow
        credit = blocks.credit(blocks.smoothed(blocks.log_overlap(), alpha))  # type: ignore[arg-type]
        if not self.reads_confidence:
            return credit
        return credit * blocks.prefix_product(follow * blocks.before(blocks.confidence()))
