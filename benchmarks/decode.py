"""The decode loop against its own passes, and against other loops on the same weights.

    OMP_NUM_THREADS=1 python benchmarks/decode.py --json benchmarks/results/decode_cpu.json --check
    OMP_NUM_THREADS=1 python benchmarks/decode.py --long --json benchmarks/results/decode_long_cpu.json

One thread, CPU time of the process, greedy, batch 1, the target that ships; every decoder runs on every
prompt in turn, repetitions interleaved, end tokens ignored. dspec's drafter really runs in every pass and
its drafts are then replaced by the target's own continuation up to a scripted slot: tau is given. With
--drafter its own drafts are decoded too. Efficiency = tokens a second / (tau / (t_verify + t_draft)),
prefill left out, with the seconds of bare calls of the same kind of sessions after the text's middle,
timed in the same rounds. "transformers' pass" and "products alone" show what those calls stand on.
--check fails below the goals: efficiency 0.80, autoregressive 1.0 x transformers' generate, every output
equal. --quick is for seeing that it runs. --mlx adds mlx-lm's loops. --long: see decode_long.py.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import decode_others as others
import torch
from decode_long import long_section
from transformers import AutoModelForCausalLM

import dspec
from dspec.backends.registry import open_room
from dspec.config import TrainConfig
from dspec.demo.settings import shipped_target
from dspec.engine import Engine
from dspec.evaluation.machine import describe_machine, describe_versions
from dspec.evaluation.pass_times import decode_rate, measure_passes
from dspec.evaluation.report import write_json
from dspec.evaluation.scripted import Scripted
from dspec.evaluation.suites import load_suite

EFFICIENCY, AGAINST_GENERATE = 0.80, 1.0
ALONE, DRAFTED, OWN = "dspec autoregressive", "dspec speculative", "dspec speculative, the drafter's drafts"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", default=str(shipped_target()))
    parser.add_argument("--drafter", help="a checkpoint folder; default: fresh random weights, 2 layers")
    parser.add_argument("--assistant", help="folder of a small model for transformers' assisted generation")
    parser.add_argument("--block-size", type=int, default=16, help="of the fresh drafter")
    parser.add_argument("--tau", type=float, default=4.9)
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--mlx", action="store_true", help="mlx-lm's loops too")
    parser.add_argument("--long", action="store_true", help="10,000 tokens of a tiny random target instead")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true", help="exit 1 below the goals")
    parser.add_argument("--json", type=Path, help="where to write")
    options = parser.parse_args()
    if options.quick:
        options.prompts, options.tokens, options.repetitions = 2, 32, 1
    return options


def open_engine(options: argparse.Namespace) -> Engine:
    """The target with a drafter that takes a drafter's time."""
    if options.drafter:
        return dspec.load(options.target, options.drafter, backend="cpu")
    engine = dspec.load(options.target, backend="cpu")
    room, _ = open_room("cpu")
    config = TrainConfig(block_size=options.block_size, layers=2, seq_len=64)
    return replace(engine, drafter=room.new_learner(engine.target, config).drafter.eval())


class Round:
    """Every decoder on one prompt."""

    def __init__(self, engine: Engine, model: Any, prompt: list[int], options: argparse.Namespace) -> None:
        self.prompt, self.n, self.engine, self.model = prompt, options.tokens, engine, model
        self.alone = replace(engine, drafter=None)
        slots = engine.drafter.block_size - 1
        text = decode_rate(self.alone, prompt, max_new_tokens=self.n + slots + 1)["tokens"]
        script = Scripted(engine.drafter, [*prompt, *text], tau=options.tau, n_slots=slots, ops=engine.ops)
        self.dspec = {ALONE: self.alone, DRAFTED: replace(engine, drafter=script)}
        if options.drafter:
            self.dspec[OWN] = engine
        self.others = others.transformers_decoders(model, options.assistant)
        self.context = [*prompt, *text[: self.n // 2]]

    def run(self) -> dict[str, Any]:
        """Seconds, tokens and, of dspec, rates of one repetition; bare passes before and after."""
        found: dict[str, Any] = {}
        for name, engine in self.dspec.items():
            found[name] = decode_rate(engine, self.prompt, max_new_tokens=self.n, clock=time.process_time)
        for name, decode in self.others.items():
            start = time.process_time()
            tokens = decode(self.prompt, self.n)
            found[name] = {"tokens": tokens, "total": time.process_time() - start}
        sizes = [1, self.engine.drafter.block_size]
        clock = {"repetitions": 7, "clock": time.process_time}
        found["passes"] = measure_passes(self.engine, self.context, new_tokens=sizes, **clock)
        found["bare"] = others.bare_passes(self.model, self.context, sizes, 7)
        return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    engine = open_engine(options)
    # The same weights once more: what dspec loads has dspec's attention.
    model = AutoModelForCausalLM.from_pretrained(options.target, dtype=torch.float32).eval()
    prompts = [engine.encode(p) for p in load_suite("tiny").prompts[:: 12 // options.prompts or 1]]
    rounds = [Round(engine, model, prompt, options) for prompt in prompts[: options.prompts]]
    runs: list[list[dict[str, Any]]] = [[] for _ in rounds]
    for number in range(1 + options.repetitions):
        for one, kept in zip(rounds, runs, strict=True):
            found = one.run()
            if number:  # the first one warms up
                kept.append(found)
        print(f"round {number} of {options.repetitions}", file=sys.stderr, flush=True)
    report = summarise(runs, [*rounds[0].dspec, *rounds[0].others], engine.drafter.block_size)
    report["passes of a decode"] = {
        name: count_passes(rounds[0], decode) for name, decode in rounds[0].others.items()
    }
    if options.mlx:
        short = [prompt[:24] for prompt in prompts[:2]]
        report["mlx"] = others.mlx_section(options.target, short, 41, 4)
    return report


def count_passes(one: Round, decode: others.Decode) -> dict[str, float]:
    """The target's passes of transformers' loop, not timed."""
    with others.counted(one.model) as passes:
        decode(one.prompt, one.n)
    return {"passes": len(passes), "tokens a pass": one.n / len(passes)}


def summarise(runs: list[list[dict[str, Any]]], names: list[str], block: int) -> dict[str, Any]:
    """Rates of all prompts as one, medians over repetitions; efficiencies as medians over all."""

    def rate(name: str) -> float:
        seconds = [median(run[name]["total"] for run in kept) for kept in runs]
        return sum(len(kept[0][name]["tokens"]) for kept in runs) / sum(seconds)

    def efficiency(run: dict[str, Any], name: str) -> float:
        times, found = run["passes"], run[name]
        cost = times.verify[1] if name == ALONE else times.verify[block] + times.draft
        return found["rate"] / (found["tau"] / cost)

    every = [run for kept in runs for run in kept]
    rates = {name: rate(name) for name in names}
    ours = [name for name in names if name.startswith("dspec")]
    equal = {
        name: sum(kept[0][name]["tokens"] == kept[0][ALONE]["tokens"] for kept in runs) for name in names
    }
    middle = {
        "dspec's pass of 1": median(run["passes"].verify[1] for run in every),
        f"dspec's pass of {block}": median(run["passes"].verify[block] for run in every),
        "dspec's proposal": median(run["passes"].draft for run in every),
        f"verdict on {block}": median(run["passes"].rest[block] for run in every),
        **{
            f"transformers' {part} of {n}": median(run["bare"][part][n] for run in every)
            for part in ("model", "products")
            for n in (1, block)
        },
    }
    return {
        "tokens_per_second": rates,
        "of transformers generate": {n: r / rates["transformers generate"] for n, r in rates.items()},
        "tau": {name: median(run[name]["tau"] for run in every) for name in ours},
        "efficiency": {name: median(efficiency(run, name) for run in every) for name in ours},
        "milliseconds": {name: 1000 * seconds for name, seconds in middle.items()},
        "equal to dspec autoregressive": {name: f"{n} of {len(runs)}" for name, n in equal.items()},
        "all equal": all(n == len(runs) for n in equal.values()),
    }


def missed(report: dict[str, Any]) -> list[str]:
    """Which goals were missed."""
    found = {
        f"efficiency of {name} {value:.3f} < {EFFICIENCY}": value < EFFICIENCY
        for name, value in report["efficiency"].items()
        if name == DRAFTED
    }
    ratio = report["of transformers generate"][ALONE]
    found[f"{ALONE} {ratio:.3f} < {AGAINST_GENERATE} x transformers generate"] = ratio < AGAINST_GENERATE
    found["outputs differ"] = not report["all equal"]
    return [text for text, wrong in found.items() if wrong]


def main() -> int:
    options = arguments()
    torch.set_num_threads(1)
    report = long_section(quick=options.quick) if options.long else measure(options)
    faults = report.pop("faults") if options.long else missed(report)
    head = {"command": " ".join(["python", *sys.argv]), "machine": describe_machine()}
    report = {**head, "versions": describe_versions(), **report, "goals missed": faults}
    shown = {key: value for key, value in report.items() if key not in ("machine", "versions", "tenths")}
    print(json.dumps(shown, indent=2))
    if options.json is not None:
        write_json(options.json, report)
    return 1 if options.check and faults else 0


if __name__ == "__main__":
    sys.exit(main())
