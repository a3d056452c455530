"""What goes wrong with a photo before a network sees it: Gaussian blur, noise of the sensor, a wrong exposure.

Each is applied to the camera's picture at its own size, before it is resized. Kernel sizes 5, 15 and 65 are those of
the seed paper; it gives no sigma, so it is OpenCV's for a size alone, 0.3 ((k - 1) / 2 - 1) + 0.8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from popexd.errors import InputError
from popexd.quality import CLEAR

Pixels = NDArray[np.uint8]


class Distortion(NamedTuple):
    """The quality class it makes, and what it does: pixels uint8 [height, width, 3] and a generator to the like."""

    quality: str
    apply: Callable[[Pixels, np.random.Generator], Pixels]


def kernel(size: int) -> NDArray[np.float64]:
    """Gaussian weights [size] that sum to 1, of the sigma in pixels that OpenCV takes for that size."""
    sigma = 0.3 * ((size - 1) / 2 - 1) + 0.8
    offsets = np.arange(size) - (size - 1) / 2
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    normalised: NDArray[np.float64] = weights / weights.sum()
    return normalised


def blurred(pixels: Pixels, size: int) -> Pixels:
    """Blur with a Gaussian of `size` x `size` pixels (odd); mirrored at the border, the outermost pixel not twice."""
    weights = kernel(size).astype(np.float32)
    along = ndimage.correlate1d(pixels.astype(np.float32), weights, axis=0, mode="mirror")
    return _rounded(ndimage.correlate1d(along, weights, axis=1, mode="mirror"))


def noisy(pixels: Pixels, sigma: float, random: np.random.Generator) -> Pixels:
    """Add white Gaussian noise of `sigma` grey levels (of 255) to every channel on its own, and clip."""
    return _rounded(pixels + np.float32(sigma) * random.standard_normal(pixels.shape, dtype=np.float32))


def exposed(pixels: Pixels, factor: float) -> Pixels:
    """Multiply the stored values, not the light, by `factor`, and clip: bright parts burn out."""
    table = _rounded(np.arange(256, dtype=np.float32) * np.float32(factor))
    return table[pixels]


def _blur(size: int) -> Distortion:
    return Distortion("blurred", lambda pixels, _: blurred(pixels, size))


def _noise(sigma: float) -> Distortion:
    return Distortion("noisy", lambda pixels, random: noisy(pixels, sigma, random))


def _exposure(factor: float) -> Distortion:
    return Distortion("dark" if factor < 1 else "bright", lambda pixels, _: exposed(pixels, factor))


DISTORTIONS: Mapping[str, Distortion] = {
    "blur-5": _blur(5),
    "blur-15": _blur(15),
    "blur-65": _blur(65),
    "noise-10": _noise(10),
    "noise-20": _noise(20),
    "noise-40": _noise(40),
    "dark-0.5": _exposure(0.5),
    "dark-0.25": _exposure(0.25),
    "bright-1.5": _exposure(1.5),
    "bright-2": _exposure(2),
}
"""Every distortion by its name, from slight to strong within a class."""


def named(text: str | None) -> tuple[str, ...]:
    """Read `--distort`: distortions, classes (all of theirs) and "clear" (nothing), commas between; each is there once.

    Raises:
        InputError: a word that is not known.
    """
    found: list[str] = []
    for part in text.split(",") if text else ():
        word = part.strip()
        of_class = [name for name, each in DISTORTIONS.items() if each.quality == word]
        if word != CLEAR and word not in DISTORTIONS and not of_class:
            classes = dict.fromkeys(each.quality for each in DISTORTIONS.values())
            known = ", ".join((CLEAR, *classes, *DISTORTIONS))
            raise InputError(f"--distort: {word!r}, expected some of {known}, with commas between")
        found += of_class or [word]
    return tuple(dict.fromkeys(found))


def _rounded(values: NDArray[np.float32]) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
