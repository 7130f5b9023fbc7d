"""Block verification of one row, as the clause RS-21 says it: the drafts of a block are judged together.

Types and letters as in `dspec.oracle.rejection`: `Fraction`, float or symbolic uniforms; K drafts, V tokens.
"""

from collections.abc import Sequence
from typing import Any

from dspec.oracle.rejection import Draw, Law, Number, Uniform, draw, one_hot


def prefix_weights(
    target_rows: Sequence[Law], draft_tokens: Sequence[int], draft_rows: Sequence[Law] | None
) -> list[Number]:
    """Return w_0..w_K: w_0 = 1 and w_i = min(1, w_{i-1} * p_i(d_i) / q_i(d_i)).

    w_i is the chance that the first i drafts stand, given these i. A draft that the drafter's law forbids
    counts as infinitely likelier under the target, unless the target forbids it as well.

    Spec: RS-21.

    Args:
        target_rows: at least K laws of the target.
        draft_tokens: K ids.
        draft_rows: K laws, row k the law draft k was drawn from; None: drafts are deterministic, one-hot.

    Returns:
        K + 1 numbers in [0, 1].

    Example:
        >>> prefix_weights([[0.25, 0.75], [0.75, 0.25]], [0, 0], [[0.5, 0.5], [0.5, 0.5]])  # made up for
        [1, 0.5, 0.75]
        >>> prefix_weights([[0.25, 0.75], [0.75, 0.25]], [1, 1], None)
        [1, 0.75, 0.1875]

    Source: Sun et al., arXiv 2403.10444.
    """
    weights: list[Number] = [1]
    for k, token in enumerate(draft_tokens):
        drafted = 1 if draft_rows is None else draft_rows[k][token]
        wanted = weights[-1] * target_rows[k][token]
        weights.append(wanted / drafted if wanted < drafted else int(wanted > 0))
    return weights


def owed(target: Law, drafter: Law, weight: Number) -> list[Number]:
    """Return max(weight * target - drafter, 0), not normalised: what a prefix leaves to its closing token.

    Its sum is r_i of RS-21; with weight 1 it is the residual of token verification.

    Spec: RS-21.

    Args:
        target: V numbers, the target's law after the prefix.
        drafter: V numbers, the law of the draft after the prefix.
        weight: w_i of the prefix.

    Returns:
        V numbers >= 0, which may all be 0.

    Example:
        >>> owed([0.75, 0.25], [0.25, 0.75], 0.5), owed([0.5, 0.5], [0.5, 0.5], 1)
        ([0.125, 0], [0.0, 0.0])

    Source: Sun et al., arXiv 2403.10444.
    """
    return [max(weight * p - q, 0) for p, q in zip(target, drafter, strict=True)]


def holds(weight: Number, left: Number | None, uniform: Uniform) -> bool:
    """Return whether a prefix of the drafts holds: `uniform * (r + 1 - w) < r`, or `uniform < w` at the end.

    Spec: RS-21.

    Args:
        weight: w_i of the prefix.
        left: r_i, what the next slot lacks; None: the prefix is all K drafts.
        uniform: the accept uniform of slot i.

    Returns:
        Whether it holds; never for weight 0, whatever the uniform.

    Example:
        >>> holds(0.5, 0.125, 0.1), holds(0.5, 0.125, 0.2), holds(0.5, None, 0.4), holds(0, 0, 0.0)
        (True, False, True, False)

    Source: Sun et al., arXiv 2403.10444.
    """
    if left is None:
        return bool(uniform < weight)
    return bool(uniform * (left + 1 - weight) < left)


def verify_block(
    target_rows: Sequence[Law],
    draft_tokens: Sequence[int],
    draft_rows: Sequence[Law] | None,
    accept: Sequence[Uniform],
    close: Sequence[Any],
    *,
    draw: Draw = draw,
) -> list[int]:
    """Return what one pass emits under block verification: the longest prefix that holds, a closing token.

    A prefix may hold though a shorter one does not: the search goes from the whole block down.

    Spec: RS-21.

    Args:
        target_rows: K + 1 laws; row k is the target's law after k drafts.
        draft_tokens: K ids.
        draft_rows: K laws, row k the law draft k was drawn from; None: drafts are deterministic, one-hot.
        accept: K uniforms; entry i - 1 is u_i, of the prefix of i drafts.
        close: uniforms of the closing token at index 0, in the form `draw` takes.
        draw: map from a law and uniforms to a token.

    Returns:
        n_accepted + 1 ids.

    Example:
        >>> p, q = [[0.25, 0.75], [0.75, 0.25], [0.0, 1.0]], [[0.5, 0.5], [0.5, 0.5]]
        >>> verify_block(p, [0, 0], q, [0.6, 0.7], [0.5])  # token verification rejects draft 1: 0.6 >= 1/2
        [0, 0, 1]
        >>> verify_block(p, [0, 0], q, [0.6, 0.8], [0.5])  # no prefix holds
        [1]

    Source: Sun et al., arXiv 2403.10444.
    """
    last = len(draft_tokens)
    if draft_rows is None:
        draft_rows = [one_hot(token, len(target_rows[0])) for token in draft_tokens]
    weights = prefix_weights(target_rows, draft_tokens, draft_rows)
    laws = [owed(target_rows[i], draft_rows[i], weights[i]) for i in range(last)]
    kept = last
    while kept and not holds(weights[kept], sum(laws[kept]) if kept < last else None, accept[kept - 1]):
        kept -= 1
    law = laws[kept] if kept < last and sum(laws[kept]) > 0 else target_rows[kept]
    return [*draft_tokens[:kept], draw(law, close[0])]
