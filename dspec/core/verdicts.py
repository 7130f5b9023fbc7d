"""What all accept rules share: shapes of their arguments, sound laws, the layout of a verdict."""

from typing import Any

from dspec.core.numerics import indices_like
from dspec.core.types import Array, Draft, Verdict
from dspec.errors import ShapeError, explain

# A row of a law may miss 1 by this much: float32 sums over V = 152k err by less than 1e-4.
MASS_TOLERANCE = 1e-3


def assemble(drafted: Array, n_accepted: Array, closing: Array, *, xp: Any) -> Verdict:
    """Lay out accepted drafts, the closing token, then -1.

    Spec: NT-4, RS-5.

    Args:
        drafted: (B, K) integer ids.
        n_accepted: (B,) int32 in 0..K.
        closing: (B,) integer ids.
        xp: array namespace of all.

    Returns:
        The verdict.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> assemble(np.array([[4, 5]]), np.array([1]), np.array([7]), xp=xp).tokens.tolist()
        [[4, 7, -1]]
    """
    drafted = xp.astype(drafted, xp.int32)
    closing = xp.astype(closing, xp.int32)[:, None]
    padded = xp.concat([drafted, closing], axis=1)
    slot, n = indices_like(padded, xp=xp), n_accepted[:, None]
    tokens = xp.where(slot < n, padded, xp.where(slot == n, closing, xp.full_like(padded, -1)))
    return Verdict(n_accepted, tokens)


def well_formed(probs: Array, *, xp: Any) -> Array:
    """Return (B,) whether every row is non-negative and sums to 1; NaN fails both tests.

    Spec: NT-2, RS-16.

    Args:
        probs: (B, N, V) float32 or float64.
        xp: its array namespace.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> well_formed(np.array([[[0.5, 0.5]], [[1.5, -0.5]]]), xp=xp).tolist()
        [True, False]
    """
    mass = xp.sum(probs, axis=-1)
    rows = (xp.abs(mass - 1) <= MASS_TOLERANCE) & (xp.min(probs, axis=-1) >= 0)
    return xp.all(rows, axis=-1)


def flag(verdict: Verdict, sound: Array, *, xp: Any) -> Verdict:
    """Mark malformed rows by n_accepted = -1: a value, so that nothing waits for the host here.

    Spec: RS-16.

    Args:
        verdict: of B rows.
        sound: (B,) boolean.
        xp: array namespace of all.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> flag(Verdict(np.array([1]), np.array([[3, 4]])), np.array([False]), xp=xp).tokens.tolist()
        [[-1, -1]]
    """
    bad = xp.full_like(verdict.n_accepted, -1)
    tokens = xp.where(sound[:, None], verdict.tokens, xp.full_like(verdict.tokens, -1))
    return Verdict(xp.where(sound, verdict.n_accepted, bad), tokens)


def residual_or_row(residual: Array, row: Array, rejected: Array, *, xp: Any) -> Array:
    """Return the law of the closing token, unnormalised: the residual of a row with a rejected draft.

    Rounding can empty the residual of a draft that fell, or of a prefix that stood, by a hair: then, and
    where nothing was rejected, it is the target's own row.

    Spec: RS-5, RS-6, NU-4.

    Args:
        residual: (B, V) non-negative.
        row: (B, V), the target's law there.
        rejected: (B,) boolean.
        xp: array namespace of all.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> row, left = np.array([[0.5, 0.5]] * 2), np.array([[0.0, 0.25], [0.0, 0.0]])
        >>> residual_or_row(left, row, np.array([True, True]), xp=xp).tolist()
        [[0.0, 0.25], [0.5, 0.5]]
    """
    usable = rejected & (xp.sum(residual, axis=-1) > 0)
    return xp.where(usable[:, None], residual, row)


def check_shapes(where: str, target: Array, draft: Draft) -> None:
    """Raise unless target (B, K + 1, V), tokens (B, K) and probs (B, K, V) agree.

    Spec: NT-4.

    Raises:
        ShapeError: they do not.
    """
    rows, n_slots = draft.tokens.shape[0], draft.tokens.shape[1]
    if target.ndim != 3 or tuple(target.shape[:2]) != (rows, n_slots + 1):
        needed = f"(B={rows}, K+1={n_slots + 1}, V) to match draft.tokens {tuple(draft.tokens.shape)}"
        raise ShapeError(explain(f"{where}: target rows", tuple(target.shape), needed, clause="NT-4"))
    expected = (rows, n_slots, target.shape[2])
    if draft.probs is not None and tuple(draft.probs.shape) != expected:
        got = tuple(draft.probs.shape)
        raise ShapeError(explain(f"{where}: draft.probs", got, f"(B, K, V) = {expected}", clause="NT-4"))
