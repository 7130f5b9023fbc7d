"""dspec's own batches with rows that are mixed up, and right ones, for `check_isolation`."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from dspec.backends.numpy import TableTarget
from dspec.engine import Engine
from dspec.generation import Chunk
from dspec.job import Job
from dspec.testing.models.subjects import listed, side_by_side
from dspec.testing.models.table_engine import table_engine
from dspec.testing.models.worlds import make_worlds
from dspec.testing.models.wrapping import Wrapped

SAMPLED: dict[str, Any] = {"temperature": 1.0, "policy": "rejection"}


def _engine() -> Engine:
    return table_engine(make_worlds(1, seed=3)[0])


class _SwappedUniforms(Engine):
    """The first two rows draw by each other's uniforms."""

    def _side_by_side(self, jobs: Sequence[Job], batch_size: int) -> Iterator[tuple[int, Chunk]]:
        streams: list[Any] = [job.judge.stream for job in jobs]  # type: ignore[union-attr]
        streams[:2] = streams[1::-1]
        mixed = [replace(job, judge=replace(job.judge, stream=own)) for job, own in zip(jobs, streams)]
        return super()._side_by_side(mixed, batch_size)


class _Across(Wrapped):
    """Every row is rewound to the length of the row across from it."""

    def rewind(self, lengths: Sequence[int]) -> None:
        self._inner.rewind(list(lengths)[::-1])


class _SwappedLengths(TableTarget):
    """A table whose rows are rewound to each other's lengths."""

    def batch(self, **options: Any) -> Any:
        return _Across(super().batch(**options))


def _rewinding() -> Engine:
    plain: Any = _engine()
    return Engine(_SwappedLengths(plain.target.table, plain.target.eos_ids), plain.drafter, plain.ops)


def _swapping() -> Engine:
    plain = _engine()
    return _SwappedUniforms(plain.target, plain.drafter, plain.ops)


WRONG: dict[str, Any] = {
    "two rows swap their uniforms": side_by_side(_swapping(), **SAMPLED),
    "two rows swap their lengths": side_by_side(_rewinding(), batch_size=2, **SAMPLED),
}
RIGHT: dict[str, Any] = {
    "a batch of one": side_by_side(_engine(), batch_size=1, **SAMPLED),
    "three rows": side_by_side(_engine(), **SAMPLED),
    "a list in three rows": listed(_engine(), batch_size=3, **SAMPLED),
}
