"""The study behind README's table: does the objective change what a drafter gains, over several seeds?

    python examples/objective_gain.py --seeds 0 1 2 --output benchmarks/results/objective_gain.json

For each seed, the demo's four objectives are trained side by side (same first weights, texts, blocks,
steps) on the tiny target that ships, and every drafter decodes the same prompts. Seeds that stand in
the output file, made by the same settings, versions and target, are not run again. The table goes to
stdout as Markdown, progress to stderr.
"""

import argparse
import hashlib
import json
import statistics
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import dspec
from dspec.core.objectives import Objective
from dspec.demo.settings import ARMS, BASELINES, DemoSettings, shipped_target
from dspec.demo.training import train_arms
from dspec.engine import Engine
from dspec.evaluation.bench import SuiteResult, run_suite
from dspec.evaluation.machine import describe_machine, describe_versions
from dspec.evaluation.report import write_json
from dspec.evaluation.suites import load_suite

OUTPUT = Path("benchmarks/results/objective_gain.json")
MEAN = "mean"
console = Console(stderr=True)


def run_seed(engine: Engine, settings: DemoSettings, backend: str) -> dict[str, Any]:
    """Train and decode with every objective under one seed; return its figures."""
    start = perf_counter()
    config = settings.train_config(backend=backend)
    trained = train_arms(engine.target, ARMS, config)
    seconds = {"train": perf_counter() - start}
    suites = [load_suite(name, limit=settings.prompts) for name in settings.domains]
    bar = BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn()
    decoded: dict[str, Any] = {}
    with Progress(*bar, TextColumn("{task.description}"), console=console) as progress:
        task = progress.add_task("decoding", total=len(ARMS) * sum(len(s.prompts) for s in suites))
        for name, result in trained.items():
            progress.update(task, description=f"decoding, {name}")
            one = replace(engine, drafter=result.drafter)
            decoded[name] = {
                suite.name: figures(
                    run_suite(
                        one,
                        suite,
                        max_new_tokens=settings.max_new_tokens,
                        progress=lambda *_: progress.advance(task),
                    )
                )
                for suite in suites
            }
    seconds["decode"] = perf_counter() - start - seconds["train"]
    validation = {name: {k: r.metrics[k] for k in ("tau", "waste")} for name, r in trained.items()}
    return {"decoding": decoded, "validation": validation, "seconds": seconds}


def figures(result: SuiteResult) -> dict[str, Any]:
    """The pooled numbers of a suite, without those of each prompt."""
    return {key: value for key, value in result.as_dict().items() if key not in ("prompts", "settings")}


def taus_of(seed: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Tau by objective and domain of one seed, and the mean over domains."""
    taus = {name: {d: r["tau"] for d, r in by.items()} for name, by in seed["decoding"].items()}
    return {name: {**by, MEAN: statistics.fmean(by.values())} for name, by in taus.items()}


def over_seeds(values: list[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (None for one seed) and the values."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": spread, "values": values}


def aggregate(seeds: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Tau by objective and domain, and gains in the mean over domains, over the seeds."""
    taus = [taus_of(seed) for seed in seeds.values()]
    domains = list(taus[0][next(iter(ARMS))])
    return {
        "tau": {name: {d: over_seeds([t[name][d] for t in taus]) for d in domains} for name in ARMS},
        "gain": {
            base: {
                name: over_seeds([t[name][MEAN] / t[base][MEAN] - 1 for t in taus])
                for name in ARMS
                if name != base
            }
            for base in BASELINES
        },
    }


def markdown(report: Mapping[str, Any]) -> str:
    """README's table: every number in it stands in the report."""
    tau, gain = report["over_seeds"]["tau"], report["over_seeds"]["gain"]
    heads = ["objective", *(f"τ {domain}" for domain in next(iter(tau.values())))]
    heads += [f"over {base}" for base in BASELINES]
    rows = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for name, by_domain in tau.items():
        label = name if report["objectives"][name] == name else f"{name} = `{report['objectives'][name]}`"
        gains = [percent(gain[base][name]) if name != base else "" for base in BASELINES]
        rows.append([label, *(number(value) for value in by_domain.values()), *gains])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def number(value: Mapping[str, Any]) -> str:
    """Mean ± sd of a tau."""
    return f"{value['mean']:.3f}" + (f" ± {value['sd']:.3f}" if value["sd"] is not None else "")


def percent(value: Mapping[str, Any]) -> str:
    """Mean ± sd of a gain, in percent."""
    return f"{value['mean']:+.1%}" + (f" ± {100 * value['sd']:.1f}" if value["sd"] is not None else "")


def made_of(settings: DemoSettings, backend: str) -> dict[str, Any]:
    """All that a seed's figures depend on beside the machine: settings, target, versions."""
    weights = (shipped_target() / "model.safetensors").read_bytes()
    chosen = {key: value for key, value in settings.as_dict().items() if key != "seed"}
    versions = describe_versions()
    return json.loads(
        json.dumps(
            {
                "settings": {**chosen, "backend": backend},
                "target_sha256": hashlib.sha256(weights).hexdigest(),
                "versions": versions,
            }
        )
    )


def read_seeds(path: Path, needed: Mapping[str, Any]) -> dict[str, Any]:
    """The seeds in the output file that were run as `needed` says; {} if there is none."""
    if not path.is_file():
        return {}
    report = json.loads(path.read_text(encoding="utf-8"))
    if any(report.get(key) != value for key, value in needed.items()):
        console.print(f"{path} was made by other settings, versions or target: it is replaced.")
        return {}
    return dict(report["seeds"])


def make_report(command: str, needed: Mapping[str, Any], seeds: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that is written."""
    return {
        "about": "tau of drafters trained with four objectives, mean over seeds; decoded at temperature 0",
        "command": command,
        "machine": describe_machine(),
        **needed,
        "objectives": {name: str(Objective.parse(text)) for name, text in ARMS.items()},
        "over_seeds": aggregate(seeds),
        "seeds": dict(seeds),
    }


def parse_arguments() -> argparse.Namespace:
    """The command line; every number of the demo's settings is an option."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--backend", default="auto")
    for field in fields(DemoSettings):
        if isinstance(field.default, int | float) and field.name not in ("seed", "greedy_prompts"):
            option = "--" + field.name.replace("_", "-")
            parser.add_argument(option, type=type(field.default), default=field.default)
    return parser.parse_args()


def main() -> None:
    """Run the seeds that are missing, write after each, print the table."""
    args = parse_arguments()
    names = {field.name for field in fields(DemoSettings)} & vars(args).keys()
    settings = DemoSettings(**{name: getattr(args, name) for name in names})
    needed = made_of(settings, args.backend)
    done = read_seeds(args.output, needed)
    engine = dspec.load(shipped_target(), backend=args.backend)
    command = "python examples/objective_gain.py " + " ".join(sys.argv[1:])
    for seed in args.seeds:
        if str(seed) not in done:
            console.print(f"seed {seed}")
            done[str(seed)] = run_seed(engine, replace(settings, seed=seed), args.backend)
            write_json(args.output, make_report(command.strip(), needed, done))
    report = make_report(command.strip(), needed, {str(seed): done[str(seed)] for seed in args.seeds})
    print(markdown(report))
    print(
        f"\nMean ± standard deviation over {len(args.seeds)} seeds; {settings.steps} steps of "
        f"{settings.batch_size} texts with {settings.anchors} blocks of {settings.block_size}; "
        f"{settings.prompts} prompts a domain, {settings.max_new_tokens} new tokens each, greedy; "
        f"{report['machine']['processor']}, {report['machine']['cores']} cores. "
        f"Made by `{report['command']}`."
    )


if __name__ == "__main__":
    main()
