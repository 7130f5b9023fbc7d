"""The one warp, from weights (exact) or logits (float64) to the law a token is drawn from.

Weights are positive multiples of probabilities, so temperature 1/m is the m-th power of a weight and
every step stays rational. Order: temperature, top-k, top-p, min-p (RS-13).
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from dspec.errors import ConfigError, explain
from dspec.oracle.rejection import Law, Number, argmax, one_hot


def normalised(values: Law) -> list[Number]:
    """Return values divided by their sum (`Fraction`s for integers).

    Example:
        >>> normalised([1, 3])
        [Fraction(1, 4), Fraction(3, 4)]
    """
    total: Number = sum(values)
    total = Fraction(total) if isinstance(total, int) else total
    return [value / total for value in values]


def keep_top_k(law: Law, count: int) -> list[Number]:
    """Return `law` with all but the `count` likeliest set to 0; ties keep the lowest index; 0 keeps all.

    Example:
        >>> keep_top_k([1, 2, 2, 2], 2)
        [0, 2, 2, 0]
    """
    if count == 0:
        return list(law)
    kept = set(_descending(law)[:count])
    return [mass if index in kept else 0 for index, mass in enumerate(law)]


def keep_top_p(law: Law, share: Number) -> list[Number]:
    """Return `law` cut to the tokens before which less than `share` of its mass lies, likeliest first.

    Example:
        >>> keep_top_p([Fraction(1, 4), Fraction(1, 2), Fraction(1, 4)], Fraction(3, 4))
        [Fraction(1, 4), Fraction(1, 2), 0]
    """
    if share >= 1:
        return list(law)
    total = sum(law)
    before: Number = 0
    kept = set()
    for index in _descending(law):
        if not before < share * total:
            break
        kept.add(index)
        before = before + law[index]
    return [mass if index in kept else 0 for index, mass in enumerate(law)]


def keep_min_p(law: Law, ratio: Number) -> list[Number]:
    """Return `law` without the tokens below `ratio` times its largest probability.

    Example:
        >>> keep_min_p([4, 2, 1], Fraction(1, 2))
        [4, 2, 0]
    """
    floor = ratio * max(law)
    return [mass if mass >= floor else 0 for mass in law]


def _descending(law: Law) -> list[int]:
    return sorted(range(len(law)), key=lambda index: (-law[index], index))


def truncate(law: Law, *, top_k: int = 0, top_p: Number = 1, min_p: Number = 0) -> list[Number]:
    """Return `law` after top-k, top-p, min-p in this order, normalised.

    Spec: RS-13.

    Example:
        >>> truncate([Fraction(1, 2), Fraction(1, 4), Fraction(1, 4)], top_k=2)
        [Fraction(2, 3), Fraction(1, 3), Fraction(0, 1)]
    """
    return normalised(keep_min_p(keep_top_p(keep_top_k(law, top_k), top_p), min_p))


def warp_weights(weights: Sequence[int], *, temperature: Any = 1, **cuts: Any) -> list[Number]:
    """Return the exact law of integer weights at temperature 0, 1, 1/2, 1/3, ...

    Spec: RS-13.

    Args:
        weights: V integers >= 0, not all 0; the law at temperature 1, times a constant.
        temperature: 0 (argmax) or the inverse of an integer.
        cuts: top_k, top_p, min_p of `truncate`, rational.

    Returns:
        V `Fraction`s of sum 1.

    Example:
        >>> warp_weights([1, 2], temperature=Fraction(1, 2))
        [Fraction(1, 5), Fraction(4, 5)]
    """
    if temperature == 0:
        return [Fraction(mass) for mass in one_hot(argmax(weights), len(weights))]
    power = 1 / Fraction(temperature)
    if power.denominator != 1:
        message = explain("temperature", temperature, "0 or 1/m with an integer m, to stay rational")
        raise ConfigError(message)
    return truncate(normalised([weight**power.numerator for weight in weights]), **cuts)


def warp_logits(logits: Sequence[float], *, temperature: float = 1.0, **cuts: Any) -> list[Number]:
    """Return the float64 law of logits: softmax(logits / temperature), then `truncate`.

    Spec: RS-13, NU-2.

    Args:
        logits: V floats, nats; -inf allowed, not everywhere.
        temperature: >= 0; 0 is the argmax.
        cuts: top_k, top_p, min_p of `truncate`.

    Returns:
        V floats of sum 1.

    Example:
        >>> [round(mass, 3) for mass in warp_logits([0.0, 1.0], temperature=0.5)]
        [0.119, 0.881]
    """
    if temperature == 0:
        return [float(mass) for mass in one_hot(argmax(logits), len(logits))]
    top = max(logits)
    return truncate(normalised([math.exp((value - top) / temperature) for value in logits]), **cuts)
