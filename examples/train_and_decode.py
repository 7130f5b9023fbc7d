"""Train one drafter and decode with it, on any backend, and record what was measured.

    python examples/train_and_decode.py --backend cuda --output benchmarks/results/train_and_decode_cuda.json

By default on the tiny target and text that ship; --target, --data and --suite take your own.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import dspec
from dspec.demo.settings import TRAIN, shipped_target
from dspec.evaluation.bench import run_suite
from dspec.evaluation.machine import describe_device, describe_machine, describe_versions
from dspec.evaluation.suites import load_suite


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", help="default: the tiny one that ships")
    parser.add_argument("--data", default=str(TRAIN))
    parser.add_argument("--suite", default="tiny")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--objective", default="ltr")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--block-size", type=int, default=8)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    options.target = options.target or str(shipped_target())
    return options


def train(options: argparse.Namespace, folder: str) -> tuple[dict[str, Any], float]:
    """Train a drafter into `folder`; return its last metrics and the seconds it took."""
    start = perf_counter()
    result = dspec.train(
        options.target,
        options.data,
        folder,
        backend=options.backend,
        objective=options.objective,
        steps=options.steps,
        block_size=options.block_size,
        layers=options.layers,
        seq_len=256,
        anchors=16,
        lr=1e-3,
    )
    return dict(result.metrics), perf_counter() - start


def decode(options: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Decode a suite with the saved drafter and without, greedily and sampled; all as plain figures."""
    engine = dspec.load(options.target, folder, backend=options.backend)
    suite, tokens = load_suite(options.suite), options.max_new_tokens
    runs = {
        "greedy": run_suite(engine, suite, max_new_tokens=tokens),
        "temperature 1": run_suite(engine, suite, max_new_tokens=tokens, temperature=1.0),
        "no drafter": run_suite(replace(engine, drafter=None), suite, max_new_tokens=tokens),
    }
    kept = ("n_prompts", "n_tokens", "n_passes", "tau", "alpha", "tokens_per_second", "seconds")
    figures = {name: {key: run.as_dict()[key] for key in kept} for name, run in runs.items()}
    device = describe_device(engine.target, backend=options.backend)
    return {**figures, "exactness": str(dspec.check_exactness(engine)), "device": device}


def main() -> None:
    """Train, decode, print one JSON object, and write it if asked to."""
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        metrics, seconds = train(options, folder)
        figures = decode(options, folder)
    report = {
        "command": " ".join(["python", *sys.argv]),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "training": {"seconds": seconds, **metrics},
        "decoding": figures,
    }
    text = json.dumps(report, indent=2, default=str)
    print(text)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
