"""What a person sees while decoding: coloured text, a table of numbers."""

import sys
from collections.abc import Mapping
from time import perf_counter
from typing import Any

from rich.color import ColorSystem
from rich.console import Console
from rich.progress import Progress
from rich.style import Style
from rich.table import Table
from rich.text import Text

from dspec.engine import Engine
from dspec.evaluation.bench import run_suite
from dspec.evaluation.suites import load_suite
from dspec.generation import Chunk

ACCEPTED, CLOSING = "green", "bold yellow"


def show_stream(engine: Engine, prompt: Any, settings: Mapping[str, Any]) -> None:
    """Print an output as it is decoded, then its stats on stderr.

    What goes to stdout is the text to the letter, tabs and carriage returns included: rich would
    expand and drop them. In a terminal each token carries its colour.

    Args:
        engine: decodes.
        prompt: text, ids or messages.
        settings: keywords of `Engine.generate`.
    """
    coloured, notes = Console().color_system is not None, Console(stderr=True)
    if coloured and engine.drafter is not None:
        notes.print(Text.assemble(("accepted drafts", ACCEPTED), ", ", ("closing tokens", CLOSING)))
    chunks, start = [], perf_counter()
    for chunk in engine.stream(prompt, **settings):
        chunks.append(chunk)
        sys.stdout.write("".join(_escaped(*pair) if coloured else pair[0] for pair in styled(engine, chunk)))
        sys.stdout.flush()
    sys.stdout.write("\n")
    notes.print(summary(chunks, perf_counter() - start), highlight=False)


def styled(engine: Engine, chunk: Chunk) -> list[tuple[str, str]]:
    """Return each token's text (its id, where the target has no tokenizer) and its style.

    A character split over tokens belongs to the token that completes it.

    Args:
        engine: says whether there is text or only ids.
        chunk: what a pass emitted.

    Returns:
        Pairs of text and style.
    """
    pieces = chunk.pieces if engine.target.tokenizer is not None else [f"{token} " for token in chunk.tokens]
    styles = [ACCEPTED if accepted else CLOSING for accepted in chunk.accepted]
    return list(zip(pieces, styles, strict=True))


def _escaped(text: str, style: str) -> str:
    return Style.parse(style).render(text, color_system=ColorSystem.STANDARD)


def paint(engine: Engine, chunk: Chunk) -> Text:
    """Return a chunk as rich text, accepted drafts and the closing token in their colours.

    Args:
        engine: says whether there is text or only ids.
        chunk: what a pass emitted.

    Returns:
        Styled text.
    """
    return Text.assemble(*styled(engine, chunk))


def summary(chunks: list[Chunk], seconds: float) -> str:
    """Return one line: tokens, rate, tau, why it ended."""
    judged = [chunk for chunk in chunks if chunk.n_accepted is not None]
    n_tokens = sum(len(chunk.tokens) for chunk in chunks)
    line = f"{n_tokens} tokens, {n_tokens / seconds:.1f} tokens/s, {len(judged)} verify passes"
    if judged:
        line += f", tau {sum(chunk.n_accepted + 1 for chunk in judged) / len(judged):.2f}"
    return f"{line}, ended by {chunks[-1].finish}"


def show_bench(engine: Engine, suite: str, *, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Decode a suite with a progress bar and print its table.

    Args:
        engine: decodes.
        suite: name or JSONL file.
        quiet: print nothing on stdout.
        **settings: of `run_suite`.

    Returns:
        The result as plain values.
    """
    notes = Console(stderr=True)
    prompts = load_suite(suite)
    with Progress(console=notes, transient=True) as bar:
        task = bar.add_task(prompts.name, total=len(prompts.prompts))
        result = run_suite(
            engine, prompts, progress=lambda done, _: bar.update(task, completed=done), **settings
        )
    found = result.as_dict()
    if not quiet:
        Console().print(_bench_table(found))
    return found


def _bench_table(found: Mapping[str, Any]) -> Table:
    low, high = found["tau_interval"]
    table = Table(title=f"{found['suite']}: {found['n_prompts']} prompts, {found['n_passes']} verify passes")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_row("tau (95 % interval over prompts)", f"{found['tau']:.3f} ({low:.3f} to {high:.3f})")
    for slot, rate in enumerate(found["alpha"], 1):
        table.add_row(f"acceptance at slot {slot}, once reached", f"{rate:.3f}")
    table.add_row("right drafts after a rejection", f"{found['waste']:.1%}")
    table.add_row("tokens per second", f"{found['tokens_per_second']:.1f}")
    return table


def decoder_table(found: Mapping[str, Any], *, title: str, greedy: bool) -> Table:
    """Return a table of decoders; equal outputs say something at temperature 0 alone.

    Args:
        found: of `compare_drafted`.
        title: of the table.
        greedy: whether the temperature was 0.
    """
    table = Table(title=title, caption="×: over the first decoder")
    table.add_column("decoder", overflow="fold")
    for name in ("tau", "× (95 %)", "tokens/s", "×", *(["equal"] if greedy else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for name, own in found.items():
        low, high = own["tau_ratio_interval"]
        cells = [f"{own['tau']:.3f}", f"{own['tau_ratio']:.3f} ({low:.3f} to {high:.3f})"]
        cells += [f"{own['tokens_per_second']:.1f}", f"{own['speedup']:.2f}"]
        table.add_row(name, *cells, *([f"{own['n_equal']}"] if greedy else []))
    return table
