"""Reports: numbers as JSON, and a picture of tau and acceptance."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dspec.evaluation.bench import SuiteResult
from dspec.evaluation.bootstrap import interval

# Okabe and Ito's palette: told apart by colour-blind readers, and by lightness in print.
COLOURS = ("#8c8c8c", "#E69F00", "#56B4E9", "#0072B2", "#009E73", "#CC79A7", "#D55E00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# A share of fewer passes than this is mostly noise: it is in the JSON, but not in the picture.
FEWEST = 20

Results = Mapping[str, Mapping[str, SuiteResult]]  # drafter -> suite -> result


def write_json(path: Path, data: Any) -> None:
    """Write one JSON file, whole or not at all; what is not a number becomes null.

    Args:
        path: the file; its folder is made.
        data: mappings, sequences, numbers, texts.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    text = json.dumps(plain(data), indent=1, ensure_ascii=False, allow_nan=False)
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, path)


def plain(value: Any) -> Any:
    """Return a value in JSON's types.

    Args:
        value: mappings, sequences, numbers, texts.

    Returns:
        The same with lists for sequences and None for NaN and infinities.

    Example:
        >>> plain({"tau": float("nan"), "alpha": (0.5,)})
        {'tau': None, 'alpha': [0.5]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    return value


def draw_picture(path: Path, results: Results, *, title: str, note: str = "") -> None:
    """Draw tau by suite and acceptance by slot, one colour a drafter, as a PNG.

    Args:
        path: the file; its folder is made.
        results: by drafter, then by suite; every drafter on the same suites.
        title: what was measured.
        note: a line below: how it was measured.
    """
    # Inside the function: a decode needs no plots. No pyplot: its global state and its choice of a
    # window system have no place in a library.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.5, 5.2), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    # Title, legend and note have strips of their own, which the layout of the axes leaves free.
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.06, wspace=0.04, rect=(0, 0.05, 1, 0.82))
    figure.text(0.012, 0.975, title, fontsize=13, fontweight="bold", va="top")
    figure.text(0.012, 0.02, note, fontsize=8.5, color="#555555")
    left, right = figure.subplots(1, 2, width_ratios=(1.45, 1))
    _bars(left, results)
    _lines(right, results)
    figure.legend(
        *left.get_legend_handles_labels(),
        loc="upper left",
        bbox_to_anchor=(0.005, 0.93),
        ncols=4,
        frameon=False,
        fontsize=10,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    canvas.print_png(temporary)
    os.replace(temporary, path)


def _bars(axes: Any, results: Results) -> None:
    """Grouped bars of tau with bootstrap whiskers, a group a suite."""
    suites = list(next(iter(results.values())))
    width = 0.84 / len(results)
    for i, (name, by_suite) in enumerate(results.items()):
        centres = [j + (i - (len(results) - 1) / 2) * width for j in range(len(suites))]
        taus = [by_suite[suite].stats.tau for suite in suites]
        axes.bar(centres, taus, width * 0.94, color=COLOURS[i % len(COLOURS)], label=name, zorder=2)
        for centre, tau, ends in zip(centres, taus, [interval(by_suite[s].counts) for s in suites]):
            errors = [[max(tau - ends[0], 0.0)], [max(ends[1] - tau, 0.0)]]
            axes.errorbar(centre, tau, yerr=errors, color="#222222", capsize=2.5, linewidth=1, zorder=3)
            label = {"ha": "center", "va": "bottom", "fontsize": 8.5, "color": "#222222"}
            axes.annotate(f"{tau:.2f}", (centre, ends[1]), (0, 3), textcoords="offset points", **label)
    counts = [len(next(iter(results.values()))[suite].prompts) for suite in suites]
    axes.set_xticks(range(len(suites)), [f"{s}\n{n} prompts" for s, n in zip(suites, counts)])
    # From 1, what decoding without a drafter gives: a bar's length is the gain.
    axes.set_ylim(bottom=1.0)
    axes.margins(y=0.12)
    axes.set_ylabel("τ (1 = no drafter)")
    axes.set_title("τ: mean tokens per verify pass, 95 % interval over prompts", fontsize=10, loc="left")
    _style(axes)


def _lines(axes: Any, results: Results) -> None:
    """Lines of acceptance by slot, all suites pooled."""
    last = 1
    for i, (name, by_suite) in enumerate(results.items()):
        rates = alpha_by_slot(list(by_suite.values()))
        shown = [(slot, rate) for slot, (rate, reached) in enumerate(rates, 1) if reached >= FEWEST]
        if shown:
            form = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
            axes.plot(*zip(*shown), label=name, linewidth=1.8, markersize=6, **form)
            last = max(last, shown[-1][0])
    axes.set_xticks(range(1, last + 1))
    axes.set_ylim(0, 1.03)
    axes.set_xlabel(f"drafted slot k (left out: reached by fewer than {FEWEST} passes)")
    axes.set_ylabel("α")
    title = "α: share of the passes reaching slot k that accept it, all prompts"
    axes.set_title(title, fontsize=10, loc="left")
    _style(axes)


def _style(axes: Any) -> None:
    axes.grid(axis="y", color="#dddddd", linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def alpha_by_slot(parts: Sequence[SuiteResult]) -> list[tuple[float, int]]:
    """Return (share accepted, passes that got there) of each slot over several suites.

    Args:
        parts: results of one drafter.

    Returns:
        One pair a slot, k = 1..K.
    """
    passes = [n for part in parts for n in part.stats.n_accepted]
    slots = max((k for part in parts for k in part.stats.n_drafted), default=0)
    reached = [sum(n >= slot for n in passes) for slot in range(slots)]
    taken = [sum(n > slot for n in passes) for slot in range(slots)]
    return [(t / r if r else float("nan"), r) for t, r in zip(taken, reached)]
