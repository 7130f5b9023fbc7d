"""Jobs decoded side by side: which models can, in which batches, and what becomes of the passes."""

from collections.abc import Iterator, Sequence
from typing import Any

from dspec.backends.batch_checks import batch_of
from dspec.backends.batch_judge import BatchJudge, NoDrafterBatch
from dspec.backends.draft_window import WindowedDrafter
from dspec.backends.judge import RequestJudge
from dspec.backends.protocol import ArrayOps
from dspec.backends.tree_judge import RequestTreeJudge
from dspec.core.batch import Entry, decode_batch
from dspec.core.draft_length import FixedLength
from dspec.generation import Chunk
from dspec.job import Job

BATCH_SIZE = 8  # requests of a list that are decoded side by side, if nothing else is said


def alike(jobs: Sequence[Job]) -> list[list[int]]:
    """Return the places of jobs that can share a batch: of one drafter and window, of trees, or of no drafts.

    Args:
        jobs: in the order asked.
    """
    kinds: dict[tuple[bool, bool, int], list[int]] = {}
    for i, job in enumerate(jobs):
        window = job.drafter.window if isinstance(job.drafter, WindowedDrafter) else 0
        kind = (job.drafter is None, isinstance(job.judge, RequestTreeJudge), window)
        kinds.setdefault(kind, []).append(i)
    return [kinds[kind] for kind in sorted(kinds)]


def open_batch(target: Any, ops: ArrayOps, jobs: Sequence[Job], rows: int) -> tuple[Any, Any] | None:
    """Return sessions of several requests, of target and drafter; None: the models have none.

    A tree pass reads one request: its mask is its own.

    Spec: DL-12.

    Args:
        target: model of all jobs.
        ops: array operations of its backend.
        jobs: alike.
        rows: requests side by side.
    """
    if any(isinstance(job.judge, RequestTreeJudge) for job in jobs):
        return None
    capacity = max(job.capacity for job in jobs)
    return open_rows(target, jobs[0].drafter, ops, rows=rows, capacity=capacity)


def open_rows(
    target: Any, drafter: Any, ops: ArrayOps, *, rows: int, capacity: int
) -> tuple[Any, Any] | None:
    """Return empty sessions of some rows, of target and drafter; None: the models have none.

    Spec: DL-12.

    Args:
        target: a model.
        drafter: another, or None: nothing is proposed.
        ops: array operations of their backend.
        rows: requests side by side.
        capacity: positions of a row.
    """
    of_target, of_drafter = batch_of(target), batch_of(drafter)
    if of_target is None or (drafter is not None and of_drafter is None):
        return None
    layer_ids = () if drafter is None else drafter.layer_ids
    opened = of_target(rows=rows, layer_ids=layer_ids, capacity=capacity)
    if opened is None:
        return None
    if drafter is None:
        return opened, NoDrafterBatch(ops, rows)
    beside = of_drafter(target, rows=rows, capacity=capacity)
    return None if beside is None else (opened, beside)


def batch_chunks(
    sessions: tuple[Any, Any], ops: ArrayOps, jobs: Sequence[Job], rows: int
) -> Iterator[tuple[int, Chunk]]:
    """Yield the chunks of some jobs as passes of all rows end.

    Spec: DL-9, DL-12, DL-13.

    Args:
        sessions: of `open_batch`.
        ops: array operations of the backend.
        jobs: alike.
        rows: requests side by side.

    Yields:
        The place of the job and its chunk; a job that fails ends with one whose finish is "error".
    """
    judge = BatchJudge(ops, [job.judge for job in jobs if isinstance(job.judge, RequestJudge)])
    entries = [Entry(job.ids, job.limits, job.length or FixedLength(job.ahead)) for job in jobs]
    stopped: set[int] = set()
    for i, step in decode_batch(*sessions, judge, entries, rows=rows, stopped=stopped):
        chunk = jobs[i].chunk(step)
        if chunk.finish == "stop":
            stopped.add(i)
        yield i, chunk
