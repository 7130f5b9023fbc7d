"""The decode loop for several requests side by side: rows, who sits in them, who waits.

Like `core.decode` it does bookkeeping only, and a pass of all rows costs what a pass of one does there:
three calls of the backend and one transfer to the host.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dspec.core.cut_pass import DraftLength
from dspec.core.decode import Limits, Pass, check_prompt, emit
from dspec.core.types import Array, Draft, Scores

# What a row decided: n_accepted and the K + 1 tokens, or the error that ends its request alone.
Found = tuple[int, Sequence[int]] | Exception


@dataclass(frozen=True)
class Entry:
    """One request of a batch.

    Args:
        prompt: token ids, at least one.
        limits: when to end.
        length: how many drafts its passes verify; asked before a pass, told after it.

    Example:
        >>> from dspec.core.draft_length import FixedLength
        >>> Entry([3, 1], Limits(8), FixedLength(2)).limits.max_new_tokens
        8
    """

    prompt: Sequence[int]
    limits: Limits
    length: DraftLength


class PassJudge(Protocol):
    """Decides one pass of all rows."""

    @property
    def rule(self) -> Callable[..., Draft]:
        """The rule that turns draft logits (B, k, V) into drafts."""
        ...

    def verdict(self, scores: Scores, draft: Draft) -> Sequence[Found]:
        """Return what each row decided: the one synchronisation of the pass."""
        ...


class BatchJudge(Protocol):
    """Policies, sampling settings and uniforms of several requests, bound to a backend's arrays."""

    def first(self, logits: Sequence[Array], who: Sequence[int], positions: Sequence[int]) -> Sequence[Found]:
        """Return the tokens after some prompts; logits (1, 1, V) and last position of each."""
        ...

    def opened(
        self, who: Sequence[int | None], positions: Sequence[int], lengths: Sequence[int]
    ) -> PassJudge:
        """Return the judge of a pass: of each row the request or None, the anchor's position, its drafts."""
        ...


@dataclass
class _Seat:
    """A request in its row: the last emitted token, its position, tokens that may follow."""

    who: int
    anchor: int
    position: int
    left: int


class _Rows:
    """The rows of a batch, with the sessions they live in."""

    def __init__(self, target: Any, drafter: Any, entries: Sequence[Entry], rows: int) -> None:
        self.target, self.drafter, self.entries = target, drafter, entries
        self.seats: list[_Seat | None] = [None] * rows
        self.waiting = deque(range(len(entries)))
        self.features: Any = None

    @property
    def positions(self) -> list[int]:
        """Of the anchors, hence also the lengths to rewind to; 0 where nobody sits."""
        return [0 if seat is None else seat.position for seat in self.seats]

    def rewind(self) -> None:
        """Both caches hold what lies before the anchors (DL-4)."""
        self.target.rewind(self.positions)
        self.drafter.rewind(self.positions)

    def settle(self, row: int, found: Found, n_drafted: int | None) -> Pass:
        """Return what a row's verdict emits, None drafted slots being the prefill's; move its seat on."""
        seat = self.seats[row]
        assert seat is not None
        if isinstance(found, Exception):
            self.seats[row] = None
            self.target.clear(row)
            self.drafter.clear(row)
            return Pass((), None, 0, "error", found)
        n_accepted, tokens = found
        emitted = tokens[: n_accepted + 1]
        entry, accepted = self.entries[seat.who], None if n_drafted is None else n_accepted
        if n_drafted is not None:
            entry.length.observe(n_drafted, n_accepted)
        step = emit(emitted, accepted, n_drafted or 0, seat.left, entry.limits)
        seat.anchor = tokens[n_accepted]
        seat.position += n_accepted + 1
        seat.left -= len(step.tokens)
        if step.finish is not None:
            self.seats[row] = None
        return step

    def leave(self, row: int, who: int) -> None:
        """Free a row whose reader wants no more, if the request still sits there."""
        seat = self.seats[row]
        if seat is not None and seat.who == who:
            self.seats[row] = None
            self.rewind()


def decode_batch(
    target: Any,
    drafter: Any,
    judge: BatchJudge,
    entries: Sequence[Entry],
    *,
    rows: int,
    stopped: Collection[int] = (),
) -> Iterator[tuple[int, Pass]]:
    """Yield what each pass emits for each request, until all have ended.

    The requests sit down in the order given; a row that is free takes the next one before the next pass.
    A request whose law is malformed ends with finish "error" and leaves the others as they are; any other
    exception ends all.

    Spec: DL-1..DL-6, DL-12, DL-13, RS-9, RS-14..RS-16.

    Args:
        target: a `TargetBatch` of `rows` rows, empty.
        drafter: a `DrafterBatch`, likewise.
        judge: policies, settings and uniforms of the requests.
        entries: prompts, limits and draft lengths.
        rows: B, requests side by side; >= 1.
        stopped: requests that the reader wants no more of; it adds to it between two `next`.

    Yields:
        The request's place in `entries`, and its pass: the prefill's first, then one a verify.

    Raises:
        ConfigError: a prompt is empty.
    """
    for entry in entries:
        check_prompt(entry.prompt)
    table = _Rows(target, drafter, entries, rows)
    while table.waiting or any(seat is not None for seat in table.seats):
        steps = _admit(table, judge) if table.waiting and None in table.seats else _pass(table, judge)
        table.rewind()
        for row, who, step in steps:
            yield who, step
            if who in stopped:
                table.leave(row, who)


def _admit(table: _Rows, judge: BatchJudge) -> list[tuple[int, int, Pass]]:
    """Fill the free rows: prompts one by one, their first tokens in one transfer."""
    free = [row for row, seat in enumerate(table.seats) if seat is None]
    taken = [(row, table.waiting.popleft()) for row in free[: len(table.waiting)]]
    logits, ends = [], []
    for row, who in taken:
        entry = table.entries[who]
        scores = table.target.prefill(row, entry.prompt)
        table.drafter.prefill(row, scores.features)
        logits.append(scores.logits)
        ends.append(len(entry.prompt) - 1)
        # The anchor "of" the prefill is the last prompt token: what it emits stands one further.
        table.seats[row] = _Seat(who, 0, len(entry.prompt) - 1, entry.limits.max_new_tokens)
    found = judge.first(logits, [who for _, who in taken], ends)
    return [(row, who, table.settle(row, one, None)) for (row, who), one in zip(taken, found)]


def _pass(table: _Rows, judge: BatchJudge) -> list[tuple[int, int, Pass]]:
    """Propose, score and judge for all rows from the first that is taken to the last, at once."""
    taken = [row for row, seat in enumerate(table.seats) if seat is not None]
    first, end = taken[0], taken[-1] + 1
    seats, positions = table.seats[first:end], table.positions[first:end]
    who = [None if seat is None else seat.who for seat in seats]
    anchors = [0 if seat is None else seat.anchor for seat in seats]
    # Chosen before anything of this pass is drawn, each by its own request's past (DL-13).
    lengths = [0 if one is None else table.entries[one].length.choose() for one in who]
    decide = judge.opened(who, positions, lengths)
    widest = {"first": first, "n_slots": max(lengths)}
    draft = table.drafter.propose(anchors, positions, table.features, decide.rule, **widest)
    scores = table.target.score(anchors, draft.tokens, first=first)
    table.features = scores.features
    found = decide.verdict(scores, draft)
    seated = [(i, one) for i, one in enumerate(who) if one is not None]
    return [(first + i, one, table.settle(first + i, found[i], lengths[i])) for i, one in seated]
