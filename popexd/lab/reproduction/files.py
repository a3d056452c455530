"""Reproduced figures on disk: data as JSON and CSV, a picture, each whole or not there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from popexd.errors import InputError
from popexd.folders import made
from popexd.lab.pictures import put
from popexd.lab.reproduction.figure import Figure, Panel

if TYPE_CHECKING:
    from popexd.lab.panels import Curves


def write(folder: Path, figures: Iterable[Figure], formats: Iterable[str]) -> list[Path]:
    """Write every figure into `folder`, which is made where it is missing, and return the files.

    Each file is written under another name first and then takes the place of an older one. All pictures are drawn
    before any file is put in its place, so that what cannot be drawn leaves nothing behind.

    Raises:
        InputError: something cannot be written.
    """
    chosen = tuple(formats)
    files = {
        folder / f"figure-{figure.name}.{suffix}": form
        for figure in figures
        for suffix, form in _forms(figure, chosen).items()
    }
    try:
        with made(folder):
            put(files)
    except OSError as error:
        raise InputError(
            f"--out: {folder}: {error.strerror or error}, expected a folder that can be written"
        ) from error
    return list(files)


def _forms(figure: Figure, formats: tuple[str, ...]) -> dict[str, Callable[[Path], object]]:
    """By suffix, how a file of the figure is written."""
    data = json.dumps(figure.to_json(), indent=1, ensure_ascii=False) + "\n"

    def drawn(path: Path) -> None:
        from popexd.lab.panels import draw_panels

        draw_panels(path, f"{figure.title}\n{figure.source}", [_curves(panel) for panel in figure.panels], columns=2)

    return {
        "json": lambda path: path.write_text(data, encoding="utf-8"),
        "csv": lambda path: path.write_text(figure.to_csv(), encoding="utf-8"),
        **dict.fromkeys(formats, drawn),
    }


def _curves(panel: Panel) -> Curves:
    """A panel as it is drawn, in the units that are for people."""
    from popexd.lab.panels import Curves

    return Curves(
        panel.title,
        panel.x_label,
        panel.y_label,
        {curve.name: (curve.x, [panel.y_factor * y for y in curve.y]) for curve in panel.curves},
        marks={} if panel.mark is None else {panel.mark[1]: panel.mark[0]},
        from_zero=panel.y_from_zero,
        x_logarithmic=panel.x_logarithmic,
        steps=panel.y_ticks,
    )
