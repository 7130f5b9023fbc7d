"""Time and error of the log-probabilities of a verdict's tokens at a real vocabulary, on one CPU thread.

    python benchmarks/log_probs.py [--quick] [--json PATH]

The logits and verdicts of benchmarks/verify.py: (B, 16, 151,936) in float32, about two of 15 drafts stand.
"core" is the operation as every device runs it, "emitted" the one for CPUs, "verdict" the verdict whose
tokens they tell of. CPU time; schemes are interleaved over the same cases, whose mean counts. The errors are
the largest against float64 over the tokens that stand.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import array_api_compat.torch as xp
import torch
from verify import BATCHES, VOCAB, Case, verdict

from dspec.backends.torch.cpu.judge import judge_lazily
from dspec.backends.torch.cpu.log_probs import log_probs_of_emitted
from dspec.core.log_probs import log_probs
from dspec.core.policies import REJECTION
from dspec.core.types import Sampling
from dspec.evaluation.machine import describe_machine, describe_versions

LAWS = {
    "raw": Sampling(temperature=1.0),
    "warped, T 0.7": Sampling(temperature=0.7),
    "warped, top-k 50, top-p 0.9": Sampling(temperature=0.7, top_k=50, top_p=0.9),
}
SCHEMES = {"core": log_probs, "emitted": log_probs_of_emitted}


def measure(batch, repetitions, vocab):
    """Return mean milliseconds of every scheme and law, and errors, of one batch size."""
    seconds, errors = {}, {}
    for seed in range(-1, repetitions):  # the first warms up
        case = Case.draw(batch, vocab=vocab, seed=max(seed, 0))
        began = time.process_time()
        tokens = verdict(judge_lazily, REJECTION, case.draft, case).tokens
        times = {"verdict": time.process_time() - began}
        for law, sampling in LAWS.items():
            for name, function in SCHEMES.items():
                began = time.process_time()
                found = function(case.target, tokens, sampling, xp=xp)
                times[f"{name}: {law}"] = time.process_time() - began
                exact = log_probs_of_emitted(case.target.double(), tokens, sampling)
                known = exact.isfinite()
                error = (found.double() - exact)[known].abs().max().item()
                errors[f"{name}: {law}"] = max(errors.get(f"{name}: {law}", 0.0), error)
        if seed >= 0:
            for name, spent in times.items():
                seconds.setdefault(name, []).append(spent)
    means = {name: 1000 * sum(spent) / len(spent) for name, spent in seconds.items()}
    ratios = {law: means[f"emitted: {law}"] / means[f"core: {law}"] for law in LAWS}
    return {"batch": batch, "milliseconds": means, "emitted over core": ratios, "error": errors}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small vocabulary and batch 1: it runs")
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = []
    for batch in BATCHES[:1] if options.quick else BATCHES[:2]:
        cases.append(measure(batch, 8 if batch == 1 else 3, 4096 if options.quick else VOCAB))
        print(json.dumps(cases[-1], indent=1), flush=True)
    if options.json:
        where = {"machine": describe_machine(), "versions": describe_versions(), "threads": 1}
        where |= {"command": "python " + " ".join(sys.argv)}
        options.json.write_text(json.dumps({**where, "cases": cases}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
