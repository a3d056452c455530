"""`popexd quality`: the image-quality class of photos, as the daemon sees them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from popexd import bundle as bundles
from popexd.cli.sources import read_image
from popexd.cli.words import printable, share
from popexd.criteria import softmax
from popexd.errors import FrameRejected, InputError


def quality(
    images: Annotated[list[Path], typer.Argument(help="photos: JPEG, PNG or WebP")],
    bundle: Annotated[str, typer.Option(help="a bundle folder, or the one that ships with popexd")] = "default",
    as_json: Annotated[bool, typer.Option("--json", help="one line per photo, with every feature")] = False,
) -> None:
    """Say which image-quality class BUNDLE sees each photo in, and how the others compare."""
    loaded = bundles.load(bundle)
    estimator = loaded.quality
    if estimator is None:
        raise InputError(f"--bundle: {loaded.name} tells no quality classes; popexd calibrate can add them")
    # Pillow takes a while to load; --help does not need it.
    from popexd.quality import FEATURES, features
    from popexd.runtime.frames import load_image, sniff

    # All of them, before the first is looked at.
    for path in images:
        if not path.exists():
            raise InputError(f"{path}: no such file, expected an image file")
    width = max(len(printable(str(path))) for path in images)
    for path in images:
        try:
            pixels = load_image(sniff(read_image(path)).data, loaded.input.height, loaded.input.width)
        except FrameRejected as error:
            raise InputError(f"{path}: {error}, expected an image") from error
        measured = features(pixels)
        scores = estimator.scores(measured)
        likely = softmax(scores)
        found = dict(sorted(zip(estimator.classes, likely.tolist(), strict=True), key=lambda each: -each[1]))
        seen = estimator.classes[int(scores.argmax())]
        if as_json:
            numbers = {name: round(float(value), 4) for name, value in zip(FEATURES, measured, strict=True)}
            rounded = {name: round(value, 6) for name, value in found.items()}
            typer.echo(json.dumps({"image": str(path), "quality": seen, "classes": rounded, "features": numbers}))
        else:
            words = "  ".join(f"{name} {share(value)}" for name, value in found.items() if value >= 0.001)
            typer.echo(f"{printable(str(path)):<{width}}  {words}")
