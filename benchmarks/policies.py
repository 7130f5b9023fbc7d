"""Tokens a verify pass of every policy, and of draft trees, on the tiny target that ships.

    python benchmarks/policies.py [--drafter FOLDER] [--quick] [--json PATH] [--check]

A drafter is trained first (a few minutes) unless `--drafter` names one. The same prompts at temperature 0 and
1, at 1 over several seeds; tau with 95 % intervals over prompts and seeds, and the gain over a base on the
same resampled prompts. Nothing here is a time. `--check` exits 1 where a goal is missed (`GOALS`) or where
greedy output of a tree differs from plain decoding's.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

import dspec
from dspec.decoders import Autoregressive, Tree
from dspec.demo.settings import TRAIN, DemoSettings, shipped_target
from dspec.evaluation.bootstrap import bounds, resampled_taus
from dspec.evaluation.machine import describe_machine, describe_versions
from dspec.evaluation.report import write_json
from dspec.evaluation.suites import load_suite

SUITES = ("gsm8k", "humaneval", "mt_bench")
BUDGETS = (8, 32, 64)
# Ratio of tau, and what it must reach.
GOALS = {"T=0: tree 32 over one_hot": 1.15, "T=1: block over rejection": 1.0}


def train_drafter(folder, steps):
    """Train the demo's `ltr` drafter."""
    config = DemoSettings(steps=steps).train_config(backend="cpu")
    dspec.train(
        str(shipped_target()), TRAIN, folder, config=config, objective="ltr", validate_every=0, quiet=True
    )


def ways(temperature):
    """Every way to decode by name, as settings."""
    names = ("one_hot", "sample_match", "rejection", "block") if temperature else ("one_hot",)
    found = {name: {"policy": name if temperature else None} for name in names}
    return found | {f"tree {budget}": {"decoder": Tree(budget=budget)} for budget in BUDGETS}


def counts_of(outs):
    """Emitted tokens and verify passes of each output."""
    return np.array([(sum(out.n_emitted), len(out.n_emitted)) for out in outs])


def measure(engine, prompts, temperature, seeds, length):
    """Return tau and its interval by way, the ratios, and the outputs of the first seed."""
    counts, outputs = {}, {}
    for name, settings in ways(temperature).items():
        runs = [
            engine.generate(
                prompts,
                temperature=temperature,
                seed=seed,
                max_new_tokens=length,
                ignore_eos=True,
                **settings,
            )
            for seed in range(seeds)
        ]
        counts[name] = np.concatenate([counts_of(outs) for outs in runs])
        outputs[name] = [out.tokens for out in runs[0]]
        emitted, passes = counts[name].sum(axis=0)
        print(f"T={temperature:g} {name}: tau {emitted / passes:.3f}", flush=True)
    samples = {name: resampled_taus(rows) for name, rows in counts.items()}
    taus = {
        name: {"tau": float(rows[:, 0].sum() / rows[:, 1].sum()), "interval_95": bounds(samples[name])}
        for name, rows in counts.items()
    }
    pairs = [(name, "one_hot") for name in counts if name != "one_hot"]
    pairs += [("block", "rejection")] if temperature else []
    ratios = {
        f"T={temperature:g}: {a} over {b}": {
            "ratio": taus[a]["tau"] / taus[b]["tau"],
            "interval_95": bounds(samples[a] / samples[b]),
        }
        for a, b in pairs
    }
    return taus, ratios, outputs


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drafter", help="a checkpoint folder; default: trains one")
    parser.add_argument("--steps", type=int, default=400, help="of that training")
    parser.add_argument("--prompts", type=int, default=16, help="of each suite")
    parser.add_argument("--seeds", type=int, default=4, help="at temperature 1")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="a minute: it runs, its figures mean little")
    parser.add_argument("--check", action="store_true", help="exit 1 on a missed goal")
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.prompts, options.seeds, options.max_new_tokens = 20, 2, 1, 16
    with tempfile.TemporaryDirectory() as folder:
        if options.drafter is None:
            train_drafter(folder, options.steps)
        engine = dspec.load(shipped_target(), options.drafter or folder, backend="cpu")
        prompts = [p for suite in SUITES for p in load_suite(suite, limit=options.prompts).prompts]
        cold = measure(engine, prompts, 0.0, 1, options.max_new_tokens)
        hot = measure(engine, prompts, 1.0, options.seeds, options.max_new_tokens)
        plain = engine.generate(
            prompts, max_new_tokens=options.max_new_tokens, ignore_eos=True, decoder=Autoregressive()
        )
    ratios = cold[1] | hot[1]
    differ = {
        name: sum(mine != out.tokens for mine, out in zip(tokens, plain)) for name, tokens in cold[2].items()
    }
    missed = [
        f"{n}: {ratios[n]['ratio']:.3f}, needs {least}"
        for n, least in GOALS.items()
        if ratios[n]["ratio"] < least
    ]
    missed += [
        f"{n} prompts of {len(prompts)} differ from plain decoding: {name}" for name, n in differ.items() if n
    ]
    for name, found in ratios.items():
        print(f"{name}: {found['ratio']:.3f} [{found['interval_95'][0]:.3f}, {found['interval_95'][1]:.3f}]")
    if options.json:
        result = {
            "machine": describe_machine(),
            "versions": describe_versions(),
            "command": "python " + " ".join(sys.argv),
            "settings": {k: getattr(options, k) for k in ("steps", "prompts", "seeds", "max_new_tokens")},
            "temperature 0": cold[0],
            "temperature 1": hot[0],
            "ratios": ratios,
            "greedy outputs that differ": differ,
            "goals": GOALS,
            "missed": missed,
        }
        write_json(options.json, result)
    for line in missed:
        print("missed:", line, file=sys.stderr)
    return 1 if options.check and missed and not options.quick else 0


if __name__ == "__main__":
    sys.exit(main())
