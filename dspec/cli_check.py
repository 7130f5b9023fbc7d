"""`dspec check`: the exactness kit on this machine's backends."""

import json
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer

from dspec.backends.registry import PACKAGES, ROOMS, open_ops
from dspec.errors import ConfigError, explain

# A framework's name stands for its device that is everywhere; the registry's own names are devices.
ALIASES = {"torch": "cpu"}


def check(
    backend: Annotated[
        str,
        typer.Option(help="Backends, with commas between: numpy, auto, cpu (or torch), cuda, mps, mlx."),
    ] = "numpy,auto",
    level: Annotated[str, typer.Option(help="smoke (a minute), full, or nightly (hours).")] = "smoke",
    dtype: Annotated[str, typer.Option(help="Of laws, with commas between.")] = "float32,bfloat16,float16",
    report: Annotated[
        bool, typer.Option("--report", help="Print clause by backend by dtype: passed, failed, not run here.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="FILE.md, FILE.json, or a folder for both, where a run that was stopped goes on."),
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(help="Try the failing instance of a saved report again.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes; 0: one a core.")] = 0,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Check each backend against the exactness contract; exit 1 on a failure."""
    if replay is not None:
        _replay(replay, as_json=as_json)
        return
    options = _options(backend, dtype, level=level, seed=seed, workers=workers)
    if output is not None and output.suffix not in (".md", ".json"):
        output.mkdir(parents=True, exist_ok=True)
    done = _run(options, folder=output if output is not None and output.is_dir() else None)
    if output is not None:
        _save(done, output)
    if as_json:
        print(json.dumps(done.plain()))
    else:
        from dspec.check_display import show_run

        show_run(done.report, done.table, seconds=done.seconds, clauses=report)
    if done.report.status != "passed":
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Options:
    """What was asked for, checked."""

    backends: tuple[str, ...]
    dtypes: tuple[str, ...]
    level: Any
    seed: int
    workers: int

    def command(self) -> str:
        """Return the command that gives this report; where files lie on this machine is no part of it."""
        seed = f" --seed {self.seed}" if self.seed else ""
        backends, dtypes = ",".join(self.backends), ",".join(self.dtypes)
        return f"dspec check --backend {backends} --level {self.level.name} --dtype {dtypes}{seed} --report"


@dataclass(frozen=True)
class _Done:
    """A finished run: its report, its clauses, and what it ran on."""

    options: _Options
    report: Any
    table: Any
    seconds: float

    def about(self) -> dict[str, Any]:
        """Return what a reader needs to run it again."""
        from dspec.evaluation.machine import describe_machine, describe_versions

        return {
            "command": self.options.command(),
            "level": self.options.level.name,
            "seed": self.options.seed,
            "workers": self.options.workers,
            "seconds": round(self.seconds, 1),
            "machine": describe_machine(),
            "versions": describe_versions(),
        }

    def plain(self) -> dict[str, Any]:
        """Return everything for JSON."""
        report = json.loads(self.report.to_json())
        return {
            "passed": self.report.status == "passed",
            **self.about(),
            "clauses": self.table.plain(),
            "report": report,
        }

    def markdown(self) -> str:
        """Return everything for people."""
        from dspec.testing.clause_table import markdown

        def words(value: Any) -> str:
            if isinstance(value, dict):
                return ", ".join(f"{name} {item}" for name, item in value.items() if item is not None)
            return str(value)

        about = [(name, words(value)) for name, value in self.about().items()]
        return markdown(self.report, self.table, about=about)


def _options(backend: str, dtype: str, *, level: str, seed: int, workers: int) -> _Options:
    """Check all that can be checked before the first part runs."""
    from dspec.testing.bench import DTYPES
    from dspec.testing.levels import level_named

    chosen = level_named(level)
    dtypes = tuple(dict.fromkeys(word.strip() for word in dtype.split(",")))
    if not set(dtypes) <= set(DTYPES):
        raise ConfigError(explain("--dtype", repr(dtype), f"some of {','.join(DTYPES)}"))
    if workers < 0:
        raise ConfigError(explain("--workers", workers, "0 or more"))
    names = dict.fromkeys(_concrete(ALIASES.get(name.strip(), name.strip())) for name in backend.split(","))
    return _Options(tuple(names), dtypes, chosen, seed, workers or _cores())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _concrete(name: str) -> str:
    """Return the backend that a name stands for, or raise if it is not here.

    What is sure to be there if its package is, is not opened: the workers will, and each load takes seconds.
    """
    sure = name == "numpy" or (name in ("cpu", "mlx") and find_spec(PACKAGES[ROOMS[name]]) is not None)
    if sure:
        return name
    if name not in ("auto", *ROOMS):
        raise ConfigError(explain("--backend", repr(name), f"some of numpy, auto, torch, {', '.join(ROOMS)}"))
    ops = open_ops(name)
    return str(ops.device.type) if hasattr(ops, "device") else "mlx"


def _run(options: _Options, *, folder: Path | None) -> _Done:
    from dspec.check_display import CheckProgress
    from dspec.testing.clause_table import clause_table
    from dspec.testing.plan import plan
    from dspec.testing.run import run_parts

    parts = plan(options.level, options.backends, dtypes=options.dtypes, seed=options.seed)
    start = perf_counter()
    with CheckProgress(len(parts)) as progress:
        kept = None if folder is None else folder / "parts"
        report = run_parts(parts, workers=options.workers, folder=kept, watch=progress.step)
    table = clause_table(report, elsewhere=list(ROOMS))
    return _Done(options, report, table, perf_counter() - start)


def _save(done: _Done, output: Path) -> None:
    """Write Markdown, JSON or both; whole files or none."""
    files = [output] if not output.is_dir() else [output / "report.md", output / "report.json"]
    for path in files:
        text = done.markdown() if path.suffix == ".md" else json.dumps(done.plain(), indent=1) + "\n"
        temporary = path.with_name(path.name + ".new")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)


def _replay(path: Path, *, as_json: bool) -> None:
    from dspec.testing.replay import run

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(explain("--replay", f"{path}: {error}", "a saved report")) from error
    report = run(text)
    print(report.to_json() if as_json else report)
    if report.status != "passed":
        raise typer.Exit(1)
