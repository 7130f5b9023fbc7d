"""Several drafts of one slot: tried one after another, each against what the target still owes.

Letters: B rows, k drafts of the slot, V vocabulary.
"""

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
    replacement report the law given those before them (`without_replacement`).

    Spec: RS-22, RS-16, NU-3, NU-4.

    Args:
        target_probs: (B, V) floating.
        drafted: (B, k) integer ids in [0, V), k >= 1.
        draft_probs: (B, k, V) floating, row j the law that draft j was drawn from, given those before it;
            None: deterministic drafts.
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
        sound = sound & well_formed(widen(draft_probs, xp=xp), xp=xp)
    for j in range(drafted.shape[1]):  # k is a handful, and each draft needs what the last one left
        token = drafted[:, j]
        law = _law_of(draft_probs, token, owed, j, xp=xp)
        stands = accept[:, j] * gather(law, token, xp=xp) < gather(owed, token, xp=xp)
        first = stands & (tokens < 0)
        index = xp.where(first, xp.full_like(index, j), index)
        tokens = xp.where(first, token, tokens)
        owed = _residual(owed, law, xp=xp)
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
    total = xp.sum(law, axis=-1, keepdims=True)
    return law / xp.where(total > 0, total, xp.ones_like(total))


def _law_of(draft_probs: Array | None, token: Array, like: Array, j: int, *, xp: Any) -> Array:
    """Return (B, V): the law that draft j was drawn from; one-hot if it is deterministic."""
    if draft_probs is not None:
        return widen(draft_probs, xp=xp)[:, j, :]
    return xp.astype(indices_like(like, xp=xp) == token[:, None], like.dtype)


def _residual(owed: Array, law: Array, *, xp: Any) -> Array:
    """Return (B, V): what is owed after a draft of this law fell, over its sum."""
    excess = owed - law
    excess = xp.where(excess > 0, excess, xp.zeros_like(excess))
    mass = xp.sum(excess, axis=-1, keepdims=True)
    some = mass > 0
    return xp.where(some, excess / xp.where(some, mass, xp.ones_like(mass)), owed)


def _check(target: Array, drafted: Array, draft_probs: Array | None) -> None:
    """Raise unless target (B, V), drafts (B, k >= 1) and laws (B, k, V) agree."""
    if target.ndim != 2 or drafted.ndim != 2 or drafted.shape[0] != target.shape[0] or not drafted.shape[1]:
        got = f"target {tuple(target.shape)}, drafts {tuple(drafted.shape)}"
        raise ShapeError(explain("verify_several", got, "(B, V) and (B, k), k >= 1", clause="NT-4"))
    expected = (*drafted.shape, target.shape[1])
    if draft_probs is not None and tuple(draft_probs.shape) != tuple(expected):
        shape, needed = tuple(draft_probs.shape), f"(B, k, V) = {tuple(expected)}"
        raise ShapeError(explain("verify_several: draft_probs", shape, needed, clause="NT-4"))
