"""One seed of the study: groups of arms trained side by side, then measured along the target's texts."""

import copy
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from study_settings import Arm, StudySettings
from study_texts import load_examples, open_engine, suite_rows, text_path, validation_examples

from dspec.backends.registry import open_room
from dspec.engine import Engine
from dspec.evaluation.machine import describe_device, describe_machine
from dspec.evaluation.replay import replay
from dspec.evaluation.texts import Texts

SPARE = 1.1  # a group is begun if this many times the longest one's seconds are left
LONGEST = {"s": 0.0}  # of this process so far
OPENED: dict[Path, tuple[Engine, Any, Any]] = {}


class Timed:
    """A learner that keeps the seconds of its training steps; else the learner itself."""

    def __init__(self, learner: Any):
        self.learner, self.seconds = learner, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.learner, name)

    def train_step(self, *args: Any) -> Any:
        """The learner's, which ends by reading its loss: whatever the device did is done by then."""
        start = time.perf_counter()
        report = self.learner.train_step(*args)
        self.seconds += time.perf_counter() - start
        return report


def seed_path(output: Path, seed: int) -> Path:
    """The file of a seed's figures."""
    return output / "seeds" / f"seed-{seed}.json"


def read_seed(output: Path, seed: int, key: dict[str, Any]) -> dict[str, Any]:
    """What stands there of a seed and was made of the same; without arms if nothing does."""
    path = seed_path(output, seed)
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if found.get("made_of") == key:
        return found
    if found:
        say(f"{path} was made by other settings, versions, data or target: it is replaced")
    return {"seed": seed, "made_of": key, "machine": describe_machine(), "arms": {}}


def missing_arms(report: dict[str, Any], arms: dict[str, Arm]) -> dict[str, Arm]:
    """Arms whose figures do not stand there, or stand there under another objective."""
    done = report["arms"]
    return {
        n: a for n, a in arms.items() if n not in done or any(done[n][k] != v for k, v in asdict(a).items())
    }


def groups(arms: dict[str, Arm], size: int) -> list[dict[str, Arm]]:
    """The arms that train side by side, in the order of the settings."""
    names = list(arms)
    return [{name: arms[name] for name in names[i : i + size]} for i in range(0, len(names), size)]


def opened(settings: StudySettings, output: Path) -> tuple[Engine, Any, Any]:
    """Target, examples and held-out texts of a study: read once a process."""
    if output not in OPENED:
        texts = load_examples(output / "texts" / "examples.npz"), validation_examples(settings, output)
        OPENED[output] = open_engine(settings), *texts
    return OPENED[output]


def run_group(
    settings: StudySettings, output: Path, seed: int, arms: dict[str, Arm], deadline: float | None
) -> dict[str, Any] | None:
    """Train some arms of a seed side by side and measure them; None if there is no time left for it."""
    start = time.time()
    if deadline is not None and start + SPARE * LONGEST["s"] > deadline:
        say(f"seed {seed}: {', '.join(arms)} not begun: no time left")
        return None
    engine, examples, held_out = opened(settings, output)
    found = train_group(settings, engine, (examples, held_out), output, seed, arms)
    LONGEST["s"] = max(LONGEST["s"], time.time() - start)
    return {"arms": found, "device": describe_device(engine.target, backend=settings.backend)}


def train_group(
    settings: StudySettings, engine: Engine, data: Any, output: Path, seed: int, arms: dict[str, Arm]
) -> dict[str, Any]:
    """Train some arms side by side and measure them; figures by arm."""
    room, _ = open_room(settings.backend, lent=(engine.target,))
    config = settings.train_config(seed)
    learners = {
        name: Timed(room.new_learner(engine.target, config.replace(**asdict(arm))))
        for name, arm in arms.items()
    }
    start = time.perf_counter()
    results = room.fit(engine.target, learners, data[0], config, validation=data[1], quiet=True)
    if not all(result.metrics["finished"] for result in results.values()):
        raise KeyboardInterrupt  # drafters of different length of training compare nothing
    trained = time.perf_counter()
    found = {}
    for name, arm in arms.items():
        began = time.perf_counter()
        cells = measure(settings, engine, results[name].drafter, output)
        seconds = {
            "own_steps": learners[name].seconds,
            "training_of_the_group": trained - start,
            "replay": time.perf_counter() - began,
        }
        history = summary(results[name].history)
        found[name] = {**asdict(arm), "cells": cells, **history, "seconds": seconds, "group": list(arms)}
    return found


def summary(history: Any) -> dict[str, Any]:
    """The learning curve, every line of a validation, and a loss every 2 % of the run."""
    curve = [
        {k: line[k] for k in ("step", "tau", "waste", "validation_loss")}
        for line in history
        if line["event"] == "validate"
    ]
    steps = [line for line in history if line["event"] == "train"]
    shown = steps[:: max(len(steps) // 50, 1)]
    loss = [{k: line[k] for k in ("step", "loss", "grad_norm")} for line in shown]
    return {
        "curve": curve,
        "loss": loss,
        "tokens_per_s_of_the_group": steps[-1]["tokens_per_s"],
        "peak_memory_bytes": steps[-1].get("peak_memory_bytes"),
    }


def measure(settings: StudySettings, engine: Engine, drafter: Any, output: Path) -> dict[str, Any]:
    """Figures by column (temperature and policy), then by suite."""
    drafter = as_decoded(drafter, settings.evaluation.drafter_dtype)
    rows, found = suite_rows(settings), {}
    for cell, (temperature, policy) in settings.evaluation.cells.items():
        texts = Texts.load(text_path(output, temperature))
        whole = replay(engine.target, drafter, texts, policy=policy)
        found[cell] = {
            name: figures(whole, np.array(part))
            for name, part in zip(settings.evaluation.suites, rows, strict=True)
        }
    return found


def figures(whole: Any, rows: Any) -> dict[str, Any]:
    """Tau, shares of accepted slots and the counts of each prompt, of some rows."""
    counts, replayed = whole.counts[rows], whole.replayed
    emitted, passes = counts.sum(axis=0)
    reached, accepted = replayed.reached[rows].sum(axis=0), replayed.accepted[rows].sum(axis=0)
    return {
        "tau": float(emitted / passes) if passes else float("nan"),
        "alpha": [round(float(a / r), 5) if r else None for a, r in zip(accepted, reached, strict=True)],
        # Six decimals: a count of 100 passes is then good to 1e-8 of itself.
        "emitted": [round(x, 6) for x in counts[:, 0].tolist()],
        "passes": [round(x, 6) for x in counts[:, 1].tolist()],
    }


def as_decoded(drafter: Any, dtype: str) -> Any:
    """A copy in the dtype that decoding uses; the drafter itself on MLX, which decodes in its own."""
    if not hasattr(drafter, "eval") or not hasattr(drafter, "to"):
        return drafter
    import torch

    return copy.deepcopy(drafter).to(getattr(torch, dtype)).eval()


def say(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)
