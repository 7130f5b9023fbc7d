"""Tokens a second by draft length, at given taus: none, two, a whole block, and what `block="auto"` takes.

    python benchmarks/draft_length.py [--json PATH]

The tiny target that ships, with an untrained drafter of block size 8 that really runs and whose drafts are
replaced so that greedy decoding has the tau asked for. Medians of interleaved decodes after one that is not
counted; with OMP_NUM_THREADS=1 the time is that thread's own. Costs are measured by each engine. Every output
is compared with plain decoding's.
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

import torch

import dspec
from dspec.backends.torch.drafter import Drafter
from dspec.config import DrafterConfig
from dspec.decoders import Autoregressive, Speculative
from dspec.demo.settings import shipped_target
from dspec.evaluation.machine import describe_machine, describe_versions
from dspec.evaluation.report import write_json
from dspec.evaluation.scripted import Scripted

TAUS, BLOCK, LENGTH = (1.0, 1.3, 1.8, 2.5, 4.0, 8.0), 8, 160
WAYS = {
    "none": Autoregressive(),
    "two": Speculative(block=2),
    "block": Speculative(),
    "auto": Speculative(block="auto"),
}


def measure(engine, prompt, known, repetitions):
    """Return tokens a second by way, and the mean length that "auto" took."""
    rates, lengths = {name: [] for name in WAYS}, []
    for number in range(1 + repetitions):
        for name, decoder in WAYS.items():
            start = time.thread_time()
            out = engine.generate(prompt, max_new_tokens=LENGTH, ignore_eos=True, decoder=decoder)
            seconds = time.thread_time() - start
            assert list(out.tokens) == known, f"{name} differs from plain decoding"
            if number:
                rates[name].append(LENGTH / seconds)
            if number and name == "auto":
                lengths.append(mean(out.stats.n_drafted))
    return {name: median(found) for name, found in rates.items()}, median(lengths)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args()
    plain, found = dspec.load(shipped_target(), backend="cpu"), {}
    config = DrafterConfig.for_target(plain.target.facts, block_size=BLOCK, layers=2, mask_token_id=59)
    drafter = Drafter(config).initialise(torch.Generator().manual_seed(3))
    prompt = plain.encode("Question: what is")
    known = list(plain.generate(prompt, max_new_tokens=LENGTH + BLOCK, ignore_eos=True).tokens)
    for tau in TAUS:
        script = Scripted(drafter, [*prompt, *known], tau=tau, n_slots=BLOCK - 1, ops=plain.ops)
        engine = replace(plain, drafter=script)
        rates, length = measure(engine, prompt, known[:LENGTH], options.repetitions)
        costs = engine._costs.blocks[BLOCK - 1]
        found[f"tau {tau:g}"] = {
            "tokens a second": rates,
            "mean length": length,
            "costs": {"verify": costs.verify, "draft": costs.draft},
        }
        print(f"tau {tau:g}:", {name: round(rate) for name, rate in rates.items()}, f"mean k {length:.1f}")
    if options.json:
        about = {
            "machine": describe_machine(),
            "versions": describe_versions(),
            "command": " ".join(sys.argv),
        }
        write_json(options.json, {**about, "length": LENGTH, "block size": BLOCK, "results": found})


if __name__ == "__main__":
    main()
