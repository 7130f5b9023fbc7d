"""One pass over the slots of several rows, laid out on the host: what goes to the device in one piece."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dspec.core.layouts import SHARED, Layout

# Slots that only fill up a row: nobody else sees them, as `Layout` numbers private groups from 1.
PADDING = -1
FIELDS = ("tokens", "positions", "ranks", "reads", "groups", "skips", "seen", "places")


@dataclass(frozen=True)
class Pass:
    """What a pass reads, of R rows with up to P slots each.

    Args:
        sizes: slots of each row.
        start: the length that all rows have; None: their lengths differ.
        end: N, positions of the cache that the rows with slots meet, the slots included.
        everything: whether every slot sees all N positions.
        drafted: whether a token is one of the drafts on the device.
        integers: (R, 8, P) in the order of `FIELDS`. `seen`: cached positions that the slot sees, counted
            from 0. `places`: where its keys and values go.
    """

    sizes: tuple[int, ...]
    start: int | None
    end: int
    everything: bool
    drafted: bool
    integers: np.ndarray

    @property
    def width(self) -> int:
        """P, slots of the longest row."""
        return int(self.integers.shape[2])


def make_pass(
    layouts: Sequence[Layout | None], lengths: Sequence[int], *, capacity: int, dtype: str = "int64"
) -> Pass:
    """Return the plan of a pass.

    Padding sees the first position of its row, whatever stands there, so that no slot sees nothing.

    Spec: SS-3, SS-22.

    Args:
        layouts: of the rows, at least one with slots; None: the row takes no part.
        lengths: committed positions of the rows.
        capacity: most positions of a row; padding past it is written there.
        dtype: of the integers.

    Returns:
        The plan.

    Example:
        >>> from dspec.core.layouts import causal
        >>> plan = make_pass([causal((7, 8), start=3), None], [3, 5], capacity=9)
        >>> plan.width, plan.start, plan.end, plan.integers[:, 7].tolist()
        (2, None, 5, [[3, 4], [5, 6]])
    """
    sizes = tuple(0 if layout is None else layout.size for layout in layouts)
    width = max(sizes)
    integers = np.zeros((len(sizes), len(FIELDS), width), dtype=dtype)
    integers[:, FIELDS.index("groups")] = PADDING
    integers[:, FIELDS.index("skips")] = -1
    integers[:, FIELDS.index("seen")] = 1
    for row, (layout, length) in enumerate(zip(layouts, lengths)):
        integers[row, FIELDS.index("places")] = np.minimum(length + np.arange(width), capacity)
        if layout is not None:
            _fill(integers[row, :, : layout.size], layout, length)
    alike = len(set(lengths)) == 1
    return Pass(
        sizes=sizes,
        start=lengths[0] if alike else None,
        end=max(length + size for length, size in zip(lengths, sizes) if size),
        everything=alike and all(_sees_all(layout, width, lengths[0]) for layout in layouts),
        drafted=any(token < 0 for layout in layouts if layout is not None for token in layout.tokens),
        integers=integers,
    )


def _fill(integers: np.ndarray, layout: Layout, length: int) -> None:
    """Write a row's slots; its places stand already."""
    parts = (layout.tokens, layout.positions, layout.ranks, layout.reads, layout.groups, layout.skips)
    for field, part in enumerate(parts):
        integers[field] = part
    integers[FIELDS.index("seen")] = length if layout.reach is None else min(layout.reach, length)


def _sees_all(layout: Layout | None, width: int, length: int) -> bool:
    """Whether every slot of a full row sees the whole cache and every slot."""
    if layout is None or layout.size < width or (layout.reach is not None and layout.reach < length):
        return False
    open_slots = set(layout.groups) == {SHARED} and set(layout.skips) == {-1}
    return open_slots and min(layout.reads) >= max(layout.ranks)
