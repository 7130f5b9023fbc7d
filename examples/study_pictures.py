"""The study's two pictures: gains with their intervals, and learning curves."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from study_report import ranked
from study_statistics import BOTH, MEAN

# Of Okabe and Ito's palette.
BLUE, ORANGE, GREY, DARK = "#0072B2", "#E69F00", "#8c8c8c", "#222222"
FORMS = (("o", BLUE), ("^", ORANGE))
COLUMNS = 5


def draw_gains(path: Path, report: Mapping[str, Any]) -> None:
    """A panel a baseline, an arm a row: the gain in mean tau with its interval, and each temperature's."""
    names, bases = ranked(report)[::-1], list(report["gain"])
    height = 2.2 + 0.36 * len(names)
    figure = Figure(figsize=(4.2 + 4.2 * len(bases), height), dpi=150, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, rect=(0, 0.42 / height, 1, 1 - 1.25 / height))
    titles(figure, "Gain in τ over a baseline, all suites", note(report), height)
    shown = report["settings"]["evaluation"]["temperatures"]
    axes = figure.subplots(1, len(bases), sharey=True, squeeze=False)[0]
    for panel, base in zip(axes, bases, strict=True):
        gains_panel(panel, report["gain"][base], names, [f"T={t:g}" for t in shown])
        panel.set_xlabel(f"gain over {base}, %")
    axes[0].set_yticks(range(len(names)), names, fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    place = {"loc": "upper left", "bbox_to_anchor": (0.008, 1 - 0.55 / height)}
    figure.legend(handles, labels, ncols=3, frameon=False, fontsize=9, **place)
    save(figure, path)


def gains_panel(axes: Any, gains: Mapping[str, Any], names: Sequence[str], cells: Sequence[str]) -> None:
    """Rows of one baseline; the baseline's own row is empty."""
    rows = [(y, gains[name]) for y, name in enumerate(names) if name in gains]
    axes.axvline(0, color=DARK, linewidth=1, zorder=1)
    for i, cell in enumerate(cells if len(cells) > 1 else ()):
        marker, colour = FORMS[i % len(FORMS)]
        xs = [100 * gain[cell][MEAN]["mean"] for _, gain in rows]
        ys = [y + 0.2 - 0.4 * i / max(len(cells) - 1, 1) for y, _ in rows]
        form = {"markersize": 4.5, "color": colour, "fillstyle": "none", "linestyle": "none"}
        axes.plot(xs, ys, marker=marker, label=f"{cell} alone", zorder=3, **form)
    means = [100 * gain[BOTH][MEAN]["mean"] for _, gain in rows]
    ends = [[100 * e for e in gain[BOTH][MEAN]["interval"]] for _, gain in rows]
    errors = [
        [max(m - e[0], 0) for m, e in zip(means, ends)],
        [max(e[1] - m, 0) for m, e in zip(means, ends)],
    ]
    form = {"fmt": "D", "markersize": 5, "color": DARK, "capsize": 2.5, "linewidth": 1.2, "zorder": 4}
    what = "mean of the temperatures, 95 % interval over seeds and prompts"
    axes.errorbar(
        means, [y for y, _ in rows], xerr=errors, label=what if len(cells) > 1 else cells[0], **form
    )
    for y in range(0, len(names), 2):
        axes.axhspan(y - 0.5, y + 0.5, color="#f3f3f3", zorder=0, linewidth=0)
    axes.set_ylim(-0.5, len(names) - 0.5)
    axes.margins(x=0.06)
    plain(axes, "x")


def draw_curves(path: Path, report: Mapping[str, Any]) -> None:
    """A small panel an arm, the best first: its learning curve between the seeds, over the baselines'."""
    names, bases = ranked(report), list(report["gain"])
    across = min(COLUMNS, len(names))
    down = math.ceil(len(names) / across)
    height = 2.05 + 2.1 * down
    figure = Figure(figsize=(max(2.9 * across, 8.0), height), dpi=150, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, rect=(0, 0.42 / height, 1, 1 - 1.4 / height))
    titles(
        figure, "Learning curves: τ on the target's own greedy texts, mean over seeds", note(report), height
    )
    axes = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flatten()
    for panel, name in zip(axes, names):
        for base, style in zip(bases, ("-", "--", ":", "-.")):
            line = report["curves"][base]
            panel.plot(
                line["step"], line["tau"], style, color=GREY, linewidth=1.3, label=f"{base} (baseline)"
            )
        line = report["curves"][name]
        panel.fill_between(line["step"], line["low"], line["high"], color=BLUE, alpha=0.2, linewidth=0)
        form = {"color": BLUE, "linewidth": 1.8, "marker": "o", "markersize": 2.5}
        panel.plot(line["step"], line["tau"], label="the arm; shaded: lowest to highest seed", **form)
        panel.set_title(wrapped(name), fontsize=8.5, loc="left")
        # Low in the corner, where a rising curve leaves room.
        ends = {"ha": "right", "va": "bottom", "fontsize": 8.5, "color": BLUE, "transform": panel.transAxes}
        panel.text(0.97, 0.05, f"{line['tau'][-1]:.2f}", **ends)
        panel.tick_params(labelsize=8)
        plain(panel, "y")
    for panel in axes[len(names) :]:
        panel.set_visible(False)
    for i, panel in enumerate(axes[: len(names)]):
        if i % across == 0:
            panel.set_ylabel("τ", fontsize=9)
        if i + across >= len(names):
            panel.set_xlabel("step", fontsize=9)
            panel.tick_params(labelbottom=True)
    handles, labels = axes[0].get_legend_handles_labels()
    place = {"loc": "upper left", "bbox_to_anchor": (0.008, 1 - 0.55 / height)}
    figure.legend(handles, labels, ncols=4, frameon=False, fontsize=9, **place)
    save(figure, path)


def wrapped(name: str) -> str:
    """A long name in two lines, broken at a plus sign."""
    if len(name) <= 30 or "+" not in name:
        return name
    cuts = [i for i, c in enumerate(name) if c == "+"]
    cut = min(cuts, key=lambda i: abs(i - len(name) / 2))
    return name[: cut + 1] + "\n" + name[cut + 1 :]


def note(report: Mapping[str, Any]) -> str:
    """How it was measured, in a line."""
    training = report["made_of"]["training"]
    return (
        f"{len(report['seeds'])} seeds, {training['steps']} steps of {training['batch_size']} texts with "
        f"{training['anchors']} blocks of {training['block_size']}; {report['device']}"
    )


def titles(figure: Any, title: str, below: str, height: float) -> None:
    """Title and note have strips of their own, which the layout of the axes leaves free."""
    figure.text(0.012, 1 - 0.18 / height, title, fontsize=13, fontweight="bold", va="top")
    figure.text(0.012, 0.14 / height, below, fontsize=8.5, color="#555555")


def plain(axes: Any, axis: str) -> None:
    """Light grid along one axis, no box."""
    axes.grid(axis=axis, color="#dddddd", linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Any, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    FigureCanvasAgg(figure).print_png(temporary)
    os.replace(temporary, path)
