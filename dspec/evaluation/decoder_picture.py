"""The picture of decoders: likelihood over forward passes, every point labelled."""

import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dspec.evaluation.decoder_table import Figures

# Okabe and Ito's palette, and a shape each: told apart without colours too.
FORMS = {
    "autoregressive": ("#222222", "*", 150),
    "exact": ("#0072B2", "D", 38),
    "hybrid": ("#D55E00", "o", 30),
    "diffusion": ("#009E73", "s", 26),
    "wino": ("#CC79A7", "^", 38),
}
NEAR = 5  # pixels: markers of a kind that are nearer than this share a label
TO_LABEL = np.linspace(0.02, 1, 60)[:, None]  # dots on the line from a marker to its label's centre
TURNS = np.linspace(0, 2 * np.pi, 32, endpoint=False)
WAYS = np.stack([np.cos(TURNS), np.sin(TURNS)], axis=1)
RADII = np.array([9, 14, 20, 27, 35, 45, 57, 70, 85, 100, 120, 140, 165, 190, 220, 260, 300.0])
FAR = 1.6  # times the depth that four in five decoders keep within: what is deeper has its own part
ORDERS, FAULT = 6, 1000.0  # orders in which labels are placed; what a fault weighs against pixels
LEGEND = {"exact": "exact: the autoregressive law", "hybrid": "hybrid", "wino": "leave-one-out (WINO)"}


def draw_decoders(path: Path, panels: Mapping[str, Figures], *, title: str, note: str = "") -> None:
    """Draw log-likelihood per token over forwards per token, one panel a model, as a PNG.

    Decoders far below the others stand in a part of their own, under a break of the axis.

    Args:
        path: the file; its folder is made.
        panels: by the panel's title.
        title: what was measured.
        note: lines below: how it was measured.
    """
    # Inside the function, and without pyplot: see `dspec.evaluation.report`.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2 * len(panels), 9.4), dpi=130, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.06, hspace=0.0, rect=(0, 0.04, 1, 0.89))
    figure.text(0.008, 0.987, title, fontsize=14, fontweight="bold", va="top")
    lines = textwrap.fill(note, 135 * len(panels))
    figure.text(0.008, 0.01, lines, fontsize=8.5, color="#555555")
    grid = figure.subplots(2, len(panels), squeeze=False, height_ratios=(4, 1), sharex="col")
    parts = [part for column, figures in zip(grid.T, panels.values()) for part in _parts(column, figures)]
    for axes, name in zip(grid[0], panels, strict=True):
        axes.set_title(name, fontsize=11, loc="left")
    handles = {label: h for axes in grid.flat for h, label in zip(*axes.get_legend_handles_labels())}
    place = {"loc": "upper left", "bbox_to_anchor": (0.003, 0.963), "ncols": len(handles), "frameon": False}
    figure.legend(handles.values(), handles.keys(), fontsize=9, columnspacing=1.2, **place)
    canvas.draw()  # settles where the axes are, which the labels have to know
    figure.set_layout_engine("none")
    for axes, figures in parts:
        _label_points(axes, figures, canvas.get_renderer())
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    canvas.print_png(temporary)
    os.replace(temporary, path)


def _point(found: Mapping[str, Any]) -> tuple[float, float]:
    return found["forwards_per_token"]["value"], found["log_likelihood"]["value"]


def _parts(column: Any, figures: Figures) -> list[tuple[Any, Figures]]:
    """Draw a model's points into two axes, the lower one for those far below; return what stands where."""
    top = max(_point(found)[1] for found in figures.values())
    depths = {name: top - _point(found)[1] for name, found in figures.items()}
    edge = FAR * float(np.quantile(list(depths.values()), 0.8))
    below = {name: found for name, found in figures.items() if depths[name] > edge}
    above = {name: found for name, found in figures.items() if name not in below}
    upper, lower = column
    for axes, own in ((upper, above), (lower, below)):
        _points(axes, own)
    lower.set_xlabel("forward passes per token, prefill included (less is faster)")
    upper.set_ylabel("log-likelihood per token under the autoregressive mode, nats")
    if not below:
        lower.set_yticks([])
    lower.spines["top"].set(visible=bool(below), color="#999999", linestyle=(0, (1, 3)))
    upper.spines["bottom"].set_visible(False)
    upper.tick_params(axis="x", length=0)
    return [(upper, above), (lower, below)] if below else [(upper, above)]


def _points(axes: Any, figures: Figures) -> None:
    """One marker a decoder; a line and a band where the autoregressive mode itself lies."""
    for found in figures.values():
        if found["kind"] == "autoregressive":
            level, (low, high) = found["log_likelihood"]["value"], found["log_likelihood"]["interval"]
            axes.axhspan(low, high, color="#222222", alpha=0.06, linewidth=0, zorder=0)
            axes.axhline(level, color="#222222", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    for kind, (colour, marker, size) in FORMS.items():
        own = [_point(found) for found in figures.values() if found["kind"] == kind]
        if own:
            form = {"color": colour, "marker": marker, "s": size, "edgecolors": "white", "linewidths": 0.6}
            axes.scatter(*zip(*own), label=LEGEND.get(kind, kind), zorder=3, **form)
    axes.margins(x=0.14, y=0.12)
    axes.grid(color="#e4e4e4", linewidth=0.7, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _label_points(axes: Any, figures: Figures, renderer: Any) -> None:
    """Write each decoder's name where it covers nothing, with a line to its marker if that is far."""
    pixels = axes.transData.transform([_point(found) for found in figures.values()])
    groups = _together(pixels, [found["kind"] for found in figures.values()])
    names, kinds = list(figures), [found["kind"] for found in figures.values()]
    labels = []
    for group in groups:
        kind, point = kinds[group[0]], pixels[group[0]]
        text = "\n".join(names[i].removeprefix(f"{kind}, ") for i in group)
        form = {"color": FORMS[kind][0], "fontsize": 7.5, "linespacing": 1.05, "ha": "center", "va": "center"}
        arrow = {"arrowstyle": "-", "color": form["color"], "linewidth": 0.5, "alpha": 0.7}
        arrow |= {"shrinkA": 0, "shrinkB": 3}
        at = {"xytext": (0, 0), "textcoords": "offset pixels", "arrowprops": arrow, "zorder": 4}
        labels.append(axes.annotate(text, axes.transData.inverted().transform(point), **at, **form))
    boxes = [label.get_window_extent(renderer) for label in labels]
    sizes = [(box.width + 4, box.height + 2) for box in boxes]
    level = [pixels[k][1] for k, kind in enumerate(kinds) if kind == "autoregressive"]
    frame = axes.get_window_extent(renderer).extents
    spots = [pixels[group[0]] for group in groups]
    for label, offset in zip(labels, place_labels(spots, sizes, frame, levels=level), strict=True):
        label.set_position(tuple(offset))


def _together(pixels: Any, kinds: Sequence[str]) -> list[list[int]]:
    """Return the markers of a kind that lie on each other, group by group: they share one label."""
    groups: list[list[int]] = []
    for i, (point, kind) in enumerate(zip(pixels, kinds, strict=True)):
        for group in groups:
            if kinds[group[0]] == kind and np.linalg.norm(pixels[group[0]] - point) < NEAR:
                group.append(i)
                break
        else:
            groups.append([i])
    return groups


def place_labels(
    points: Sequence[Any],
    sizes: Sequence[tuple[float, float]],
    frame: Sequence[float],
    *,
    levels: Sequence[float] = (),
) -> list[Any]:
    """Return where each label's centre goes, seen from its point, in pixels.

    A label takes the nearest of some hundred places around its point where it covers no marker or label,
    and if there is one, no level and no line to a label; labels of crowded points choose first.

    Args:
        points: (x, y) of the markers.
        sizes: (width, height) of the labels.
        frame: (left, bottom, right, top) that labels keep within.
        levels: heights of horizontal lines that are not to be covered.

    Returns:
        (dx, dy) of each.

    Example:
        >>> [place_labels([(50, 50)], [(20, 10)], (0, 0, 100, 100))[0].tolist()]
        [[19.0, 0.0]]
    """
    spots, halves = np.array(points, dtype=float), np.array(sizes, dtype=float) / 2
    distances = np.sort(np.linalg.norm(spots[:, None] - spots[None], axis=-1), axis=1)
    crowded = np.argsort(distances[:, :4].sum(axis=1))
    draw = np.random.default_rng(0)
    orders = [crowded, *(draw.permutation(len(spots)) for _ in range(ORDERS - 1))]
    tried = []
    for order in orders:
        cost, found = _in_order(spots, halves, order, np.array(frame), levels)
        tried.append((cost, len(tried), found))
        if not cost:
            break
    return min(tried)[2]


def _in_order(
    spots: Any, halves: Any, order: Sequence[int], frame: Any, levels: Sequence[float]
) -> tuple[float, list[Any]]:
    """Place one label after another; return the cost of the faults, and the offsets."""
    markers = np.concatenate([spots - 6, spots + 6], axis=1)
    labels, dots = np.empty((0, 4)), np.empty((0, 2))  # of those placed; along the lines to them
    cost, found = 0.0, [np.zeros(2)] * len(spots)
    for i in order:
        others = np.delete(markers, i, axis=0)
        best = (9 * FAULT, found[i], dots[:0], labels[:0])
        for offset, box in _free_places(spots[i], halves[i], frame, np.concatenate([markers, labels])):
            line = spots[i] + TO_LABEL * offset
            line = line[~_hold(box, line)[0]]
            faults = 2.0 * _hold(box, dots).any() + 2.0 * _hold(labels, line).any()
            faults += any(box[0, 1] < level < box[0, 3] for level in levels)
            faults += 0.5 * _hold(others, line).any()  # a line over a marker seems to come from there
            best = min(best, (FAULT * faults + np.hypot(*offset), offset, line, box), key=lambda one: one[0])
            if not faults:
                break
        cost += best[0] // FAULT
        found[i], dots, labels = best[1], np.concatenate([dots, best[2]]), np.concatenate([labels, best[3]])
    return cost, found


def _free_places(spot: Any, half: Any, frame: Any, boxes: Any) -> Iterator[tuple[Any, Any]]:
    """Yield offset and box (1, 4) of a label in each place where it meets no box, the nearest first."""
    offsets = (WAYS * (RADII[:, None, None] + half * np.abs(WAYS))).reshape(-1, 2)
    places = np.concatenate([spot + offsets - half, spot + offsets + half], axis=1)
    free = (places[:, :2] >= frame[:2]).all(axis=1) & (places[:, 2:] <= frame[2:]).all(axis=1)
    free &= ~_meet(places, boxes).any(axis=1)
    yield from ((offsets[k], places[k : k + 1]) for k in np.flatnonzero(free))


def _meet(boxes: Any, others: Any) -> Any:
    """(N, M): which boxes meet which."""
    a, b = boxes[:, None], others[None]
    return (a[..., :2] < b[..., 2:]).all(axis=-1) & (b[..., :2] < a[..., 2:]).all(axis=-1)


def _hold(boxes: Any, dots: Any) -> Any:
    """(N, M): which boxes hold which dots."""
    a, b = boxes[:, None], dots[None]
    return (a[..., :2] < b).all(axis=-1) & (b < a[..., 2:]).all(axis=-1)
