"""Time, memory and difference of the fused training operations on MLX against core's own.

    python benchmarks/objective_mlx.py [--operation overlap_statistics --rows 2048 --width 32 --vocab 8192]

Forward and backward of a weighted sum of an operation's signals; the two are interleaved and the least of
the repetitions counts. Without Metal MLX multiplies slowly: a small head, and only the ratios.
"""

import argparse
import json
import time
from functools import partial

import mlx.core as mx

from dspec.backends.mlx.gold import CHUNK, gold_log_probs, run_stages
from dspec.backends.mlx.ops import namespace
from dspec.backends.mlx.overlap import overlap_statistics
from dspec.core.gold import gold_log_probs as core_gold_log_probs
from dspec.core.overlap import overlap_statistics as core_overlap_statistics
from dspec.core.signals import SIGNALS

OPERATIONS = {
    "gold_log_probs": (gold_log_probs, core_gold_log_probs),
    "overlap_statistics": (overlap_statistics, core_overlap_statistics),
}


def losses(name, result, weights, signals):
    """Sum of what an operation's signals lose, weighted by row."""
    if name == "gold_log_probs":
        return (weights * -result[0]).sum()
    columns = {"gold": -result.log_prob, "overlap": -result.overlap}
    columns |= {"divergence": result.divergence, "mixed": result.mixed}
    return sum((weights * columns[signal]).sum() for signal in signals)


def measure(name, function, options, hidden, weights, *inputs, signals):
    """Return seconds, bytes above those held before, and the gradient."""
    stages = [] if "stages" in options else None
    options = {**options, **({} if stages is None else {"stages": stages})}

    def loss(hidden):
        return losses(name, function(hidden, *inputs, xp=namespace, **options), weights, signals)

    mx.clear_cache()
    mx.reset_peak_memory()
    held, began = mx.get_active_memory(), time.perf_counter()
    made = mx.value_and_grad(loss)(hidden)
    run_stages(stages or [])
    mx.eval(*made)
    return time.perf_counter() - began, mx.get_peak_memory() - held, made[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in {"rows": 2048, "width": 32, "vocab": 8192, "repetitions": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--operation", choices=OPERATIONS, default="gold_log_probs")
    parser.add_argument("--signals", nargs="+", choices=SIGNALS, default=list(SIGNALS[:3]))
    options = parser.parse_args()
    mx.random.seed(0)
    hidden, other = mx.random.normal((2, options.rows, options.width))
    head = mx.random.normal((options.vocab, options.width))
    labels = mx.random.randint(0, options.vocab, (options.rows,))
    law = options.operation == "overlap_statistics"
    inputs = (head, hidden + 0.5 * other, labels) if law else (head, labels)
    weights = mx.random.uniform(shape=(options.rows,))
    mx.eval(hidden, weights, *inputs)
    fused, core = OPERATIONS[options.operation]
    run = partial(measure, options.operation, signals=options.signals)
    mix = {"eta": 3.0} if law else {}
    wanted = {"signals": options.signals} if law else {}
    held = {"stop_gradient": mx.stop_gradient} if law else {}
    schemes = {
        "fused": partial(run, fused, {"stages": None, **mix, **wanted}),
        "core": partial(run, core, {**mix, **held}),
    }
    seen = {name: [] for name in schemes}
    for _ in range(options.repetitions):
        for name, scheme in schemes.items():
            seen[name].append(scheme(hidden, weights, *inputs))
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
