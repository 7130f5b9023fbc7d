"""Time, memory and error of training objectives, forward and backward, against plain schemes.

`python benchmarks/objective.py [--quick] [--json PATH] [--check] [--only SECTION ...] [--rows N ...]
[--objectives NAME ...]`.
Terms and presets run on a frozen head. The floor is the products that no scheme can do without: two, and
a third for the target's logits where the objective reads them. Schemes are interleaved and the minimum of
the repetitions counts; only ratios within one run mean anything. One thread, CPU time, denormal numbers
not flushed. Goals: `GOALS`.
"""

import argparse
import ctypes
import gc
import json
import platform
import random
import statistics
import sys
import time
from pathlib import Path

import objective_schemes as schemes
import torch
from objective_schemes import SLOTS, Problem

from dspec.backends.torch.gold import gold_log_probs
from dspec.core.objectives import Objective

GOLD = (
    "uniform", "dflash", "ltr", "dpace", "dpace_cumulative", "dpace_continuation", "auf", "revive", "chain",
)  # fmt: skip
LAW = ("cat", "kl", "tv", "lk", "log_overlap", "overlap_chain", "reach")
# One objective for each way through the operations: the others differ in N x K numbers alone.
PATHS = ("ltr", "cat", "reach", "overlap_chain", "lk")
GOALS = {
    "fused over floor": 1.25,
    "fused over checkpointed": 0.55,
    "fused over bound": 1.0,
    "fused over naive, memory": 0.10,
    "ltr over uniform": 1.03,
    "skipping over floor": 1.0,
    "skipping gradient error": 1e-3,
    "untrained over floor": 1.25,
    "log_prob error": 2e-6,
    "bfloat16 error over naive": 1.5,
}
SKIP = 1e-3
CHUNKS = {480: 120, 2040: 240}


def cpu_seconds(run):
    began = time.process_time()
    run()
    return time.process_time() - began


def fastest(runs, repetitions):
    """Return the least CPU time of each of several runs by name, interleaved."""
    seconds = dict.fromkeys(runs, float("inf"))
    for _ in range(repetitions):
        for name, run in runs.items():
            seconds[name] = min(seconds[name], cpu_seconds(run))
    return seconds


def peak_bytes(run):
    """Return how far the resident size rises above where it was; None where it cannot be read."""
    clear = Path("/proc/self/clear_refs")
    if not clear.exists():
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    clear.write_text("5")
    before = status("VmRSS")
    run()
    return max(status("VmHWM") - before, 0)


def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def run_of(scheme, problem, name, **options):
    """Return a function that runs a scheme on a fresh gradient."""
    objective = Objective.parse(name)

    def run():
        problem.hidden.grad = None
        scheme(problem, objective, **options)

    return run


def times(problem, repetitions, names=None):
    """Objectives fused and checkpointed; every scheme under ltr."""
    names = names or ((*GOLD, *LAW) if len(problem.hidden) <= 480 else PATHS)
    runs = {f"floor {n}": run_of(schemes.floor, problem, "uniform", products=n) for n in (2, 3)}
    for scheme in ("naive", "recompute", "tiled"):
        runs[f"{scheme} ltr"] = run_of(getattr(schemes, scheme), problem, "ltr")
    for name in names:
        for scheme in ("fused", "checkpointed"):
            runs[f"{scheme} {name}"] = run_of(getattr(schemes, scheme), problem, name)
    seconds, ratios = fastest(runs, repetitions), {}
    for name in names:
        own = seconds["floor 3" if name in LAW else "floor 2"]
        ratios[f"fused over floor: {name}"] = seconds[f"fused {name}"] / own
        ratios[f"fused over checkpointed: {name}"] = (
            seconds[f"fused {name}"] / seconds[f"checkpointed {name}"]
        )
        if name in LAW:
            ratios[f"fused over two products: {name}"] = seconds[f"fused {name}"] / seconds["floor 2"]
    for scheme in ("naive", "checkpointed", "recompute", "tiled"):
        ratios[f"{scheme} over floor: ltr"] = seconds[f"{scheme} ltr"] / seconds["floor 2"]
    return {"seconds": seconds, "ratios": ratios}


def memory(problem, repetitions):
    """Peak over the resident size before, against one chunk's bound and against all logits at once."""
    vocab, (rows, width) = len(problem.head), problem.hidden.shape
    cases = [(s, "ltr") for s in ("fused", "naive", "checkpointed", "recompute", "tiled")]
    cases += [("fused", "reach"), ("checkpointed", "reach"), ("fused", "lk")]
    peaks = {f"{s} {o}": peak_bytes(run_of(getattr(schemes, s), problem, o)) for s, o in cases}
    if None in peaks.values():
        return {"ratios": {}}
    chunk, states = problem.chunk * vocab, rows * width
    law = 13 * chunk + 12 * states
    bounds = {"ltr": 5 * chunk + 12 * states, "reach": law, "lk": law}
    ratios = {f"fused over bound: {name}": peaks[f"fused {name}"] / bound for name, bound in bounds.items()}
    key = "fused over naive, memory" if rows > 480 else "fused over naive at few rows, memory"
    ratios[key] = peaks["fused ltr"] / peaks["naive ltr"]
    return {"bytes": peaks, "ratios": ratios}


def accuracy(problem, repetitions):
    """Log-probabilities against float64 on the same logits."""
    worst = 0.0
    with torch.no_grad():
        for hidden, _, labels in problem.parts():
            logits = (hidden @ problem.head.T).double()
            exact = torch.log_softmax(logits, dim=1).gather(1, labels[:, None])[:, 0]
            found, _ = gold_log_probs(hidden, problem.head, labels, chunk=len(hidden))
            worst = max(worst, (found - exact).abs().max().item())
    return {"ratios": {"log_prob error": worst}}


def bfloat16(problem, repetitions):
    """Gradient error over a bfloat16 head, against that of naive with float32 softmax."""
    rows = 4 * SLOTS
    narrow = Problem.draw(rows, problem.hidden.shape[1], len(problem.head), rows, dtype=torch.bfloat16)
    logits = (narrow.hidden.detach() @ narrow.head.T).double().requires_grad_()
    log_prob = torch.log_softmax(logits, dim=1).gather(1, narrow.labels[:, None])[:, 0]
    schemes.finish(narrow, Objective.parse("ltr"), log_prob, logits.argmax(dim=1) == narrow.labels)
    exact = logits.grad @ narrow.head.double()

    def error(scheme):
        run_of(scheme, narrow, "ltr")()
        return ((narrow.hidden.grad.double() - exact).norm() / exact.norm()).item()

    errors = {name: error(getattr(schemes, name)) for name in ("naive", "fused", "checkpointed")}
    narrow.hidden = narrow.hidden.detach().float().requires_grad_()
    errors["fused, float32 states"] = error(schemes.fused)
    ratios = {f"bfloat16 error over naive: {k}": errors[k] / errors["naive"] for k in errors if "fused" in k}
    ratios["checkpointed bfloat16 error against naive"] = errors["checkpointed"] / errors["naive"]
    return {"errors": errors, "ratios": ratios}


def skipping(problem, repetitions):
    """Rows of small weight left out of the chain objective."""
    skip = run_of(schemes.skipping, problem, "chain", skip=SKIP)
    runs = {"floor": run_of(schemes.floor, problem, "chain"), "skipping": skip}
    seconds, gradients = fastest(runs, repetitions), {}
    for name, run in (("exact", run_of(schemes.fused, problem, "chain")), ("skipping", skip)):
        run()
        gradients[name] = problem.hidden.grad.clone()
    kept = (gradients["skipping"] != 0).any(dim=1).float().mean().item()
    error = (gradients["skipping"] - gradients["exact"]).norm() / gradients["exact"].norm()
    ratios = {
        "skipping over floor": seconds["skipping"] / seconds["floor"],
        "skipping gradient error": error.item(),
    }
    return {"skip": SKIP, "kept": kept, "seconds": seconds, "ratios": ratios}


def ltr_over_uniform(problem, repetitions):
    """Medians of paired runs through one operation, and the interval of 2,000 resamplings of the pairs."""
    runs = {name: run_of(schemes.fused, problem, name) for name in ("ltr", "uniform")}
    pairs = []
    for repetition in range(max(9, repetitions)):
        order = ("ltr", "uniform") if repetition % 2 else ("uniform", "ltr")
        seconds = {name: cpu_seconds(runs[name]) for name in order}
        pairs.append(seconds["ltr"] / seconds["uniform"])
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(pairs, k=len(pairs))) for _ in range(2000))
    interval = (medians[50], medians[-51])
    return {
        "pairs": pairs,
        "interval_95": interval,
        "ratios": {"ltr over uniform": statistics.median(pairs)},
    }


def untrained(problem, repetitions):
    """A chain over gold probabilities of 1e-7 to 1e-4, whose weights are denormal numbers."""
    rows, width = problem.hidden.shape
    fresh = Problem.draw(rows, width, len(problem.head), problem.chunk, trained=False)
    runs = {s: run_of(getattr(schemes, s), fresh, "chain") for s in ("floor", "fused")}
    seconds = fastest(runs, repetitions)
    return {"seconds": seconds, "ratios": {"untrained over floor": seconds["fused"] / seconds["floor"]}}


SECTIONS = {f.__name__: f for f in (times, memory, accuracy, bfloat16, skipping, ltr_over_uniform, untrained)}


def missed(case):
    """Return the goals of a case that it misses; time has none at a small vocabulary."""
    found = []
    for section, result in case["sections"].items():
        timed = "seconds" in result or "pairs" in result
        for name, ratio in result["ratios"].items():
            limit = GOALS.get(name.partition(":")[0])
            error = name.endswith("error")
            if limit is None or (timed and not error and case["shape"]["vocab"] < 151_936):
                continue
            if ratio > limit:
                found.append(f"{case['shape']} {section}: {name} {ratio:.3g}, needs at most {limit:g}")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small shape")
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--check", action="store_true", help="exit 1 on a missed goal")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections to run")
    parser.add_argument(
        "--rows", nargs="+", type=int, choices=CHUNKS, default=list(CHUNKS), help="shapes to run"
    )
    parser.add_argument("--objectives", nargs="+", choices=(*GOLD, *LAW), help="of the section `times`")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(False)
    shapes = (
        [(480, 256, 32_000, 120)]
        if options.quick
        else [(rows, 1024, 151_936, CHUNKS[rows]) for rows in options.rows]
    )
    machine = {"machine": platform.machine(), "torch": torch.__version__, "threads": 1}
    result = {**machine, "goals": GOALS, "cases": [], "missed": []}
    for shape in shapes:
        problem = Problem.draw(*shape)
        case = {"shape": dict(zip(("rows", "width", "vocab", "chunk"), shape)), "sections": {}}
        for name in options.only:
            more = {"names": options.objectives} if name == "times" else {}
            case["sections"][name] = found = SECTIONS[name](problem, options.repetitions, **more)
            print(
                shape,
                name,
                *(f"\n  {key}: {ratio:.3g}" for key, ratio in found["ratios"].items()),
                flush=True,
            )
        result["cases"].append(case)
        result["missed"] += missed(case)
        if options.json:
            options.json.write_text(json.dumps(result, indent=1) + "\n")
    for line in result["missed"]:
        print("missed:", line, file=sys.stderr)
    return 1 if options.check and result["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
