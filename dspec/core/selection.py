"""Which masked positions a denoising step commits, by their confidences."""

from dataclasses import dataclass
from math import inf
from typing import Any

from dspec.core.calls import Number, read_call
from dspec.core.numerics import indices_like, leading
from dspec.core.types import Array

SELECTIONS = {
    "static": (),
    "sequential": (),
    "dynamic": (Number("threshold", 0.85, 0.0, 1.0, "a number in [0, 1]"),),
    "entropy": (Number("bound", 0.35, 0.0, inf, "a number >= 0, nats"),),
    "factor": (Number("factor", 1.0, 0.0, inf, "a number >= 0"),),
    "frechet": (Number("bound", 0.5, 0.0, 1.0, "a number in [0, 1]"),),
}


@dataclass(frozen=True)
class Selection:
    """A selection rule and its number.

    Spec: SS-8.

    Args:
        name: a key of `SELECTIONS`.
        number: threshold, bound or factor; 0 where the rule has none.

    Example:
        >>> Selection.parse("dynamic(0.9)")
        Selection(name='dynamic', number=0.9)
    """

    name: str
    number: float = 0.0

    @classmethod
    def parse(cls, text: Any, threshold: float | None = None) -> "Selection":
        """Return the rule of a text such as "dynamic" or "entropy(0.35)".

        Args:
            text: the rule.
            threshold: its number, where the text gives none.

        Raises:
            ConfigError: an unknown rule, or a number out of range.
        """
        if threshold is not None and isinstance(text, str) and "(" not in text and SELECTIONS.get(text):
            text = f"{text}({threshold})"
        name, numbers = read_call("select", text, SELECTIONS, clause="SS-8")
        return cls(name, numbers[0] if numbers else 0.0)


def select(
    rule: Selection, confidence: Array, entropy: Array, masked: Array, budget: Array, *, xp: Any
) -> Array:
    """Return which positions are committed: at least one of every row that has a masked one.

    Spec: SS-8.

    Args:
        rule: the selection rule.
        confidence: (R, W) in [0, 1], positions from left to right.
        entropy: (R, W), nats; read by "entropy" alone.
        masked: (R, W) bool, the positions that take part.
        budget: (R,) integer >= 1.
        xp: array namespace of all arrays.

    Returns:
        (R, W) bool.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> c, all_ = np.array([[0.2, 0.9, 0.5]]), np.ones((1, 3), dtype=bool)
        >>> select(Selection("dynamic", 0.4), c, c, all_, np.array([1]), xp=xp).tolist()
        [[False, True, True]]

    Source: see SS-8.
    """
    budget = budget[:, None]
    if rule.name == "sequential":
        places = xp.astype(indices_like(confidence, xp=xp), confidence.dtype)
        return masked & (_order(places, masked, xp=xp) < budget)
    if rule.name == "entropy":
        rank = _order(entropy, masked, xp=xp)
        count = _longest(rule, _sorted(entropy, rank, xp=xp), xp=xp)
        return masked & (rank < count[:, None])
    rank = _order(-confidence, masked, xp=xp)
    if rule.name == "static":
        return masked & (rank < budget)
    if rule.name == "dynamic":
        above = masked & (confidence > rule.number)
        enough = xp.sum(xp.astype(above, xp.int32), axis=-1)[:, None] >= budget
        return xp.where(enough, above, masked & (rank < budget))
    count = _longest(rule, _sorted(confidence, rank, xp=xp), xp=xp)
    return masked & (rank < count[:, None])


def _order(key: Array, masked: Array, *, xp: Any) -> Array:
    """Return each position's place in ascending order of the key; what is not masked comes last."""
    last = xp.full_like(key, inf)
    order = xp.argsort(xp.where(masked, key, last), axis=-1, stable=True)
    return xp.argsort(order, axis=-1, stable=True)


def _sorted(values: Array, rank: Array, *, xp: Any) -> Array:
    return xp.take_along_axis(values, xp.argsort(rank, axis=-1, stable=True), axis=-1)


def _longest(rule: Selection, ordered: Array, *, xp: Any) -> Array:
    """Return how many of the ordered positions a joint bound admits, at least 1.

    Every bound is monotone in the number of positions, so the longest prefix is the first run.
    """
    if rule.name == "entropy":
        admits = xp.cumulative_sum(ordered, axis=-1) <= rule.number
    elif rule.name == "factor":
        number = xp.astype(indices_like(ordered, xp=xp), ordered.dtype) + 2
        admits = number * (1 - ordered) < rule.number
    else:
        admits = 1 - xp.cumulative_sum(1 - ordered, axis=-1) >= rule.number
    count = leading(admits, xp=xp)
    return xp.where(count > 1, count, xp.ones_like(count))


def budget_of(step: int, steps: int, block_size: int) -> int:
    """Return how many positions step `step` of a block commits, the remainder first.

    Spec: SS-9.

    Example:
        >>> [budget_of(step, 3, 8) for step in range(4)]
        [3, 3, 2, 2]
    """
    step = min(step, steps - 1)
    return block_size // steps + (step < block_size % steps)
