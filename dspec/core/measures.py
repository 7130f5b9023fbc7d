"""What a decoder looks at of a slot's law: confidence, margin, entropy, collision."""

from dataclasses import dataclass
from typing import Any

from dspec.core.numerics import gather, widen
from dspec.core.types import Array


@dataclass(frozen=True)
class Measures:
    """Statistics of the laws of some slots, each (R, W), float32 or wider.

    Spec: SS-10.

    Args:
        confidence: mass of the slot's token.
        margin: largest minus second largest entry.
        entropy: in nats, >= 0.
        collision: sum of squares.
    """

    confidence: Array
    margin: Array
    entropy: Array
    collision: Array


def without(logits: Array, token: int, *, xp: Any) -> Array:
    """Return the logits with one token's at -inf: no law made of them can draw it.

    Spec: SS-7.

    Args:
        logits: (..., V) floating.
        token: id in [0, V).
        xp: array namespace.

    Returns:
        (..., V), the same dtype.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> without(np.zeros(3), 1, xp=xp).tolist()
        [0.0, -inf, 0.0]
    """
    # Joined around the hole: a mask of V ids a row would cost four more passes over the logits.
    hole = xp.full_like(logits[..., :1], -float("inf"))
    return xp.concat([logits[..., :token], hole, logits[..., token + 1 :]], axis=-1)


def measure(logits: Array, tokens: Array, temperature: float, *, xp: Any) -> Measures:
    """Return the statistics of the laws softmax(logits / temperature).

    Spec: SS-10, NU-2.

    Args:
        logits: (R, W, V) floating, the mask token's among them; -inf allowed.
        tokens: (R, W) ids whose mass is the confidence.
        temperature: 0 stands for 1.
        xp: array namespace of both.

    Returns:
        The statistics.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> found = measure(np.log([[[0.5, 0.25, 0.25]]]), np.array([[1]]), 0.0, xp=xp)
        >>> [round(float(x[0, 0]), 3) for x in (found.confidence, found.margin, found.entropy)]
        [0.25, 0.25, 1.04]

    Source: arXiv 2603.25702, section on acceptance estimation.
    """
    logits = widen(logits, xp=xp)
    shifted = logits - xp.max(logits, axis=-1, keepdims=True)
    if temperature not in (0.0, 1.0):
        shifted = shifted / temperature
    weights = xp.exp(shifted)
    total = xp.sum(weights, axis=-1)
    # 0 * -inf is NaN: what has no mass adds nothing.
    spread = xp.sum(weights * xp.where(weights > 0, shifted, xp.zeros_like(weights)), axis=-1)
    top = xp.max(weights, axis=-1, keepdims=True)
    tied = xp.sum(xp.astype(weights == top, weights.dtype), axis=-1) > 1
    rest = xp.max(xp.where(weights < top, weights, xp.zeros_like(weights)), axis=-1)
    second = xp.where(tied, top[..., 0], rest)
    return Measures(
        confidence=gather(weights, tokens, xp=xp) / total,
        margin=(top[..., 0] - second) / total,
        entropy=xp.log(total) - spread / total,
        collision=xp.sum(weights * weights, axis=-1) / (total * total),
    )
