"""How often the stochastic checks of the kit fail on the library itself: fresh seeds, run after run.

    python benchmarks/false_alarms.py --runs 1000 --workers 2 --output benchmarks/results/false_alarms.json

A run is every check of `dspec check --level smoke` that can fail by chance, on one backend, at the false-fail
rates that it has there. Seeds come from the system once and are kept in the output, which is written after
every few runs: the same command goes on where it stopped, until so many runs are done. Each alarm is kept
whole, so that `dspec check --replay` can try it again. The exit code is 1 if there was one.
"""

import argparse
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from dspec.evaluation.machine import describe_machine, describe_versions
from dspec.testing.levels import SMOKE
from dspec.testing.plan import STATISTICAL, Part, plan
from dspec.testing.run import run_part

APART = 1000  # between the seeds of two runs; a plan adds small numbers to its own
BATCH = 10  # runs between two writings


def parts_of(backend: str, seed: int) -> list[Part]:
    """Return what may fail by chance in a smoke run."""
    return [part for part in plan(SMOKE, [backend], seed=seed) if part.check in STATISTICAL]


def one_run(job: tuple[str, int]) -> dict[str, Any]:
    """Run the stochastic checks once; return their number, the chance of an alarm, alarms and seconds."""
    backend, seed = job
    begun = time.perf_counter()
    reports = [run_part(part) for part in parts_of(backend, seed)]
    return {
        "checks": len(reports),
        "alpha": sum(report.alpha for report in reports),
        "alarms": [json.loads(report.to_json()) for report in reports if not report.passed],
        "seconds": time.perf_counter() - begun,
    }


def opened(path: Path, backend: str, seed: int | None) -> dict[str, Any]:
    """Return what the file has so far, or a fresh tally with its seed."""
    if path.exists():
        tally: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if tally["backend"] != backend or seed not in (None, tally["seed"]):
            raise SystemExit(
                f"{path.name}: backend {tally['backend']}, seed {tally['seed']}; use another file"
            )
        return tally
    seed = secrets.randbits(40) if seed is None else seed
    fresh = {"runs": 0, "checks": 0, "false_fail_rate": 0.0, "alarms": [], "seconds": 0.0}
    return {"backend": backend, "level": SMOKE.name, "seed": seed, **fresh}


def count(options: argparse.Namespace) -> dict[str, Any]:
    """Run until the tally has as many runs as were asked for, and write it as it goes."""
    tally = opened(options.output, options.backend, options.seed)
    jobs = [(options.backend, tally["seed"] + APART * run) for run in range(tally["runs"], options.runs)]
    for result in results(jobs, options.workers):
        tally["runs"] += 1
        tally["checks"] += result["checks"]
        tally["false_fail_rate"] += result["alpha"]
        tally["alarms"] += result["alarms"]
        tally["seconds"] = round(tally["seconds"] + result["seconds"], 3)
        if tally["runs"] % BATCH == 0 or tally["runs"] == options.runs:
            write(options.output, tally)
            print(f"{tally['runs']} of {options.runs} runs, {len(tally['alarms'])} alarms", file=sys.stderr)
    return tally


def results(jobs: list[tuple[str, int]], workers: int) -> Iterator[dict[str, Any]]:
    """Yield the results in the order of the jobs, which is what makes a stopped count go on."""
    if workers == 1:
        yield from map(one_run, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(one_run, jobs)


def write(path: Path, tally: dict[str, Any]) -> None:
    """Replace the file as a whole."""
    about = {"machine": describe_machine(), "versions": describe_versions(), "command": command()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".new").write_text(json.dumps({**tally, **about}, indent=1) + "\n", encoding="utf-8")
    os.replace(path.with_suffix(".new"), path)


def command() -> str:
    """Return the command that makes this file."""
    return "python benchmarks/false_alarms.py " + " ".join(sys.argv[1:])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1000, help="in all, those in the file included")
    parser.add_argument("--backend", default="numpy")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, help="of the first run; default: from the system")
    parser.add_argument("--output", type=Path, required=True)
    return int(bool(count(parser.parse_args(arguments))["alarms"]))


if __name__ == "__main__":
    raise SystemExit(main())
