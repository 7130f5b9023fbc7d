"""Several drafts of one slot: tried one after another, each against what the target still owes.

Letters: B rows, k drafts of the slot, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from dspec.core.numerics import draw, gather, indices_like, widen
from dspec.core.types import Array
from dspec.core.verdicts import well_formed
from dspec.errors import ShapeError, explain


class Choice(NamedTuple):
    """Which of several drafts stands, and the token that is emitted.

    Args:
        index: (B,) int32 in 0..k - 1; k: none stands; -1: a law is malformed.
        tokens: (B,) int32: the draft that stands, else a correction; -1: a law is malformed.
    """

    index: Array
    tokens: Array


def verify_several(
    target_probs: Array, drafted: Array, draft_probs: Array | None, accept: Array, close: Array, *, xp: Any
) -> Choice:
    """Try the drafts of one slot in turn; the emitted token has the target's law.

    Draft j stands iff u_j q_j(x_j) < p_j(x_j); if not, p_{j+1} is max(p_j - q_j, 0) over its sum (p_j if
    the sum is 0), and the next one is tried; after the last the token is drawn. Drafts drawn without
    replacement report the law given those before them (`without_replacement`), or the first one's alone.

    Spec: RS-22, RS-16, NU-3, NU-4.

    Args:
        target_probs: (B, V) floating.
        drafted: (B, k) integer ids in [0, V), k >= 1; -1: no draft, for rows that have fewer.
        draft_probs: (B, k, V) floating, row j the law that draft j was drawn from, given those before it;
            (B, V): all were drawn from this one without replacement, and are deterministic once it is
            used up; None: deterministic drafts.
        accept: (B, k) uniforms.
        close: (B, 2) uniforms of the correction.
        xp: array namespace of all arrays.

    Returns:
        The choice.

    Raises:
        ShapeError: shapes disagree.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> law, u = np.array([[0.25, 0.25, 0.5]]), np.array([[0.9, 0.9]])
        >>> choice = verify_several(law, np.array([[0, 2]]), None, u, np.zeros((1, 2)), xp=xp)
        >>> choice.index.tolist(), choice.tokens.tolist()
        ([2], [1])

    Source: arXiv 2310.15141; arXiv 2305.09781.
    """
    _check(target_probs, drafted, draft_probs)
    owed = target = widen(target_probs, xp=xp)
    accept = xp.astype(accept, target.dtype)
    drafted = xp.astype(drafted, xp.int32)
    index = xp.full_like(drafted[:, 0], drafted.shape[1])
    tokens = xp.full_like(index, -1)
    sound = well_formed(target[:, None, :], xp=xp)
    if draft_probs is not None:
        probs = widen(draft_probs, xp=xp)
        sound = sound & well_formed(probs if probs.ndim == 3 else probs[:, None, :], xp=xp)
    # k is a handful, and each draft needs what the last one left.
    for j, law in enumerate(_laws(draft_probs, drafted, owed, xp=xp)):
        there = drafted[:, j] >= 0
        token = xp.where(there, drafted[:, j], xp.zeros_like(index))
        stands = accept[:, j] * gather(law, token, xp=xp) < gather(owed, token, xp=xp)
        first = there & stands & (tokens < 0)
        index = xp.where(first, xp.full_like(index, j), index)
        tokens = xp.where(first, token, tokens)
        owed = xp.where(there[:, None], _residual(owed, law, xp=xp), owed)
    tokens = xp.where(tokens < 0, draw(owed, close, xp=xp), tokens)
    bad = xp.full_like(index, -1)
    return Choice(xp.where(sound, index, bad), xp.where(sound, tokens, bad))


def without_replacement(law: Array, taken: Array, *, xp: Any) -> Array:
    """Return a law given that some tokens are gone: what the next draft without replacement comes from.

    Spec: RS-22.

    Args:
        law: (B, V) float32 or float64.
        taken: (B, j) integer ids drawn before; j may be 0.
        xp: array namespace of both.

    Returns:
        (B, V): the law off those tokens, renormalised; all zero where nothing is left.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> without_replacement(np.array([[0.5, 0.25, 0.25]]), np.array([[0]]), xp=xp).tolist()
        [[0.0, 0.5, 0.5]]
    """
    ids = indices_like(law, xp=xp)
    for j in range(taken.shape[1]):
        law = xp.where(ids == taken[:, j : j + 1], xp.zeros_like(law), law)
    return _over_sum(law, law, xp=xp)


def _laws(draft_probs: Array | None, drafted: Array, like: Array, *, xp: Any) -> Iterator[Array]:
    """Yield (B, V) a draft: the law it was drawn from given those before it; one-hot if it was not drawn.

    Those of drafts without replacement are made one after another: k of them, of V = 152k each, are not kept.
    """
    ids = indices_like(like, xp=xp)
    left = draft_probs if draft_probs is None else widen(draft_probs, xp=xp)
    for j in range(drafted.shape[1]):
        taken = ids == drafted[:, j : j + 1]
        if left is None:
            yield xp.astype(taken, like.dtype)
        elif left.ndim == 3:
            yield left[:, j, :]
        else:
            yield _over_sum(left, xp.astype(taken, left.dtype), xp=xp)
            left = xp.where(taken, xp.zeros_like(left), left)


def _residual(owed: Array, law: Array, *, xp: Any) -> Array:
    """Return (B, V): what is owed after a draft of this law fell, over its sum."""
    excess = owed - law
    return _over_sum(xp.where(excess > 0, excess, xp.zeros_like(excess)), owed, xp=xp)


def _over_sum(weights: Array, otherwise: Array, *, xp: Any) -> Array:
    """Return (B, V): weights over their sum, `otherwise` where that is 0."""
    mass = xp.sum(weights, axis=-1, keepdims=True)
    some = mass > 0
    return xp.where(some, weights / xp.where(some, mass, xp.ones_like(mass)), otherwise)


def _check(target: Array, drafted: Array, draft_probs: Array | None) -> None:
    """Raise unless target (B, V), drafts (B, k >= 1) and laws (B, k, V) or (B, V) agree."""
    if target.ndim != 2 or drafted.ndim != 2 or drafted.shape[0] != target.shape[0] or not drafted.shape[1]:
        got = f"target {tuple(target.shape)}, drafts {tuple(drafted.shape)}"
        raise ShapeError(explain("verify_several", got, "(B, V) and (B, k), k >= 1", clause="NT-4"))
    expected = [(*drafted.shape, target.shape[1]), tuple(target.shape)]
    if draft_probs is not None and tuple(draft_probs.shape) not in expected:
        shape, needed = tuple(draft_probs.shape), f"(B, k, V) = {expected[0]}, or (B, V) = {expected[1]}"
        raise ShapeError(explain("verify_several: draft_probs", shape, needed, clause="NT-4"))
