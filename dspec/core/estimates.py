"""How many drafts would stand if they were verified: guesses from the draft's own laws."""

from dataclasses import dataclass
from math import inf, log
from typing import Any

from dspec.core.calls import Number, read_call
from dspec.core.measures import Measures
from dspec.core.types import Array

ESTIMATORS = {
    "margin": (Number("threshold", 0.05, 0.0, 1.0, "a number in [0, 1]"),),
    "entropy": (Number("threshold", 0.1, 0.0, 1.0, "a number in [0, 1], of ln V"),),
    "confidence": (Number("power", 0.8, 0.0, inf, "a number >= 0"),),
    "clipped_margin": (Number("slope", 1.0, 0.0, inf, "a number >= 0"),),
    "entropy_exp": (Number("beta", 1.0, 0.0, inf, "a number >= 0"),),
    "renyi": (),
}


@dataclass(frozen=True)
class Estimator:
    """A guess of each draft's chance of acceptance.

    Spec: SS-11.

    Args:
        name: a key of `ESTIMATORS`.
        number: its number; 0 where it has none.

    Example:
        >>> Estimator.parse("entropy_exp")
        Estimator(name='entropy_exp', number=1.0)
    """

    name: str
    number: float = 0.0

    @classmethod
    def parse(cls, text: Any) -> "Estimator":
        """Return the estimator of a text such as "margin(0.1)".

        Raises:
            ConfigError: an unknown one, or a number out of range.
        """
        name, numbers = read_call("estimator", text, ESTIMATORS, clause="SS-11")
        return cls(name, numbers[0] if numbers else 0.0)


def acceptance(estimator: Estimator, measures: Measures, vocab_size: int, *, xp: Any) -> Array:
    """Return each slot's guessed chance of acceptance.

    Spec: SS-11.

    Args:
        estimator: which guess.
        measures: (R, W) each.
        vocab_size: V.
        xp: array namespace.

    Returns:
        (R, W) in [0, 1].

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> half = np.full((1, 1), 0.5)
        >>> acceptance(Estimator("confidence", 2.0), Measures(half, half, half, half), 8, xp=xp).item()
        0.25

    Source: arXiv 2603.25702, section on acceptance estimation.
    """
    kind, number, like = estimator.name, estimator.number, measures.confidence
    if kind == "renyi":
        return measures.collision
    if kind == "margin":
        return xp.astype(measures.margin >= number, like.dtype)
    if kind == "confidence":
        return like**number
    if kind == "clipped_margin":
        scaled = number * measures.margin
        return xp.where(scaled < 1, scaled, xp.ones_like(scaled))
    share = measures.entropy / log(vocab_size)
    return xp.exp(-number * share) if kind == "entropy_exp" else xp.astype(share < number, like.dtype)


def expected_accepted(chance: Array, in_run: Array, *, xp: Any) -> Array:
    """Return the expected length of the accepted prefix of the first run of drafts.

    Spec: SS-11.

    Args:
        chance: (R, W) in [0, 1].
        in_run: (R, W) bool, the first run: some leading slots.
        xp: array namespace.

    Returns:
        (R,), in [0, length of the run].

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> run = np.array([[True, True, False]])
        >>> expected_accepted(np.full((1, 3), 0.5), run, xp=xp).tolist()
        [0.75]
    """
    chance = xp.where(in_run, chance, xp.zeros_like(chance))
    return xp.sum(xp.cumulative_prod(chance, axis=-1), axis=-1)


def score(expected: float, n_confident: int, *, cost: float, dynamic: bool) -> float:
    """Return what verification promises over the fallback.

    Spec: SS-12.

    Args:
        expected: expected accepted length.
        n_confident: masked positions above the fallback's threshold.
        cost: c, tokens that a verify pass must bring.
        dynamic: whether the cost is per confident position.

    Example:
        >>> score(2.5, 3, cost=1.0, dynamic=False), score(2.5, 3, cost=1.0, dynamic=True)
        (1.5, -0.5)

    Source: arXiv 2603.25702, routing.
    """
    return expected - cost * (n_confident if dynamic else 1)
