"""Features that wait for the drafter: of passes that went by without it."""

from collections.abc import Sequence
from typing import Any, Protocol

from dspec.core.types import Draft


class DraftArrays(Protocol):
    """What passes without drafts need of a backend's arrays."""

    def nothing(self) -> Draft:
        """Return a draft of no tokens."""
        ...

    def join(self, parts: Sequence[tuple[Any, int]]) -> Any:
        """Return features one after the other: of each the first so many rows."""
        ...


class Unseen:
    """The features that one request's drafter has not taken in, those of rejected drafts dropped.

    Spec: DL-4, DL-5, DL-13.

    Args:
        arrays: of the backend.

    Example:
        >>> unseen = Unseen(arrays=None)
        >>> unseen.add("features of 0..4", 5)
        >>> unseen.take()
        'features of 0..4'
    """

    def __init__(self, arrays: DraftArrays) -> None:
        self._arrays = arrays
        self._waiting: list[tuple[Any, int]] = []
        self._known = 0  # positions whose features the drafter has, or that wait for it

    def add(self, features: Any, position: int) -> None:
        """Let the last pass's features wait: those of positions before the new anchor's."""
        self._waiting.append((features, position - self._known))
        self._known = position

    def take(self) -> Any:
        """Return all that wait, in one piece; a single one uncut: its rows past the anchor are ignored."""
        waiting, self._waiting = self._waiting, []
        return waiting[0][0] if len(waiting) == 1 else self._arrays.join(waiting)
