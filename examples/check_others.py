"""The exactness kit on other people's speculative samplers, as found.

    python examples/check_others.py --output benchmarks/results/check_others.json

It runs transformers' `_speculative_sampling` (on given uniforms and with its own draws), transformers'
assisted generation, mlx-lm's speculative loop and mlx-lm's server with a draft model, whichever is
installed. Figures go to the output file as JSON, the table of docs/exactness.md to stdout as Markdown.
About ten minutes on two cores; `--draws` and `--instances` change that.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import array_api_compat.numpy as npx

from dspec.errors import BackendUnavailable
from dspec.evaluation.machine import describe_machine, describe_versions
from dspec.evaluation.report import write_json
from dspec.testing.adapters.sources import (
    DRAFTER,
    TARGET,
    Adapter,
    from_hf_assisted,
    from_hf_sampler,
    from_mlx_lm,
    from_openai,
)
from dspec.testing.checks.battery import battery
from dspec.testing.checks.boundaries import check_boundaries
from dspec.testing.checks.coupling import check_coupling
from dspec.testing.checks.lattice import check_lattice
from dspec.testing.checks.laws import check_distribution
from dspec.testing.models.tabular import write_table_model
from dspec.testing.report import Report

OUTPUT = Path("benchmarks/results/check_others.json")
COMMAND = "python examples/check_others.py"
SEED = 1
# torch.manual_seed(ZERO_SEED) makes torch's next float32 uniform on the CPU exactly 0: about 1 seed in
# 2^24 does, and this is the least.
ZERO_SEED = 5_528_393
STARTUP = 120.0  # seconds that a server may take to answer at all

Finding = dict[str, Any]


def main(words: Sequence[str] | None = None) -> int:
    """Run every subject that is installed, write the figures, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--draws", type=int, default=10_000, help="outcomes of each engine")
    parser.add_argument("--instances", type=int, default=4, help="dyadic instances of the lattice")
    options = parser.parse_args(words)
    findings: list[Finding] = []
    for subject in (hf_sampler, hf_assisted, mlx_loop, mlx_server):
        try:
            for finding in subject(options):
                findings.append(finding)
                print(f"{finding['seconds']:7.1f} s  {row(finding)}", file=sys.stderr)
        except BackendUnavailable as error:
            print(f"left out: {error}", file=sys.stderr)
    versions = {name: version for name, version in describe_versions().items() if version}
    about = {"command": COMMAND, "draws": options.draws, "instances": options.instances}
    write_json(
        options.output, {**about, "versions": versions, "machine": describe_machine(), "findings": findings}
    )
    print(table(findings))
    return 0


def hf_sampler(options: argparse.Namespace) -> Iterator[Finding]:
    """transformers' verification function alone."""
    adapter = from_hf_sampler()
    subject: dict[str, Any] = {"xp": npx, "mode": adapter.mode, "to_numpy": adapter.to_numpy}

    def lattice() -> Report:
        return check_lattice(adapter.verify, dtype=npx.float32, count=options.instances, **subject)

    yield found(adapter.name, lattice)
    yield found(adapter.name, lambda: check_coupling(adapter.verify, rows=20_000, vocab=64, **subject))
    yield edges(adapter)
    yield zero_draw(adapter.name)
    yield outputs(from_hf_sampler(given=False), 10 * options.draws)


def edges(adapter: Adapter) -> Finding:
    """Run the battery case by case, so that one finding does not hide the next."""
    # The function takes logits, so a law that sums to 2 cannot be said to it.
    cases = [case for case in battery(adapter.mode) if "sum 2" not in case.name]
    start, wrong = time.perf_counter(), []
    for case in cases:
        report = check_boundaries(adapter.verify, xp=adapter.xp, mode=adapter.mode, given=[case])
        if not report.passed:
            wrong.append(dict(report.counterexample or {}))
    return {
        "subject": adapter.name,
        "check": "boundaries",
        "passed": not wrong,
        "tried": {"cases": len(cases)},
        "alpha": 0.0,
        "wrong": wrong,
        "at u = 0": sum("u=0.0" in one["case"] or "bottom" in one["case"] for one in wrong),
        "seconds": time.perf_counter() - start,
    }


def zero_draw(name: str) -> Finding:
    """Run the function untouched where torch draws 0: is a draft of target probability 0 accepted?"""
    import torch
    from transformers.generation.utils import _speculative_sampling

    start = time.perf_counter()
    drafter, target = torch.tensor([[[0.5, 0.5, 0.0]]]), torch.tensor([[[0.0, 0.5, 0.5], [0.4, 0.3, 0.3]]])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(ZERO_SEED)
        tokens, n = _speculative_sampling(torch.tensor([[1, 0]]), drafter.log(), 1, target.log())
    emitted = tokens[0].tolist()
    wrong = [{"seed": ZERO_SEED, "target": target[0].tolist(), "draft": 0, "emitted": emitted}]
    return {
        "subject": name,
        "check": f"its own draws, seed {ZERO_SEED}",
        "passed": int(n) == 0,
        "tried": {"call": 1},
        "alpha": 0.0,
        "wrong": wrong if int(n) else [],
        "seconds": time.perf_counter() - start,
    }


def hf_assisted(options: argparse.Namespace) -> Iterator[Finding]:
    """transformers' assisted generation."""
    yield outputs(from_hf_assisted(), options.draws)


def mlx_loop(options: argparse.Namespace) -> Iterator[Finding]:
    """mlx-lm's speculative_generate_step."""
    yield outputs(from_mlx_lm(), options.draws)


def mlx_server(options: argparse.Namespace) -> Iterator[Finding]:
    """mlx-lm's HTTP server, decoding with a draft model."""
    from_mlx_lm()  # says what is missing
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as url:
        adapter = from_openai(url, "default_model", timeout=STARTUP)
        finding = outputs(adapter, max(1, options.draws // 5))
    yield {**finding, "subject": "mlx-lm: server with a draft model"}


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Give the base URL of an mlx-lm server of the two tables for as long as it is needed."""
    write_table_model(folder / "target", TARGET)
    write_table_model(folder / "drafter", DRAFTER)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["--model", folder / "target", "--draft-model", folder / "drafter", "--port", port]
    command = [sys.executable, "-m", "mlx_lm", "server", *map(str, words)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, **quiet)
    try:
        await_port(port, process)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def await_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Return when somebody listens."""
    limit = time.monotonic() + STARTUP
    while process.poll() is None and time.monotonic() < limit:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise BackendUnavailable("mlx_lm server did not start")


def outputs(adapter: Adapter, draws: int) -> Finding:
    """Check what an engine emits against the table's law."""
    return found(adapter.name, lambda: check_distribution(adapter.generate, adapter.law, n=draws, seed=SEED))


def found(subject: str, check: Callable[[], Report]) -> Finding:
    """Run one check."""
    start = time.perf_counter()
    report = json.loads(check().to_json())
    kept = {name: report[name] for name in ("check", "passed", "tried", "alpha", "beta", "delta")}
    wrong = [report["counterexample"]] if report["counterexample"] else []
    return {"subject": subject, **kept, "wrong": wrong, "seconds": time.perf_counter() - start}


def row(finding: Finding) -> str:
    """Return one line of the table."""
    tried = ", ".join(f"{count:,} {name}" for name, count in finding["tried"].items())
    rates = "exact"
    if finding.get("beta") is not None:
        rates = (
            f"alpha {finding['alpha']:g}; TV {finding['delta']:.3f} missed with chance {finding['beta']:g}"
        )
    result = "passed" if finding["passed"] else f"**{len(finding['wrong'])} found**"
    return f"| {finding['subject']} | {finding['check']} | {tried} | {rates} | {result} |"


def table(findings: Sequence[Finding]) -> str:
    """Return all findings as Markdown."""
    head = ["| subject | check | tried | error rates | result |", "|---|---|---|---|---|"]
    return "\n".join([*head, *map(row, findings)])


if __name__ == "__main__":
    sys.exit(main())
