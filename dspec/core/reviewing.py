"""Verification inside a denoising step: which rows verify their first run, and what stands of it."""

from collections.abc import Sequence
from math import log
from typing import Any

from dspec.core.canvas import Canvas, Filling, Review
from dspec.core.estimates import score
from dspec.core.layouts import Layout
from dspec.core.looks import DenoisingJudge, Look, Seen, padded, read
from dspec.core.plans import Plan, verifying
from dspec.core.routing import Facts
from dspec.core.trace import Commit

Verified = list[tuple[int | None, int]]


def review(
    session: Any,
    judge: DenoisingJudge,
    rows: Sequence[Canvas],
    seen: Seen,
    commits: list[list[Commit]],
    plan: Filling,
) -> Verified:
    """Verify the first run of the rows whose route says so; commit what stands and the correction.

    Spec: SS-6, SS-13, SS-19.

    Args:
        session: after the draft pass.
        judge: of the same rows.
        rows: their canvases; decided positions are filled in.
        seen: what the draft pass told.
        commits: of this step so far; added to.
        plan: how blocks are filled.

    Returns:
        (n_accepted, n_drafted) of each row; (None, 0) where nothing was verified.
    """
    found: Verified = [(None, 0)] * len(rows)
    if plan.review is None:
        return found
    counts = _routed(judge, rows, seen, plan, plan.review)
    if not any(counts):
        return found
    judged = _verify(session, judge, rows, seen, counts, plan)
    for row, look, count, (n_accepted, tokens) in zip(rows, seen.looks, counts, judged, strict=True):
        for k, token in enumerate(tokens if count else []):
            kind = "accepted" if k < n_accepted else "correction"
            commits[row.number].append(row.put(look.masked[k], token, kind))
        if count:
            found[row.number] = (n_accepted, count)
    return found


def _routed(
    judge: DenoisingJudge, rows: Sequence[Canvas], seen: Seen, plan: Filling, settings: Review
) -> list[int]:
    """Return how many drafts each row verifies: its first run, or none."""
    width = len(seen.ids[0])
    runs = [run_of(look) for look in seen.looks]
    in_run = [[k < run for k in range(width)] for run in runs]
    expected = judge.expect(settings.estimator, seen.measures, in_run, plan.vocab_size)
    counts = []
    for row, look, run, length in zip(rows, seen.looks, runs, expected, strict=True):
        verify = False
        if row.open and run and row.decider is not None:
            verify = row.decider.decide(_facts(row, look, run, length, seen, settings))
        counts.append(run if verify else 0)
    return counts


def run_of(look: Look) -> int:
    """Return the length of the first contiguous run of masked positions.

    Spec: SS-11.

    Example:
        >>> run_of(Look([4, 5, 7], [], [], []))
        2
    """
    first = look.masked[:1]
    return sum(position == first[0] + k for k, position in enumerate(look.masked))


def _facts(row: Canvas, look: Look, run: int, expected: float, seen: Seen, settings: Review) -> Facts:
    """Gather what a route may look at."""
    surprise = seen.measures.entropy[row.number][:run].sum() / run
    confident = seen.measures.confidence[row.number][: len(look.masked)] > settings.threshold
    n_confident = int(confident.sum())
    return Facts(
        span=run,
        block_size=row.plan.block_size,
        decided=sum(not row.is_masked(i) for i in range(row.start, row.end)),
        surprise=float(surprise) / log(row.plan.vocab_size),
        expected=expected,
        score=score(expected, n_confident, cost=settings.cost, dynamic=settings.dynamic),
        n_confident=n_confident,
    )


def _verify(
    session: Any,
    judge: DenoisingJudge,
    rows: Sequence[Canvas],
    seen: Seen,
    counts: Sequence[int],
    plan: Filling,
) -> list[tuple[int, list[int]]]:
    """Run the verify pass; nothing of it is kept: the block's commit pass or the next block's first does."""
    rounds = Plan(mask_id=plan.mask_id, shifted=plan.shifted, block_size=plan.block_size, bonus=False)
    layouts: list[Layout | None] = []
    slots, width = [], max(counts)
    for row, look, count in zip(rows, seen.looks, counts, strict=True):
        if not count:
            layouts.append(None)
            slots.append([0] * width)
            continue
        known = row.tokens[row.start : look.masked[0]]
        layouts.append(verifying(known, look.masked[0], count, rounds))
        first = len(known) - 1 if plan.shifted else len(known) + count
        own = list(range(first, first + count))
        slots.append(padded(own, width, own[-1]))
    hidden = read(session, rows, layouts, seen.draft.tokens)
    logits = session.logits(hidden, slots)
    power = plan.review.power if plan.review is not None else 1.0
    return list(
        judge.review(logits, seen.draft, counts, seen.passes, power=power, block_size=plan.block_size)
    )
