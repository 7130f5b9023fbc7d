"""What a denoising pass tells of the rows: which positions each looks at, and what was seen there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dspec.core.canvas import Canvas, Filling
from dspec.core.layouts import Layout, behind, leave_one_out
from dspec.core.measures import Measures
from dspec.core.selection import Selection
from dspec.core.types import Draft

DRAWN, BEST = -1, -2  # what stands at a slot that is given no token: a draw, or the argmax


class DenoisingJudge(Protocol):
    """Sampling settings and uniforms of the rows, bound to a backend's arrays."""

    def measure(self, logits: Any, given: Any, slots: Any, passes: Sequence[int]) -> Any:
        """Return ids (R, W) and `Measures` on the host, and the `Draft` on the device."""
        ...

    def review(self, logits: Any, draft: Draft, counts: Any, passes: Any, **settings: Any) -> Any:
        """Return accepted drafts of each row and, after a rejection, the correction."""
        ...

    def choose(self, rule: Selection, measures: Measures, masked: Any, budgets: Sequence[int]) -> Any:
        """Return which masked slots (R, W) are committed."""
        ...

    def expect(self, estimator: Any, measures: Measures, in_run: Any, vocab_size: int) -> list[float]:
        """Return each row's expected accepted length."""
        ...


@dataclass(frozen=True)
class Look:
    """What one row looks at in one pass: positions, the slots that tell of them, and what stands there.

    Args:
        masked: positions that may be committed.
        settled: positions that may be replaced or masked again.
        slots: of the pass, for both in this order.
        given: of both: DRAWN, BEST, or the id whose confidence is asked for.
    """

    masked: list[int]
    settled: list[int]
    slots: list[int]
    given: list[int]


NOTHING = Look([], [], [], [])


@dataclass(frozen=True)
class Seen:
    """What one pass told of all rows.

    Args:
        looks: of each row.
        ids: (R, W) on the host.
        measures: (R, W) each, on the host.
        draft: the same ids and their laws, on the device.
        passes: number of each row's pass.
    """

    looks: list[Look]
    ids: Any
    measures: Measures
    draft: Draft
    passes: list[int]


def read(session: Any, rows: Sequence[Canvas], layouts: Sequence[Layout | None], drafts: Any = None) -> Any:
    """Run one pass and count it for the rows that take part."""
    hidden = session.read(layouts, drafts)
    for row, layout in zip(rows, layouts, strict=True):
        row.passes += layout is not None
    return hidden


def see(session: Any, judge: DenoisingJudge, rows: Sequence[Canvas], plan: Filling) -> Seen:
    """Run a denoising pass; keep what it carries of earlier blocks; measure what it tells.

    Spec: SS-4, SS-5, SS-10, SS-26.

    Args:
        session: a `BlockSession`; `Canvas.start` and its lengths say what is kept.
        judge: of the rows.
        rows: those that are open take part.
        plan: how blocks are filled.

    Returns:
        What was seen.
    """
    lengths = list(session.lengths)
    layouts = [row.drafting(lengths[row.number]) if row.open else None for row in rows]
    looks = [look_of(row, lengths[row.number]) if row.open else NOTHING for row in rows]
    if plan.wino is not None:
        layouts = [
            _with_copies(row, base, look) for row, base, look in zip(rows, layouts, looks, strict=True)
        ]
    hidden = read(session, rows, layouts)
    session.commit([row.start - lengths[row.number] if row.open else 0 for row in rows])
    width = max(len(look.slots) for look in looks)
    slots = [padded(look.slots, width, 0) for look in looks]
    given = [padded(look.given, width, BEST) for look in looks]
    at = [[i - row.start for i in look.masked + look.settled] for row, look in zip(rows, looks, strict=True)]
    places = [padded(own, width, 0) for own in at]
    passes = [row.passes for row in rows]
    ids, measures, draft = judge.measure(session.logits(hidden, slots), given, places, passes)
    return Seen(looks, ids, measures, draft, passes)


def look_of(row: Canvas, cached: int) -> Look:
    """Return what a row looks at in a pass whose first slot stands at position `cached`."""
    plan, masked = row.plan, row.masked()
    settled = row.settled() if plan.editing or plan.wino else []
    slots = [i - cached - plan.shifted for i in masked + settled]
    given = [DRAWN] * len(masked) + [BEST] * len(settled)
    if plan.wino is not None:
        # The copies stand behind the block; what is asked is the confidence of the token that stands.
        slots = slots[: len(masked)] + [row.end - cached + k for k in range(len(settled))]
        given = [DRAWN] * len(masked) + [row.tokens[i] for i in settled]
    return Look(masked, settled, slots, given)


def _with_copies(row: Canvas, layout: Layout | None, look: Look) -> Layout | None:
    """Put a mask slot a settled token behind the block, which sees the block but that token."""
    if layout is None or not look.settled:
        return layout
    first = layout.size - row.plan.block_size
    skips = tuple(first + i - row.start for i in look.settled)
    return behind(layout, leave_one_out(row.plan.mask_id, tuple(look.settled), skips))


def padded(values: Sequence[Any], width: int, filler: Any) -> list[Any]:
    """Return the values, filled up to a width.

    Example:
        >>> padded([1, 2], 3, 0)
        [1, 2, 0]
    """
    return [*values, *[filler] * (width - len(values))]
