"""The picture of a plan: predicted and measured tokens per second by block size."""

import os
from pathlib import Path
from typing import Any

from dspec.evaluation.report import COLOURS
from dspec.evaluation.roofline import Plan

PREDICTED, MEASURED, ALONE = COLOURS[3], COLOURS[6], COLOURS[0]


def draw_plan(path: Path, plan: Plan, *, title: str, note: str = "") -> None:
    """Draw tokens per second over the block size, and the seconds of the passes beside, as a PNG.

    Args:
        path: the file; its folder is made.
        plan: predicted, and measured where there is a measurement.
        title: what was measured.
        note: a line below: how it was measured.
    """
    # Inside the function, and without pyplot: see `dspec.evaluation.report`.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.5, 4.8), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.06, rect=(0, 0.05, 1, 0.88))
    figure.text(0.012, 0.975, title, fontsize=13, fontweight="bold", va="top")
    figure.text(0.012, 0.02, note, fontsize=8.5, color="#555555")
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    _rates(left, plan)
    _seconds(right, plan)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    canvas.print_png(temporary)
    os.replace(temporary, path)


def _rates(axes: Any, plan: Plan) -> None:
    """Lines of tokens per second, and a level for decoding without drafts."""
    sizes = [f.block_size for f in plan.forecasts]
    predicted = [f.predicted for f in plan.forecasts]
    axes.plot(sizes, predicted, "o-", color=PREDICTED, label="predicted: τ / (verify + draft + rest)")
    axes.axhline(plan.autoregressive, color=ALONE, linestyle="--", label="no drafts, predicted")
    measured = [(f.block_size, f.measured) for f in plan.forecasts if f.measured is not None]
    if measured:
        axes.plot(*zip(*measured), "s", color=MEASURED, label="measured at that τ")
    if plan.measured_autoregressive is not None:
        axes.axhline(plan.measured_autoregressive, color=MEASURED, linestyle=":", label="no drafts, measured")
    for f in plan.forecasts:
        form = {"textcoords": "offset points", "ha": "center", "fontsize": 8.5, "color": "#222222"}
        axes.annotate(f"τ {f.tau:.2f}", (f.block_size, f.predicted), (0, 8), **form)
    axes.set_ylim(bottom=0)
    axes.margins(y=0.16)
    axes.set_ylabel("tokens per second")
    axes.set_title("Speed by block size", fontsize=10, loc="left")
    axes.legend(frameon=False, fontsize=8.5, loc="lower right")
    _style(axes, sizes)


def _seconds(axes: Any, plan: Plan) -> None:
    """Lines of milliseconds by new tokens."""
    times, sizes = plan.times, sorted(plan.times.verify)
    parts = {"target's pass": times.verify, "verdict and transfer": times.rest}
    for (name, seconds), colour in zip(parts.items(), (PREDICTED, COLOURS[4])):
        axes.plot(sizes, [1000 * seconds[n] for n in sizes], "o-", color=colour, label=name)
    if times.draft > 0:
        axes.axhline(1000 * times.draft, color=COLOURS[1], label="proposal of the drafter")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("milliseconds")
    axes.set_title(f"A pass after {times.context} positions", fontsize=10, loc="left")
    axes.legend(frameon=False, fontsize=8.5)
    _style(axes, sizes)


def _style(axes: Any, sizes: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.minorticks_off()
    axes.set_xlabel("new tokens of a pass, 1 + K")
    axes.grid(axis="y", color="#dddddd", linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
