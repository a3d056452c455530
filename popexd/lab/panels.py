"""Every picture that popexd draws: panels of curves, bars and reliability diagrams; the only door to matplotlib."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from popexd.evaluation.reliability import Reliability
from popexd.lab.pictures import check_format, put_picture

# Distinguishable with any colour sight, after Okabe and Ito (2008); then again with another line.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
DASHES = ("-", "--", ":")
MARKERS = "osDv^<>pX*h"

# Neither a date nor random names within: the same data make the same file.
_METADATA: Mapping[str, dict[str, Any]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


@dataclass(frozen=True)
class Curves:
    """One panel of curves.

    Attributes:
        curves: name -> (x, y); nan leaves a gap.
        marks: dotted verticals with their names.
        from_zero: whether the y axis begins at 0.
        x_logarithmic, y_logarithmic: whether that axis is.
        x_ticks: where the x axis is labelled; by default matplotlib's choice.
        steps: names of 0, 1, 2, ... on the y axis; then curves are drawn as steps.
    """

    title: str
    x_label: str
    y_label: str
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    marks: Mapping[str, float] = field(default_factory=dict)
    from_zero: bool = True
    x_logarithmic: bool = False
    y_logarithmic: bool = False
    x_ticks: Sequence[float] = ()
    steps: Sequence[str] = ()


@dataclass(frozen=True)
class Bars:
    """One panel of horizontal bars."""

    title: str
    names: Sequence[str]
    values: Sequence[float]
    logarithmic: bool = False


@dataclass(frozen=True)
class Diagram:
    """One panel of a reliability diagram: what an exit got right, over how sure it said it was."""

    title: str
    reliability: Reliability


Panel = Curves | Bars | Diagram


def save_panels(
    path: Path, title: str, panels: Sequence[Panel], columns: int = 3, *, below: Curves | None = None
) -> None:
    """Draw panels for `--plot` into a file, as `draw_panels` does, whole or not at all.

    Raises:
        InputError: a format that cannot be drawn, or a file that cannot be written.
    """
    check_format("--plot", path)
    put_picture("--plot", path, lambda partial: draw_panels(partial, title, panels, columns, below=below))


def draw_panels(
    path: Path, title: str, panels: Sequence[Panel], columns: int = 3, *, below: Curves | None = None
) -> None:
    """Draw panels, `columns` side by side, and one `below` as wide as all, in the format of the file's suffix.

    Raises:
        OSError: the file cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(1, min(columns, len(panels)))
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    heights = [max(map(_height, row)) for row in rows] + ([4.6] if below else [])
    width = 5.6 if columns < 3 else 4.6
    figure = Figure(figsize=(width * columns + 0.4, sum(heights) + 0.6), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.08, hspace=0.04)  # type: ignore[union-attr, call-arg]
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    for place, panel in enumerate(panels):
        _panel(figure.add_subplot(grid[place // columns, place % columns]), panel)
    if below is not None:
        _panel(figure.add_subplot(grid[-1, :]), below)
    diagrams = [axes for axes, panel in zip(figure.axes, panels, strict=False) if isinstance(panel, Diagram)]
    if diagrams:
        handles = diagrams[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=len(handles[0]), fontsize=9, frameon=False)
    with mpl.rc_context({"svg.hashsalt": "popexd"}):
        figure.savefig(path, dpi=100, metadata=_METADATA.get(path.suffix.lower()))


def merged(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
    """Join the names of curves that lie on one another, so that each that is drawn can be seen."""
    found: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
    for name, points in curves.items():
        known = next((each for each, theirs in found.items() if _same(points, theirs)), None)
        if known is None:
            found[name] = points
        else:
            found = {f"{known}, {name}" if each == known else each: own for each, own in found.items()}
    return found


def _same(one: tuple[Sequence[float], Sequence[float]], other: tuple[Sequence[float], Sequence[float]]) -> bool:
    return len(one[0]) == len(other[0]) and all(
        abs(a - b) <= 1e-6 * abs(a) or (math.isnan(a) and math.isnan(b))
        for mine, theirs in zip(one, other, strict=True)
        for a, b in zip(mine, theirs, strict=True)
    )


def _height(panel: Panel) -> float:
    return 0.32 * len(panel.names) + 1.1 if isinstance(panel, Bars) else 4.2


def _panel(axes: Any, panel: Panel) -> None:
    if isinstance(panel, Curves):
        _curves(axes, panel)
    elif isinstance(panel, Bars):
        _bars(axes, panel)
    else:
        _diagram(axes, panel)
    axes.spines[["top", "right"]].set_visible(False)


def _curves(axes: Any, panel: Curves) -> None:
    for index, (name, (x, y)) in enumerate(merged(panel.curves).items()):
        _curve(axes, panel, index, name, x, y)
    for name, where in panel.marks.items():
        axes.axvline(where, color="#999999", linestyle=":", linewidth=1)
        axes.annotate(f" {name}", (where, 0.97), xycoords=("data", "axes fraction"), va="top", fontsize=8)
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    _scales(axes, panel)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(
        fontsize=8, frameon=True, framealpha=0.85, edgecolor="none", ncols=2 if len(panel.curves) > len(COLOURS) else 1
    )


def _curve(axes: Any, panel: Curves, index: int, name: str, x: Sequence[float], y: Sequence[float]) -> None:
    style: dict[str, Any] = {
        "label": name,
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[index // len(COLOURS) % len(DASHES)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 3.5,
        "alpha": 0.9,
    }
    if panel.steps:
        # Steps that lie on one another are set apart a little, so that each can be seen.
        middle = (len(panel.curves) - 1) / 2
        apart = [each + 0.09 * (middle - index) for each in y]
        # Every corner is a point of the line: of `axes.step` the legend would not know what it covers.
        corners = [each for each in x for _ in range(2)][1:], [each for each in apart for _ in range(2)][:-1]
        axes.plot(*corners, linewidth=1.8, markevery=2, **style)
    else:
        # The first ones wider, so that what lies below the next can still be seen.
        wide = max(1.2, 3.0 - 0.6 * index)
        # What runs along the axis is drawn whole.
        axes.plot(x, y, linewidth=wide, markevery=max(1, len(x) // 20), clip_on=not panel.from_zero, **style)


def _scales(axes: Any, panel: Curves) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator

    plain = FuncFormatter(lambda value, _: f"{value:g}")
    if panel.x_logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(plain)
    if panel.y_logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(plain)
        axes.yaxis.set_minor_locator(LogLocator(subs=()))
    if panel.x_ticks:
        axes.set_xticks(list(panel.x_ticks), [f"{each:g}" for each in panel.x_ticks])
        axes.xaxis.minorticks_off()
    if panel.steps:
        axes.set_yticks(range(len(panel.steps)), panel.steps)
        axes.set_ylim(-0.6, len(panel.steps) - 0.4)
    elif panel.from_zero and not panel.y_logarithmic:
        axes.set_ylim(bottom=0)


def _bars(axes: Any, bars: Bars) -> None:
    places = range(len(bars.names))
    axes.barh(places, bars.values, color=[COLOURS[0] if value > 0 else "#999999" for value in bars.values])
    axes.set_yticks(list(places), bars.names)
    axes.invert_yaxis()
    axes.set_title(bars.title, fontsize=10)
    if bars.logarithmic:
        axes.set_xscale("log")
    axes.margins(x=0.18)
    for place, value in zip(places, bars.values, strict=True):
        figures = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
        axes.annotate(f" {figures}", (value, place), va="center", fontsize=8)


def _diagram(axes: Any, panel: Diagram) -> None:
    found = panel.reliability
    width = float(found.edges[1] - found.edges[0])
    middle = (found.edges[:-1] + found.edges[1:]) / 2
    some = found.counts > 0
    axes.bar(middle[some], found.accuracy[some], width=width * 0.94, color=COLOURS[5], label="right")
    # What the exit promised beyond what it kept, or the other way round.
    gap = found.confidence - found.accuracy
    bottom = np.minimum(found.accuracy, found.confidence)
    axes.bar(
        middle[some],
        np.abs(gap)[some],
        bottom=bottom[some],
        width=width * 0.94,
        facecolor="none",
        hatch="///",
        edgecolor=COLOURS[1],
        label="gap to its confidence",
    )
    axes.plot([0, 1], [0, 1], color="#555555", linestyle="--", linewidth=1)
    axes.step(
        np.append(found.edges[:-1], 1.0),
        np.append(found.counts, found.counts[-1]) / max(int(found.counts.sum()), 1),
        where="post",
        color="#000000",
        linewidth=1,
        label="share of the frames",
    )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_title(f"{panel.title}\ncalibration error {100 * found.error:.1f} %", fontsize=10)
    axes.set_xlabel("confidence")
    axes.set_ylabel("share")
