"""Seconds spent in target, drafter and loop, without waiting for the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from dspec.backends.protocol import ArrayOps


class Stopwatch:
    """Times the calls of two sessions by marks on the device's clock.

    Marks are read once, at the end, so that timing adds no synchronisation to the loop. On a GPU
    the target's and drafter's seconds are the device's and the total is the host's.

    Args:
        ops: the backend's array operations.
    """

    def __init__(self, ops: ArrayOps) -> None:
        self._ops = ops
        self._marks: dict[str, list[tuple[Any, Any]]] = {"target": [], "drafter": []}
        self._total = 0.0

    def target(self, session: Any) -> Any:
        """Return the session with prefill and score timed."""
        return _Timed(session, self._marks["target"], self._ops, ("prefill", "score"))

    def drafter(self, session: Any) -> Any:
        """Return the session with propose timed."""
        return _Timed(session, self._marks["drafter"], self._ops, ("propose",))

    @contextmanager
    def total(self) -> Iterator[None]:
        """Time the whole request on the host's clock."""
        start = perf_counter()
        yield
        self._total += perf_counter() - start

    def read(self) -> dict[str, float]:
        """Return seconds by part; "loop" is what is neither target nor drafter."""
        parts = {
            name: sum(self._ops.seconds(start, end) for start, end in marks)
            for name, marks in self._marks.items()
        }
        loop = max(self._total - sum(parts.values()), 0.0)
        return {**parts, "loop": loop, "total": self._total}


class _Timed:
    """A session whose named methods leave a pair of marks."""

    def __init__(
        self, session: Any, marks: list[tuple[Any, Any]], ops: ArrayOps, names: tuple[str, ...]
    ) -> None:
        self._session, self._marks, self._ops, self._names = session, marks, ops, names

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._session, name)
        if name not in self._names:
            return found

        def timed(*args: Any) -> Any:
            start = self._ops.mark()
            result = found(*args)
            self._marks.append((start, self._ops.mark()))
            return result

        return timed
