"""What a person sees while a block-diffusion model decodes: coloured text, one line of numbers."""

import sys
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

from rich.color import ColorSystem
from rich.console import Console
from rich.style import Style
from rich.text import Text

from dspec.block_engine import BlockDiffusion
from dspec.generation import BlockChunk, BlockGeneration

# By kind of the decision: what verification let stand, what it decided itself, what confidence chose.
STYLES = {
    "accepted": "green",
    "correction": "bold yellow",
    "bonus": "bold yellow",
    "autoregressive": "",
    "selected": "cyan",
    "boundary": "cyan",
    "edited": "magenta",
}
LEGEND = (
    ("accepted drafts", "green"),
    ("tokens of the verify pass", "bold yellow"),
    ("chosen by confidence", "cyan"),
    ("edited", "magenta"),
)


def show_block_stream(lm: BlockDiffusion, prompt: Any, settings: Mapping[str, Any]) -> None:
    """Print an output as it becomes final, then its counts on stderr.

    What goes to stdout is the text to the letter; in a terminal each token carries the colour of how it
    was decided.

    Args:
        lm: decodes.
        prompt: text, ids or messages.
        settings: keywords of `BlockDiffusion.generate`.
    """
    coloured, notes = Console().color_system is not None, Console(stderr=True)
    if coloured:
        notes.print(Text(", ").join(Text(word, style) for word, style in LEGEND))
    chunks, kinds, start = [], dict[int, str](), perf_counter()
    position = len(lm.encode(prompt))
    for chunk in lm.stream(prompt, **settings):
        chunks.append(chunk)
        kinds |= {commit.position: commit.kind for commit in chunk.commits}
        pieces = chunk.pieces if lm.model.tokenizer is not None else [f"{token} " for token in chunk.tokens]
        for piece in pieces:
            style = STYLES.get(kinds.get(position, ""), "")
            sys.stdout.write(_styled(piece, style) if coloured and style else piece)
            position += 1
        sys.stdout.flush()
    sys.stdout.write("\n")
    notes.print(summary(chunks, perf_counter() - start), highlight=False)


def _styled(text: str, style: str) -> str:
    return Style.parse(style).render(text, color_system=ColorSystem.STANDARD)


def summary(chunks: Sequence[BlockChunk], seconds: float) -> str:
    """Return one line: tokens, rate, forward passes, accepted drafts, why it ended."""
    n_tokens, passes = sum(len(chunk.tokens) for chunk in chunks), chunks[-1].forward_passes
    judged = [chunk for chunk in chunks if chunk.n_accepted is not None]
    line = f"{n_tokens} tokens, {n_tokens / seconds:.1f} tokens/s, {passes} forward passes"
    line += f" ({passes / n_tokens:.2f} a token)" if n_tokens else ""
    if judged:
        accepted = sum(chunk.n_accepted or 0 for chunk in judged) / len(judged)
        line += f", {accepted:.2f} drafts accepted a verify pass"
    return f"{line}, ended by {chunks[-1].finish}"


def as_plain(out: BlockGeneration) -> dict[str, Any]:
    """Return an output as plain values, for JSON.

    Args:
        out: of `BlockDiffusion.generate`.

    Returns:
        Tokens, text, counts and the trace: [position, token, kind, step] a decision.
    """
    stats = out.stats
    return {
        "tokens": list(out.tokens),
        "text": out.text,
        "finish": out.finish,
        "forward_passes": stats.forward_passes,
        "forwards_per_token": stats.forwards_per_token,
        "accepted_per_verify": stats.accepted_per_verify,
        "tokens_per_second": stats.tokens_per_second,
        "seconds": dict(stats.seconds),
        "trace": [[c.position, c.token, c.kind, c.step] for c in out.trace],
    }
