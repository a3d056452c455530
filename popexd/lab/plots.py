"""Figures as pictures; the only door to matplotlib."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from popexd.lab.pictures import check_format, put_picture

# Distinguishable with any colour sight, after Okabe and Ito (2008); then again with another line.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
DASHES = ("-", "--", ":")
MARKERS = "osDv^<>pX*h"


@dataclass(frozen=True)
class Bars:
    """One panel of horizontal bars."""

    title: str
    names: Sequence[str]
    values: Sequence[float]
    logarithmic: bool = False


@dataclass(frozen=True)
class Lines:
    """One panel of curves over a logarithmic axis; nan leaves a gap."""

    x_label: str
    y_label: str
    x: Sequence[float]
    curves: Mapping[str, Sequence[float]]


def save(path: Path, title: str, bars: Sequence[Bars], lines: Lines | None = None) -> None:
    """Draw panels of bars, and below them one of curves, into a file, whole or not at all.

    Raises:
        InputError: a format that cannot be drawn, or a file that cannot be written.
    """
    check_format("--plot", path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(bars) // 3)
    height = 0.32 * max((len(each.names) for each in bars), default=0) + 1.1
    figure = Figure(figsize=(13, rows * height + (4.6 if lines else 0) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    ratios = [height] * rows + ([4.6] if lines else [])
    grid = figure.add_gridspec(len(ratios), 3, height_ratios=ratios)
    for index, each in enumerate(bars):
        _bars(figure.add_subplot(grid[index // 3, index % 3]), each)
    if lines is not None:
        _lines(figure.add_subplot(grid[rows, :]), lines)
    put_picture("--plot", path, lambda partial: figure.savefig(partial, dpi=110))


def merged(curves: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    """Join the names of curves that lie on one another, so that each that is drawn can be seen."""
    found: dict[str, Sequence[float]] = {}
    for name, values in curves.items():
        for known, theirs in found.items():
            if all(
                abs(a - b) <= 1e-6 * abs(a) or (math.isnan(a) and math.isnan(b))
                for a, b in zip(values, theirs, strict=True)
            ):
                found = {f"{known}, {name}" if each == known else each: row for each, row in found.items()}
                break
        else:
            found[name] = values
    return found


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
    axes.spines[["top", "right"]].set_visible(False)


def _lines(axes: Any, lines: Lines) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator

    for index, (name, values) in enumerate(merged(lines.curves).items()):
        axes.plot(
            lines.x,
            values,
            label=name,
            color=COLOURS[index % len(COLOURS)],
            linestyle=DASHES[index // len(COLOURS) % len(DASHES)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=4,
            alpha=0.85,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(list(lines.x), [f"{each:g}" for each in lines.x])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(lines.x_label)
    axes.set_ylabel(lines.y_label)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(ncols=2, fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
