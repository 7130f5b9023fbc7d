"""How far a drafter is right from the left, and what it knew too late."""

from typing import Any

from dspec.core.numerics import leading
from dspec.core.types import Array


def accepted_prefix(hit: Array, mask: Array, *, xp: Any) -> Array:
    """How many drafted tokens greedy verification against the gold text would accept.

    A slot that is not supervised ends the block: nothing is known beyond it.

    Spec: OB-11.

    Args:
        hit: (N, K) bool; the drafter's argmax is the gold token.
        mask: (N, K) bool; the slot is supervised.
        xp: their array namespace.

    Returns:
        (N,) int32 in 0..K.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> hit, mask = np.array([[True, False, True]]), np.ones((1, 3), dtype=bool)
        >>> accepted_prefix(hit, mask, xp=xp).tolist()
        [1]
    """
    return leading(hit & mask, xp=xp)


def wasted_hits(hit: Array, mask: Array, *, xp: Any) -> Array:
    """How many right tokens come after a block's first error, where no verifier can use them.

    Spec: OB-11.

    Args:
        hit: (N, K) bool; the drafter's argmax is the gold token.
        mask: (N, K) bool; the slot is supervised.
        xp: their array namespace.

    Returns:
        (N,) int32 in 0..K - 1.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> hit, mask = np.array([[True, False, True]]), np.ones((1, 3), dtype=bool)
        >>> wasted_hits(hit, mask, xp=xp).tolist()
        [1]

    Source: LTR (arXiv 2606.11552), table 1.
    """
    misses = xp.cumulative_sum(xp.astype(mask & ~hit, xp.int32), axis=-1)
    late = hit & mask & (misses > 0)
    return xp.astype(xp.sum(xp.astype(late, xp.int32), axis=-1), xp.int32)
