"""What a training run tells people (a display on stderr) and programs (a JSONL file)."""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from dspec.errors import CheckpointError, DataError, explain


class MetricsLog:
    """An append-only JSONL file of metrics, one flushed line an event; also kept in memory.

    A context manager: the file is closed on leaving.

    Args:
        path: the file; None keeps the lines in memory only.
        step: lines of later steps are dropped first: a resumed run writes them again.

    Raises:
        DataError: a line before the last is not a metrics line.
        CheckpointError: the disk refused, here or in `write`.

    Example:
        >>> log = MetricsLog(None)
        >>> log.write({"event": "train", "step": 1, "loss": 2.5})
        >>> log.lines[-1]["loss"]
        2.5
    """

    def __init__(self, path: Path | None, *, step: int = 0):
        self.lines: list[dict[str, Any]] = []
        self._path, self._file = path, None
        if path is not None:
            with _disk_errors(path):
                self.lines = [line for line in _read(path) if line["step"] <= step] if step else []
                _rewrite(path, self.lines)
                self._file = path.open("a", encoding="utf-8")

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line; it is on disk, up to the operating system, when this returns."""
        self.lines.append(dict(line))
        if self._file is not None:
            with _disk_errors(self._path):
                self._file.write(json.dumps(line) + "\n")
                self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()


@contextlib.contextmanager
def _disk_errors(path: Path | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        needed = "a file that can be written, with room left"
        raise CheckpointError(explain(str(path), str(error), needed)) from error


def _read(path: Path) -> list[dict[str, Any]]:
    texts = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
            line["step"]
        except (ValueError, TypeError, KeyError) as error:
            if number == len(texts):
                break  # a killed run leaves half a line; its step is run again
            where, needed = f"{path}, line {number}", "a JSON object with a step"
            raise DataError(explain(where, repr(text[:40]), needed, remedy="remove that line")) from error
        lines.append(line)
    return lines


def _rewrite(path: Path, lines: list[dict[str, Any]]) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    os.replace(temporary, path)


class TrainingDisplay:
    """Progress on stderr: a live bar in a terminal, a plain line now and then elsewhere.

    Args:
        total: steps of the run.
        start: steps done before (a resumed run).
        console: where to draw; default stderr.
        quiet: draw nothing.
        every: seconds between plain lines, where there is no terminal.
    """

    def __init__(
        self,
        total: int,
        *,
        start: int = 0,
        console: Console | None = None,
        quiet: bool = False,
        every: float = 15.0,
    ):
        self.console = console or Console(stderr=True, quiet=quiet)
        self._total, self._start, self._every = total, start, every
        self._began = self._last = time.monotonic()
        self._bar: Progress | None = None
        if self.console.is_terminal and not quiet:
            # The text gives way, not the bar: several learners' figures are wider than a terminal.
            room = Column(ratio=1, no_wrap=True, overflow="ellipsis")
            text, bar = TextColumn("{task.description}", table_column=room), BarColumn(bar_width=24)
            columns = (bar, MofNCompleteColumn(), TimeRemainingColumn(), text)
            self._bar = Progress(*columns, console=self.console, expand=True)
            self._task = self._bar.add_task("starting", total=total, completed=start)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(
        self,
        step: int,
        learners: Mapping[str, Mapping[str, float]],
        *,
        tokens_per_s: float,
        peak_memory_bytes: int | None = None,
    ) -> None:
        """Show a finished step: each learner's loss, tau and waste, the rate, memory, and the time left."""
        status = f"{describe(learners)}  {tokens_per_s:,.0f} tok/s"
        if peak_memory_bytes is not None:
            giga = peak_memory_bytes >= 1e9
            status += (
                f"  peak {peak_memory_bytes / (1e9 if giga else 1e6):.{int(giga)}f} {'GB' if giga else 'MB'}"
            )
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=status)
            return
        now = time.monotonic()
        if step == self._total or step == self._start + 1 or now - self._last >= self._every:
            self._last = now
            left = (now - self._began) / max(step - self._start, 1) * (self._total - step)
            self.note(f"step {step}/{self._total}  {status}  {left:.0f} s left")

    def note(self, text: str) -> None:
        """Show one line that stays."""
        note(text, console=self.console)


def note(text: str, *, console: Console | None = None, quiet: bool = False) -> None:
    """Show one line that stays, as it is.

    Args:
        text: the line.
        console: where; default stderr.
        quiet: show nothing.
    """
    where = console or Console(stderr=True, quiet=quiet)
    where.print(text, markup=False, highlight=False, soft_wrap=True)


def describe(learners: Mapping[str, Mapping[str, float]]) -> str:
    """Return one line of the newest figures of each learner.

    Args:
        learners: by name, figures `loss`, `tau`, `waste` as far as they are known.

    Returns:
        The line. A single learner's name is left out. Of several, whose losses compare nothing, only
        τ is shown once it is known.

    Example:
        >>> describe({"ltr": {"loss": 2.5, "tau": 1.42, "waste": 0.125}})
        'loss 2.500 τ 1.42 waste 12%'
        >>> describe({"uniform": {"loss": 9.0, "tau": 1.4}, "ltr": {"loss": 2.5, "tau": 1.42}})
        'uniform: τ 1.40  ltr: τ 1.42'
    """
    forms = {"loss": "loss {:.3f}", "tau": "τ {:.2f}", "waste": "waste {:.0%}"}
    if len(learners) > 1:
        known = "tau" if all("tau" in figures for figures in learners.values()) else "loss"
        forms = {known: forms[known]}
    texts = []
    for name, figures in learners.items():
        text = " ".join(form.format(figures[key]) for key, form in forms.items() if key in figures)
        texts.append(text if len(learners) == 1 else f"{name}: {text}")
    return "  ".join(texts)
