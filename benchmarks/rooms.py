"""torch and MLX side by side on the tiny target: loss curves, tau of either's drafter, tokens.

    python benchmarks/rooms.py --output benchmarks/results/rooms.json

Both rooms train a drafter from the same file of first weights on the same text, order and anchors, and
their losses are compared step by step. Each drafter is then loaded by both rooms: the same tokens and
the same tau are wanted of greedy decoding. Last, sampled outputs are compared pass by pass: passes
where a number lay near its threshold are counted, any other difference is a failure (exit 1).
"""

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import dspec
from dspec.backends.registry import open_room
from dspec.config import TrainConfig
from dspec.demo.settings import TRAIN, shipped_target
from dspec.engine import Engine
from dspec.evaluation.bench import run_suite
from dspec.evaluation.machine import describe_machine, describe_versions
from dspec.evaluation.suites import load_suite
from dspec.testing import compare_engines

ROOMS = {"torch": "cpu", "mlx": "mlx"}
SETTINGS = {"block_size": 8, "layers": 1, "batch_size": 4, "seq_len": 128, "anchors": 12, "lr": 2e-3}
MODES = {
    "greedy": {},
    "one_hot, T 1": {"temperature": 1.0},
    "rejection, T 0.8, top-p 0.95": {"temperature": 0.8, "top_p": 0.95, "policy": "rejection"},
    "sample_match, T 1, top-k 50": {"temperature": 1.0, "top_k": 50, "policy": "sample_match"},
}
# Largest difference of two logits, nats: float32, other order of summation (tests/tolerances.py).
DISTANCE = 1e-4


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20, help="whose losses are compared")
    parser.add_argument("--more-steps", type=int, default=60, help="of the drafters that are decoded with")
    parser.add_argument("--prompts", type=int, default=16, help="of each suite")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--suites", nargs="+", default=["gsm8k", "humaneval", "mt_bench"])
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def first_weights(engines: dict[str, Engine], folder: Path) -> None:
    """Write one file of first weights for both rooms."""
    room, _ = open_room("cpu")
    learner = room.new_learner(engines["torch"].target, TrainConfig(**SETTINGS, backend="cpu"))
    learner.save(folder)


def train(name: str, engine: Engine, start: Path, output: Path, steps: int) -> list[float]:
    """Train in one room from the first weights; return the losses."""
    parts = {part: import_module(f"dspec.backends.{name}.{part}") for part in ("drafter", "learner", "front")}
    config = TrainConfig(**SETTINGS, steps=steps, backend=ROOMS[name], objective="ltr")
    drafter = parts["drafter"].load_drafter(start, device=ROOMS[name], dtype="float32")
    learner = parts["learner"].Learner(drafter, engine.target, config)
    examples, _ = parts["front"].read_examples(engine.target, TRAIN, None, config)
    result = parts["front"].fit(engine.target, {"ltr": learner}, examples, config, output=output, quiet=True)
    return [line["loss"] for line in result["ltr"].history if line["event"] == "train"]


def compare_taus(engines: dict[str, Engine], folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Decode the suites in both rooms with one drafter; tau of each, and whether every token is equal."""
    found, tokens = {}, {}
    for name in engines:
        engine = dspec.load(engines[name].target, folder, backend=ROOMS[name])
        runs = [
            run_suite(engine, load_suite(suite, limit=options.prompts), max_new_tokens=options.max_new_tokens)
            for suite in options.suites
        ]
        found[name] = {suite: run.stats.tau for suite, run in zip(options.suites, runs, strict=True)}
        tokens[name] = [prompt.tokens for run in runs for prompt in run.prompts]
    return {**found, "prompts": len(tokens["mlx"]), "tokens equal": tokens["torch"] == tokens["mlx"]}


def main() -> int:
    options = arguments()
    engines = {name: dspec.load(shipped_target(), backend=backend) for name, backend in ROOMS.items()}
    report: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "settings": SETTINGS,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first_weights(engines, folder / "first")
        curves = {
            room: train(room, engine, folder / "first", folder / f"short-{room}", options.steps)
            for room, engine in engines.items()
        }
        apart = [abs(a - b) / abs(b) for a, b in zip(curves["mlx"], curves["torch"], strict=True)]
        report["losses"] = {**curves, "largest relative difference": max(apart)}
        print(f"losses of {options.steps} steps: largest relative difference {max(apart):.2e}", flush=True)
        report["tau"] = {}
        for room, engine in engines.items():
            train(room, engine, folder / "first", folder / room, options.more_steps)
            report["tau"][f"trained on {room}"] = compare_taus(engines, folder / room, options)
            print(f"trained on {room}: {report['tau'][f'trained on {room}']}", flush=True)
        pair = [dspec.load(e.target, folder / "torch", backend=ROOMS[r]) for r, e in engines.items()]
        report["tokens"] = compare_tokens(pair, options)
    text = json.dumps(report, indent=2)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n", encoding="utf-8")
    return 0 if all(found["passed"] for found in report["tokens"].values()) else 1


def compare_tokens(pair: list[Engine], options: argparse.Namespace) -> dict[str, Any]:
    """Compare the rooms pass by pass, for every mode of decoding, with the drafter and without."""
    prompts = [
        prompt for suite in options.suites for prompt in load_suite(suite, limit=options.prompts).prompts
    ]
    found = {}
    for mode, settings in MODES.items():
        for drafter in ("drafter", "no drafter"):
            engines = pair if drafter == "drafter" else [replace(engine, drafter=None) for engine in pair]
            settings = {"max_new_tokens": options.max_new_tokens, "distance": DISTANCE, **settings}
            outcome = compare_engines(*engines, prompts, **settings)
            found[f"{mode}, {drafter}"] = {"passed": outcome.passed, **outcome.tried}
            print(f"{mode}, {drafter}: {outcome}", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
