"""The study of objectives: all of them, over several seeds, at matched steps, data, anchors and weights.

    python examples/make_study_data.py --data ../shared/data --output .study/data
    python examples/objective_study.py benchmarks/study/quick.toml --output .study/quick

One TOML file says everything (benchmarks/study/). The stages are the target, its own texts, the seeds (arms
trained side by side, then measured by replay along the texts) and the report; what stands in the output
folder and was made by the same settings, versions, data and target is not made again. Each seed's figures
are written after each group of arms, so a run that is stopped loses a group. The table goes to stdout as
Markdown, progress to stderr; study.json, study.md, gains.png and curves.png to the output folder.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from study_pace import fitting_steps, keep_steps, kept_steps, read_pace, tasks
from study_pictures import draw_curves, draw_gains
from study_report import make_report, markdown
from study_seed import groups, missing_arms, read_seed, run_group, say, seed_path
from study_settings import StudySettings, read_settings
from study_statistics import complete
from study_texts import made_of, make_target, open_engine, write_all

from dspec.errors import ConfigError, explain
from dspec.evaluation.report import write_json


def prepare(settings: StudySettings, output: Path) -> dict[str, Any]:
    """Make target, texts and examples; return what they depend on."""
    make_target(settings, output)
    engine = open_engine(settings)
    facts = made_of(settings, engine)
    start = time.perf_counter()
    write_all(settings, engine, output, facts)
    say(f"texts: {time.perf_counter() - start:.0f} s")
    return facts


def spread_over(
    settings: StudySettings,
    work: Callable[..., Any],
    calls: Sequence[tuple[Any, ...]],
    keep: Callable[[tuple[Any, ...], Any], None] = lambda call, found: None,
) -> list[Any]:
    """Call a function for each of the arguments, `jobs` at a time; the results as they come, kept at once."""
    found = []
    for call, result in _results(settings, work, calls):
        if result is not None:
            keep(call, result)
            found.append(result)
    return found


def _results(settings: StudySettings, work: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Any:
    if settings.jobs == 1 or len(calls) <= 1:
        yield from ((call, work(*call)) for call in calls)
        return
    # Read by the processes to come: they would each take all cores.
    os.environ["OMP_NUM_THREADS"] = str(max((os.cpu_count() or 1) // settings.jobs, 1))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(settings.jobs, mp_context=spawn) as pool:
        asked = {pool.submit(work, *call): call for call in calls}
        yield from ((asked[done], done.result()) for done in as_completed(asked))


def run_seeds(settings: StudySettings, output: Path, key: dict[str, Any], deadline: float | None) -> None:
    """Run what is missing: the first arms of every seed, then the next; `jobs` groups at a time.

    A seed's file is written whenever one of its groups is done.
    """
    reports = {seed: read_seed(output, seed, key) for seed in settings.seeds}
    missing = {seed: missing_arms(report, dict(settings.arms)) for seed, report in reports.items()}
    calls = [
        (settings, output, seed, todo, deadline)
        for group in groups(dict(settings.arms), settings.arms_at_once)
        for seed in settings.seeds
        if (todo := {name: arm for name, arm in group.items() if name in missing[seed]})
    ]

    def keep(call: tuple[Any, ...], found: dict[str, Any]) -> None:
        report = reports[call[2]]
        report["arms"] |= found.pop("arms")
        report |= found
        write_json(seed_path(output, call[2]), report)
        say(f"seed {call[2]}: {len(report['arms'])} of {len(settings.arms)} arms")

    spread_over(settings, run_group, calls, keep)


def fit_steps(settings: StudySettings, output: Path, deadline: float) -> StudySettings:
    """The settings with the steps that fit into the time left, measured once and kept."""
    steps = kept_steps(output)
    if steps is None:
        calls = [(settings, output, place) for place in range(min(settings.jobs, tasks(settings)))]
        paces = spread_over(settings, read_pace, calls)
        steps = fitting_steps(settings, paces, deadline - time.time())
        keep_steps(output, steps, paces)
    return replace(settings, training={**settings.training, "steps": steps})


def report(settings: StudySettings, output: Path, command: str) -> None:
    """Write and print what stands there of the seeds; those without any arm are left out."""
    paths = [path for seed in settings.seeds if (path := seed_path(output, seed)).is_file()]
    seeds = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    if any(seed["made_of"] != seeds[0]["made_of"] for seed in seeds):
        raise ConfigError(explain(str(output), "seeds made by different settings", "one study"))
    if not complete(seeds, list(settings.arms)) or not seeds:
        say("no arm stands there for every seed: no report")
        return
    found = make_report(settings, seeds, command)
    write_json(output / "study.json", found)
    text = markdown(found)
    (output / "study.md").write_text(text, encoding="utf-8")
    if found["gain"]:
        draw_gains(output / "gains.png", found)
        draw_curves(output / "curves.png", found)
    print(text)


def restricted(settings: StudySettings, args: argparse.Namespace) -> StudySettings:
    """The settings with what the command line says instead; an unknown arm is an error."""
    arms = dict(settings.arms)
    for name in args.arms or ():
        if name not in arms:
            raise ConfigError(explain("--arms", repr(name), f"one of {', '.join(arms)}"))
    arms = {name: arm for name, arm in arms.items() if not args.arms or name in args.arms}
    given = {key: getattr(args, key) for key in ("jobs", "data", "backend") if getattr(args, key) is not None}
    seeds = tuple(args.seeds) if args.seeds else settings.seeds
    bases = tuple(base for base in settings.baselines if base in arms)
    return replace(settings, arms=arms, seeds=seeds, baselines=bases, **given)


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="TOML file, such as benchmarks/study/quick.toml")
    parser.add_argument("--output", type=Path, required=True, help="folder of the study")
    parser.add_argument("--arms", nargs="+", help="names of the arms to run and report; all if left out")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of the file's")
    parser.add_argument("--jobs", type=int, help="instead of the file's: seeds at a time")
    parser.add_argument("--data", help="instead of the file's: folder of make_study_data.py")
    parser.add_argument("--backend", help="instead of the file's")
    parser.add_argument("--deadline", type=float, help="seconds from now: later, no group of arms is begun")
    parser.add_argument("--fit", action="store_true", help="as many steps as the deadline allows")
    parser.add_argument(
        "--report-only", action="store_true", help="train nothing: the report of what stands there"
    )
    return parser.parse_args(words)


def main() -> None:
    """All stages."""
    args = parse_arguments()
    deadline = None if args.deadline is None else time.time() + args.deadline
    settings = restricted(read_settings(args.config), args)
    if args.fit and deadline is None:
        raise ConfigError(explain("--fit", "no --deadline", "the seconds that the study may take"))
    if not args.report_only:
        facts = prepare(settings, args.output)
        if args.fit and deadline is not None:
            settings = fit_steps(settings, args.output, deadline)
        run_seeds(settings, args.output, facts | settings.decides(), deadline)
    command = "python examples/objective_study.py " + " ".join(sys.argv[1:])
    report(settings, args.output, command)


if __name__ == "__main__":
    main()
