"""Frames whose quality is known: generated ones, and real photos where the data are there."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from popexd.lab import conveyor
from popexd.lab.distortions import DISTORTIONS
from popexd.quality import CLEAR
from popexd.runtime.frames import encode_image, load_image

Pixels = npt.NDArray[np.uint8]
PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "pets.zip"
SIDE = 224


@lru_cache(maxsize=8)
def generated(seed: int, count: int) -> tuple[Pixels, npt.NDArray[np.str_]]:
    """Frames of a seed as the daemon prepares them, and what is wrong with each; from a smaller camera, for speed."""
    shots = list(conveyor.camera(seed, size=(400, 300), frames=count))
    images = np.concatenate([load_image(shot.jpeg, SIDE, SIDE) for shot in shots])
    return images, np.array([shot.quality for shot in shots])


@lru_cache(maxsize=8)
def sharp_scenes(seed: int, count: int) -> tuple[tuple[Pixels, int], ...]:
    """Generated frames with nothing wrong, at camera size, and their labels."""
    shots = conveyor.camera(seed, frames=count, quality="clear")
    return tuple((np.asarray(Image.open(io.BytesIO(shot.jpeg)).convert("RGB")), shot.label) for shot in shots)


def received(pixels: Pixels, distortion: str = CLEAR, seed: int = 0, side: int = SIDE) -> Pixels:
    """Distort a camera's picture, send it as JPEG and prepare it as the daemon does: [side, side, 3]."""
    if distortion != CLEAR:
        pixels = DISTORTIONS[distortion].apply(pixels, np.random.default_rng(seed))
    return load_image(encode_image(pixels, "jpeg-90"), side, side)[0]


def photos(split: str, count: int) -> Iterator[Pixels]:
    """Real photos of pets at camera size, evenly out of `split` ("train" or "val")."""
    with zipfile.ZipFile(PHOTOS) as archive:
        names = sorted(name for name in archive.namelist() if name.startswith(split) and name.endswith(".jpg"))
        for name in names[:: len(names) // count][:count]:
            yield np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))
