"""Exact self-speculation: a block-diffusion model drafts a block and judges it at block size one.

The loop does bookkeeping only: known tokens, layouts, what was kept and emitted. It never looks into an
array; a `Judge` turns logits into drafts, and into host integers once a round. Known tokens are always a
prefix, so that every verify pass reads decided tokens and the drafts before its position.
"""

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from dspec.core.decode import Limits
from dspec.core.layouts import Layout, causal
from dspec.core.plans import Plan, branch_slots, branching, drafting, verifying
from dspec.core.trace import Commit, Event, cut
from dspec.core.types import Draft

PREFILL = 2048  # slots of a prefill pass: bounds activations and the mask of a long prompt


class Judge(Protocol):
    """Policy, sampling settings and uniforms of the rows, bound to a backend's arrays."""

    def propose(self, logits: Any, anchors: Sequence[int], counts: Sequence[int]) -> Draft:
        """Return drafts (R, K), K the largest count, by each row's uniforms at its anchor.

        `logits` is (R, at least K, V). Past a row's count stands the mask token, with a one-hot law: it
        has no mass in any target law, so that it is rejected and the token at its place is the bonus.
        """
        ...

    def verdicts(
        self, logits: Any, draft: Draft | None, anchors: Sequence[int]
    ) -> list[tuple[int, list[int]]]:
        """Return n_accepted and K + 1 tokens of each row on the host: the round's one synchronisation."""
        ...

    def guess(self, logits: Any, draft: Draft, count: int) -> Any:
        """Return (R, K + min(K, count) * count) ids on the device: drafts, then of each of the first
        `count` slots its likeliest other tokens."""
        ...

    def read(self, tokens: Any) -> list[list[int]]:
        """Return ids on the host; they were made before the verdicts, so that nothing is waited for."""
        ...


@dataclass
class Row:
    """One request: what is known of it."""

    number: int
    known: list[int]
    limits: Limits
    stopped: AbstractSet[int] = frozenset()
    passes: int = 0
    finish: str | None = None
    prompt: int = field(init=False)

    def __post_init__(self) -> None:
        self.prompt = len(self.known)

    @property
    def open(self) -> bool:
        """Whether the row goes on."""
        return self.finish is None and self.number not in self.stopped

    @property
    def left(self) -> int:
        """Tokens that may still be emitted."""
        return self.limits.max_new_tokens - (len(self.known) - self.prompt)


def speculate(
    session: Any,
    judge: Judge,
    prompts: Sequence[Sequence[int]],
    limits: Limits,
    plan: Plan,
    *,
    stopped: AbstractSet[int] = frozenset(),
) -> Iterator[Event]:
    """Yield what each round makes final, row by row, until every row has ended.

    Spec: SS-14, SS-15, SS-16, SS-17, SS-18, SS-22, SS-24.

    Args:
        session: a `BlockSession`, empty, with a row a prompt.
        judge: of the same rows.
        prompts: token ids, at least one each.
        limits: when each row ends.
        plan: how rounds are laid out.
        stopped: rows that the caller wants no more of; looked at between rounds.

    Yields:
        One event a row and round.

    Source: arXiv 2603.25702, algorithm 1, every block verified; arXiv 2511.08923 for the fused layout.
    """
    rows = [Row(i, list(prompt), limits, stopped) for i, prompt in enumerate(prompts)]
    # Shifted, the last prompt token's slot gives the first law: it is read with the first round.
    _prefill(session, rows, tail=1 if plan.shifted else 0)
    rounds = _fused_rounds if plan.layout == "fused" else _rounds
    yield from rounds(session, judge, rows, plan)


def _prefill(session: Any, rows: Sequence[Row], *, tail: int) -> None:
    """Keep keys and values of the prompts, causal, some thousand slots a pass."""
    ends = [len(row.known) - tail for row in rows]
    while any(length < end for length, end in zip(session.lengths, ends, strict=True)):
        layouts: list[Layout | None] = []
        for row, start, end in zip(rows, list(session.lengths), ends, strict=True):
            part = tuple(row.known[start : min(end, start + PREFILL)])
            layouts.append(causal(part, start=start) if part else None)
        _read(session, rows, layouts)
        session.commit([0 if layout is None else layout.size for layout in layouts])


def _read(session: Any, rows: Sequence[Row], layouts: Sequence[Layout | None], drafts: Any = None) -> Any:
    """Run one pass and count it for the rows that take part."""
    hidden = session.read(layouts, drafts)
    for row, layout in zip(rows, layouts, strict=True):
        row.passes += layout is not None
    return hidden


def _rounds(session: Any, judge: Judge, rows: Sequence[Row], plan: Plan) -> Iterator[Event]:
    """Draft, verify, keep: two passes a round."""
    while any(row.open for row in rows):
        counts = [_drafts_of(row, plan) if row.open else 0 for row in rows]
        anchors = [len(row.known) - 1 for row in rows]
        draft = None
        if any(counts):
            layouts = [
                drafting(row.known, session.lengths[row.number], count, plan) if count else None
                for row, count in zip(rows, counts, strict=True)
            ]
            hidden = _read(session, rows, layouts)
            draft = judge.propose(session.logits(hidden, _last(layouts, counts)), anchors, counts)
        yield from _verify(session, judge, rows, plan, counts, anchors, draft)


def _drafts_of(row: Row, plan: Plan) -> int:
    """Return how many positions a round drafts: none where one is left alone and can be drawn directly."""
    start, block = len(row.known), plan.block_size
    span = block if plan.window == "sliding" else block - start % block
    if not plan.bonus:
        return min(span, row.left)
    return min(span, row.left - 1) if span > 1 else 0


def _last(layouts: Sequence[Layout | None], counts: Sequence[int]) -> list[list[int]]:
    """Return the last slots of each layout, as many as drafted; short rows repeat one."""
    width = max(counts)
    slots = []
    for layout, count in zip(layouts, counts, strict=True):
        own = list(range(layout.size - count, layout.size)) if layout is not None else [0]
        slots.append((own + own[-1:] * width)[:width])
    return slots


def _verify(
    session: Any,
    judge: Judge,
    rows: Sequence[Row],
    plan: Plan,
    counts: Sequence[int],
    anchors: Sequence[int],
    draft: Draft | None,
) -> Iterator[Event]:
    """One verify pass, its verdicts, and what they keep."""
    pending = [len(row.known) - session.lengths[row.number] for row in rows]
    layouts = [
        verifying(row.known[-held:] if held else [], anchor + 1, count, plan) if row.open else None
        for row, held, count, anchor in zip(rows, pending, counts, anchors, strict=True)
    ]
    hidden = _read(session, rows, layouts, None if draft is None else draft.tokens)
    slots = _judged(layouts, pending, counts, plan)
    verdicts = judge.verdicts(session.logits(hidden, slots), draft, anchors)
    kept, events = [], []
    for row, held, count, (n_accepted, tokens) in zip(rows, pending, counts, verdicts, strict=True):
        if not row.open:
            kept.append(0)
            continue
        closes = plan.bonus or n_accepted < count or count == 0
        # Shifted, the last known token is read again: its slot gives the next law.
        again = plan.shifted and not closes
        kept.append(held + n_accepted - again if plan.commit == "fused" else 0)
        events.append(_advance(row, tokens[: n_accepted + closes], n_accepted, count))
    session.commit(kept)
    _commit_blocks(session, rows, plan)
    yield from (replace(event, passes=rows[event.row].passes) for event in events)


def _judged(
    layouts: Sequence[Layout | None], pending: Sequence[int], counts: Sequence[int], plan: Plan
) -> list[list[int]]:
    """Return the slots of K + 1 laws a row, K the largest count; past a row's own the last is repeated."""
    width = max(counts) + 1
    slots = []
    for layout, held, count in zip(layouts, pending, counts, strict=True):
        first = held - 1 if plan.shifted else held + count
        own = list(range(first, min(first + count + 1, layout.size))) if layout is not None else [0]
        slots.append((own + own[-1:] * width)[:width])
    return slots


def _advance(row: Row, tokens: Sequence[int], n_accepted: int, count: int) -> Event:
    """Emit a round's tokens: cut, append, end the row where they end it."""
    position = len(row.known)
    commits = tuple(
        Commit(position + i, token, _kind(i, n_accepted, count), row.passes) for i, token in enumerate(tokens)
    )
    kept, row.finish = cut(tokens, row.left, row.limits.eos_ids)
    row.known += kept
    return Event(row.number, kept, commits, n_accepted if count else None, count, row.passes, row.finish)


def _kind(i: int, n_accepted: int, count: int) -> str:
    if i < n_accepted:
        return "accepted"
    if count == 0:
        return "autoregressive"
    return "correction" if n_accepted < count else "bonus"


def _commit_blocks(session: Any, rows: Sequence[Row], plan: Plan) -> None:
    """Keep finished blocks by a pass of their own, where passes do not keep them themselves."""
    if plan.commit == "fused":
        return
    layouts: list[Layout | None] = []
    for row, cached in zip(rows, list(session.lengths), strict=True):
        edge = len(row.known) // plan.block_size * plan.block_size - plan.shifted
        due = edge > cached and (row.open or plan.commit == "always")
        layouts.append(causal(tuple(row.known[cached:edge]), start=cached) if due else None)
    if any(layouts):
        _read(session, rows, layouts)
        session.commit([0 if layout is None else layout.size for layout in layouts])


def _fused_rounds(session: Any, judge: Judge, rows: Sequence[Row], plan: Plan) -> Iterator[Event]:
    """Verify the last pass's drafts and draft after every outcome: one pass a round."""
    width = plan.block_size - 1
    counts, draft, handle = [0] * len(rows), None, None
    while any(row.open for row in rows):
        anchors = [len(row.known) - 1 for row in rows]
        pending = [len(row.known) - session.lengths[row.number] for row in rows]
        columns = max(counts)
        layouts = [
            branching(row.known[-held:] if held else [], anchor + 1, count, width, plan, columns=columns)
            if row.open
            else None
            for row, held, count, anchor in zip(rows, pending, counts, anchors, strict=True)
        ]
        hidden = _read(session, rows, layouts, handle)
        judged = _judged(layouts, pending, counts, plan)
        verdicts = judge.verdicts(session.logits(hidden, judged), draft, anchors)
        guessed: list[list[int]] = [[]] * len(rows)
        if plan.guesses and handle is not None:
            guessed = judge.read(handle)
        branches, kept, events = [], [], []
        for row, held, count, (n_accepted, tokens) in zip(rows, pending, counts, verdicts, strict=True):
            kept.append(held + n_accepted if row.open else 0)
            guess = None
            if n_accepted < min(count, plan.guesses):
                first = columns + n_accepted * plan.guesses
                guess = _place(guessed[row.number][first:][: plan.guesses - n_accepted], tokens[n_accepted])
            branches.append(
                branch_slots(held, count, n_accepted, width, plan, guess=guess) if row.open else [0] * width
            )
            if row.open:
                events.append(_advance(row, tokens[: n_accepted + 1], n_accepted, count))
        session.commit(kept)
        yield from events
        counts = [max(0, min(width, row.left - 1)) if row.open else 0 for row in rows]
        draft, handle = None, None
        if any(counts):
            anchors = [len(row.known) - 1 for row in rows]
            logits = session.logits(hidden, branches)
            draft = judge.propose(logits, anchors, counts)
            handle = judge.guess(logits, draft, plan.guesses) if plan.guesses else draft.tokens


def _place(guesses: Sequence[int], token: int) -> int | None:
    """Return which guess a token is; None: none of them."""
    return guesses.index(token) if token in guesses else None
