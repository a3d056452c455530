"""Labelled photos at the camera's size, distorted before they are resized for the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from popexd.bundle import Bundle, InputSpec
from popexd.errors import FrameRejected, InputError
from popexd.lab import conveyor
from popexd.lab.distortions import CLEAR, DISTORTIONS
from popexd.lab.parts import CLASSES
from popexd.runtime.frames import load_image, sniff

GENERATED = "generated"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Photo:
    """One labelled photo; `label` is an index into the bundle's classes, `read` gives the camera's file."""

    name: str
    label: int
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Photos:
    """Drawn photos in random order, and where they are from."""

    origin: str
    chosen: tuple[Photo, ...]

    @property
    def source(self) -> str:
        """How many of what, for people."""
        return f"{len(self.chosen)} {self.origin}"

    @property
    def labels(self) -> npt.NDArray[np.intp]:
        """[photos]: index of the right class."""
        return np.array([photo.label for photo in self.chosen], dtype=np.intp)

    def first(self, count: int) -> Photos:
        """Keep the first `count`, or all."""
        return Photos(self.origin, self.chosen[:count])


def draw_photos(source: str, bundle: Bundle, count: int, seed: int) -> Photos:
    """Draw up to `count` photos of the bundle's classes: generated, or from a folder with one folder per class.

    Raises:
        InputError: there is no such folder, it holds other classes, or the bundle knows none of the generated parts.
    """
    if source == GENERATED:
        if bundle.classes != CLASSES:
            raise InputError(
                f"--data generated: shows {', '.join(CLASSES[:3])}, … but {bundle.name} knows "
                f"{', '.join(bundle.classes[:3])}: expected a folder of photos of these"
            )
        # Undistorted ones only: what is wrong with a picture is added by the figure.
        shots = islice(conveyor.camera(seed, quality=CLEAR), count)
        chosen = tuple(Photo(f"shot {shot.index}", shot.label, partial(bytes, shot.jpeg)) for shot in shots)
        return Photos(f"generated pictures (no photos), seed {seed}", chosen)
    return _from_folder(Path(source), bundle, count, seed)


def prepared(photos: Photos, form: InputSpec, distortion: str = CLEAR, seed: int = 0) -> Iterator[Pixels]:
    """Yield every photo as the network takes it, uint8 RGB [height, width, 3], distorted at the camera's own size.

    Raises:
        InputError: a photo cannot be read.
    """
    for index, photo in enumerate(photos.chosen):
        pixels = _decoded(photo)
        if distortion != CLEAR:
            pixels = DISTORTIONS[distortion].apply(pixels, np.random.default_rng([seed, index]))
        picture = Image.fromarray(pixels).resize((form.width, form.height), Image.Resampling.BILINEAR)
        yield cast("Pixels", np.asarray(picture))


def _from_folder(folder: Path, bundle: Bundle, count: int, seed: int) -> Photos:
    if not folder.is_dir():
        raise InputError(f"--data: {folder}: no such folder, expected one with a folder of photos per class")
    found = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    for entry in found:
        if entry.name not in bundle.classes:
            known = ", ".join(bundle.classes[:8])
            raise InputError(f"--data: {entry}: {bundle.name} knows no such class, expected folders named: {known}")
    if len(found) < 2:
        raise InputError(
            f"--data: {folder}: {len(found)} class folders, expected at least 2 of: {', '.join(bundle.classes[:8])}"
        )
    every = [
        Photo(str(path), bundle.classes.index(entry.name), path.read_bytes)
        for entry in found
        for path in sorted(entry.iterdir())
        if path.suffix.lower() in SUFFIXES
    ]
    if not every:
        raise InputError(f"--data: {folder}: no photos in its class folders, expected JPEG, PNG or WebP")
    order = np.random.default_rng(seed).permutation(len(every))[:count]
    chosen = tuple(every[position] for position in order)
    return Photos(f"photos of {len(every)} in {folder.resolve().name}, seed {seed}", chosen)


def _decoded(photo: Photo) -> Pixels:
    """Decode a photo at its own size, uint8 RGB [height, width, 3]."""
    try:
        data = photo.read()
        header = sniff(data)
        pixels: Pixels = load_image(header.data, header.height, header.width)[0]
    except (OSError, FrameRejected) as error:
        raise InputError(f"--data: {photo.name}: cannot be read as an image: {error}") from error
    return pixels
