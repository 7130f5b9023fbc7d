"""Tokens a second by the budget of draft trees, and with `budget="auto"`, on the tiny target that ships.

    OMP_NUM_THREADS=1 python benchmarks/tree_budget.py [--drafter FOLDER] [--quick] [--json PATH]

A drafter is trained first (a few minutes) unless `--drafter` names one. Ways take turns on every prompt; time
of the thread alone, prefill included, after a round that is not counted. Costs of "auto" are measured by the
engine before. At temperature 0 every output is compared with plain decoding's.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median

import torch
from policies import train_drafter

import dspec
from dspec.decoders import Autoregressive, Speculative, Tree
from dspec.demo.settings import shipped_target
from dspec.evaluation.machine import describe_machine, describe_versions
from dspec.evaluation.report import write_json
from dspec.evaluation.suites import load_suite

SUITES = ("gsm8k", "humaneval", "mt_bench")
BUDGETS = (4, 8, 16, 32, 64)
WAYS = {
    "plain": Autoregressive(),
    "block": Speculative(),
    **{f"tree {budget}": Tree(budget=budget) for budget in BUDGETS},
    "tree auto": Tree(budget="auto"),
}
# At temperature 0 nothing is sampled.
HOT = {
    "sampled tree 8": Tree(budget=8, drafts="sampled"),
    "sampled tree auto": Tree(budget="auto", drafts="sampled"),
}


def measure(engine, prompts, temperature, repetitions, length):
    """Return tokens a second, tau and the mean depth of trees by way, and how many greedy outputs differ."""
    ways = WAYS | (HOT if temperature else {})
    seconds = {name: [[] for _ in prompts] for name in ways}
    outs = {name: [None] * len(prompts) for name in ways}
    settings = {"temperature": temperature, "max_new_tokens": length, "ignore_eos": True}
    for number in range(1 + repetitions):
        for i, prompt in enumerate(prompts):
            for name, decoder in ways.items():
                start = time.thread_time()
                outs[name][i] = engine.generate(prompt, decoder=decoder, seed=i, **settings)
                seconds[name][i] += [time.thread_time() - start] if number else []
    found = {}
    for name, runs in outs.items():
        passes = [n for out in runs for n in out.n_emitted]
        found[name] = {
            "tokens a second": length * len(prompts) / sum(map(median, seconds[name])),
            "tau": mean(passes),
            "mean depth": mean(n for out in runs for n in out.stats.n_drafted),
        }
        if temperature == 0:
            differ = sum(a.tokens != b.tokens for a, b in zip(runs, outs["plain"]))
            found[name]["differ from plain"] = differ
        print(f"T={temperature:g} {name}:", {k: round(v, 2) for k, v in found[name].items()}, flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drafter", help="a checkpoint folder; default: trains one")
    parser.add_argument("--steps", type=int, default=400, help="of that training")
    parser.add_argument("--prompts", type=int, default=4, help="of each suite")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--max-new-tokens", type=int, default=160)
    parser.add_argument("--quick", action="store_true", help="it runs, its figures mean little")
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.prompts, options.repetitions, options.max_new_tokens = 20, 1, 1, 24
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if options.drafter is None:
            train_drafter(folder, options.steps)
        engine = dspec.load(shipped_target(), options.drafter or folder, backend="cpu")
        prompts = [p for suite in SUITES for p in load_suite(suite, limit=options.prompts).prompts]
        counts = (options.repetitions, options.max_new_tokens)
        found = {f"temperature {t:g}": measure(engine, prompts, t, *counts) for t in (0.0, 1.0)}
    (costs,) = engine._costs.trees.values()
    if options.json:
        about = {"machine": describe_machine(), "versions": describe_versions()}
        about |= {"command": "python " + " ".join(sys.argv), "costs in seconds": costs.passes}
        kept = ("steps", "prompts", "repetitions", "max_new_tokens")
        write_json(options.json, {**about, "settings": {k: getattr(options, k) for k in kept}, **found})


if __name__ == "__main__":
    main()
