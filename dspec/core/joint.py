"""Block verification: the drafts of a block are judged together, the longest prefix that holds stands.

Letters as in `rejection`: B rows, K drafted slots, V vocabulary.
"""

from typing import Any

from dspec.core.numerics import draw, gather, gather_row, indices_like, widen
from dspec.core.rejection import verify_tokens
from dspec.core.types import Array, Draft, Uniforms, Verdict
from dspec.core.verdicts import assemble, check_shapes, flag, residual_or_row, well_formed


def verify_block(target_probs: Array, draft: Draft, uniforms: Uniforms, *, xp: Any) -> Verdict:
    """Accept the longest prefix of drafts that holds; the emitted tokens have the target's law.

    With w_i = min(1, w_{i-1} p_i(d_i)/q_i(d_i)), the ratio that the drafts so far have left, and r_i the
    mass of max(w_i p_{i+1} - q_{i+1}, 0), prefix i holds iff u_i (r_i + 1 - w_i) < r_i, the whole block
    iff u_K < w_K. It accepts at least as much as `verify_tokens` does, on average. Deterministic drafts
    leave nothing to gain: they are verified one by one.

    Spec: RS-21, RS-16, NU-3, NU-4.

    Args:
        target_probs: (B, K + 1, V) floating; row k is the target's law after k drafts.
        draft: tokens (B, K) and their law (B, K, V), or None.
        uniforms: accept (B, K), slot i - 1 for prefix i, and close (B, >= 1, 2), slot 0.
        xp: array namespace of all arrays.

    Returns:
        The verdict; n_accepted is -1 where a law is malformed.

    Raises:
        ShapeError: shapes disagree.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> p, q = np.array([[[1, 2]] * 3]) / 3, np.array([[[2, 1]] * 2]) / 3
        >>> u = Uniforms(np.array([[0.6, 0.6]]), np.zeros((1, 1, 2)))
        >>> [rule(p, Draft(np.array([[0, 1]]), q), u, xp=xp).n_accepted.item()
        ...  for rule in (verify_tokens, verify_block)]
        [0, 2]

    Source: arXiv 2403.10444.
    """
    if draft.probs is None or draft.tokens.shape[1] == 0:
        return verify_tokens(target_probs, draft, uniforms, xp=xp)
    check_shapes("verify_block", target_probs, draft)
    target, probs = widen(target_probs, xp=xp), widen(draft.probs, xp=xp)
    left = _left(target, probs, draft.tokens, xp=xp)
    accept_u = xp.astype(uniforms.accept, target.dtype)
    n_accepted = _longest(target, probs, left, accept_u, xp=xp)
    law = _closing_law(target, probs, left, n_accepted, xp=xp)
    verdict = assemble(draft.tokens, n_accepted, draw(law, uniforms.close[:, 0, :], xp=xp), xp=xp)
    return flag(verdict, well_formed(target, xp=xp) & well_formed(probs, xp=xp), xp=xp)


def _left(target: Array, probs: Array, tokens: Array, *, xp: Any) -> Array:
    """Return (B, K + 1): w_0 = 1, w_1, ..., w_K."""
    reached = gather(target[:, :-1, :], tokens, xp=xp)
    proposed = gather(probs, tokens, xp=xp)
    one = xp.ones_like(reached)
    # A draft that its law cannot give is malformed; as in u q < p, it stands if the target has it.
    ratio = xp.where(proposed > 0, reached, xp.astype(reached > 0, reached.dtype))
    ratio = ratio / xp.where(proposed > 0, proposed, one)
    left = [one[:, 0]]
    for slot in range(tokens.shape[1]):  # K steps on B numbers: the array API has no running minimum
        step = left[-1] * ratio[:, slot]
        left.append(xp.where(step < 1, step, one[:, 0]))
    return xp.stack(left, axis=1)


def _longest(target: Array, probs: Array, left: Array, accept_u: Array, *, xp: Any) -> Array:
    """Return (B,) int32: the largest i whose prefix holds, or 0."""
    holds = (accept_u[:, -1] < left[:, -1])[:, None]
    if left.shape[1] > 2:
        excess = left[:, 1:-1, None] * target[:, 1:-1, :] - probs[:, 1:, :]
        mass = xp.sum(xp.where(excess > 0, excess, xp.zeros_like(excess)), axis=-1)
        inner = accept_u[:, :-1] * (mass + (1 - left[:, 1:-1])) < mass
        holds = xp.concat([inner, holds], axis=1)
    number = indices_like(holds, xp=xp) + 1
    return xp.astype(xp.max(xp.where(holds, number, xp.zeros_like(number)), axis=-1), xp.int32)


def _closing_law(target: Array, probs: Array, left: Array, n_accepted: Array, *, xp: Any) -> Array:
    """Return (B, V) unnormalised: max(w p - q, 0) after the prefix that stands, or the bonus row."""
    n_slots = probs.shape[1]
    row = gather_row(target, n_accepted, xp=xp)
    slot = xp.where(n_accepted < n_slots, n_accepted, n_slots - 1)
    excess = gather(left, n_accepted, xp=xp)[:, None] * row - gather_row(probs, slot, xp=xp)
    residual = xp.where(excess > 0, excess, xp.zeros_like(row))
    return residual_or_row(residual, row, n_accepted < n_slots, xp=xp)
