"""Memory while one long output is decoded: flat, whatever the number of tokens.

    python benchmarks/memory.py --backend mlx --output benchmarks/results/memory_mlx.json

Decodes 2,000 tokens after a short prompt, end tokens ignored, with a drafter of random weights (the
worst case: a pass a token), and reads the memory as it goes. The caches are allocated whole at the
start, so a line that rises means that something is kept a pass or a token. Writes JSON, and beside it
a PNG. On MLX: `active` is what arrays hold, `cached` what MLX keeps to reuse, `peak` the most since the
last reading. `resident` is the process's, as the system tells it; pages of the caches join it when
they are first written.
"""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import dspec
from dspec.backends.registry import open_room
from dspec.config import TrainConfig
from dspec.demo.settings import shipped_target
from dspec.engine import Engine
from dspec.evaluation.machine import describe_machine, describe_versions

PROMPT = [11, 24, 7, 300, 41, 5, 99, 18]
MIB = 2**20


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", help="default: the tiny one that ships")
    parser.add_argument("--drafter", help="a checkpoint folder; default: fresh random weights")
    parser.add_argument("--backend", default="mlx")
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--every", type=int, default=50, help="tokens between two readings")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def open_engine(options: argparse.Namespace) -> Engine:
    target = options.target or str(shipped_target())
    if options.drafter:
        return dspec.load(target, options.drafter, backend=options.backend)
    engine = dspec.load(target, backend=options.backend)
    room, _ = open_room(options.backend)
    fresh = room.new_learner(engine.target, TrainConfig(block_size=8, layers=2, seq_len=64)).drafter
    return replace(engine, drafter=fresh.eval())


def reading(backend: str) -> dict[str, float | None]:
    """MiB by kind; None where the system does not tell."""
    found: dict[str, float | None] = {"resident": resident()}
    if backend == "mlx":
        import mlx.core as mx

        found["active"], found["cached"] = mx.get_active_memory() / MIB, mx.get_cache_memory() / MIB
        found["peak"] = mx.get_peak_memory() / MIB
        mx.reset_peak_memory()
    return found


def resident() -> float | None:
    """Linux tells the pages of a process; elsewhere only their peak could be had."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB if path.is_file() else None


def measure(engine: Engine, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Decode, and read the memory every so many tokens."""
    settings = {"max_new_tokens": options.tokens, "temperature": options.temperature, "ignore_eos": True}
    readings, done, due = [], 0, options.every
    for chunk in engine.stream(PROMPT, **settings):
        done += len(chunk.tokens)
        if done >= due or chunk.finish:
            readings.append({"tokens": done, **reading(options.backend)})
            due += options.every
    return readings


def growth(readings: list[dict[str, Any]]) -> dict[str, float]:
    """MiB that each kind rose by from the first quarter of the output to its last: the largest of each."""
    quarter = max(len(readings) // 4, 1)
    kinds = [key for key in readings[0] if key != "tokens" and readings[0][key] is not None]

    def top(part: list[dict[str, Any]], kind: str) -> float:
        return max(line[kind] for line in part)

    return {kind: top(readings[-quarter:], kind) - top(readings[:quarter], kind) for kind in kinds}


def draw(path: Path, readings: list[dict[str, Any]], backend: str) -> None:
    figure = Figure(figsize=(7.5, 4), dpi=150, layout="constrained")
    axes = figure.subplots()
    for kind in [key for key in readings[0] if key != "tokens" and readings[0][key] is not None]:
        axes.plot([line["tokens"] for line in readings], [line[kind] for line in readings], label=kind)
    axes.set(
        xlabel="tokens decoded", ylabel="MiB", ylim=(0, None), title=f"Memory of one decode on {backend}"
    )
    axes.grid(alpha=0.3)
    axes.legend()
    FigureCanvasAgg(figure).print_png(path)


def main() -> None:
    options = arguments()
    engine = open_engine(options)
    reading(options.backend)
    readings = measure(engine, options)
    report = {
        "command": " ".join(["python", *sys.argv]),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "unit": "MiB",
        "growth": growth(readings),
        "readings": readings,
    }
    print(json.dumps({key: report[key] for key in ("command", "growth")}, indent=2), readings[-1])
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        draw(options.output.with_suffix(".png"), readings, options.backend)


if __name__ == "__main__":
    main()
