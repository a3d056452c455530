"""The photos of a figure: drawn once, in an order that the seed decides, and distorted one way after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from popexd.bundle import Bundle, InputSpec
from popexd.errors import InputError
from popexd.lab import conveyor
from popexd.lab.photos import AS_IT_IS, GENERATED, Photo, Pixels, check_generated, frame, of_folder
from popexd.quality import CLEAR


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
        check_generated(bundle)
        # Undistorted ones only: what is wrong with a picture is added by the figure.
        shots = islice(conveyor.camera(seed, quality=CLEAR), count)
        chosen = tuple(Photo(f"shot {shot.index}", shot.label, CLEAR, partial(bytes, shot.jpeg)) for shot in shots)
        return Photos(f"generated pictures (no photos), seed {seed}", chosen)
    folder = Path(source)
    if not folder.is_dir():
        raise InputError(f"--data: {folder}: no such folder, expected one with a folder of photos per class")
    every = of_folder(folder, bundle)
    order = np.random.default_rng(seed).permutation(len(every))[:count]
    chosen = tuple(every[position] for position in order)
    return Photos(f"photos of {len(every)} in {folder.resolve().name}, seed {seed}", chosen)


def prepared(photos: Photos, form: InputSpec, distortion: str = CLEAR, seed: int = 0) -> Iterator[Pixels]:
    """Yield every photo as the network takes it, uint8 RGB [height, width, 3], distorted at the camera's own size.

    Raises:
        InputError: a photo cannot be read.
    """
    name = AS_IT_IS if distortion == CLEAR else distortion
    for index, photo in enumerate(photos.chosen):
        yield frame(photo, form, name, np.random.default_rng([seed, index]))
