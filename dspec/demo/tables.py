"""The demo's tables for the terminal, made from the report's own numbers."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table


def objectives_table(objectives: Mapping[str, str]) -> Table:
    """Return what each name in the other tables stands for.

    Args:
        objectives: canonical text by name.
    """
    table = Table(title="Objectives", title_justify="left", box=None, pad_edge=False)
    table.add_column("name", style="bold", no_wrap=True)
    table.add_column("loss (per block)", no_wrap=True)
    for name, text in objectives.items():
        table.add_row(name, text)
    return table


def tau_table(report: Mapping[str, Any]) -> Table:
    """Return tau by domain and objective.

    Args:
        report: with `settings` and `summary`.
    """
    settings, taus = report["settings"], report["summary"]["tau"]
    prompts, tokens = settings["prompts"], settings["max_new_tokens"]
    title = (
        "τ: mean tokens per verify pass, greedy (1.00: no drafter)\n"
        f"[dim]{prompts} prompts a domain, {tokens} new tokens each; below: 95 % bootstrap interval[/]"
    )
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("objective", style="bold", no_wrap=True)
    for domain in next(iter(taus.values())):
        table.add_column(domain, justify="right", no_wrap=True)
    for name, figures in taus.items():
        table.add_row(name, *(tau_text(figure) for figure in figures.values()))
    return table


def gain_table(report: Mapping[str, Any]) -> Table:
    """Return the gains over each baseline, by domain.

    Args:
        report: with `summary`.
    """
    title = "Gain in τ on the same prompts\n[dim]below each: 95 % bootstrap interval over prompts, paired[/]"
    table = Table(title=title, title_justify="left", title_style="bold")
    gains = report["summary"]["gain"]
    table.add_column("objective", style="bold", no_wrap=True)
    for domain in next(iter(next(iter(gains.values())).values())):
        table.add_column(domain, justify="right", no_wrap=True)
    for base, by_name in gains.items():
        table.add_section()
        table.add_row(f"[dim]over {base}[/]")
        for name, figures in by_name.items():
            table.add_row(name, *(gain_text(figure) for figure in figures.values()))
    return table


def rate_line(report: Mapping[str, Any]) -> str:
    """Return one line of tokens per second: no drafter, then each drafter, all suites pooled.

    Args:
        report: with `no_drafter` and `decoding`.
    """
    runs = {"no drafter": report["no_drafter"], **report["decoding"]}
    rates = {name: _rate(by_suite.values()) for name, by_suite in runs.items()}
    return "Tokens per second: " + ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())


def _rate(parts: Iterable[Mapping[str, Any]]) -> float:
    parts = list(parts)
    return sum(part["n_tokens"] for part in parts) / sum(part["seconds"]["total"] for part in parts)


def tau_text(figure: Mapping[str, Any]) -> str:
    """Return a tau as the table shows it, its interval below.

    Example:
        >>> tau_text({"value": 1.5, "interval": [1.4, 1.625]})
        '1.50\\n1.40…1.62'
    """
    low, high = figure["interval"]
    return f"{figure['value']:.2f}\n{low:.2f}…{high:.2f}"


def gain_text(figure: Mapping[str, Any]) -> str:
    """Return a gain in percent as the table shows it, its interval below.

    Example:
        >>> gain_text({"value": 0.05, "interval": [-0.01, 0.12]})
        '+5.0%\\n-1.0…+12.0'
    """
    low, high = figure["interval"]
    return f"{figure['value']:+.1%}\n{100 * low:+.1f}…{100 * high:+.1f}"
