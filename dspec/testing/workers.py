"""Parts run in this process or in others; which one ran a part never changes what it reports."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process

from dspec.errors import BackendUnavailable, explain
from dspec.testing.plan import Part
from dspec.testing.report import Report

Run = Callable[[Part], Report]


def run_here(parts: Sequence[Part], run: Run) -> Iterator[tuple[Part, Report]]:
    """Yield the report of each part, one after the other."""
    for part in parts:
        yield part, run(part)


def run_elsewhere(parts: Sequence[Part], run: Run, *, workers: int) -> Iterator[tuple[Part, Report]]:
    """Yield the report of each part as it ends, from processes of their own.

    Processes are spawned, not forked: a framework's threads do not survive a fork. They leave with
    this process, also if it is killed.

    Args:
        parts: what to run.
        run: a function at the top level of a module.
        workers: how many processes.

    Raises:
        BackendUnavailable: a process was killed, as for want of memory.
    """
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_leave_with_parent)
    try:
        futures = {pool.submit(run, part): part for part in parts}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        remedy = "Run with fewer workers: each one loads its frameworks."
        raise BackendUnavailable(
            explain("workers", "a process that was killed", "memory for each", remedy=remedy)
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _leave_with_parent() -> None:
    """Make a worker end at once on Ctrl-C, without a word, and when its parent is gone."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    # Read when a framework is loaded: as many threads as cores in each process would only wait.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
