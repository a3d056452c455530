"""Panels of curves and reliability diagrams as pictures, drawn by matplotlib behind this door."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from popexd.evaluation.reliability import Reliability
from popexd.lab.pictures import check_format, put_picture
from popexd.lab.plots import COLOURS, DASHES, MARKERS


@dataclass(frozen=True)
class Curves:
    """One panel of curves over a linear axis: name -> (x, y); nan leaves a gap. `marks` are dotted verticals."""

    title: str
    x_label: str
    y_label: str
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    marks: Mapping[str, float] = field(default_factory=dict)
    from_zero: bool = True


@dataclass(frozen=True)
class Diagram:
    """One panel of a reliability diagram: what an exit got right, over how sure it said it was."""

    title: str
    reliability: Reliability


def save_panels(path: Path, title: str, panels: Sequence[Curves | Diagram], columns: int = 3) -> None:
    """Draw panels, `columns` side by side, into a file, whole or not at all.

    Raises:
        InputError: a format that cannot be drawn, or a file that cannot be written.
    """
    check_format("--plot", path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(1, min(columns, len(panels)))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns + 0.4, 4.1 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, panel in zip(grid, panels, strict=False):
        if isinstance(panel, Diagram):
            _diagram(axes, panel)
        else:
            _curves(axes, panel)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    if any(isinstance(panel, Diagram) for panel in panels):
        first = next(axes for axes, panel in zip(grid, panels, strict=False) if isinstance(panel, Diagram))
        figure.legend(
            *first.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9, frameon=False
        )
    put_picture("--plot", path, lambda partial: figure.savefig(partial, dpi=100))


def _diagram(axes: Any, panel: Diagram) -> None:
    found = panel.reliability
    width = float(found.edges[1] - found.edges[0])
    middle = (found.edges[:-1] + found.edges[1:]) / 2
    some = found.counts > 0
    axes.bar(middle[some], found.accuracy[some], width=width * 0.94, color=COLOURS[0], label="right")
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
    axes.spines[["top", "right"]].set_visible(False)


def _curves(axes: Any, panel: Curves) -> None:
    for index, (name, (x, y)) in enumerate(panel.curves.items()):
        axes.plot(
            x,
            y,
            label=name,
            color=COLOURS[index % len(COLOURS)],
            linestyle=DASHES[index // len(COLOURS) % len(DASHES)],
            marker=MARKERS[index % len(MARKERS)],
            markevery=max(1, len(x) // 20),
            markersize=3.5,
            alpha=0.9,
        )
    for name, where in panel.marks.items():
        axes.axvline(where, color="#999999", linestyle=":", linewidth=1)
        axes.annotate(f" {name}", (where, 0.02), xycoords=("data", "axes fraction"), fontsize=8, rotation=90)
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    if panel.from_zero:
        axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=True, framealpha=0.85, edgecolor="none")
