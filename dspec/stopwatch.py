"""Seconds spent in target, drafter and loop, without waiting for the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from dspec.backends.protocol import ArrayOps


class Stopwatch:
    """Times the calls of two sessions by marks on the device's clock.

    Marks of a GPU are read once, at the end, so that timing adds no synchronisation to the loop;
    those of a CPU are plain seconds and are summed as they come. On a GPU the target's and drafter's
    seconds are the device's and the total is the host's. A backend without a clock that does not wait
    (marks are None) has a total only.

    Args:
        ops: the backend's array operations.
    """

    def __init__(self, ops: ArrayOps) -> None:
        self._parts = {"target": _Sum(ops), "drafter": _Sum(ops)}
        self._total = 0.0

    def target(self, session: Any) -> Any:
        """Return the session with its passes timed."""
        return _Timed(session, self._parts["target"], ("prefill", "score", "score_tree", "keep"))

    def drafter(self, session: Any) -> Any:
        """Return the session with propose timed."""
        return _Timed(session, self._parts["drafter"], ("propose",))

    @contextmanager
    def total(self) -> Iterator[None]:
        """Time the whole request on the host's clock."""
        start = perf_counter()
        yield
        self._total += perf_counter() - start

    def read(self) -> dict[str, float]:
        """Return seconds by part; "loop" is what is neither target nor drafter.

        Only "total" where the backend gives no marks.
        """
        if not all(part.marked for part in self._parts.values()):
            return {"total": self._total}
        parts = {name: part.read() for name, part in self._parts.items()}
        loop = max(self._total - sum(parts.values()), 0.0)
        return {**parts, "loop": loop, "total": self._total}


class _Sum:
    """The seconds between pairs of marks, summed as early as no wait is needed."""

    def __init__(self, ops: ArrayOps) -> None:
        self.ops = ops
        self.unread: list[tuple[Any, Any]] = []
        self.marked = True
        self._seconds = 0.0

    def add(self, start: Any, end: Any) -> None:
        """Take in one pair of marks."""
        if start is None:
            self.marked = False
        elif isinstance(start, float):  # seconds already, not an event on a queue
            self._seconds += self.ops.seconds(start, end)
        else:
            self.unread.append((start, end))

    def read(self) -> float:
        """Return the sum; waits for the device."""
        self._seconds += sum(self.ops.seconds(start, end) for start, end in self.unread)
        self.unread.clear()
        return self._seconds


class _Timed:
    """A session whose named methods are timed."""

    def __init__(self, session: Any, part: _Sum, names: tuple[str, ...]) -> None:
        self._session, self._part, self._names = session, part, names

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._session, name)
        if name not in self._names:
            return found

        def timed(*args: Any, **options: Any) -> Any:
            start = self._part.ops.mark()
            result = found(*args, **options)
            self._part.add(start, self._part.ops.mark())
            return result

        return timed
