"""Chat in the terminal with a target and a drafter on MLX; accepted drafts are green.

    python examples/chat_mac.py mlx-community/Qwen3-4B-4bit --drafter drafter
    python examples/chat_mac.py --tiny --drafter drafter

The second line takes the target that ships and runs on Linux too, on MLX's CPU build. An empty line or
Ctrl-D ends the chat; Ctrl-C stops an answer.
"""

import argparse
import sys
from collections.abc import Sequence
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.text import Text

import dspec
from dspec.core.stats import Stats, pool
from dspec.demo.settings import shipped_target
from dspec.display import ACCEPTED, CLOSING, paint
from dspec.engine import Engine
from dspec.errors import DspecError


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("target", nargs="?", help="hub id or folder of an mlx-lm or Hugging Face model")
    parser.add_argument("--tiny", action="store_true", help="the target that ships")
    parser.add_argument("--drafter", help="hub id or folder; none: one token a pass")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(words)
    options.target = str(shipped_target()) if options.tiny else options.target
    if options.target is None:
        parser.error("give TARGET, or --tiny")
    return options


def reply(engine: Engine, messages: list[dict[str, str]], console: Console, **settings: Any) -> Stats:
    """Stream the answer to the last message, add it to the messages, and return its counts."""
    chunks, start = [], perf_counter()
    for chunk in engine.stream(messages, **settings):
        chunks.append(chunk)
        console.print(paint(engine, chunk), end="", soft_wrap=True)
    console.print()
    seconds = perf_counter() - start
    messages.append({"role": "assistant", "content": "".join(chunk.text for chunk in chunks)})
    judged = [chunk for chunk in chunks if chunk.n_accepted is not None]
    return Stats(
        n_accepted=tuple(chunk.n_accepted for chunk in judged),
        n_drafted=tuple(chunk.n_drafted for chunk in judged),
        n_tokens=sum(len(chunk.tokens) for chunk in chunks),
        seconds={"total": seconds},
    )


def figures(stats: Stats) -> str:
    """Return one line of a reply's or a chat's counts."""
    tau = f", tau {stats.tau:.2f} over {len(stats.n_accepted)} passes" if stats.n_accepted else ""
    return f"{stats.n_tokens} tokens{tau}, {stats.tokens_per_second:.1f} tokens/s"


def chat(engine: Engine, console: Console, **settings: Any) -> list[Stats]:
    """Read lines until an empty one or the end of input; answer each with all before it in view."""
    messages: list[dict[str, str]] = []
    replies: list[Stats] = []
    while line := _ask(console):
        messages.append({"role": "user", "content": line})
        try:
            replies.append(reply(engine, messages, console, **settings))
        except KeyboardInterrupt:
            messages.pop()
            console.print(Text("\nstopped; this turn is forgotten", style="dim"))
            continue
        except DspecError as error:
            # Such as a chat longer than the model reads: nothing of this turn is kept.
            messages.pop()
            console.print(f"{type(error).__name__}: {error}", style="red", markup=False)
            continue
        console.print(Text(figures(replies[-1]), style="dim"))
    return replies


def _ask(console: Console) -> str:
    try:
        return console.input("[bold]you[/] ").strip()
    except (EOFError, KeyboardInterrupt):
        console.print()
        return ""


def main(words: Sequence[str] | None = None) -> int:
    """Load, chat, print the chat's figures; return the exit status."""
    options, console = arguments(words), Console(highlight=False)
    try:
        engine = dspec.load(options.target, options.drafter, backend="mlx")
    except DspecError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    if engine.drafter is not None:
        console.print(Text.assemble(("accepted drafts", ACCEPTED), ", ", ("closing tokens", CLOSING)))
    settings = {"temperature": options.temperature, "seed": options.seed}
    replies = chat(engine, console, max_new_tokens=options.max_new_tokens, **settings)
    if replies:
        console.print(f"The chat: {figures(pool(replies))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
