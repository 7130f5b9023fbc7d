"""How many steps fit: the time of a step and of a measurement, taken before a study begins."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from study_seed import measure, say
from study_settings import Arm, StudySettings
from study_texts import load_examples, open_engine, validation_examples

from dspec.backends.registry import open_room
from dspec.engine import Engine
from dspec.evaluation.report import write_json

WARM, TIMED = 6, 20  # steps
# Share of the time that is planned; the rest is for opening the target and for what goes otherwise.
SHARE = 0.85


def read_pace(settings: StudySettings, output: Path, place: int) -> tuple[float, float]:
    """Seconds of a step of one arm, its share of validations included, and of measuring one arm.

    As many processes do this at once as will train at once: they share a device, and slow each other.
    """
    engine = open_engine(settings)
    data = load_examples(output / "texts" / "examples.npz"), validation_examples(settings, output)
    arms = spread(settings.arms, settings.arms_at_once)
    every = settings.train_config(0).validate_every
    timed_fit(settings, engine, arms, data, place, steps=WARM)  # compiles and fills caches
    step, _ = timed_fit(settings, engine, arms, (data[0], ()), place, steps=TIMED)
    both, drafter = timed_fit(settings, engine, arms, data, place, steps=WARM)
    if every:
        step += max(both - step, 0) * WARM / every
    start = time.perf_counter()
    measure(settings, engine, drafter, output)
    return step / len(arms), time.perf_counter() - start


def timed_fit(
    settings: StudySettings, engine: Engine, arms: Mapping[str, Arm], data: Any, seed: int, *, steps: int
) -> tuple[float, Any]:
    """Seconds a step of a short run with one validation at its end, and a drafter of it."""
    room, _ = open_room(settings.backend, lent=(engine.target,))
    config = settings.train_config(seed).replace(steps=steps, validate_every=0)
    own = {name: config.replace(**asdict(arm)) for name, arm in arms.items()}
    learners = {name: room.new_learner(engine.target, own[name]) for name in arms}
    start = time.perf_counter()
    results = room.fit(engine.target, learners, data[0], config, validation=data[1], quiet=True)
    return (time.perf_counter() - start) / steps, next(iter(results.values())).drafter


def spread(arms: Mapping[str, Arm], count: int) -> dict[str, Arm]:
    """As many arms as run at once, spread over all of them: objectives differ in what a step costs."""
    every = max(len(arms) // count, 1)
    return dict(islice(islice(arms.items(), 0, None, every), count))


def tasks(settings: StudySettings) -> int:
    """How many groups of arms there are to train, of all seeds."""
    return len(settings.seeds) * math.ceil(len(settings.arms) / settings.arms_at_once)


def fitting_steps(settings: StudySettings, paces: Sequence[tuple[float, float]], seconds: float) -> int:
    """The steps that all seeds can take in the time, a multiple of `validate_every`, at least that."""
    step, replay = (max(pace[i] for pace in paces) for i in (0, 1))
    rounds = math.ceil(tasks(settings) / settings.jobs)
    each = seconds * SHARE / rounds / min(settings.arms_at_once, len(settings.arms))
    every = max(settings.train_config(0).validate_every, 1)
    found = max(int((each - replay) / step) // every, 1) * every
    say(f"pace: {1000 * step:.1f} ms a step of an arm, {replay:.1f} s a measurement: {found} steps")
    return found


def kept_steps(output: Path) -> int | None:
    """The steps that an earlier call found to fit; a study that goes on keeps them."""
    path = output / "steps.json"
    return int(json.loads(path.read_text(encoding="utf-8"))["steps"]) if path.is_file() else None


def keep_steps(output: Path, steps: int, paces: Sequence[tuple[float, float]]) -> None:
    """Write them down."""
    write_json(output / "steps.json", {"steps": steps, "paces": [list(pace) for pace in paces]})
