"""One prompt decoded before the reader's eyes, accepted drafts and closing tokens in two colours."""

from typing import Any

from rich.console import Console
from rich.text import Text

from dspec.core.stats import Stats
from dspec.display import ACCEPTED, CLOSING, paint
from dspec.engine import Engine
from dspec.evaluation.suites import Prompt


def show_live(engine: Engine, prompt: Prompt, console: Console, *, max_new_tokens: int) -> dict[str, Any]:
    """Stream a greedy output to the console, with a legend, and return its numbers.

    Where the console has no colours, closing tokens stand in ‹ ›.

    Args:
        engine: with a drafter and a tokenizer.
        prompt: what to decode.
        console: where to print.
        max_new_tokens: most tokens.

    Returns:
        Text, tau and n_emitted of the output.
    """
    coloured = console.color_system is not None
    legend = [("accepted draft", ACCEPTED), "   ", ("closing token, the target's own, one a pass", CLOSING)]
    console.print(Text.assemble(*legend) if coloured else "closing tokens, one a pass, stand in ‹ ›")
    console.print(Text(prompt_text(prompt), style="dim"))
    chunks = []
    for chunk in engine.stream(prompt, max_new_tokens=max_new_tokens):
        chunks.append(chunk)
        console.print(paint(engine, chunk) if coloured else marked(chunk), end="", soft_wrap=True)
    console.print()
    judged = [chunk for chunk in chunks if chunk.n_accepted is not None]
    stats = Stats(
        n_accepted=tuple(chunk.n_accepted for chunk in judged),
        n_drafted=tuple(chunk.n_drafted for chunk in judged),
    )
    text = "".join(chunk.text for chunk in chunks)
    return {"prompt": prompt, "text": text, "tau": stats.tau, "n_emitted": list(stats.n_emitted)}


def marked(chunk: Any) -> Text:
    """Return a chunk's text with each token that is no accepted draft in ‹ ›."""
    pairs = zip(chunk.pieces, chunk.accepted, strict=True)
    return Text("".join(piece if accepted or not piece else f"‹{piece}›" for piece, accepted in pairs))


def prompt_text(prompt: Prompt) -> str:
    """Return a prompt as a person reads it.

    Example:
        >>> prompt_text([{"role": "user", "content": "2 + 2?"}])
        '2 + 2?'
    """
    if isinstance(prompt, str):
        return prompt
    return "\n".join(item["content"] if isinstance(item, dict) else str(item) for item in prompt)
