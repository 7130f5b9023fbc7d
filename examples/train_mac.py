"""Train a drafter on a Mac with MLX, for a target in 4 bits or bfloat16, in memory that a Mac has.

    python examples/train_mac.py mlx-community/Qwen3-4B-4bit chat.jsonl --output drafter
    python examples/train_mac.py --tiny --output drafter --steps 20

The second line takes the target and the text that ship and runs on Linux too, on MLX's CPU build.
Ctrl-C finishes the step and writes a checkpoint; the same command goes on from it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import dspec
from dspec.config import TrainConfig
from dspec.demo.settings import TRAIN, shipped_target
from dspec.errors import DspecError

GIB = 2**30


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("target", nargs="?", help="hub id or folder of an mlx-lm or Hugging Face model")
    parser.add_argument("data", nargs="?", help="JSONL of text, prompt/response or messages")
    parser.add_argument("--tiny", action="store_true", help="the target and the text that ship")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--objective", default="ltr")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--layers", type=int, default=2, help="of the drafter: 16 bytes a weight in training")
    parser.add_argument("--block-size", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=8, help="sequences a step, one at a time in memory")
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--anchors", type=int, default=16, help="blocks a sequence")
    parser.add_argument("--lr", type=float, default=6e-4)
    options = parser.parse_args(words)
    if options.tiny:
        options.target, options.data = str(shipped_target()), str(TRAIN)
    if options.data is None:
        parser.error("give TARGET and DATA, or --tiny")
    return options


def settings(options: argparse.Namespace) -> TrainConfig:
    """Return settings whose memory is that of one sequence, whatever the batch."""
    return TrainConfig(
        backend="mlx",
        objective=options.objective,
        steps=options.steps,
        layers=options.layers,
        block_size=options.block_size,
        batch_size=options.batch_size,
        # One sequence a micro-batch, and activations made again in the backward pass.
        accumulation=options.batch_size,
        recompute=True,
        seq_len=options.seq_len,
        anchors=options.anchors,
        lr=options.lr,
        save_every=50,
        validate_every=50,
        validate_examples=16,
    )


def report(metrics: dict[str, Any], parameters: int, seconds: float) -> str:
    """Return the figures of a run as lines."""
    lines = {
        "loss": f"{metrics['loss']:.4f}",
        "tau on held-out text": f"{metrics['tau']:.3f}" if "tau" in metrics else "no text held out",
        "drafter": f"{parameters / 1e6:.1f} M weights",
        "peak memory": f"{metrics['peak_memory_bytes'] / GIB:.2f} GiB",
        "seconds": f"{seconds:.0f}",
    }
    return "\n".join(f"{name:>22}  {value}" for name, value in lines.items())


def main(words: Sequence[str] | None = None) -> int:
    """Train, print the figures, say what to do next; return the exit status."""
    options, start = arguments(words), perf_counter()
    try:
        result = dspec.train(options.target, options.data, options.output, config=settings(options))
    except DspecError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print(report(dict(result.metrics), result.drafter.n_parameters, perf_counter() - start))
    if not result.metrics["finished"]:
        print(f"Stopped after step {result.metrics['step']}; the same command goes on from there.")
        return 130
    print(f"Chat with it: python examples/chat_mac.py {options.target} --drafter {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
