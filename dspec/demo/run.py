"""The demo, from the shipped target to the report."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import dspec
from dspec.core.objectives import Objective
from dspec.demo.greedy import compare_greedy, open_reference
from dspec.demo.live import show_live
from dspec.demo.settings import ARMS, BASELINES, DemoSettings, shipped_target
from dspec.demo.summary import MEAN, summarise
from dspec.demo.tables import gain_table, objectives_table, rate_line, tau_table
from dspec.demo.training import train_arms
from dspec.engine import Engine
from dspec.evaluation.bench import SuiteResult, run_suite
from dspec.evaluation.machine import describe_device, describe_machine, describe_versions
from dspec.evaluation.report import draw_picture, plain, write_json
from dspec.evaluation.suites import Suite, load_suite
from dspec.results import TrainResult

REPORT, PICTURE = "report.json", "report.png"


def run_demo(
    *,
    backend: str = "auto",
    output: str | Path = "demo-report",
    steps: int | None = None,
    quick: bool = False,
    seed: int = 0,
    settings: DemoSettings | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train a drafter an objective on the tiny target, compare them by decoding, report.

    Args:
        backend: "auto", "cuda", "cpu", "mps" or "mlx".
        output: folder for report.json, report.png and the drafters.
        steps: optimizer steps; None takes the settings'.
        quick: a minute's run, to see that all works.
        seed: of weights, order and anchors.
        settings: everything else; None takes the defaults.
        console: where to print; None is stdout.

    Returns:
        The report, as written to report.json.

    Raises:
        CheckpointError: this installation has no tiny target.
        BackendUnavailable: the backend is not here.
    """
    chosen = replace(settings or DemoSettings(), seed=seed)
    chosen = chosen.quick() if quick else chosen
    chosen = replace(chosen, steps=steps) if steps is not None else chosen
    return _Demo(chosen, backend, Path(output), console or Console()).go()


@dataclass
class _Demo:
    """One run: its settings, and the seconds of its parts."""

    settings: DemoSettings
    backend: str
    output: Path
    console: Console
    seconds: dict[str, float] = field(default_factory=dict)

    def go(self) -> dict[str, Any]:
        start = perf_counter()
        with self._part("load", "Loading the tiny target"):
            engine = dspec.load(shipped_target(), backend=self.backend)
            suites = [load_suite(name, limit=self.settings.prompts) for name in self.settings.domains]
        self.console.print(objectives_table(self._objectives()))
        with self._part("train", f"Training {len(ARMS)} drafters, {self.settings.steps} steps each"):
            config, folder = self.settings.train_config(backend=self.backend), self.output / "drafters"
            trained = train_arms(engine.target, ARMS, config, output=folder)
        drafted = {name: replace(engine, drafter=result.drafter) for name, result in trained.items()}
        with self._part("decode", "Decoding the prompts with each drafter, and without one"):
            results, alone = self._decode(drafted, engine, suites)
        report = self._report(engine, trained, results, alone)
        self.console.print(tau_table(report), gain_table(report), rate_line(report), highlight=False)
        best = max(results, key=lambda name: report["summary"]["tau"][name][MEAN]["value"])
        with self._part(
            "live", f"A prompt decoded live, with the drafter of the largest mean τ here: {best}"
        ):
            tokens = self.settings.max_new_tokens
            prompt = suites[0].prompts[0]
            report["live"] = {"drafter": best} | show_live(
                drafted[best], prompt, self.console, max_new_tokens=tokens
            )
        report["greedy"] = self._greedy(engine, suites, results)
        report["sampled"] = self._sampled(drafted[best])
        self.seconds["total"] = perf_counter() - start
        report["seconds"] = self.seconds
        self._write(report, results)
        return plain(report)

    def _objectives(self) -> dict[str, str]:
        return {name: str(Objective.parse(text)) for name, text in ARMS.items()}

    def _decode(
        self, drafted: Mapping[str, Engine], engine: Engine, suites: list[Suite]
    ) -> tuple[dict[str, dict[str, SuiteResult]], dict[str, SuiteResult]]:
        """Decode every suite with every drafter, and a few prompts of each with none."""
        few = [suite.take(max(self.settings.prompts // 6, 1)) for suite in suites]
        count = len(drafted) * sum(len(s.prompts) for s in suites) + sum(len(s.prompts) for s in few)
        with self._bar(count) as advance:

            def decode(one: Engine, suite: Suite, name: str) -> SuiteResult:
                tokens, text = self.settings.max_new_tokens, f"{name}, {suite.name}"
                return run_suite(one, suite, max_new_tokens=tokens, progress=lambda *_: advance(text))

            alone = {suite.name: decode(engine, suite, "no drafter") for suite in few}
            results = {
                name: {suite.name: decode(one, suite, name) for suite in suites}
                for name, one in drafted.items()
            }
        return results, alone

    def _report(self, engine: Engine, trained: Any, results: Any, alone: Any) -> dict[str, Any]:
        return {
            "about": "dspec demo: drafters trained with four objectives on the same batches, then decoded",
            "settings": {**self.settings.as_dict(), "backend": self.backend},
            "machine": {**describe_machine(), "device": describe_device(engine.target, backend=self.backend)},
            "versions": describe_versions(),
            "objectives": self._objectives(),
            "training": {name: training_figures(result) for name, result in trained.items()},
            "summary": summarise(results, BASELINES),
            "decoding": {name: {s: r.as_dict() for s, r in by.items()} for name, by in results.items()},
            "no_drafter": {suite: result.as_dict() for suite, result in alone.items()},
        }

    def _greedy(self, engine: Engine, suites: list[Suite], results: Any) -> dict[str, Any]:
        reference = open_reference(self.backend).NAME
        count = min(self.settings.greedy_prompts, sum(len(suite.prompts) for suite in suites))
        with self._part("greedy", "Comparing greedy outputs with the target's own"), self._bar(count) as on:
            found = compare_greedy(
                engine,
                suites,
                results,
                backend=self.backend,
                prompts=count,
                max_new_tokens=self.settings.max_new_tokens,
                progress=lambda *_: on(reference),
            )
        text = f"{found['equal']} of {found['comparisons']} greedy outputs equal the target's own"
        self.console.print(f"{text} ({found['prompts']} prompts x {len(results)} drafters).", highlight=False)
        return found

    def _sampled(self, engine: Engine) -> dict[str, Any]:
        with self._part("sampled", "Checking the law of sampled outputs"):
            with self.console.status("a few hundred sampled outputs ..."):
                report = dspec.check_exactness(engine, level="smoke")
            self.console.print(str(report), highlight=False, markup=False)
        return {"passed": report.passed, "tried": dict(report.tried), "text": str(report)}

    def _write(self, report: dict[str, Any], results: Any) -> None:
        s = self.settings
        write_json(self.output / REPORT, report)
        title = f"Four objectives, {s.steps} steps on the same batches, on real text"
        note = (
            f"Tiny target, temperature 0, {s.max_new_tokens} new tokens a prompt, blocks of {s.block_size}, "
            f"{s.layers}-layer drafters, {s.steps * s.batch_size * s.anchors:,} blocks at most, "
            f"seed {s.seed}. Made by: dspec demo"
        )
        draw_picture(self.output / PICTURE, results, title=title, note=note)
        total = f"{self.seconds['total'] / 60:.1f} minutes"
        self.console.print(f"\n{total}. Report: {self.output / REPORT}, {self.output / PICTURE}")

    @contextmanager
    def _part(self, name: str, title: str) -> Iterator[None]:
        """Print a heading and time what follows."""
        self.console.print(f"\n[bold]{title}[/]", highlight=False)
        start = perf_counter()
        yield
        self.seconds[name] = perf_counter() - start

    @contextmanager
    def _bar(self, total: int) -> Iterator[Any]:
        """Yield a function that moves a progress bar by one and names what was done."""
        columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.description}"), console=self.console) as progress:
            task = progress.add_task("", total=total)
            yield lambda text: progress.update(task, advance=1, description=text)


def training_figures(result: TrainResult) -> dict[str, Any]:
    """Return a run's last metrics and its course, thinned to some fifty points.

    Args:
        result: of one drafter.

    Returns:
        `metrics`, `validations` and `course` (step, loss).
    """
    course = [line for line in result.history if line["event"] == "train"]
    kept = course[:: max(len(course) // 50, 1)]
    return {
        "parameters": result.drafter.n_parameters,
        "metrics": dict(result.metrics),
        "validations": [line for line in result.history if line["event"] == "validate"],
        "course": [{"step": line["step"], "loss": line["loss"]} for line in kept],
    }
