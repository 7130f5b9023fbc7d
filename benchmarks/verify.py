"""Time of one verification at a real vocabulary, against transformers and the textbook.

    python benchmarks/verify.py [--quick] [--json PATH] [--check]

Target logits (B, 16, 151,936) in float32, drafts from a law close to the target's, so that about two of 15
stand. Everything is compared in one run: schemes are interleaved, each over the same cases, whose mean counts
(accepted lengths differ); one thread, wall time. "read" sums both tensors of logits once. `lazy` is given the
drafter's law, as the decode loop gives it (the draft was drawn from it); `lazy from logits` makes that law
once more, for all slots, as transformers and the textbook do. Goals, for the first: `GOALS`.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import array_api_compat.torch as xp
import torch
from transformers.generation.utils import _speculative_sampling

from dspec.backends.torch.cpu.judge import judge_lazily
from dspec.backends.torch.cpu.warp import fused_warp
from dspec.core.policies import BLOCK, ONE_HOT, REJECTION, draft_tokens, judge
from dspec.core.types import Draft, Sampling, Uniforms
from dspec.core.warp import warp
from dspec.evaluation.machine import describe_machine, describe_versions

VOCAB, SLOTS = 151_936, 15
BATCHES = (1, 8, 32)
# Scheme over baseline, by batch size.
GOALS = {
    "B=1: lazy over transformers": 0.4,
    "B=8: lazy over textbook": 0.2,
    "B=32: lazy over textbook": 0.2,
    "B=8: lazy over read": 3.0,
    "B=32: lazy over read": 3.0,
    "B=1: one-hot lazy over core": 0.5,
}
HOT = Sampling(temperature=1.0)


@dataclass(frozen=True)
class Case:
    """Logits of one verification, its drafts and uniforms; `batch` rows."""

    target: torch.Tensor
    drafter: torch.Tensor
    draft: Draft
    hot: Draft
    uniforms: Uniforms

    @classmethod
    def draw(cls, batch, *, vocab=VOCAB, seed=0):
        """Draw a target of about 3 nats and a drafter near it; argmax drafts beside sampled ones."""
        generator = torch.Generator().manual_seed(seed)
        normal = partial(torch.randn, generator=generator)
        # Ten tokens stand out of each row, as in text; a flat law would have no draft accepted.
        target = normal(batch, SLOTS + 1, vocab)
        places = torch.randint(0, vocab, (batch, SLOTS + 1, 10), generator=generator)
        target.scatter_add_(2, places, 12.0 + 2.0 * normal(places.shape))
        drafter = target[:, :SLOTS] + 1.2 * normal(batch, SLOTS, vocab)
        drafter.scatter_add_(2, places[:, :SLOTS], 1.2 * normal(places[:, :SLOTS].shape))
        uniform = partial(torch.rand, generator=generator)
        uniforms = Uniforms(uniform(batch, SLOTS), uniform(batch, SLOTS + 1, 2))
        drafts = [
            draft_tokens(drafter, p, HOT, uniform(batch, SLOTS, 2), xp=xp) for p in (REJECTION, ONE_HOT)
        ]
        return cls(target, drafter, *drafts, uniforms)


def textbook(case):
    """All laws, all ratios, all residuals, then what is needed of them."""
    p, q = case.target.softmax(dim=-1), case.drafter.softmax(dim=-1)
    index = case.draft.tokens.long()[..., None]
    ratio = (p[:, :SLOTS].gather(2, index) / q.gather(2, index))[..., 0]
    n = ((case.uniforms.accept > ratio).cumsum(dim=-1) < 1).sum(dim=-1)
    residual = (p[:, :SLOTS] - q).clamp(min=0)
    residual = residual / residual.sum(dim=-1, keepdim=True)
    laws = torch.cat([residual, p[:, SLOTS:]], dim=1)
    row = laws.gather(1, n[:, None, None].expand(-1, 1, laws.shape[2]))[:, 0]
    return torch.multinomial(row, 1), n


def transformers(case):
    """The function of transformers' assisted generation; batch 1 alone."""
    return _speculative_sampling(case.draft.tokens.long(), case.drafter, SLOTS, case.target)


def read(case):
    """Sum both tensors of logits."""
    return case.target.sum(), case.drafter.sum()


def verdict(rule, policy, draft, case):
    """One verdict by core or by the lazy override."""
    return rule(case.target, draft, policy, HOT, case.uniforms, xp=xp)


def from_logits(case):
    """The drafter's law of all slots first."""
    draft = Draft(case.draft.tokens, fused_warp(case.drafter, HOT))
    return verdict(judge_lazily, REJECTION, draft, case)


def schemes(case):
    """Every scheme by name."""
    rules = {
        "lazy": partial(verdict, judge_lazily, REJECTION, case.draft, case),
        "lazy from logits": partial(from_logits, case),
        "core": partial(verdict, judge, REJECTION, case.draft, case),
        "one-hot lazy": partial(verdict, judge_lazily, ONE_HOT, case.hot, case),
        "block": partial(verdict, judge, BLOCK, case.draft, case),
        "drafter's laws": partial(fused_warp, case.drafter, HOT),
        "drafter's laws, core": partial(warp, case.drafter, HOT, xp=xp),
        "textbook": partial(textbook, case),
        "read": partial(read, case),
    }
    return rules | ({"transformers": partial(transformers, case)} if len(case.target) == 1 else {})


def measure(batch, repetitions, vocab):
    """Return milliseconds and ratios of one batch size."""
    cases = [Case.draw(batch, vocab=vocab, seed=seed) for seed in range(repetitions)]
    fastest = {}
    for case in (cases[0], *cases):  # the first once more: it warms up
        for name, run in schemes(case).items():
            began = time.perf_counter()
            run()
            fastest.setdefault(name, []).append(time.perf_counter() - began)
    # Each case has its own accepted length: a mean over cases, not the luckiest one.
    seconds = {name: sum(times[1:]) / repetitions for name, times in fastest.items()}
    verdicts = [verdict(judge_lazily, REJECTION, case.draft, case) for case in cases]
    accepted = torch.cat([found.n_accepted for found in verdicts]).double().mean().item()
    pairs = [
        ("lazy", "read"),
        ("lazy", "textbook"),
        ("lazy from logits", "textbook"),
        ("lazy from logits", "read"),
    ]
    pairs += [
        ("one-hot lazy", "core"),
        ("lazy", "core"),
        ("block", "core"),
        ("drafter's laws", "drafter's laws, core"),
    ]
    if batch == 1:
        pairs += [("lazy", "transformers"), ("lazy from logits", "transformers")]
    ratios = {f"B={batch}: {a} over {b}": seconds[a] / seconds[b] for a, b in pairs}
    return {
        "batch": batch,
        "accepted": accepted,
        "milliseconds": {name: 1000 * s for name, s in seconds.items()},
        "ratios": ratios,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="a small vocabulary and batch 1: it runs, no goals"
    )
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--check", action="store_true", help="exit 1 on a missed goal")
    parser.add_argument("--repetitions", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = []
    for batch in BATCHES[:1] if options.quick else BATCHES:
        found = measure(
            batch,
            max(2, options.repetitions // batch) if batch > 1 else options.repetitions,
            4096 if options.quick else VOCAB,
        )
        print(f"B={batch}: {found['accepted']:.2f} of {SLOTS} accepted")
        print(*(f"  {name}: {ms:.2f} ms" for name, ms in found["milliseconds"].items()), sep="\n")
        print(*(f"  {name}: {ratio:.3g}" for name, ratio in found["ratios"].items()), sep="\n", flush=True)
        cases.append(found)
    ratios = {name: ratio for case in cases for name, ratio in case["ratios"].items()}
    missed = (
        []
        if options.quick
        else [
            f"{name} {ratios[name]:.3g}, needs at most {limit:g}"
            for name, limit in GOALS.items()
            if ratios[name] > limit
        ]
    )
    if options.json:
        where = {"machine": describe_machine(), "versions": describe_versions(), "threads": 1}
        where |= {"command": "python " + " ".join(sys.argv)}
        result = {**where, "goals": GOALS, "cases": cases, "missed": missed}
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    for line in missed:
        print("missed:", line, file=sys.stderr)
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
