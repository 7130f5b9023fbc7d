"""Runs the parts of a level: here or in processes, anew or on top of what a stopped run left."""

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from dspec.backends.registry import open_ops
from dspec.errors import BackendUnavailable, ConfigError, DataError, explain
from dspec.testing.bench import Bench
from dspec.testing.entries import CHECKS
from dspec.testing.kept import KeptParts
from dspec.testing.levels import Level, level_named
from dspec.testing.plan import (
    EXACT,
    LOOP,
    SAMPLED_TREES,
    TREES,
    Part,
    block_parts,
    draft_parts,
    engine_parts,
    rule_parts,
    several_parts,
    share_alpha,
)
from dspec.testing.report import Report, merge
from dspec.testing.workers import run_elsewhere, run_here

INSTANCE_ROWS = 100_000  # of the lattice, about: every draft with every combination of uniforms
Watch = Callable[[Part, Report], None]


def check_subject(subject: Any, *, level: str | Level = "smoke", seed: int = 0) -> Report:
    """Check one sampler of any kind.

    Spec: RS-1..RS-18, RS-20.

    Args:
        subject: a `dspec.engine.Engine`; a `dspec.block_engine.BlockDiffusion`; a backend's `ArrayOps`; a
            verifier function (see `dspec.testing.checks.lattice.Verify`) on numpy arrays; or an adapter of
            `dspec.testing.adapters`.
        level: "smoke", "full", "nightly", or a `Level`.
        seed: of everything random.

    Returns:
        One merged report.

    Raises:
        ConfigError: the level is not known, or the subject is none of these.

    Example:
        >>> check_subject(lambda target, drafts, laws, accept, close: (drafts, 0 * drafts[:, 0])).passed
        False
    """
    chosen = level_named(level)
    bench = bench_of(subject)
    parts = share_alpha(list(subject_parts(bench, chosen, seed=seed)))
    return collect(bench.name, [(part, run_part(part, bench)) for part in parts])


def bench_of(subject: Any) -> Bench:
    """Return what a subject offers to the checks."""
    from dspec.block_engine import BlockDiffusion
    from dspec.engine import Engine
    from dspec.testing.adapters import from_callable

    if isinstance(subject, Bench):
        return subject
    if isinstance(subject, Engine):
        return Bench("engine", ops=subject.ops, engine=subject)
    if isinstance(subject, BlockDiffusion):
        return Bench("block diffusion", ops=subject.ops, lm=subject)
    if hasattr(subject, "xp") and hasattr(subject, "from_host"):
        return Bench(type(subject).__name__, ops=subject)
    if hasattr(subject, "kind"):
        if subject.kind not in ("verify", "generate") or not callable(getattr(subject, subject.kind, None)):
            needed = "'verify' or 'generate', and the function of that name beside it"
            raise ConfigError(explain("kind of an adapter", repr(subject.kind), needed))
        return Bench(subject.name, adapter=subject)
    if callable(subject):
        return Bench("verifier", adapter=from_callable(subject))
    needed = "an Engine, a BlockDiffusion, array operations, a verifier function or an adapter"
    raise ConfigError(explain("subject", f"a {type(subject).__name__}", needed))


def subject_parts(bench: Bench, level: Level, *, seed: int) -> Iterator[Part]:
    """Yield the parts of one subject; names stand where a backend's would."""
    name = bench.name
    if bench.adapter is not None:
        yield from _adapter_parts(bench, level, seed=seed)
        return
    yield from rule_parts(level, name, dtypes=bench.dtypes(), seed=seed)
    yield from several_parts(level, name, dtypes=bench.dtypes(), seed=seed)
    yield from draft_parts(level, name, dtypes=bench.dtypes(), seed=seed)
    if bench.lm is not None:
        yield from block_parts(level, name, seed=seed)
        return
    if bench.engine is None:
        yield from engine_parts(level, name, seed=seed)
        return
    yield Part("isolation", name, "float32", "listed", {"form": "listed", "policy": None, "seed": seed})
    yield Part("rollback", name, "float32", "", {"steps": level.steps, "seed": seed})
    drafted = ("rejection", TREES[-1], SAMPLED_TREES[-1]) if bench.engine.drafter is not None else ()
    policies = ("one_hot", *drafted)
    for policy in policies:
        given = {"policy": policy, "n": level.draws, "seed": seed}
        yield Part("distribution", name, "float32", policy, given)


def _adapter_parts(bench: Bench, level: Level, *, seed: int) -> Iterator[Part]:
    adapter = bench.adapter
    if adapter.kind == "verify":
        yield from rule_parts(
            _afforded(level, adapter.rows), bench.name, dtypes=["float32"], seed=seed, modes=[adapter.mode]
        )
        return
    draws = level.draws if adapter.draws is None else min(level.draws, adapter.draws)
    yield Part("distribution", bench.name, "float32", "", {"n": draws, "seed": seed})


def _afforded(level: Level, rows: int | None) -> Level:
    """Return the level with as many rows as a slow verifier is worth; one instance of each V at least."""
    if rows is None:
        return level
    instances = min(level.instances, max(2, rows // INSTANCE_ROWS))
    return replace(level, instances=instances, coupled_rows=min(level.coupled_rows, rows))


def run_part(part: Part, bench: Bench | None = None, *, only: dict[str, Any] | None = None) -> Report:
    """Run one part and say in its report what it was.

    Args:
        part: what to run.
        bench: the subject; None: the backend that the part names.
        only: arguments of the check that narrow it to one instance.

    Returns:
        The report; a failed one can be replayed from its own text.
    """
    bench = _bench(part.backend) if bench is None else bench
    if part.dtype not in (*bench.dtypes(), EXACT):
        report = bench.report_missing(part.check, part.dtype)
    else:
        report = _tried(part, bench, only or {})
    replay = report.replay or (None if report.passed else {"check": part.check, "arguments": only or {}})
    if replay is not None:
        replay = {**replay, "part": asdict(part)}
    return replace(report, check=part.check, subject=part.subject, replay=replay)


def _tried(part: Part, bench: Bench, only: dict[str, Any]) -> Report:
    """Run a check; what it raises is the subject's fault, and one part's, not the end of a run of hours."""
    try:
        report = CHECKS[part.check](bench, part.arguments, only)
    except (BackendUnavailable, ConfigError, DataError):
        raise  # the caller's to mend: nothing was checked
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        at = f"{Path(place.filename).name}, line {place.lineno}, in {place.name}"
        example = {"raised": f"{type(error).__name__}: {error}", "at": at}
        return Report(check=part.check, passed=False, tried={}, counterexample=example)
    if report.passed and not report.not_run and not any(report.tried.values()):
        return replace(report, not_run="nothing was tried")
    return report


@cache
def _bench(backend: str) -> Bench:
    """Return a backend by name, opened once a process."""
    return Bench(backend, ops=None if backend == LOOP else open_ops(backend))


def run_parts(
    parts: Sequence[Part], *, workers: int = 1, folder: Path | None = None, watch: Watch | None = None
) -> Report:
    """Run parts of named backends and merge what they say; the answer is the same for any workers.

    Args:
        parts: what to run.
        workers: processes; 1 runs everything in this one.
        folder: keeps the report of each part that is done; a later call with the same folder, parts and
            code does not run them again.
        watch: called with each part and its report, in the order in which they end.

    Returns:
        One merged report, its parts in the order of `parts`.

    Raises:
        BackendUnavailable: a worker was killed.
    """
    kept = KeptParts(folder)
    found: dict[str, Report] = {}
    for part in parts:
        report = kept.read(part)
        if report is not None:
            found[part.key] = report
            if watch is not None:
                watch(part, report)
    left = [part for part in parts if part.key not in found]
    many = workers > 1 and len(left) > 1
    for part, report in run_elsewhere(left, run_part, workers=workers) if many else run_here(left, run_part):
        found[part.key] = report
        kept.write(part, report)
        if watch is not None:
            watch(part, report)
    return collect("exactness", [(part, found[part.key]) for part in parts])


def collect(check: str, found: Sequence[tuple[Part, Report]]) -> Report:
    """Merge reports; chunks of one check of one subject become one part."""
    groups: dict[tuple[str, str], list[Report]] = {}
    for part, report in found:
        groups.setdefault((part.check, part.subject), []).append(report)
    folded = [replace(merge(name, reports), parts=()) for (name, _), reports in groups.items()]
    return merge(check, folded)
