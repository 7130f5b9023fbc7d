"""A drafter that reads the last positions of its context only."""

from collections.abc import Sequence
from typing import Any

from dspec.backends.batch_checks import batch_of


def first_seen(positions: Sequence[int], window: int | None) -> int:
    """Return the first position that any of the blocks after anchors at some positions sees.

    A row without a request stands at position 0, so that it sees itself: over no keys it would be NaN.

    Spec: RS-3, DL-12.

    Args:
        positions: of the anchors.
        window: W; None: all.

    Example:
        >>> first_seen([40, 9], 8), first_seen([40, 9], None)
        (1, 0)
    """
    return 0 if window is None else max(0, min(positions) - window)


class WindowedDrafter:
    """A drafter whose sessions look back over so many context positions; all else is its own.

    Keys and values of all positions are written as ever, and keep their positions: what is cut is the view
    that a block reads, so that its attention costs no more at 100,000 positions than at W. Rows of a batch
    share a view, from the first position that any of them sees; each sees its own by a mask. Any law of the
    drafter keeps the target's (RS-3).

    Spec: RS-3, DL-5, DL-12.

    Args:
        drafter: of a room.
        window: W, context positions that a block sees; >= 1.
    """

    def __init__(self, drafter: Any, window: int) -> None:
        self._drafter, self.window = drafter, window
        self.layer_ids: tuple[int, ...] = drafter.layer_ids

    @property
    def block_size(self) -> int:
        """1 + K."""
        size: int = self._drafter.block_size
        return size

    def session(self, target: Any, *, capacity: int) -> Any:
        """Return an empty session beside a target, with the window set."""
        session = self._drafter.session(target, capacity=capacity)
        session.window = self.window
        return session

    def batch(self, target: Any, *, rows: int, capacity: int) -> Any:
        """Return an empty session of several requests, likewise; None: the drafter inside has none."""
        inside = batch_of(self._drafter)
        opened = inside and inside(target, rows=rows, capacity=capacity)
        if opened is not None:
            opened.window = self.window
        return opened
