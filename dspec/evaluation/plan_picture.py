"""The picture of a plan: predicted and measured tokens per second by block size."""

import os
from pathlib import Path
from typing import Any

from dspec.evaluation.batch_plan import BatchPlan
from dspec.evaluation.report import COLOURS
from dspec.evaluation.roofline import Plan
from dspec.evaluation.tree_plan import TreePlan

PREDICTED, MEASURED, ALONE = COLOURS[3], COLOURS[6], COLOURS[0]
TREES, DRAFT, REST = COLOURS[5], COLOURS[1], COLOURS[4]


def draw_plan(
    path: Path,
    plan: Plan,
    *,
    title: str,
    note: str = "",
    batches: BatchPlan | None = None,
    trees: TreePlan | None = None,
) -> None:
    """Draw tokens per second over the block size, and the seconds of the passes beside, as a PNG.

    Args:
        path: the file; its folder is made.
        plan: predicted, and measured where there is a measurement.
        title: what was measured.
        note: a line below: how it was measured.
        batches: plans of several batch sizes: a third panel, if there are two at least.
        trees: of one request, as the plan: further lines in both panels.
    """
    # Inside the function, and without pyplot: see `dspec.evaluation.report`.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    wide = batches if batches is not None and len(batches.plans) > 1 else None
    figure = Figure(figsize=(16.5 if wide else 11.5, 4.8), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.06, rect=(0, 0.05, 1, 0.88))
    figure.text(0.012, 0.975, title, fontsize=13, fontweight="bold", va="top")
    figure.text(0.012, 0.02, note, fontsize=8.5, color="#555555")
    panels = figure.subplots(1, 3 if wide else 2, width_ratios=(1.35, 1, 1.15) if wide else (1.35, 1))
    _rates(panels[0], plan, trees)
    _seconds(panels[1], plan, trees)
    if wide:
        _batches(panels[2], wide)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    canvas.print_png(temporary)
    os.replace(temporary, path)


def _rates(axes: Any, plan: Plan, trees: TreePlan | None) -> None:
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
    over = trees is not None and _lie_over(plan, trees)
    for f in plan.forecasts:
        _beside(axes, f"τ {f.tau:.2f}", f.block_size, f.predicted, below=over)
    if trees is not None:
        _trees(axes, trees, below=not over)
    axes.margins(y=0.16)
    axes.set_ylim(bottom=0)  # keeps the top, with its margin
    axes.set_ylabel("tokens per second")
    axes.set_title("Speed by block size" + (" and tree" if trees else ""), fontsize=10, loc="left")
    where = {"loc": "lower right"} if trees is None else {"loc": "lower center", "ncols": 2}
    axes.legend(frameon=False, fontsize=8.5, **where)
    _style(axes, sizes, trees)


def _lie_over(plan: Plan, trees: TreePlan) -> bool:
    """Whether the first tree is faster than the block whose pass reads about as much: labels go apart."""
    first = trees.forecasts[0]
    near = min(plan.forecasts, key=lambda f: abs(f.block_size - 1 - first.budget))
    return first.predicted > near.predicted


def _trees(axes: Any, trees: TreePlan, *, below: bool) -> None:
    """A line of trees' tokens per second at the tokens of their passes."""
    form = {"color": TREES, "fillstyle": "none"}
    nodes = [1 + f.budget for f in trees.forecasts]
    axes.plot(nodes, [f.predicted for f in trees.forecasts], "^-", color=TREES, label="trees, predicted")
    measured = [(1 + f.budget, f.measured) for f in trees.forecasts if f.measured is not None]
    if measured:
        axes.plot(*zip(*measured), "^", **form, markersize=8, label="trees, decoded on the suite")
    for f in trees.forecasts:
        _beside(axes, f"τ {f.tau:.2f}", 1 + f.budget, f.predicted, below=below, colour=TREES)


def _seconds(axes: Any, plan: Plan, trees: TreePlan | None) -> None:
    """Lines of milliseconds by new tokens."""
    times, sizes = plan.times, sorted(plan.times.verify)
    parts = {"target's pass": times.verify, "verdict and transfer": times.rest}
    for (name, seconds), colour in zip(parts.items(), (PREDICTED, REST)):
        axes.plot(sizes, [1000 * seconds[n] for n in sizes], "o-", color=colour, label=name)
    if times.draft > 0:
        axes.axhline(1000 * times.draft, color=DRAFT, label="proposal of the drafter")
    if trees is not None:
        parts = {"tree pass": trees.times.verify, "tree's proposal": trees.times.draft}
        for (name, seconds), colour in zip(parts.items(), (TREES, DRAFT)):
            drawn = sorted(seconds)
            form = {"color": colour, "label": name, "fillstyle": "none"}
            axes.plot([1 + n for n in drawn], [1000 * seconds[n] for n in drawn], "^--", **form)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("milliseconds")
    axes.set_title(f"A pass after {times.context} positions", fontsize=10, loc="left")
    axes.legend(frameon=False, fontsize=8.5)
    _style(axes, sizes, trees)


def _batches(axes: Any, batches: BatchPlan) -> None:
    """Lines of all rows' tokens per second by batch size, of the best blocks and without drafts."""
    rows = [plan.times.rows for plan in batches.plans]
    best = [plan.best for plan in batches.plans]
    alone = [plan.autoregressive for plan in batches.plans]
    axes.plot(rows, [f.predicted for f in best], "o-", color=PREDICTED, label="best block, predicted")
    axes.plot(rows, alone, "o--", color=ALONE, label="no drafts, predicted")
    measured = [(n, f.measured) for n, f in zip(rows, best) if f.measured is not None]
    if measured:
        axes.plot(*zip(*measured), "s", color=MEASURED, label="best block, measured")
    levels = [
        (n, plan.measured_autoregressive)
        for n, plan in zip(rows, batches.plans)
        if plan.measured_autoregressive is not None
    ]
    if levels:
        axes.plot(*zip(*levels), "x", color=MEASURED, label="no drafts, measured")
    for n, plan, f in zip(rows, batches.plans, best):
        top = max(f.predicted, plan.autoregressive)
        _beside(axes, f"block {f.block_size}\n{plan.speedup(f):.2f} x", n, top)
    axes.margins(x=0.1, y=0.2)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("tokens per second, all rows")
    stops = batches.stops_at
    told = (
        ""
        if stops is None
        else ": drafts pay at none"
        if stops == rows[0]
        else f": drafts stop to pay at {stops}"
    )
    axes.set_title(f"Best block by requests side by side{told}", fontsize=10, loc="left")
    axes.legend(frameon=False, fontsize=8.5, loc="lower right")
    _axis(axes, rows, "requests side by side")


def _beside(
    axes: Any, text: str, x: float, y: float, *, below: bool = False, colour: str = "#222222"
) -> None:
    form = {"textcoords": "offset points", "ha": "center", "fontsize": 8.5, "color": colour}
    axes.annotate(text, (x, y), (0, -8 if below else 8), va="top" if below else "bottom", **form)


def _style(axes: Any, sizes: list[int], trees: TreePlan | None) -> None:
    # Of trees only what is wider than every block has a tick of its own: 8 and 9 would overlap.
    wider = [] if trees is None else [1 + f.budget for f in trees.forecasts if f.budget > 1.5 * sizes[-1]]
    what = "new tokens of a pass, 1 + K" + ("" if trees is None else " or 1 + nodes")
    _axis(axes, [*sizes, *wider], what)


def _axis(axes: Any, ticks: list[int], label: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.minorticks_off()
    axes.set_xlabel(label)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
