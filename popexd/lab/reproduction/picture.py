"""A reproduced figure as a picture: panels side by side, drawn by matplotlib behind this door."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from popexd.lab.plots import COLOURS, DASHES, MARKERS
from popexd.lab.reproduction.figure import Curve, Figure, Panel


def draw(figure: Figure, path: Path) -> None:
    """Draw `figure` into `path`, in the format of its suffix. Raises OSError where it cannot be written."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    panels = len(figure.panels)
    columns = min(panels, 2)
    rows = -(-panels // columns)
    canvas = Canvas(figsize=(5.6 * columns + 0.4, 4.3 * rows + 0.7), layout="constrained")
    FigureCanvasAgg(canvas)
    canvas.suptitle(f"{figure.title}\n{figure.source}", fontsize=10)
    grid = canvas.subplots(rows, columns, squeeze=False)
    for axes, panel in zip(grid.flat, figure.panels, strict=False):
        _panel(axes, panel)
    for axes in list(grid.flat)[panels:]:
        axes.set_axis_off()
    # Neither a date nor random names within: the same data make the same file.
    with mpl.rc_context({"svg.hashsalt": "popexd"}):
        canvas.savefig(path, dpi=100 if rows == 1 else 85, metadata=_METADATA.get(path.suffix))


_METADATA: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


def _panel(axes: Any, panel: Panel) -> None:
    for index, curve in enumerate(panel.curves):
        _curve(axes, panel, curve, index)
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    if panel.x_logarithmic:
        from matplotlib.ticker import FuncFormatter

        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if panel.y_ticks:
        axes.set_yticks(range(len(panel.y_ticks)), panel.y_ticks)
        axes.set_ylim(-0.6, len(panel.y_ticks) - 0.4)
    elif panel.y_from_zero:
        axes.set_ylim(bottom=0)
    if panel.mark is not None:
        where, name = panel.mark
        axes.axvline(where, color="#999999", linestyle=":", linewidth=1)
        axes.annotate(f" {name}", (where, 0.97), xycoords=("data", "axes fraction"), va="top", fontsize=8)
    axes.grid(visible=True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=True, framealpha=0.85, edgecolor="none")


def _curve(axes: Any, panel: Panel, curve: Curve, index: int) -> None:
    style: dict[str, Any] = {
        "label": curve.name,
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[index // len(COLOURS) % len(DASHES)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 3.5,
        "alpha": 0.9,
    }
    heights = [panel.y_factor * y for y in curve.y]
    if panel.y_ticks:
        # Steps that lie on one another are set apart a little, so that each can be seen.
        middle = (len(panel.curves) - 1) / 2
        axes.step(curve.x, [y + 0.09 * (middle - index) for y in heights], where="post", linewidth=1.8, **style)
    else:
        # The first ones wider, so that what lies below the next can still be seen.
        axes.plot(
            curve.x, heights, linewidth=max(1.2, 3.0 - 0.6 * index), markevery=max(1, len(curve.x) // 20), **style
        )
