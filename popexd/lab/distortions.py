"""What goes wrong with a photo before a network sees it: Gaussian blur, noise of the sensor, a wrong exposure.

Each is applied to the camera's picture at its own size, before it is compressed and resized. Kernel sizes 5, 15 and 65
are those of the seed paper; it gives no sigma, so it is OpenCV's for a size alone, 0.3 ((k - 1) / 2 - 1) + 0.8.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from popexd.errors import InputError
from popexd.quality import CLASS_NAME, CLEAR
from popexd.runtime.frames import ImageFormat, encode_image

Pixels = NDArray[np.uint8]

QUALITIES = range(75, 96)
"""Of the compression after a distortion: what cameras usually send."""


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


def named(text: str | None) -> dict[str, str]:
    """Read `--distort`: each distortion that is meant, in order, and the quality class that its frames are of.

    A word is a distortion, a class (all of the table's for it), "clear" (nothing), or NAME=WORD+WORD: a class of that
    name, which takes its distortions from the table's classes. Commas between; each distortion is there once.

    Raises:
        InputError: a word that is not known, a name that no class can have, a distortion in two classes.
    """
    found: dict[str, str] = {}
    given: dict[str, str] = {}
    for part in text.split(",") if text else ():
        name, equals, words = (word.strip() for word in part.partition("="))
        meant = [each for word in (words.split("+") if equals else [name]) for each in _meant(word.strip())]
        if not equals:
            found |= {each: CLEAR if each == CLEAR else DISTORTIONS[each].quality for each in meant}
            continue
        if CLEAR in (name, *meant) or not CLASS_NAME.fullmatch(name):
            raise InputError(
                f"--distort: {part.strip()!r}, expected NAME=DISTORTION+DISTORTION, its name of 1 to 32 letters, "
                f"digits, '_', '-', and no {CLEAR} in it"
            )
        for each in meant:
            if given.setdefault(each, name) != name:
                raise InputError(f"--distort: {part.strip()!r}: {each} is {given[each]} too, expected one class for it")
            found[each] = name
    return found | given


def _meant(word: str) -> list[str]:
    """The distortions that a word stands for, or "clear"."""
    if word in DISTORTIONS or word == CLEAR:
        return [word]
    of_class = [name for name, each in DISTORTIONS.items() if each.quality == word]
    if not of_class:
        classes = dict.fromkeys(each.quality for each in DISTORTIONS.values())
        known = ", ".join((CLEAR, *classes, *DISTORTIONS))
        raise InputError(f"--distort: {word!r}, expected some of {known}, with commas between")
    return of_class


def as_sent(pixels: Pixels, form: ImageFormat, random: np.random.Generator) -> bytes:
    """Make the file of a distorted picture, as a camera would that sends files of this form.

    A camera first takes a bad picture and then compresses it, which smooths noise away and frays edges. The quality,
    one of QUALITIES, is the generator's choice; a PNG loses nothing.
    """
    if form != "png":
        return encode_image(pixels, f"{form}-{random.integers(QUALITIES.start, QUALITIES.stop)}")
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _rounded(values: NDArray[np.float32]) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
