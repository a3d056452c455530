"""The photos of a figure: drawn once, in an order that the seed decides, and distorted one way after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from popexd.bundle import Bundle, InputSpec
from popexd.errors import InputError
from popexd.lab import conveyor, provenance
from popexd.lab.photos import AS_IT_IS, GENERATED, Photo, Pixels, check_generated, frame, held_out, photos
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
    """Draw up to `count` photos of the bundle's classes: generated, or from whatever `lab.photos` evaluates on.

    What the network learned from is left out, and `origin` says so.

    Raises:
        InputError: there is no such folder, it holds other classes, or the bundle knows none of the generated parts.
    """
    if source == GENERATED:
        return _generated(bundle, count, seed)
    place = Path(source)
    if (place / "data.json").is_file():
        parts = photos(source, bundle, None, seed, whole=True)
        every = [photo for photo in parts.report if photo.quality == CLEAR]
        origin = f"clear ones of {parts.origin}"
        if not every:
            raise InputError(f"--data: {place}: no clear frames, expected some: the figures distort them")
    else:
        root, every, note = held_out(place, bundle)
        origin = f"photos of {len(every)} in {root.resolve().name}{note}"
    order = np.random.default_rng(seed).permutation(len(every))[:count]
    return Photos(f"{origin}, seed {seed}", tuple(every[position] for position in order))


def _generated(bundle: Bundle, count: int, seed: int) -> Photos:
    """The first undistorted scenes that are new to the network: what is wrong with a picture is added by the figure."""
    check_generated(bundle)
    known = provenance.of_bundle(bundle)
    chosen: list[Photo] = []
    for shot in conveyor.camera(seed, quality=CLEAR):
        own = provenance.of_words(GENERATED, seed, shot.index)
        if len(chosen) == count:
            break
        if known is None or known.split_of(own) is None:
            chosen.append(Photo(f"shot {shot.index}", shot.label, CLEAR, partial(bytes, shot.jpeg), own))
    return Photos(f"generated pictures (no photos), seed {seed}", tuple(chosen))


def prepared(photos: Photos, form: InputSpec, distortion: str = CLEAR, seed: int = 0) -> Iterator[Pixels]:
    """Yield every photo as the network takes it, uint8 RGB [height, width, 3], distorted at the camera's own size.

    Raises:
        InputError: a photo cannot be read.
    """
    name = AS_IT_IS if distortion == CLEAR else distortion
    for index, photo in enumerate(photos.chosen):
        yield frame(photo, form, name, np.random.default_rng([seed, index]))
