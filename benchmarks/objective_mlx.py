"""Time, memory and difference of the fused training objective on MLX against core's own.

    python benchmarks/objective_mlx.py [--rows 2048 --width 32 --vocab 8192]

Forward and backward of a weighted sum of gold log-probabilities; the two are interleaved and the
least of the repetitions counts. Without Metal MLX multiplies slowly: a small head, and only the ratios.
"""

import argparse
import json
import time

import mlx.core as mx

from dspec.backends.mlx.gold import CHUNK, gold_log_probs, run_stages
from dspec.backends.mlx.ops import namespace
from dspec.core.gold import gold_log_probs as core_gold_log_probs


def fused(weights, head, labels):
    stages = []

    def loss(hidden):
        return (weights * gold_log_probs(hidden, head, labels, stages=stages)[0]).sum()

    return mx.value_and_grad(loss), stages


def core(weights, head, labels):
    def loss(hidden):
        return (weights * core_gold_log_probs(hidden, head, labels, xp=namespace)[0]).sum()

    return mx.value_and_grad(loss), []


def measure(scheme, hidden, *inputs):
    """Return seconds, bytes above those held before, and the gradient."""
    step, stages = scheme(*inputs)
    mx.clear_cache()
    mx.reset_peak_memory()
    held, began = mx.get_active_memory(), time.perf_counter()
    value, gradient = step(hidden)
    run_stages(stages)
    mx.eval(value, gradient)
    return time.perf_counter() - began, mx.get_peak_memory() - held, gradient


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in {"rows": 2048, "width": 32, "vocab": 8192, "repetitions": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    mx.random.seed(0)
    hidden = mx.random.normal((options.rows, options.width))
    head = mx.random.normal((options.vocab, options.width))
    labels = mx.random.randint(0, options.vocab, (options.rows,))
    inputs = (mx.random.uniform(shape=(options.rows,)), head, labels)
    mx.eval(hidden, *inputs)
    seen = {"fused": [], "core": []}
    for _ in range(options.repetitions):
        for scheme in (fused, core):
            seen[scheme.__name__].append(measure(scheme, hidden, *inputs))
    seconds = {name: min(run[0] for run in runs) for name, runs in seen.items()}
    peaks = {name: max(run[1] for run in runs) for name, runs in seen.items()}
    difference = mx.abs(seen["fused"][0][2] - seen["core"][0][2]).max().item()
    figures = {
        "mlx": mx.__version__,
        "device": str(mx.default_device()),
        **vars(options),
        "chunk": CHUNK,
        "seconds": seconds,
        "peak_bytes": peaks,
        "time over core": seconds["fused"] / seconds["core"],
        "memory over core": peaks["fused"] / peaks["core"],
        "memory over one chunk of logits": peaks["fused"] / (4 * CHUNK * options.vocab),
        "largest difference of gradients": difference,
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
