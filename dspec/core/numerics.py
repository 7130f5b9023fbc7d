"""Drawing tokens and widening dtypes: the arithmetic every exact path stands on."""

from math import isqrt
from typing import Any

from dspec.core.types import Array


def widen(x: Array, *, xp: Any) -> Array:
    """Return `x` in float32 if its dtype is narrower, else unchanged.

    Spec: NU-2.

    Args:
        x: floating array of any shape.
        xp: its array namespace.

    Returns:
        The same values, float32 or float64.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> widen(np.ones(2, dtype=np.float16), xp=xp).dtype.name
        'float32'
    """
    return x if x.dtype in (xp.float32, xp.float64) else xp.astype(x, xp.float32)


def indices_like(x: Array, *, xp: Any) -> Array:
    """Return 0, 1, 2, ... along the last axis, in the shape of `x` and on its device.

    Args:
        x: (..., V) array of any dtype.
        xp: its array namespace.

    Returns:
        (..., V) int32.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> indices_like(np.zeros((1, 3)), xp=xp).tolist()
        [[0, 1, 2]]
    """
    # A running count rather than `arange`: namespaces disagree on the `device` keyword.
    return xp.astype(xp.cumulative_sum(xp.ones_like(x, dtype=xp.int32), axis=-1) - 1, xp.int32)


def gather(x: Array, index: Array, *, xp: Any) -> Array:
    """Return x[..., index]: one entry of the last axis for each leading index.

    Args:
        x: (..., V).
        index: (...) integer in [0, V).
        xp: their array namespace.

    Returns:
        (...).

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> gather(np.array([[1, 2], [3, 4]]), np.array([1, 0]), xp=xp).tolist()
        [2, 3]
    """
    index = xp.astype(xp.expand_dims(index, axis=-1), xp.int64)  # torch gathers by int64 only
    return xp.take_along_axis(x, index, axis=-1)[..., 0]


def gather_row(x: Array, index: Array, *, xp: Any) -> Array:
    """Return row `index[b]` of x[b].

    Args:
        x: (B, N, V).
        index: (B,) integer in [0, N).
        xp: their array namespace.

    Returns:
        (B, V).

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> gather_row(np.array([[[1, 2], [3, 4]]]), np.array([1]), xp=xp).tolist()
        [[3, 4]]
    """
    index = xp.astype(index, xp.int64)[:, None, None]
    index = xp.broadcast_to(index, (x.shape[0], 1, x.shape[2]))
    return xp.take_along_axis(x, index, axis=1)[:, 0, :]


def leading(flags: Array, *, xp: Any) -> Array:
    """Return how many flags are true before the first false one.

    Args:
        flags: (..., K) boolean.
        xp: its array namespace.

    Returns:
        (...) int32 in 0..K.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> leading(np.array([[True, True, False, True]]), xp=xp).tolist()
        [2]
    """
    broken = xp.cumulative_sum(xp.astype(~flags, xp.int32), axis=-1)
    return xp.astype(xp.sum(xp.astype(broken == 0, xp.int32), axis=-1), xp.int32)


def draw(probs: Array, uniforms: Array, *, xp: Any) -> Array:
    """Draw one token from each law by a two-level inverse CDF, in index order.

    The first uniform picks a block of ceil(sqrt(V)) consecutive tokens, the second a token inside.
    One float32 pass over V = 152k is off by 1e-3 in total variation, two levels by 5e-6.

    Spec: NU-1, NU-4, RS-7.

    Args:
        probs: (..., V) float32 or float64, non-negative, some entry positive; need not be normalised.
        uniforms: (..., 2) in [0, 1).
        xp: their array namespace.

    Returns:
        (...) int32; the entry drawn always has positive mass.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> draw(np.array([0.5, 0.0, 0.25, 0.25]), np.array([0.5, 0.5]), xp=xp).item()
        3
    """
    vocab, lead = probs.shape[-1], tuple(probs.shape[:-1])
    width = isqrt(vocab - 1) + 1
    whole = vocab // width * width
    mass = xp.sum(xp.reshape(probs[..., :whole], (*lead, whole // width, width)), axis=-1)
    if whole < vocab:  # summed apart: to pad the law would copy all of it
        mass = xp.concat([mass, xp.sum(probs[..., whole:], axis=-1, keepdims=True)], axis=-1)
    uniforms = xp.astype(uniforms, probs.dtype)
    start = _pick(mass, uniforms[..., 0], xp=xp) * width
    ids = start[..., None] + indices_like(probs[..., :width], xp=xp)
    inside = xp.take_along_axis(probs, xp.astype(xp.where(ids < vocab, ids, vocab - 1), xp.int64), axis=-1)
    inside = xp.where(ids < vocab, inside, xp.zeros_like(inside))
    return xp.astype(start + _pick(inside, uniforms[..., 1], xp=xp), xp.int32)


def _pick(mass: Array, uniform: Array, *, xp: Any) -> Array:
    """Return the first entry with u * total < cumsum, or the last positive one if rounding leaves none."""
    cumulative = xp.cumulative_sum(mass, axis=-1)
    # A parallel scan may round unevenly and step over an empty entry, hence the test on the mass itself.
    reached = (uniform[..., None] * cumulative[..., -1:] < cumulative) & (mass > 0)
    positions = indices_like(mass, xp=xp)
    last = xp.max(xp.where(mass > 0, positions, xp.zeros_like(positions)), axis=-1)
    first = xp.argmax(xp.astype(reached, xp.int32), axis=-1)
    return xp.where(xp.any(reached, axis=-1), xp.astype(first, xp.int32), last)
