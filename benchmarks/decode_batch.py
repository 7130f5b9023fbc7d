"""How many tokens a second requests decode side by side, beside one after another.

    python benchmarks/decode_batch.py --check

The same prompts by batches of 1, 2, 4 and 8, with a drafter (fresh random weights unless `--drafter` names
one) and without: greedy, end tokens ignored, so that every size does the same work; with end tokens and
limits of all lengths, where rows are taken and left; and with draft lengths that each request chooses, or a
drafter that reads the last positions of its context only. Sizes take turns and the best of their runs counts;
requests whose tokens differ from those of one at a time (near ties) are counted. `--check` exits with 1 where
a batch of 8 has less than `--least` times the tokens a second, with the drafter and even lengths.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

from rich.console import Console
from rich.table import Table

import dspec
from dspec.config import TrainConfig
from dspec.decoders import Speculative
from dspec.demo.settings import shipped_target
from dspec.engine import Engine
from dspec.evaluation.machine import describe_device, describe_machine, describe_versions
from dspec.evaluation.report import write_json
from dspec.evaluation.suites import load_suite

RESULT = Path("benchmarks/results/decode_batch.json")
SIZES = (1, 2, 4, 8)
LEAST = 2.5
WINDOW = 32  # positions that a windowed drafter reads
SUITES = ("gsm8k", "humaneval", "mt_bench")


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", default=str(shipped_target()), help="default: the tiny one that ships")
    parser.add_argument("--drafter", help="a checkpoint folder; default: fresh random weights")
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--prompts", type=int, default=8, help="of each suite")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3, help="of each size; the best counts")
    parser.add_argument("--least", type=float, default=LEAST, help="speedup that --check asks for")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--thread-time", action="store_true", help="on a shared machine, of one torch thread")
    parser.add_argument("--quick", action="store_true", help="fewer prompts, tokens and runs")
    parser.add_argument("--json", type=Path, default=RESULT)
    options = parser.parse_args(words)
    if options.quick:
        options.prompts, options.max_new_tokens, options.runs = 3, 24, 1
    return options


def open_engine(options: argparse.Namespace) -> Engine:
    if options.drafter:
        return dspec.load(options.target, options.drafter, backend=options.backend)
    engine = dspec.load(options.target, backend=options.backend)
    room = __import__(f"dspec.backends.{'mlx' if options.backend == 'mlx' else 'torch'}", fromlist=["x"])
    parts = {name: __import__(f"{room.__name__}.{name}", fromlist=["x"]) for name in ("front", "drafter")}
    config = TrainConfig(block_size=8, layers=2, seq_len=64)
    with tempfile.TemporaryDirectory() as folder:
        fresh = parts["front"].new_learner(engine.target, config).drafter
        parts["drafter"].save_drafter(fresh, folder)
        return dspec.load(options.target, folder, backend=options.backend)


def requests_of(options: argparse.Namespace, *, even: bool) -> tuple[list[Any], list[dict[str, Any]]]:
    """Return prompts of the suites in turn, and the limits of each."""
    lists = [load_suite(name).prompts[: options.prompts] for name in SUITES]
    prompts = [prompt for group in zip(*lists, strict=True) for prompt in group]
    dice, most = random.Random(0), options.max_new_tokens
    if even:
        return prompts, [{"max_new_tokens": most, "ignore_eos": True}] * len(prompts)
    return prompts, [{"max_new_tokens": dice.randint(max(1, most // 8), most)} for _ in prompts]


def decode(
    engine: Engine, prompts: Sequence[Any], settings: Any, size: int, clock: Callable[[], float]
) -> tuple[list[list[int]], float]:
    """Return every request's tokens and the seconds that all took."""
    found: list[list[int]] = [[] for _ in prompts]
    start = clock()
    for i, chunk in engine.stream_many(prompts, settings=settings, batch_size=size):
        found[i] += chunk.tokens
    return found, clock() - start


def measure(engine: Engine, options: argparse.Namespace, *, even: bool, **shared: Any) -> dict[str, Any]:
    """Decode by every size in turn; return tokens a second and what differs."""
    prompts, settings = requests_of(options, even=even)
    settings = [{**one, **shared} for one in settings]
    clock = thread_time if options.thread_time else perf_counter
    decode(engine, prompts[:2], settings[:2], 2, clock)  # the first passes are slow ones
    outs, seconds = {}, {size: [] for size in SIZES}
    for _ in range(options.runs):
        for size in SIZES:
            outs[size], took = decode(engine, prompts, settings, size, clock)
            seconds[size].append(took)
    count = sum(map(len, outs[1]))
    return {
        "requests": len(prompts),
        "tokens": count,
        "sizes": {
            size: {
                "tokens_per_second": sum(map(len, outs[size])) / min(seconds[size]),
                "seconds": seconds[size],
                "speedup": min(seconds[1]) / min(seconds[size]),
                "requests_that_differ": sum(a != b for a, b in zip(outs[1], outs[size], strict=True)),
            }
            for size in SIZES
        },
    }


def main(words: Sequence[str] | None = None) -> int:
    options = arguments(words)
    if options.backend != "mlx":
        import torch

        torch.set_num_threads(options.threads)
    engine = open_engine(options)
    bare = Engine(engine.target, None, engine.ops)
    runs = {
        "drafter, even": measure(engine, options, even=True),
        "drafter, ragged": measure(engine, options, even=False),
        "drafter, block='auto'": measure(engine, options, even=True, decoder=Speculative(block="auto")),
        f"drafter, window {WINDOW}": measure(
            engine, options, even=True, decoder=Speculative(draft_window=WINDOW)
        ),
        "no drafter, even": measure(bare, options, even=True),
    }
    report = {
        "about": "tokens a second of requests side by side",
        "command": " ".join(["python", "benchmarks/decode_batch.py", *(words or sys.argv[1:])]),
        "machine": describe_machine(),
        "device": describe_device(engine.target, backend=options.backend),
        "versions": describe_versions(),
        # A folder's name says which target or drafter it was; where it lay is this machine's affair.
        "settings": {
            k: Path(v).name if k in ("target", "drafter") and v else v
            for k, v in vars(options).items()
            if k not in ("json", "check")
        },
        "runs": runs,
    }
    write_json(options.json, report)
    table = Table("run", "batch", "tokens/s", "speedup", "differ")
    for name, run in runs.items():
        for size, row in run["sizes"].items():
            rate, speedup = f"{row['tokens_per_second']:.0f}", f"{row['speedup']:.2f}"
            table.add_row(name, str(size), rate, speedup, f"{row['requests_that_differ']}/{run['requests']}")
    Console(width=None if sys.stdout.isatty() else 100).print(table)
    reached = runs["drafter, even"]["sizes"][8]["speedup"]
    print(f"batch of 8: {reached:.2f} times the tokens a second; wrote {options.json}")
    return 1 if options.check and reached < options.least else 0


if __name__ == "__main__":
    sys.exit(main())
