"""Reproduced figures on disk: data as JSON and CSV, a picture, each whole or not there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from popexd.errors import InputError
from popexd.lab.pictures import put
from popexd.lab.reproduction.figure import Figure


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
        folder.mkdir(parents=True, exist_ok=True)
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
        from popexd.lab.reproduction.picture import draw

        draw(figure, path)

    return {
        "json": lambda path: path.write_text(data, encoding="utf-8"),
        "csv": lambda path: path.write_text(figure.to_csv(), encoding="utf-8"),
        **dict.fromkeys(formats, drawn),
    }
