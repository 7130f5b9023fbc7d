"""What a person sees of `dspec check`: progress on stderr, tables on stdout."""

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

SIGNS = {"passed": ("✓", "green"), "FAILED": ("✗", "bold red"), "not run here": ("–", "dim")}
SHORT = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "exact": ""}
WIDE = 120  # characters of a terminal that has room for the checks' names
EVERY = 10.0  # seconds between lines, where there is no terminal


class CheckProgress:
    """Parts done of all parts: a bar in a terminal, a plain line now and then elsewhere.

    Args:
        total: number of parts.
        console: where; default stderr.
    """

    def __init__(self, total: int, *, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._total, self._done, self._failed = total, 0, 0
        self._last = time.monotonic()
        self._bar: Progress | None = None
        if self.console.is_terminal:
            text = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True))
            columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(), text)
            self._bar = Progress(*columns, console=self.console, expand=True, transient=True)
            self._task = self._bar.add_task("starting", total=total)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, part: Any, report: Any) -> None:
        """Show a part that is done; a failure gets a line that stays."""
        self._done += 1
        name = f"{part.check} {part.subject}"
        if report.status == "FAILED":
            self._failed += 1
            self._line(f"FAILED: {name}")
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, description=name)
            return
        now = time.monotonic()
        if self._done == self._total or now - self._last >= EVERY:
            self._last = now
            failed = f", {self._failed} failed" if self._failed else ""
            self._line(f"{self._done}/{self._total} parts{failed}; last: {name}")

    def _line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def show_run(
    report: Any, table: Any, *, seconds: float, clauses: bool, console: Console | None = None
) -> None:
    """Print a run on stdout: what was checked where, or clause by clause; then failures, then a sentence.

    Args:
        report: of the run.
        table: its clauses.
        seconds: that it took.
        clauses: whether to print the clauses instead of the checks.
        console: where; default stdout.
    """
    out = console or Console()
    out.print(clause_grid(table, width=out.width) if clauses else check_grid(report))
    out.print(Text("✓ passed  ✗ failed  – not run here", style="dim"))
    if clauses:
        out.print(Text(clause_notes(table, width=out.width), style="dim"), soft_wrap=True)
    for leaf in report.leaves():
        if leaf.status == "FAILED":
            out.print(str(leaf), markup=False, highlight=False, soft_wrap=True)
    parts = len(report.leaves())
    ran = sum(not leaf.not_run for leaf in report.leaves())
    text = f"{report.status}: {ran} of {parts} checks ran in {seconds:.0f} s"
    text += f"; a right library fails with chance {report.alpha:.1g}"
    out.print(text, style="green" if report.status == "passed" else "bold red", highlight=False)
    if report.status == "FAILED":
        out.print("Save it with --output FILE.json; try the failing instance again with --replay FILE.json.")


def check_grid(report: Any) -> Table:
    """Return check by backend and dtype."""
    columns = list(dict.fromkeys(tuple(leaf.subject.split()[:2]) for leaf in report.leaves()))
    grid = _grid("check", columns)
    for check in dict.fromkeys(leaf.check for leaf in report.leaves()):
        row = []
        for column in columns:
            leaves = [
                leaf
                for leaf in report.leaves()
                if leaf.check == check and tuple(leaf.subject.split()[:2]) == column
            ]
            seen = {leaf.status for leaf in leaves}
            row.append("FAILED" if "FAILED" in seen else "passed" if "passed" in seen else "not run here")
        grid.add_row(check, *map(_sign, row))
    return grid


def clause_grid(table: Any, *, width: int = 80) -> Table:
    """Return clause by backend and dtype; which checks stand behind it too, where there is room."""
    columns = [column for column in table.columns if column[1]]
    wide = width >= WIDE
    grid = _grid("clause", columns, last="shown by" if wide else "")
    for row in table.rows:
        signs = [_sign(row.cells[column]) for column in columns]
        by_test = set(row.cells.values()) == {"not run here"}
        shown = [row.shown_by] if wide else []
        name = f"{row.clause} {row.title}" + (" *" if by_test and not wide else "")
        grid.add_row(name, *signs, *shown)
    return grid


def clause_notes(table: Any, *, width: int = 80) -> str:
    """Return what the signs in the table do not say."""
    elsewhere = [backend for backend, dtype in table.columns if not dtype]
    notes = [f"Not run here: {', '.join(elsewhere)}."] if elsewhere else []
    if width < WIDE:
        tests = {row.shown_by for row in table.rows if set(row.cells.values()) == {"not run here"}}
        notes += [f"* {', '.join(sorted(tests))}."] if tests else []
    return " ".join(notes)


def _grid(first: str, columns: Any, *, last: str = "") -> Table:
    grid = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    grid.add_column(first, no_wrap=True, overflow="ellipsis", min_width=14)
    before = ""
    for backend, dtype in columns:
        head = "any" if backend == "loop" else backend
        lines = ("" if head == before else head), SHORT.get(dtype, dtype)
        grid.add_column("\n".join(lines), justify="left", no_wrap=True, min_width=max(map(len, lines)))
        before = head
    if last:
        grid.add_column(last, no_wrap=True, overflow="ellipsis", style="dim", ratio=1)
    return grid


def _sign(status: str) -> Text:
    sign, style = SIGNS[status]
    return Text(sign, style=style)
