"""Speed against fidelity: every decoder of a block-diffusion model on the same prompts.

    python examples/self_speculation.py                # the two tiny models that ship, some minutes
    python examples/self_speculation.py --quick        # a minute: shows that all works
    python examples/self_speculation.py --model JetLM/SDAR-1.7B-Chat --block-size 4 --backend cuda

Fidelity is the log-likelihood per token of what a decoder wrote under the model's own autoregressive mode
(blocks of one position), and at temperature 0 the share of outputs and of leading tokens that are those of
greedy autoregressive decoding. Exact decoders lie where autoregressive decoding lies; only their speed
differs. A likelihood above that line is no merit: at temperature 1 it tells of another law, which prefers
safe tokens, and at temperature 0 often of text that repeats itself.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import dspec
from dspec.block_engine import BlockDiffusion
from dspec.decoders import Autoregressive, Diffusion, Editing, SelfSpeculative, Wino
from dspec.evaluation.decoder_bench import Judge, compare_decoders
from dspec.evaluation.decoder_picture import draw_decoders
from dspec.evaluation.decoder_table import SHIPPED, Figures, decoder_table, describe_model
from dspec.evaluation.machine import describe_machine, describe_versions
from dspec.evaluation.report import write_json
from dspec.evaluation.suites import DOMAINS, load_suite

NAME = "self_speculation_decoders"
TEMPERATURES = (0.0, 1.0)
errors = Console(stderr=True)


def exact_decoders(size: int, *, greedy: bool) -> dict[str, Any]:
    """The layouts of exact rounds, from the published loop on; when sampling, each policy too."""

    def exact(**options: Any) -> SelfSpeculative:
        return SelfSpeculative(exact=True, block_size=size, **options)

    published = {"window": "aligned", "bonus": False}
    found = {
        "published loop": exact(**published, commit="always", policy=None if greedy else "rejection"),
        "published, fused commits": exact(**published, policy=None if greedy else "rejection"),
    }
    for policy in (None,) if greedy else ("one_hot", "rejection", "sample_match"):
        suffix = "" if policy is None else f", {policy}"
        found[f"exact, aligned window{suffix}"] = exact(window="aligned", policy=policy)
        found[f"exact{suffix}"] = exact(policy=policy)
        found[f"exact, fused layout{suffix}"] = exact(layout="fused", policy=policy)
    found["exact, fused layout, no guesses"] = exact(layout="fused", guesses=0)
    # A window that slides has no known position in it, for which the draft masks differ.
    found["exact, aligned window, draft mask block"] = exact(window="aligned", draft_mask="block")
    return found


def hybrid_decoders(size: int, *, greedy: bool) -> dict[str, Any]:
    """Routes and estimators of hybrid steps."""

    def hybrid(route: str, **options: Any) -> SelfSpeculative:
        return SelfSpeculative(block_size=size, route=route, **options)

    half = max(size // 2, 1)
    # Greedy drafts stand or fall by the argmax: the exponent of a ratio of chances means nothing there.
    lossy = {} if greedy else {"hybrid, lossy ratio 0.5": hybrid("span(1)", lossy_ratio_power=0.5)}
    return {
        "hybrid, every step": hybrid("span(1)"),
        f"hybrid, span({half})": hybrid(f"span({half})"),
        "hybrid, block caches": hybrid("span(1)", cache_mask="block"),
        "hybrid, score, entropy": hybrid("score(0)", estimator="entropy"),
        "hybrid, score, renyi, dynamic": hybrid("score(0)", estimator="renyi", score="dynamic"),
        "hybrid, score, clipped_margin": hybrid("score(1)", estimator="clipped_margin(1)"),
        "hybrid, hysteresis, entropy_exp": hybrid("hysteresis(1, 0)", estimator="entropy_exp(1)"),
        "hybrid, ucb": hybrid("ucb(1)"),
        "hybrid, cost, confidence": hybrid("cost", estimator="confidence(0.8)"),
        **lossy,
    }


def diffusion_decoders(size: int, *, shifted: bool) -> dict[str, Any]:
    """Selections without verification, caches, editing, and leave-one-out where the family has it."""

    def fill(select: str, threshold: float | None = None, **options: Any) -> Diffusion:
        return Diffusion(block_size=size, select=select, threshold=threshold, **options)

    half, quarter = max(size // 2, 1), max(size // 4, 1)
    found = {
        f"static, {half} steps": fill("static", steps=half),
        f"static, {quarter} steps": fill("static", steps=quarter),
        f"sequential, {size} steps": fill("sequential", steps=size),
        f"sequential, {half} steps": fill("sequential", steps=half),
        **{f"dynamic {t}": fill("dynamic", t) for t in (0.5, 0.7, 0.9)},
        **{f"entropy {t}": fill("entropy", t) for t in (0.35, 1.0)},
        **{f"factor {t}": fill("factor", t) for t in (0.5, 1.0)},
        **{f"frechet {t}": fill("frechet", t) for t in (0.9, 0.5)},
        "dynamic 0.9, partially causal": fill("dynamic", 0.9, draft_mask="partially_causal"),
        "dynamic 0.9, causal cache": fill("dynamic", 0.9, cache_mask="causal", draft_mask="partially_causal"),
        "dynamic 0.7, editing": fill("dynamic", 0.7, edit=Editing(threshold=0.7)),
    }
    wino = (
        {}
        if shifted
        else {"WINO": Wino(block_size=size), "WINO, cautious": Wino(block_size=size, commit_above=0.8)}
    )
    return found | wino


def all_decoders(size: int, *, greedy: bool, shifted: bool) -> dict[str, Any]:
    """Every decoder by name, the baseline first."""
    baseline = {"autoregressive": Autoregressive()}
    exact = exact_decoders(size, greedy=greedy)
    return baseline | exact | hybrid_decoders(size, greedy=greedy) | diffusion_decoders(size, shifted=shifted)


def compare(
    lm: BlockDiffusion,
    prompts: Sequence[Any],
    *,
    block_size: int,
    advance: Callable[[str], None] = lambda _: None,
    **settings: Any,
) -> dict[str, Figures]:
    """Decode all prompts with all decoders; return the figures of each by temperature and name."""
    judge, found = Judge(lm), {}
    for temperature in TEMPERATURES:
        found[f"{temperature:g}"] = compare_decoders(
            lm,
            prompts,
            all_decoders(block_size, greedy=temperature == 0, shifted=lm.model.shifted),
            judge=judge,
            temperature=temperature,
            advance=lambda name, temperature=temperature: advance(f"T {temperature:g}, {name}"),
            **settings,
        )
    return found


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", default=SHIPPED, help="default: the two tiny ones that ship")
    parser.add_argument("--prompts", type=int, default=6, help="of each suite")
    parser.add_argument("--suites", nargs="+", default=list(DOMAINS))
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--block-size", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=6, help="prompts decoded side by side")
    parser.add_argument("--backend", default="auto")
    parser.add_argument(
        "--output", type=Path, default=Path("self-speculation"), help="folder of the pictures"
    )
    parser.add_argument("--json", type=Path, help=f"default: {NAME}.json in the output folder")
    parser.add_argument("--quick", action="store_true", help="1 prompt of each suite, 16 tokens")
    options = parser.parse_args(words)
    if options.quick:
        options.prompts, options.max_new_tokens = 1, 16
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Compare the decoders of every model."""
    prompts = [p for name in options.suites for p in load_suite(name, limit=options.prompts).prompts]
    bar = BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn()
    models = {}
    with Progress(*bar, TextColumn("{task.description}"), console=errors) as progress:
        for path in options.model:
            lm = dspec.load_block_diffusion(path, backend=options.backend)
            facts = describe_model(path, lm, backend=options.backend)
            name = facts["model"] if facts["model"] not in models else str(path)
            shifted, sizes = lm.model.shifted, range(0, len(prompts), options.batch_size)
            arms = sum(len(all_decoders(8, greedy=t == 0, shifted=shifted)) for t in TEMPERATURES)
            task = progress.add_task("", total=arms * len(sizes))
            found = compare(
                lm,
                prompts,
                block_size=options.block_size,
                max_new_tokens=options.max_new_tokens,
                batch_size=options.batch_size,
                advance=lambda text, task=task, name=name: progress.update(
                    task, advance=1, description=f"{name}, {text}"
                ),
            )
            models[name] = {**facts, "temperatures": found}
    return models


def show(report: Mapping[str, Any], output: Path) -> None:
    """Print the tables, and draw a picture a temperature."""
    console = Console(width=None if sys.stdout.isatty() else 130)
    settings, machine = report["settings"], report["machine"]
    count = f"{settings['prompts']} prompts of each of {', '.join(settings['suites'])}"
    how = f"{count}; {settings['max_new_tokens']} new tokens, blocks of {settings['block_size']}"
    how += f"; batches of {settings['batch_size']}"
    for temperature in next(iter(report["models"].values()))["temperatures"]:
        panels = {}
        for name, model in report["models"].items():
            figures = model["temperatures"][temperature]
            panels[f"{name} ({model['family']})"] = figures
            title = f"{name}, temperature {temperature}\n[dim]{how}[/]"
            console.print(decoder_table(figures, title=title, greedy=temperature == "0"))
        file = output / (f"{NAME}.png" if temperature == "0" else f"{NAME}_temperature_{temperature}.png")
        title = f"Speed against fidelity, temperature {temperature}"
        note = f"{how}. Dashed line and band: autoregressive decoding, 95 % interval over prompts."
        note += f" {machine['processor']}, {machine['cores']} cores."
        draw_decoders(file, panels, title=title, note=note)
        errors.print(f"wrote {file}")


def main(words: Sequence[str] | None = None) -> int:
    """Compare, print, draw, write."""
    options = arguments(words)
    chosen = {key: value for key, value in vars(options).items() if key not in ("model", "output", "json")}
    report = {
        "about": "decoders of block-diffusion models: speed against fidelity to their autoregressive mode",
        "command": " ".join(["python", "examples/self_speculation.py", *(words or sys.argv[1:])]),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "settings": chosen,
        "models": run(options),
    }
    file = options.json or options.output / f"{NAME}.json"
    write_json(file, report)
    errors.print(f"wrote {file}")
    show(report, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
