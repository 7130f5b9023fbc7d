"""What a term of an objective is, and those that weigh cross-entropy by place, hit or confidence.

A term sees a block through a few numbers a slot (`core.slots`). It says two things about them: its
numerator and denominator (whose quotient is its value), and the coefficients whose weighted loss has
the gradient of that numerator. Terms by credit stand in `credit_terms`, by the target's law in
`law_terms`, all of them by name in `term_table`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

from dspec.core.schedules import Number, Progress, Schedule, ends
from dspec.core.slots import Blocks
from dspec.core.types import Array
from dspec.errors import ConfigError, explain

StopGradient = Callable[[Array], Array]
REDUCTIONS = ("block_sum", "weighted_mean")
# Keeps the mean over blocks with an error finite; the paper (LTR, eq. 10) names it but not its value.
EPSILON = 1e-6
INF = float("inf")
# By the name of a term's argument: what its values must be, in words, and the clause that says so.
RANGES: dict[str, tuple[Callable[[float], bool], str, str]] = {
    "weight": (lambda x: 0 <= x < INF, "a finite number >= 0", "OB-6"),
    "gamma": (lambda x: x > 0, "a number > 0; inf is uniform", "OB-2"),
    "alpha": (lambda x: 0 <= x <= 1, "a number in [0, 1]", "OB-5"),
    "temperature": (lambda x: 0 < x < INF, "a finite number > 0", "OB-12"),
    "eta": (lambda x: 0 <= x < INF, "a finite number >= 0", "OB-16"),
    "follow": (lambda x: 0 <= x < INF, "a finite number >= 0", "OB-19"),
}


class Term(ABC):
    """One summand of an objective: `sign * weight * numerator / denominator`."""

    name: ClassVar[str]
    sign: ClassVar[int] = 1
    epsilon: ClassVar[float] = 0.0
    signal: ClassVar[str] = "gold"  # that its gradient goes through, of SIGNALS
    reads_law: ClassVar[bool] = False  # overlap or divergence
    reads_confidence: ClassVar[bool] = False
    weight: Any  # Number; a dataclass field of every term

    def __post_init__(self) -> None:
        """ConfigError unless every argument is in its range; of a schedule, both ends."""
        for name, value in self.arguments().items():
            right, needed, clause = RANGES[name]
            if value is not None and not all(map(right, ends(value))):
                raise ConfigError(explain(f"{self.name} {name}", value, needed, clause=clause))

    @abstractmethod
    def coefficients(self, blocks: Blocks) -> Array:
        """Return (N, K) >= 0: how fast sign * numerator rises with the loss of the term's signal."""

    def numerator(self, blocks: Blocks, stop_gradient: StopGradient) -> Array:
        """Return a 0-d float, additive over blocks: here, the losses under fixed coefficients."""
        return blocks.weighted(stop_gradient(self.coefficients(blocks)), blocks.loss(self.signal))

    def denominator(self, blocks: Blocks, reduction: str) -> Array:
        """Return a 0-d float, additive over blocks: here, the number of blocks with a supervised slot."""
        return blocks.n_valid()

    def waits(self, reduction: str) -> bool:
        """Whether the denominator depends on what the drafter does, not on masks alone."""
        return False

    def at(self, progress: Progress) -> Self:
        """Return the term with the numbers of a step instead of schedules."""
        return replace(self, **{name: s.at(progress) for name, s in self.schedules().items()})  # type: ignore[type-var]

    def schedules(self) -> dict[str, Schedule]:
        """Return its arguments that change over a run, by name."""
        return {name: value for name, value in self.arguments().items() if isinstance(value, Schedule)}

    def arguments(self) -> dict[str, Any]:
        """Return its arguments by name, in order."""
        own: Any = self
        return {field.name: getattr(self, field.name) for field in fields(own)}


def by_place(term: Any, blocks: Blocks) -> Array:
    """Return (N, K): the decay by the term's gamma at supervised slots."""
    return blocks.where(blocks.mask, blocks.decay(term.gamma))


def mass_or_blocks(weights: Array, blocks: Blocks, reduction: str) -> Array:
    """Return the sum of the weights under `weighted_mean`, else the number of valid blocks."""
    return blocks.xp.sum(weights) if reduction == "weighted_mean" else blocks.n_valid()


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

    gamma: Number = float("inf")
    weight: Number = 1.0
    name: ClassVar[str] = "decay"

    def coefficients(self, blocks: Blocks) -> Array:
        """Return (N, K): the decay at supervised slots."""
        return by_place(self, blocks)

    def denominator(self, blocks: Blocks, reduction: str) -> Array:
        """Return the number of valid blocks, or the sum of the weights under `weighted_mean`."""
        return mass_or_blocks(self.coefficients(blocks), blocks, reduction)


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

    weight: Number = 0.3
    gamma: Number | None = None
    name: ClassVar[str] = "first_error"
    epsilon: ClassVar[float] = EPSILON

    def coefficients(self, blocks: Blocks) -> Array:
        """Return (N, K): the decay at the first error."""
        gamma: Any = float("inf") if self.gamma is None else self.gamma
        return blocks.where(blocks.first_error(), blocks.decay(gamma))

    def denominator(self, blocks: Blocks, reduction: str) -> Array:
        """Return the sum of the weights of the blocks with an error."""
        return blocks.xp.sum(self.coefficients(blocks))

    def waits(self, reduction: str) -> bool:
        """True: it depends on where the errors are."""
        return True


@dataclass(frozen=True)
class Auf(Term):
    """Cross-entropy of the slots up to and with the first one whose argmax missed: accept until fail.

    Spec: OB-13.

    Args:
        weight: factor of the term; finite, >= 0.

    Raises:
        ConfigError: the weight is out of range.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> hit, mask = np.array([[True, False, False]]), np.ones((1, 3), dtype=bool)
        >>> Auf().coefficients(Blocks(np.zeros((1, 3)), hit, mask, xp)).tolist()
        [[1.0, 1.0, 0.0]]

    Source: Spec-AUF (arXiv 2607.01893).
    """

    weight: Number = 1.0
    name: ClassVar[str] = "auf"

    def coefficients(self, blocks: Blocks) -> Array:
        """Return (N, K): 1 up to the first error, 0 after it."""
        return blocks.number(blocks.until_error())

    def denominator(self, blocks: Blocks, reduction: str) -> Array:
        """Return the number of valid blocks, or of the slots it keeps under `weighted_mean`."""
        return mass_or_blocks(self.coefficients(blocks), blocks, reduction)

    def waits(self, reduction: str) -> bool:
        """Whether the slots it keeps are what it is divided by."""
        return reduction == "weighted_mean"


@dataclass(frozen=True)
class Cat(Term):
    """Cross-entropy weighted by the target's own probability of the gold text before the slot.

    Spec: OB-15.

    Args:
        weight: factor of the term; finite, >= 0.

    Raises:
        ConfigError: the weight is out of range.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> from dspec.core.slots import Law
        >>> yes, law = np.ones((1, 3), dtype=bool), Law(confidence=np.log([[0.5, 0.5, 0.1]]))
        >>> Cat().coefficients(Blocks(np.zeros((1, 3)), yes, yes, xp, law)).round(3).tolist()
        [[1.0, 0.5, 0.25]]

    Source: PARD-2 (arXiv 2605.08632).
    """

    weight: Number = 1.0
    name: ClassVar[str] = "cat"
    reads_confidence: ClassVar[bool] = True

    def coefficients(self, blocks: Blocks) -> Array:
        """Return (N, K): the product of the confidences of all supervised slots before slot k."""
        return blocks.prefix_product(blocks.before(blocks.confidence()))
