"""What a person sees while decoders are compared on a suite: a progress bar, then a table."""

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from dspec.evaluation.suites import load_suite


def show_comparison(
    compare: Callable[..., Mapping[str, Any]],
    table: Callable[..., Table],
    engine: Any,
    suite: str,
    decoders: Mapping[str, Any],
    *,
    quiet: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Decode a suite with several decoders, a progress bar beside, and print their table.

    Args:
        compare: (engine, prompts, decoders, advance=..., **settings) -> figures by name; it calls `advance`
            after each batch of a decoder.
        table: (figures, title=..., greedy=...) -> what is printed.
        engine: decodes.
        suite: name or JSONL file.
        decoders: by name; the first one is the baseline.
        quiet: print nothing on stdout.
        **settings: of `compare`, the temperature among them.

    Returns:
        The figures as plain values.
    """
    prompts = load_suite(suite)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        batches = -(-len(prompts.prompts) // settings.get("batch_size", 1))
        task = bar.add_task(prompts.name, total=len(decoders) * batches)
        found = compare(
            engine, prompts.prompts, decoders, advance=lambda name: bar.update(task, advance=1), **settings
        )
    if not quiet:
        title = f"{prompts.name}: {len(prompts.prompts)} prompts, temperature {settings['temperature']:g}"
        Console().print(table(found, title=title, greedy=settings["temperature"] == 0))
    return {"suite": prompts.name, "settings": settings, "decoders": found}
