"""What exact self-speculation costs in passes, from the published loop to one pass a round.

    python benchmarks/self_speculation.py --check

For block sizes 4, 8 and 16, greedy and at temperature 1 (policy "rejection"), the same prompts by:

- the published loop (arXiv 2603.25702, every block verified): drafts inside the block, no bonus, and a pass
  that keeps each finished block: 2r + 1 passes for a block of r rounds;
- the same drafts with fused commits: 2r passes, and the same tokens;
- with a bonus; with a window that slides; in the fused layout, one pass a round, without and with guesses
  of the closing token.

`--check` exits with 1 where a block breaks these counts, outputs differ that must not, or the fused layout
takes more than 0.6 of the published loop's passes.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import dspec
from dspec.block_engine import BlockDiffusion
from dspec.core.self_speculation import PREFILL
from dspec.decoders import Autoregressive, SelfSpeculative
from dspec.evaluation.bootstrap import bounds, resampled_taus
from dspec.evaluation.decoder_table import SHIPPED, describe_model
from dspec.evaluation.fidelity import matching_prefix
from dspec.evaluation.machine import describe_machine, describe_versions
from dspec.evaluation.report import write_json
from dspec.evaluation.suites import DOMAINS, load_suite

RESULT = Path("benchmarks/results/self_speculation.json")
BLOCK_SIZES, TEMPERATURES = (4, 8, 16), (0.0, 1.0)
MOST = 0.6  # of the published loop's passes a token, that the fused layout may take
PUBLISHED, FUSED, ONE_PASS = "published loop", "fused commits", "fused layout"
LOOPS: dict[str, dict[str, Any]] = {
    PUBLISHED: {"window": "aligned", "bonus": False, "commit": "always"},
    FUSED: {"window": "aligned", "bonus": False},
    "bonus": {"window": "aligned"},
    "sliding window": {},
    "no guesses": {"layout": "fused", "guesses": 0},
    ONE_PASS: {"layout": "fused"},
}
ONE_PASS_LOOPS = [name for name, options in LOOPS.items() if options.get("layout") == "fused"]
BASELINE = "autoregressive"


@dataclass(frozen=True)
class Block:
    """What one block of an output took.

    Args:
        rounds: r, drafts verified.
        passes: forward passes, from the first draft of the block to the pass that keeps it.
        whole: whether all its positions are decided: only then it is kept.
    """

    rounds: int
    passes: int
    whole: bool


def blocks_of(out: Any, n_prompt: int, block_size: int) -> tuple[int, list[Block]]:
    """Return the passes before the first round, and each block's, by the steps of the trace.

    A round drafts in one pass and decides in the next, and no round leaves its block.
    """
    steps: dict[int, list[int]] = {}
    for commit in out.trace:
        steps.setdefault(commit.position // block_size, []).append(commit.step)
    starts = [min(own) - 2 for own in steps.values()]
    ends = [*starts[1:], out.stats.forward_passes]
    known = n_prompt + len(out.tokens)
    blocks = [
        Block(len(set(own)), end - start, (number + 1) * block_size <= known)
        for (number, own), start, end in zip(steps.items(), starts, ends, strict=True)
    ]
    return starts[0], blocks


def law_faults(published: Any, fused: Any, n_prompt: int, block_size: int, *, shifted: bool) -> list[str]:
    """Return where two outputs of the same drafts break 2r + 1 and 2r, or differ."""
    faults, prefill = [], prefill_of(n_prompt, shifted)
    outs = {PUBLISHED: published, FUSED: fused}
    found = {name: blocks_of(out, n_prompt, block_size) for name, out in outs.items()}
    for (name, out), extra in zip(outs.items(), (1, 0), strict=True):
        before, blocks = found[name]
        if before != prefill:
            faults.append(f"{name}: {before} passes of prefill, not {prefill}")
        if sum(block.rounds for block in blocks) != len(out.stats.n_accepted):
            faults.append(f"{name}: the trace's rounds are not the verify passes")
        for k, block in enumerate(blocks):
            due = 2 * block.rounds + extra * block.whole
            if block.passes != due:
                faults.append(f"{name}: block {k} of {block.rounds} rounds took {block.passes}, not {due}")
    if published.tokens != fused.tokens:
        place = matching_prefix(published.tokens, fused.tokens)
        faults.append(f"{FUSED}: token {place} is not that of the {PUBLISHED}")
    if [b.rounds for b in found[PUBLISHED][1]] != [b.rounds for b in found[FUSED][1]]:
        faults.append(f"{FUSED}: other rounds than the {PUBLISHED}")
    return faults


def round_faults(name: str, out: Any, n_prompt: int, shifted: bool) -> list[str]:
    """Return whether a fused layout took another number of passes than one a round."""
    rounds, passes = len({commit.step for commit in out.trace}), out.stats.forward_passes
    due = rounds + prefill_of(n_prompt, shifted)
    return [] if passes == due else [f"{name}: {passes} passes for {rounds} rounds"]


def prefill_of(n_prompt: int, shifted: bool) -> int:
    """Passes over the prompt; a shifted family reads its last token with the first round."""
    return -(-(n_prompt - shifted) // PREFILL)


def decoder_of(name: str, block_size: int, temperature: float) -> Any:
    if name == BASELINE:
        return Autoregressive()
    policy = "rejection" if temperature else None
    return SelfSpeculative(exact=True, block_size=block_size, policy=policy, **LOOPS[name])


def measure(
    lm: BlockDiffusion,
    prompts: Sequence[Any],
    *,
    block_size: int,
    temperature: float,
    max_new_tokens: int,
    most: float = MOST,
    advance: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Decode the prompts by every loop; return figures and faults."""
    outs = {}
    for name in (BASELINE, *LOOPS):
        advance(f"blocks of {block_size}, T {temperature:g}, {name}")
        decoder = decoder_of(name, block_size, temperature)
        outs[name] = lm.generate(
            list(prompts), max_new_tokens=max_new_tokens, temperature=temperature, decoder=decoder
        )
    lengths = [len(lm.encode(prompt)) for prompt in prompts]
    faults = faults_of(outs, lengths, block_size, greedy=temperature == 0, shifted=lm.model.shifted)
    pairs = zip(outs[PUBLISHED], lengths, strict=True)
    blocks = [block for out, length in pairs for block in blocks_of(out, length, block_size)[1]]
    loops = {name: figures_of(outs[name], outs[PUBLISHED]) for name in outs}
    if loops[ONE_PASS]["of_published"]["value"] > most:
        value = loops[ONE_PASS]["of_published"]["value"]
        faults.append(f"{ONE_PASS}: {value:.3f} of the {PUBLISHED}'s passes, above {most}")
    return {
        "block_size": block_size,
        "temperature": temperature,
        "n_prompts": len(prompts),
        "blocks": len(blocks),
        "whole_blocks": sum(block.whole for block in blocks),
        "rounds": sum(block.rounds for block in blocks),
        "loops": loops,
        "faults": faults,
    }


def faults_of(
    outs: Mapping[str, Sequence[Any]], lengths: Sequence[int], block_size: int, *, greedy: bool, shifted: bool
) -> list[str]:
    """Return what is broken, prompt by prompt."""
    faults = []
    for i, length in enumerate(lengths):
        found = law_faults(outs[PUBLISHED][i], outs[FUSED][i], length, block_size, shifted=shifted)
        if greedy:
            own = outs[BASELINE][i].tokens
            for name in LOOPS:
                if outs[name][i].tokens != own:
                    place = matching_prefix(outs[name][i].tokens, own)
                    found.append(f"{name}: greedy token {place} is not that of autoregressive decoding")
        for name in ONE_PASS_LOOPS:
            found += round_faults(name, outs[name][i], length, shifted)
        faults += [f"prompt {i}, {text}" for text in found]
    return faults


def figures_of(outs: Sequence[Any], published: Sequence[Any]) -> dict[str, Any]:
    """Return the counts of one loop, and its passes a token over the published loop's, by prompt paired."""
    stats = [out.stats for out in outs]
    # Outputs of one prompt may differ in length at temperature 1: passes are compared a token.
    counts, base = (
        np.array([(o.stats.forward_passes, o.stats.n_tokens) for o in p]) for p in (outs, published)
    )
    ratio = float(np.divide(*counts.sum(axis=0)) / np.divide(*base.sum(axis=0)))
    samples = resampled_taus(counts) / resampled_taus(base)
    rounds = sum(len(s.n_accepted) for s in stats)
    return {
        "forward_passes": sum(s.forward_passes for s in stats),
        "n_tokens": sum(s.n_tokens for s in stats),
        "verify_passes": rounds,
        "forwards_per_token": float(np.divide(*counts.sum(axis=0))),
        "accepted_per_verify": sum(sum(s.n_accepted) for s in stats) / rounds if rounds else None,
        "of_published": {"value": ratio, "interval": list(bounds(samples))},
    }


def table_of(name: str, runs: Sequence[Mapping[str, Any]]) -> Table:
    """Forward passes a token by every loop, with the ratio to the published loop in brackets."""
    title = f"{name}: forward passes a token, prefill included (of the {PUBLISHED}'s)"
    table = Table(title=title, title_justify="left", title_style="bold")
    for head in ("block", "T", BASELINE, *LOOPS):
        table.add_column(head, justify="right", no_wrap=True)
    for run in runs:
        cells = [
            f"{found['forwards_per_token']:.3f}"
            + ("" if loop == PUBLISHED else f" ({found['of_published']['value']:.2f})")
            for loop, found in run["loops"].items()
        ]
        table.add_row(str(run["block_size"]), f"{run['temperature']:g}", *cells)
    return table


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", default=SHIPPED, help="default: the two tiny ones that ship")
    parser.add_argument("--prompts", type=int, default=8, help="of each suite")
    parser.add_argument("--suites", nargs="+", default=list(DOMAINS))
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--check", action="store_true", help="exit with 1 if anything is broken")
    parser.add_argument("--most", type=float, default=MOST, help=f"ratio that is broken above: {MOST}")
    parser.add_argument("--quick", action="store_true", help="1 prompt of each suite, 24 tokens")
    options = parser.parse_args(words)
    if options.quick:
        options.prompts, options.max_new_tokens = 1, 24
    return options


def run_model(path: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one model for every block size and temperature."""
    lm = dspec.load_block_diffusion(path, backend=options.backend)
    prompts = [p for name in options.suites for p in load_suite(name, limit=options.prompts).prompts]
    cases = [(size, t) for size in BLOCK_SIZES for t in TEMPERATURES]
    bar = BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*bar, TextColumn("{task.description}"), console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(cases) * (1 + len(LOOPS)))
        runs = [
            measure(
                lm,
                prompts,
                block_size=size,
                temperature=temperature,
                max_new_tokens=options.max_new_tokens,
                most=options.most,
                advance=lambda text: progress.update(task, advance=1, description=text),
            )
            for size, temperature in cases
        ]
    return {**describe_model(path, lm, backend=options.backend), "runs": runs}


def main(words: Sequence[str] | None = None) -> int:
    options = arguments(words)
    chosen = {k: v for k, v in vars(options).items() if k not in ("model", "json", "check")}
    models: dict[str, Any] = {}
    for path in options.model:
        name = Path(path).name
        models[name if name not in models else str(path)] = run_model(path, options)
    report = {
        "about": f"forward passes of exact self-speculation beside the {PUBLISHED} of arXiv 2603.25702",
        "command": " ".join(["python", "benchmarks/self_speculation.py", *(words or sys.argv[1:])]),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "settings": chosen,
        "models": models,
    }
    write_json(options.json, report)
    console = Console(width=None if sys.stdout.isatty() else 150)
    faults = []
    for name, model in models.items():
        console.print(table_of(name, model["runs"]))
        for run in model["runs"]:
            case = f"{name}, blocks of {run['block_size']}, temperature {run['temperature']:g}"
            faults += [f"{case}: {fault}" for fault in run["faults"]]
    blocks = sum(run["blocks"] for model in models.values() for run in model["runs"])
    console.print(f"{blocks} blocks counted, {len(faults)} faults; wrote {options.json}")
    for fault in faults:
        console.print(f"FAULT {fault}", style="red", highlight=False)
    return 1 if options.check and faults else 0


if __name__ == "__main__":
    sys.exit(main())
