"""Filling blocks of masks: the loop of block diffusion, with selection, editing, WINO and verification.

Bookkeeping only, as in `core.self_speculation`: a judge turns logits into tokens and statistics on the
host, once a pass; which positions they decide is read from those.
"""

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any

from dspec.core.canvas import Canvas, Filling
from dspec.core.decode import Limits
from dspec.core.layouts import Layout
from dspec.core.looks import DRAWN, DenoisingJudge, Look, Seen, padded, read, see
from dspec.core.reviewing import review
from dspec.core.trace import Commit, Event

PREFILL = 2048  # slots of a prefill pass: bounds activations and the mask of a long prompt


def denoise(
    session: Any,
    judge: DenoisingJudge,
    prompts: Sequence[Sequence[int]],
    limits: Limits,
    plan: Filling,
    *,
    stopped: AbstractSet[int] = frozenset(),
) -> Iterator[Event]:
    """Yield what each pass makes final, row by row, until every row has ended.

    Spec: SS-8, SS-9, SS-19, SS-21, SS-22, SS-24, SS-25, SS-26.

    Args:
        session: a `BlockSession`, empty, with a row a prompt.
        judge: of the same rows.
        prompts: token ids, at least one each.
        limits: when each row ends.
        plan: how blocks are filled.
        stopped: rows that the caller wants no more of; looked at between passes.

    Yields:
        One event a row and pass that decides something.

    Source: arXiv 2510.06303 (SDAR), 2509.26328 (Fast-dLLM v2), 2602.08676 (editing), 2507.18578 (WINO),
    2603.25702 (verification).
    """
    rows = [Canvas(i, list(prompt), limits, plan, stopped) for i, prompt in enumerate(prompts)]
    yield from _prefill(session, judge, rows, plan)
    for row in rows:
        row.fill_up()
    while any(row.open for row in rows):
        seen = see(session, judge, rows, plan)
        commits = [_replace(row, own, seen) for row, own in zip(rows, seen.looks, strict=True)]
        edited = [bool(found) for found in commits]
        verified = review(session, judge, rows, seen, commits, plan)
        _select(judge, rows, seen, commits, verified, plan)
        for row, own, changed in zip(rows, seen.looks, edited, strict=True):
            if row.open:
                _advance(row, own, changed)
                if row.decider is not None:
                    row.decider.learn(sum(c.kind != "edited" for c in commits[row.number]))
        events = [
            row.emit(found, n_accepted=n_accepted, n_drafted=n_drafted)
            for row, found, (n_accepted, n_drafted) in zip(rows, commits, verified, strict=True)
            if row.open
        ]
        crossed = list(_finish_blocks(session, judge, rows, plan))
        # A block's last event counts the pass that keeps it.
        last = {event.row for event in crossed}
        for event in events:
            yield event if event.row in last else replace(event, passes=rows[event.row].passes)
        yield from crossed


def _prefill(session: Any, judge: DenoisingJudge, rows: Sequence[Canvas], plan: Filling) -> Iterator[Event]:
    """Keep the prompts' whole blocks, some thousand slots a pass."""
    chunk = max(PREFILL // plan.block_size, 1) * plan.block_size
    hidden: Any = None
    layouts: list[Layout | None] = []
    while any(length < row.start for length, row in zip(session.lengths, rows, strict=True)):
        layouts = []
        for row, start in zip(rows, list(session.lengths), strict=True):
            part = row.tokens[start : min(row.start, start + chunk)]
            layouts.append(plan.known(part, start) if part else None)
        hidden = read(session, rows, layouts)
        session.commit([0 if layout is None else layout.size for layout in layouts])
        edges = [
            row if row.start == row.prompt == length and layout is not None else None
            for row, length, layout in zip(rows, session.lengths, layouts, strict=True)
        ]
        if plan.shifted:
            yield from _cross(session, judge, hidden, layouts, edges)


def _cross(
    session: Any,
    judge: DenoisingJudge,
    hidden: Any,
    layouts: Sequence[Layout | None],
    rows: Sequence[Canvas | None],
) -> Iterator[Event]:
    """Draw the first token of a shifted family's next block from the pass that kept the one before."""
    if not any(row is not None for row in rows):
        return
    slots = [[0 if layout is None else layout.size - 1] for layout in layouts]
    passes = [0 if row is None else row.passes for row in rows]
    given, places = [[DRAWN]] * len(rows), [[0]] * len(rows)
    ids, _, _ = judge.measure(session.logits(hidden, slots), given, places, passes)
    for row, found in zip(rows, ids, strict=True):
        if row is not None:
            row.fill_up()
            yield row.emit([row.put(row.start, int(found[0]), "boundary")])


def _replace(row: Canvas, look: Look, seen: Seen) -> list[Commit]:
    """Edit settled tokens (SS-21); WINO's are masked again after the selection."""
    editing = row.plan.editing
    if editing is None or not row.open:
        return []
    commits, first = [], len(look.masked)
    for k, position in enumerate(look.settled, first):
        token, confidence = int(seen.ids[row.number][k]), seen.measures.confidence[row.number][k]
        if token != row.tokens[position] and confidence > editing.threshold:
            commits.append(row.put(position, token, "edited"))
    return commits


def _select(
    judge: DenoisingJudge,
    rows: Sequence[Canvas],
    seen: Seen,
    commits: list[list[Commit]],
    verified: Sequence[tuple[int | None, int]],
    plan: Filling,
) -> None:
    """Commit by the fallback what verification did not bring (SS-8, SS-19)."""
    width = len(seen.ids[0])
    masked, budgets = [], []
    for row, look, (n_accepted, _) in zip(rows, seen.looks, verified, strict=True):
        budget = row.budget()
        if n_accepted is not None and plan.review is not None:
            done = sum(not row.is_masked(i) for i in look.masked)
            least = budget if plan.review.min_commit is None else plan.review.min_commit
            budget = least - done
        flags = [row.is_masked(i) and budget > 0 for i in look.masked]
        masked.append(padded(flags, width, False))
        budgets.append(max(budget, 1))
    chosen = judge.choose(plan.selection, seen.measures, masked, budgets)
    for row, look, found, flags in zip(rows, seen.looks, commits, chosen, strict=True):
        picked = [k for k in range(len(look.masked)) if flags[k]]
        if plan.selection.name != "sequential":
            # The trace names the surest first, as the rules order them.
            picked.sort(key=lambda k: -seen.measures.confidence[row.number][k])
        for k in picked:
            found.append(row.put(look.masked[k], int(seen.ids[row.number][k]), "selected"))
        if plan.wino is not None and row.open:
            found += _narrow(row, look, seen, len(picked))


def _narrow(row: Canvas, look: Look, seen: Seen, committed: int) -> list[Commit]:
    """Mask doubtful tokens again, fewer than were committed, the least likely first (SS-25)."""
    assert row.plan.wino is not None
    first = len(look.masked)
    sure = {i: seen.measures.confidence[row.number][first + k] for k, i in enumerate(look.settled)}
    doubtful = sorted((i for i in sure if sure[i] < row.plan.wino.keep), key=lambda i: sure[i])
    commits = []
    for position in doubtful[: max(committed - 1, 0)]:
        commits.append(Commit(position, row.tokens[position], "remasked", row.passes))
        row.tokens[position] = row.plan.mask_id
    return commits


def _advance(row: Canvas, look: Look, edited: bool) -> None:
    """Count the step; say whether the block needs another pass."""
    row.step += 1
    editing = row.plan.editing
    if editing is None:
        row.done = not row.masked()
        return
    if not look.masked:
        row.extra += 1
        row.done = not edited or row.extra >= editing.max_passes
    elif not row.masked():
        row.done = editing.max_passes == 0


def _finish_blocks(
    session: Any, judge: DenoisingJudge, rows: Sequence[Canvas], plan: Filling
) -> Iterator[Event]:
    """Keep finished blocks, by a pass of their own unless fused, and open the next ones."""
    done = [row for row in rows if row.done]
    if not plan.fused:
        due = {row.number for row in done if row.open or plan.commit == "always"}
        lengths = list(session.lengths)
        layouts = [
            plan.known(row.tokens[lengths[row.number] : row.end], lengths[row.number])
            if row.number in due
            else None
            for row in rows
        ]
        if due:
            hidden = read(session, rows, layouts)
            session.commit([0 if layout is None else layout.size for layout in layouts])
    for row in done:
        row.next_block()
        if row.open and not plan.shifted:
            row.fill_up()
    if plan.shifted and any(row.open for row in done):
        edges = [row if row.open and row in done else None for row in rows]
        yield from _cross(session, judge, hidden, layouts, edges)
