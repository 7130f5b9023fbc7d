"""Passes of decoding along texts that are known: expected counts from each draft's chance to stand.

Letters: N texts, T anchors a text, K drafted slots. Anchor t is the t-th emitted token, counted from 0,
which the prefill emits: the first pass has it for its anchor.
"""

from typing import Any, NamedTuple

from dspec.core.types import Array
from dspec.errors import ShapeError, explain


class Replayed(NamedTuple):
    """Expected counts of each text; whole numbers where every chance is 0 or 1.

    Args:
        passes: (N,) verify passes.
        emitted: (N,) tokens of all of them, uncut: a closing token each, and what stands.
        reached: (N, K) passes all of whose drafts before slot k stand.
        accepted: (N, K) passes whose draft at slot k stands, and all before it.
    """

    passes: Array
    emitted: Array
    reached: Array
    accepted: Array


def replay_counts(stands: Array, lengths: Array, *, xp: Any) -> Replayed:
    """Return what decoding counts along texts, in expectation over its acceptances.

    A pass is run for every anchor but the last token of the text: that one is a stop, or the limit. Where
    n drafts stand the next anchor is n + 1 tokens on. Let v(t) be the chance that t is an anchor: v(0) = 1
    and v(t) = sum_n v(t - n - 1) P(exactly n stand at t - n - 1). The passes are the sum of v, and the
    drafts that stand are counted uncut (DL-2): slots beyond the text count too. This is the transpose of
    the recursion from the end, E(t) = 1 + sum_n P(exactly n stand) E(t + n + 1), of the same passes; it
    gives the counts of each slot besides.

    Spec: DL-2, DL-10.

    Args:
        stands: (N, T, K) floating in [0, 1]: chance that slot j of the block at anchor t stands, if those
            before it do. Anchors t >= length - 1 are not read.
        lengths: (N,) integer in [1, T + 1]: emitted tokens of each text after the cut, the prefill's
            among them.
        xp: array namespace of both.

    Returns:
        The counts, in the dtype of `stands`.

    Raises:
        ShapeError: the shapes disagree.

    Example:
        >>> import numpy as np, array_api_compat.numpy as xp
        >>> found = replay_counts(np.full((1, 2, 1), 0.5), np.array([3]), xp=xp)
        >>> found.passes.tolist(), found.emitted.tolist()
        ([1.5], [2.25])

    Source: derived beside DL-10; the law of a slot is algorithm 1 of arXiv 2211.17192.
    """
    if stands.ndim != 3 or tuple(lengths.shape) != (stands.shape[0],):
        got = f"{tuple(stands.shape)} and {tuple(lengths.shape)}"
        raise ShapeError(explain("stands, lengths", got, "(N, T, K) and (N,)", clause="NT-4"))
    _, n_anchors, n_slots = stands.shape
    one = xp.ones_like(lengths, dtype=stands.dtype)[:, None]
    none = xp.zeros_like(xp.sum(stands, axis=1))
    # Column i: the chance that the anchor i tokens on is one, as far as the passes so far say.
    ahead = xp.concat([one, none], axis=1)
    passes, reached, accepted = xp.zeros_like(one[:, 0]), none, none
    for t in range(n_anchors):
        run = xp.astype(lengths > t + 1, stands.dtype)[:, None] * ahead[:, :1]
        prefix = xp.cumulative_prod(stands[:, t, :], axis=1)
        before = xp.concat([one, prefix[:, :-1]], axis=1) if n_slots else prefix
        passes = passes + run[:, 0]
        reached, accepted = reached + run * before, accepted + run * prefix
        # P(exactly n) = P(at least n) - P(at least n + 1).
        exactly = xp.concat([one, prefix], axis=1) - xp.concat([prefix, xp.zeros_like(one)], axis=1)
        ahead = xp.concat([ahead[:, 1:], xp.zeros_like(one)], axis=1) + run * exactly
    return Replayed(passes, passes + xp.sum(accepted, axis=-1), reached, accepted)
