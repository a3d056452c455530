"""Frames varied at random while they are learned; the kind is part of the recipe.

"turns" suits a camera that looks down on loose parts, "photo" pictures with an up and a down, "none" nothing to vary.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from popexd.errors import InputError

Frame = npt.NDArray[np.uint8]
Augmentation = Callable[[Frame, np.random.Generator], Frame]

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def turns(image: Frame, random: np.random.Generator) -> Frame:
    """Vary a square frame [side, side, 3]: mirror, turn by quarters, shift by up to a tenth, brighten or darken."""
    if random.random() < 0.5:
        image = image[:, ::-1]
    image = np.rot90(image, int(random.integers(4)))
    reach = image.shape[0] // 10
    down, right = random.integers(-reach, reach + 1, 2)
    rows = np.clip(np.arange(image.shape[0]) + down, 0, image.shape[0] - 1)
    columns = np.clip(np.arange(image.shape[1]) + right, 0, image.shape[1] - 1)
    gain, lift = random.uniform(0.8, 1.25), random.uniform(-12, 12)
    curve = np.clip(np.arange(256) * gain + lift, 0, 255).astype(np.uint8)
    return np.asarray(curve[image[rows][:, columns]])


def photo(image: Frame, random: np.random.Generator) -> Frame:
    """Vary a square frame [side, side, 3]: mirror, cut out and enlarge, shift over the edge, shift its colours.

    What is cut out is 0.7 to 1.05 of the side in both directions, each on its own, so that proportions vary too; an
    eighth beyond the edge is filled with the mirrored frame.
    """
    side = image.shape[0]
    margin = side // 8
    over = np.abs(np.arange(-margin, side + margin))
    over = np.where(over < side, over, 2 * side - 2 - over)
    columns = over[::-1] if random.random() < 0.5 else over
    wide = Image.fromarray(image[over][:, columns])
    width, height = side * random.uniform(0.7, 1.05) * random.uniform(0.9, 1.1, 2)
    left, top = random.uniform(0, wide.width - width), random.uniform(0, wide.height - height)
    cut = wide.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
    pixels = np.asarray(cut).astype(np.float32)
    grey = (pixels @ _LUMA)[:, :, None]
    gains = random.uniform(0.75, 1.25) * random.uniform(0.92, 1.08, 3).astype(np.float32)
    pixels = (grey + (pixels - grey) * np.float32(random.uniform(0.6, 1.4))) * gains
    pixels += np.float32(random.uniform(-20, 20))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def none(image: Frame, random: np.random.Generator) -> Frame:  # noqa: ARG001 - one of several
    """Leave a frame as it is."""
    return image


AUGMENTATIONS: dict[str, Augmentation] = {"turns": turns, "photo": photo, "none": none}


def augmentation(name: str) -> Augmentation:
    """Find an augmentation by name. Raises InputError for an unknown one."""
    if name not in AUGMENTATIONS:
        raise InputError(f"--augmentation: {name!r}, expected one of {', '.join(AUGMENTATIONS)}")
    return AUGMENTATIONS[name]
