"""How good a frame is, in the few classes a plan can depend on: clear, blurred, noisy, dark and the like.

A dozen features of the green channel, all of integer sums, and one linear classifier of their logarithms: some hundreds
of microseconds a frame. Noise is the response to Immerkaer's mask (Computer Vision and Image Understanding 64, 1996)
where the picture is flattest; sharpness is how steep its steepest parts are, at one, two and four pixels, along and
across: defocus takes the small scale, a moving belt one direction, and noise lifts the smallest scale alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEATURES = (
    "noise-1",
    "noise-2",
    "flat-across-1",
    "flat-along-1",
    "steep-across-1",
    "steep-across-2",
    "steep-across-4",
    "steep-along-1",
    "steep-along-2",
    "steep-along-4",
    "brightness",
    "deviation",
    "darkest",
    "brightest",
    "black",
    "white",
)
"""Names of the features, in the order of their numbers; "across" compares neighbours in a row, "along" in a column."""

_STRIP_ROWS = 16
_BLOCK_COLUMNS = 8
_MOST_PIXELS = 1 << 16
_FLAT, _STEEP = 0.1, 0.9
# Differences of a tenth of a grey level are rounding, not picture.
_LEAST_LEVEL, _LEAST_SHARE = 0.1, 1e-3
_BLACK, _WHITE = 8, 247

_MOST_CLASSES = 32
_MOST_WEIGHT = 1e6
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")


def features(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Measure a frame: uint8 RGB [height, width, 3] or [1, height, width, 3] to float32 [len(FEATURES)].

    Larger frames are sampled in strips of 16 rows, so the time does not grow with the height.

    Raises
    ------
    ValueError
        Not such a frame.
    """
    picture = _strips(pixels)
    levels = []
    noise: list[float] = []
    steep_across, steep_along = [], []
    for scale in (1, 2, 4):
        across, along = _steps(picture)
        levels.append((across, along))
        steep_across.append(_quantile(across, _STEEP) / scale**2)
        steep_along.append(_quantile(along, _STEEP) / scale**2)
        if scale < 4:
            noise.append(_quantile(_curvature(picture), _FLAT) / scale**2)
            picture = _halved(picture)
    flat = [_quantile(each, _FLAT) for each in levels[0]]
    # The last one is of sums over sixteen pixels.
    coarse = np.sort(picture.reshape(-1)) / 16
    steps = np.array([*noise, *flat, *steep_across, *steep_along], dtype=np.float64)
    tones = np.array([coarse.mean(), coarse.std(), _at(coarse, 0.05), _at(coarse, 0.95)])
    green = _strips(pixels)
    shares = np.array([np.count_nonzero(green <= _BLACK), np.count_nonzero(green >= _WHITE)]) / green.size
    logarithms = (np.log(steps + _LEAST_LEVEL), np.log(tones + 1), np.log(shares + _LEAST_SHARE))
    return np.concatenate(logarithms).astype(np.float32)


@dataclass(frozen=True)
class QualityEstimator:
    """A linear classifier of the standardised features, fitted by `popexd.evaluation.quality_fit`.

    Attributes
    ----------
        classes: names of the quality classes.
        mean, scale: [features]; a feature is standardised by subtracting the one and dividing by the other.
        weights, bias: [classes, features] and [classes]; the largest sum is the frame's class.
        agreement: share of held-out frames whose class it found.
    """

    classes: tuple[str, ...]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    agreement: float

    def classify(self, pixels: NDArray[np.uint8]) -> str:
        """Name the class of a frame, uint8 RGB [height, width, 3] or [1, height, width, 3]. Raises ValueError."""
        return self.classes[int(self.scores(features(pixels)).argmax())]

    def scores(self, measured: NDArray[np.float32]) -> NDArray[np.float64]:
        """Score features [..., features] for every class: float64 [..., classes], the largest is the class."""
        scores: NDArray[np.float64] = ((measured - self.mean) / self.scale) @ self.weights.T + self.bias
        return scores

    def to_json(self) -> dict[str, Any]:
        """Give what `from_json` takes: the entry `quality` of bundle.json."""
        return {
            "classes": list(self.classes),
            "features": list(FEATURES),
            "mean": self.mean.tolist(),
            "scale": self.scale.tolist(),
            "weights": self.weights.tolist(),
            "bias": self.bias.tolist(),
            "agreement": self.agreement,
        }

    @classmethod
    def from_json(cls, entry: object) -> QualityEstimator:
        """Read what `to_json` gave, from a source that is not trusted. Raises ValueError with one line."""
        if not isinstance(entry, Mapping):
            raise ValueError(f"expected a table, found {type(entry).__name__}")  # noqa: TRY004 one kind for the caller
        classes = entry.get("classes")
        if not isinstance(classes, list) or not 2 <= len(classes) <= _MOST_CLASSES:
            raise ValueError(f"classes: expected a list of 2 to {_MOST_CLASSES} names")
        if not all(isinstance(name, str) and _NAME.fullmatch(name) for name in classes):
            raise ValueError("classes: expected names of 1 to 32 letters, digits, '_', '-'")
        if len(set(classes)) != len(classes):
            raise ValueError("classes: expected different names")
        if entry.get("features") != list(FEATURES):
            raise ValueError("features: expected those of this version of popexd; fit the estimator again")
        mean = _numbers(entry.get("mean"), len(FEATURES), "mean")
        scale = _numbers(entry.get("scale"), len(FEATURES), "scale")
        if scale.min() < 1 / _MOST_WEIGHT:
            raise ValueError(f"scale: expected numbers of {1 / _MOST_WEIGHT:g} or more")
        rows = entry.get("weights")
        if not isinstance(rows, list) or len(rows) != len(classes):
            raise ValueError(f"weights: expected {len(classes)} rows, one per class")
        weights = np.stack([_numbers(row, len(FEATURES), f"weights[{index}]") for index, row in enumerate(rows)])
        bias = _numbers(entry.get("bias"), len(classes), "bias")
        (agreement,) = _numbers([entry.get("agreement")], 1, "agreement")
        if not 0 <= agreement <= 1:
            raise ValueError("agreement: expected a number between 0 and 1")
        return cls(tuple(classes), mean, scale, weights, bias, float(agreement))


def _numbers(values: object, count: int, where: str) -> NDArray[np.float64]:
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"{where}: expected a list of {count} numbers")
    for value in values:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        # Compared before it is converted: an integer of JSON may be larger than any float.
        if not number or not -_MOST_WEIGHT <= value <= _MOST_WEIGHT:
            raise ValueError(f"{where}: expected finite numbers, none beyond {_MOST_WEIGHT:g}")
    return np.array(values, dtype=np.float64)


def _strips(pixels: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Take the green channel in strips spread evenly over the height: int16 [strips, 16, width], width a multiple of 8.

    It is the one channel a camera samples at every other pixel, and most of what JPEG keeps at full resolution.
    """
    shape = pixels.shape[1:] if pixels.ndim == 4 and pixels.shape[0] == 1 else pixels.shape
    if pixels.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise ValueError(f"a frame of {pixels.dtype} {pixels.shape}, expected uint8 [height, width, 3]")
    green = pixels.reshape(shape)[:, :, 1]
    height, width = shape[0], shape[1]
    if height < _STRIP_ROWS or width < _STRIP_ROWS:
        missing = ((0, max(0, _STRIP_ROWS - height)), (0, max(0, _STRIP_ROWS - width)))
        green = np.pad(green, missing, mode="edge")
        height, width = green.shape
    there = height // _STRIP_ROWS
    taken = min(there, max(1, _MOST_PIXELS // (_STRIP_ROWS * width)))
    columns = width - width % _BLOCK_COLUMNS
    starts = np.arange(taken) * there // taken
    strips = green[: there * _STRIP_ROWS, :columns].reshape(there, _STRIP_ROWS, columns)
    chosen: NDArray[np.int16] = strips[starts].astype(np.int16)
    return chosen


def _halved(picture: NDArray[np.int16]) -> NDArray[np.int16]:
    """Sum two by two: half the rows and columns, fourfold values."""
    rows = picture[:, ::2] + picture[:, 1::2]
    rows = rows[..., : rows.shape[2] & ~1]
    halved: NDArray[np.int16] = rows[..., ::2] + rows[..., 1::2]
    return halved


def _steps(picture: NDArray[np.int16]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean size of the differences of neighbours in a row and in a column, block by block."""
    return _blocks(np.abs(np.diff(picture, axis=2))), _blocks(np.abs(np.diff(picture, axis=1)))


def _curvature(picture: NDArray[np.int16]) -> NDArray[np.float64]:
    """Mean size of the response to Immerkaer's mask: a plane and an edge along either axis give none."""
    across = np.diff(picture, n=2, axis=2)
    return _blocks(np.abs(np.diff(across, n=2, axis=1)))


def _blocks(values: NDArray[np.int16]) -> NDArray[np.float64]:
    """Means over each strip's rows and eight columns: [strips x blocks], in no order."""
    columns = values.sum(axis=1, dtype=np.int32)
    whole = max(1, columns.shape[1] // _BLOCK_COLUMNS)
    block = min(_BLOCK_COLUMNS, columns.shape[1])
    sums = columns[:, : whole * block].reshape(-1, block).sum(axis=1)
    means: NDArray[np.float64] = sums / (block * values.shape[1])
    return means


def _quantile(values: NDArray[np.float64], share: float) -> float:
    place = math.floor(share * (values.size - 1))
    return float(np.partition(values, place)[place])


def _at(ordered: NDArray[np.float64], share: float) -> float:
    return float(ordered[math.floor(share * (ordered.size - 1))])
