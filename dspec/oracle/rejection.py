"""Verification of one block of one row, one position at a time, as the clauses RS-4..RS-6 say it.

Written once for every number type: `Fraction` (exact) or `float` (float64). A uniform is anything
that can be multiplied by a number and then compared with `<`: a float, a `Fraction`, or a symbol of
`dspec.oracle.enumerate`. Laws are sequences of V numbers; letters as in core: K drafts, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

Number = Any  # Fraction or float
Uniform = Any  # float, Fraction or a symbolic uniform
Law = Sequence[Number]
Draw = Callable[[Law, Any], int]

SUM_TOLERANCE = 1e-3  # NT-2: how far from 1 the sum of a law may be


def one_hot(token: int, size: int) -> list[int]:
    """Return the law that puts all mass on one token.

    Example:
        >>> one_hot(1, 3)
        [0, 1, 0]
    """
    return [int(index == token) for index in range(size)]


def argmax(values: Law) -> int:
    """Return the index of the largest value, the lowest one among equals.

    Spec: NU-5, RS-11.

    Example:
        >>> argmax([1, 3, 3])
        1
    """
    best = 0
    for index, value in enumerate(values):
        if value > values[best]:
            best = index
    return best


def draw(law: Law, uniform: Uniform) -> int:
    """Return the first index k with `uniform * total < law[0] + ... + law[k]` (one level).

    Rounding may leave no such k; then the last index of positive mass is returned (NU-4).

    Spec: NU-1, RS-7.

    Example:
        >>> draw([0.5, 0.0, 0.5], 0.0), draw([0.5, 0.0, 0.5], 0.5)
        (0, 2)
    """
    total = sum(law)
    reached: Number = 0
    last = 0
    for index, mass in enumerate(law):
        if mass <= 0:
            continue
        last = index
        reached = reached + mass
        if uniform * total < reached:
            return index
    return last


def block_width(size: int) -> int:
    """Return the number of tokens of one block of the two-level draw, ceil(sqrt(V)).

    Spec: NU-1.

    Example:
        >>> block_width(4), block_width(5), block_width(151_936)
        (2, 3, 390)
    """
    root = math.isqrt(size)
    return root if root * root == size else root + 1


def draw_two_level(law: Law, uniforms: Sequence[Uniform]) -> int:
    """Return a token of `law`: uniforms[0] picks a block of consecutive tokens, uniforms[1] inside it.

    Spec: NU-1.

    Args:
        law: V numbers >= 0, at least one > 0.
        uniforms: two uniforms in [0, 1).

    Returns:
        A token id of positive mass.

    Example:
        >>> draw_two_level([0.25, 0.25, 0.25, 0.25], (0.75, 0.25))
        2
    """
    width = block_width(len(law))
    blocks = [law[start : start + width] for start in range(0, len(law), width)]
    chosen = draw([sum(block) for block in blocks], uniforms[0])
    return chosen * width + draw(blocks[chosen], uniforms[1])


def residual(target: Law, drafter: Law) -> list[Number]:
    """Return max(target - drafter, 0), not normalised; `target` itself when nothing is left.

    `draw` divides by the sum. An empty residual means target <= drafter everywhere: only rounding
    leads there after a rejection, and the target's own law is the closest answer.

    Spec: RS-5, NU-4.

    Example:
        >>> residual([0.5, 0.5, 0.0], [0.25, 0.25, 0.5]), residual([0.5, 0.5], [0.5, 0.5])
        ([0.25, 0.25, 0], [0.5, 0.5])
    """
    left = [max(p - q, 0) for p, q in zip(target, drafter, strict=True)]
    return left if sum(left) > 0 else list(target)


def accepts(target: Law, drafter: Law, token: int, uniform: Uniform) -> bool:
    """Return whether a drafted token stands: `uniform * drafter[token] < target[token]`, strictly.

    Spec: RS-4, NU-3.

    Example:
        >>> accepts([0.0, 1.0], [0.5, 0.5], 0, 0.0), accepts([0.25, 0.75], [0.5, 0.5], 0, 0.25)
        (False, True)
    """
    return bool(uniform * drafter[token] < target[token])


def verify_tokens(
    target_rows: Sequence[Law],
    draft_tokens: Sequence[int],
    draft_rows: Sequence[Law] | None,
    accept: Sequence[Uniform],
    close: Sequence[Any],
    *,
    draw: Draw = draw,
) -> list[int]:
    """Return what one pass emits under token verification: accepted drafts, then one closing token.

    Spec: RS-1, RS-4, RS-5, RS-6.

    Args:
        target_rows: K + 1 laws; row k is the target's law after k drafts.
        draft_tokens: K ids.
        draft_rows: K laws, row k the law draft k was drawn from; None: drafts are deterministic.
        accept: K uniforms.
        close: uniforms of the closing token at index 0, in the form `draw` takes.
        draw: map from a law and uniforms to a token.

    Returns:
        n_accepted + 1 ids.

    Example:
        >>> half = [0.5, 0.5]
        >>> verify_tokens([[1.0, 0.0], half], [0], [half], [0.9], [0.6])  # accepted, then the bonus
        [0, 1]
        >>> verify_tokens([[1.0, 0.0], half], [1], [half], [0.0], [0.6])  # rejected, corrected
        [0]

    Source: Leviathan et al., arXiv 2211.17192, Algorithm 1; Chen et al., arXiv 2302.01318, Algorithm 2.
    """
    for k, token in enumerate(draft_tokens):
        target = target_rows[k]
        drafter = one_hot(token, len(target)) if draft_rows is None else draft_rows[k]
        if not accepts(target, drafter, token, accept[k]):
            return [*draft_tokens[:k], draw(residual(target, drafter), close[0])]
    return [*draft_tokens, draw(target_rows[len(draft_tokens)], close[0])]


def verify_sample_match(
    target_rows: Sequence[Law],
    draft_tokens: Sequence[int],
    close: Sequence[Any],
    *,
    draw: Draw = draw,
) -> list[int]:
    """Return what one pass emits under sample-match: target draws, up to the first unlike its draft.

    Exact for any draft, whatever law it came from, as long as the draft is independent of `close`.

    Spec: RS-18.

    Args:
        target_rows: K + 1 laws.
        draft_tokens: K ids.
        close: K + 1 entries; entry k holds the uniforms of the draw at slot k.
        draw: map from a law and uniforms to a token.

    Returns:
        n_accepted + 1 ids.

    Example:
        >>> verify_sample_match([[0.5, 0.5], [0.5, 0.5]], [0], [0.2, 0.7])
        [0, 1]
    """
    emitted: list[int] = []
    for k, law in enumerate(target_rows):
        emitted.append(draw(law, close[k]))
        if k < len(draft_tokens) and emitted[k] != draft_tokens[k]:
            break
    return emitted


def verify_greedy(target_scores: Sequence[Law], draft_tokens: Sequence[int]) -> list[int]:
    """Return what one pass emits at temperature 0: argmaxes, up to the first unlike its draft.

    Spec: RS-11, DL-7.

    Example:
        >>> verify_greedy([[1, 3], [2, 2], [0, 5]], [1, 1])
        [1, 0]
    """
    rows = [one_hot(argmax(scores), len(scores)) for scores in target_scores]
    return verify_sample_match(rows, draft_tokens, [0] * len(rows))


def is_law(law: Law) -> bool:
    """Return whether a row is a law: finite, non-negative, of sum 1 within 1e-3.

    Spec: NT-2, RS-16.

    Example:
        >>> is_law([0.5, 0.5]), is_law([1.5, -0.5]), is_law([float("nan"), 1.0])
        (True, False, False)
    """
    return all(0 <= mass < math.inf for mass in law) and abs(sum(law) - 1) <= SUM_TOLERANCE
