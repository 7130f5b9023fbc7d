"""Tokens a verify pass of every policy, and of draft trees of both kinds, on the tiny target that ships.

    python benchmarks/policies.py [--drafter FOLDER] [--quick] [--json PATH] [--check]

A drafter is trained first (a few minutes) unless `--drafter` names one. The same prompts at temperature 0,
0.7 and 1, above 0 over several seeds; tau with 95 % intervals over prompts and seeds, and the gain over a
base on the same resampled prompts. Beside it, on tables whose acceptance is known, tau of a sampled tree by
what a rank costs in its form (RS-24), and of the form that follows the passes. Nothing here is a time.
`--check` exits 1 where a goal is missed (`GOALS`) or where greedy output of a tree differs from plain
decoding's.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

import dspec
from dspec.backends.numpy import NumpyOps, TableDrafter, TableTarget
from dspec.core import sampled_tree
from dspec.decoders import Autoregressive, Tree
from dspec.demo.settings import TRAIN, DemoSettings, shipped_target
from dspec.engine import Engine
from dspec.evaluation.bootstrap import bounds, counts_of, resampled_taus
from dspec.evaluation.machine import describe_machine, describe_versions
from dspec.evaluation.report import write_json
from dspec.evaluation.suites import load_suite

SUITES = ("gsm8k", "humaneval", "mt_bench")
BUDGETS = (8, 32, 64)
# Ratio of tau, and what it must reach.
GOALS = {
    "T=0: tree 32 over one_hot": 1.15,
    "T=1: block over rejection": 1.0,
    "T=1: sampled tree 32 over rejection": 1.1,
}
SHARES = (0.0, 0.5, 0.8, 0.95)  # of the target's own law in a table drafter's
SLOTS, VOCAB, TABLE_BUDGET = 15, 30, 32


def train_drafter(folder, steps):
    """Train the demo's `ltr` drafter."""
    config = DemoSettings(steps=steps).train_config(backend="cpu")
    dspec.train(
        str(shipped_target()), TRAIN, folder, config=config, objective="ltr", validate_every=0, quiet=True
    )


def ways(temperature):
    """Every way to decode by name, as settings."""
    names = {0.0: ("one_hot",), 0.7: ("one_hot", "rejection")}
    names = names.get(temperature, ("one_hot", "sample_match", "rejection", "block"))
    found = {name: {"policy": name if temperature else None} for name in names}
    found |= {f"tree {budget}": {"decoder": Tree(budget=budget)} for budget in BUDGETS}
    if not temperature:
        return found
    trees = {budget: Tree(budget=budget, drafts="sampled") for budget in BUDGETS}
    return found | {f"sampled tree {budget}": {"decoder": tree} for budget, tree in trees.items()}


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
        counts[name] = np.concatenate([counts_of(out.stats for out in outs) for outs in runs])
        outputs[name] = [out.tokens for out in runs[0]]
        emitted, passes = counts[name].sum(axis=0)
        print(f"T={temperature:g} {name}: tau {emitted / passes:.3f}", flush=True)
    samples = {name: resampled_taus(rows) for name, rows in counts.items()}
    taus = {
        name: {"tau": float(rows[:, 0].sum() / rows[:, 1].sum()), "interval_95": bounds(samples[name])}
        for name, rows in counts.items()
    }
    pairs = [(name, "one_hot") for name in counts if name != "one_hot"]
    pairs += [("block", "rejection")] if "block" in counts else []
    if temperature:
        pairs += [(f"sampled tree {n}", base) for n in BUDGETS for base in ("rejection", f"tree {n}")]
    ratios = {
        f"T={temperature:g}: {a} over {b}": {
            "ratio": taus[a]["tau"] / taus[b]["tau"],
            "interval_95": bounds(samples[a] / samples[b]),
        }
        for a, b in pairs
    }
    return taus, ratios, outputs


def forms(requests):
    """Return tau of sampled trees on tables by what a rank costs, for drafters of several acceptances.

    Tokens of these tables do not depend on each other, so that every slot of a block has the same acceptance.
    """
    rng = np.random.default_rng(0)
    law, other = rng.dirichlet(np.full(VOCAB, 0.3), 2)
    own, found = sampled_tree.RANK_COSTS, []
    target = TableTarget(np.broadcast_to(law, (1, VOCAB, VOCAB)), frozenset())
    for share in SHARES:
        drafter = share * law + (1 - share) * other
        table = TableDrafter(np.broadcast_to(drafter, (SLOTS, VOCAB, VOCAB)))
        engine = Engine(target, table, NumpyOps())

        def tau(engine=engine, **settings):
            outs = engine.generate(
                [[0]] * requests, max_new_tokens=200, temperature=1.0, ignore_eos=True, **settings
            )
            emitted, passes = counts_of(out.stats for out in outs).sum(axis=0)
            return float(emitted / passes)

        row = {"acceptance": float(np.minimum(law, drafter).sum()), "rejection": tau(policy="rejection")}
        row["likeliest"] = tau(decoder=Tree(budget=TABLE_BUDGET))
        row["sampled"] = tau(decoder=Tree(budget=TABLE_BUDGET, drafts="sampled"))
        for _, cost in own:
            sampled_tree.RANK_COSTS = ((101, cost),)
            row[f"sampled, rank cost {cost:g}"] = tau(decoder=Tree(budget=TABLE_BUDGET, drafts="sampled"))
        sampled_tree.RANK_COSTS = own
        print("tables:", ", ".join(f"{name} {value:.3f}" for name, value in row.items()), flush=True)
        found.append(row)
    return found


def missed_goals(ratios, differ, n_prompts):
    """Return a line a goal that was missed, and a way whose greedy output differs."""
    missed = [
        f"{n}: {ratios[n]['ratio']:.3f}, needs {least}"
        for n, least in GOALS.items()
        if ratios[n]["ratio"] < least
    ]
    return missed + [
        f"{n} prompts of {n_prompts} differ from plain decoding: {name}" for name, n in differ.items() if n
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drafter", help="a checkpoint folder; default: trains one")
    parser.add_argument("--steps", type=int, default=400, help="of that training")
    parser.add_argument("--prompts", type=int, default=16, help="of each suite")
    parser.add_argument("--seeds", type=int, default=4, help="at temperatures above 0")
    parser.add_argument("--requests", type=int, default=20, help="of each setting on tables")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="a minute: it runs, its figures mean little")
    parser.add_argument("--check", action="store_true", help="exit 1 on a missed goal")
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.prompts, options.seeds, options.max_new_tokens = 20, 2, 1, 16
        options.requests = 1
    tables = forms(options.requests)
    with tempfile.TemporaryDirectory() as folder:
        if options.drafter is None:
            train_drafter(folder, options.steps)
        engine = dspec.load(shipped_target(), options.drafter or folder, backend="cpu")
        prompts = [p for suite in SUITES for p in load_suite(suite, limit=options.prompts).prompts]
        cold = measure(engine, prompts, 0.0, 1, options.max_new_tokens)
        warm = measure(engine, prompts, 0.7, options.seeds, options.max_new_tokens)
        hot = measure(engine, prompts, 1.0, options.seeds, options.max_new_tokens)
        plain = engine.generate(
            prompts, max_new_tokens=options.max_new_tokens, ignore_eos=True, decoder=Autoregressive()
        )
    ratios = cold[1] | warm[1] | hot[1]
    differ = {
        name: sum(mine != out.tokens for mine, out in zip(tokens, plain)) for name, tokens in cold[2].items()
    }
    missed = missed_goals(ratios, differ, len(prompts))
    for name, found in ratios.items():
        print(f"{name}: {found['ratio']:.3f} [{found['interval_95'][0]:.3f}, {found['interval_95'][1]:.3f}]")
    if options.json:
        result = {
            "machine": describe_machine(),
            "versions": describe_versions(),
            "command": "python " + " ".join(sys.argv),
            "settings": {
                k: getattr(options, k) for k in ("steps", "prompts", "seeds", "max_new_tokens", "requests")
            },
            "temperature 0": cold[0],
            "temperature 0.7": warm[0],
            "temperature 1": hot[0],
            "ratios": ratios,
            "forms on tables": {"slots": SLOTS, "budget": TABLE_BUDGET, "tau": tables},
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
