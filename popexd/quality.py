"""How good a frame is, in the few classes a plan can depend on: clear, blurred, noisy, dark and the like.

Sixteen features of the green channel, all of integer sums, and one linear classifier of their logarithms: some hundreds
of microseconds a frame. Noise is the response to Immerkaer's mask (Computer Vision and Image Understanding 64, 1996)
where the picture is flattest. Blur shows where it is steepest: how much of the steps between coarse pixels is left
between fine ones, in a row and in a column, for a moving belt smears but one of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CLEAR = "clear"
"""The class of a frame with which nothing is wrong."""

FEATURES = (
    "noise-1",
    "noise-2",
    "texture-2",
    "detail-1",
    "detail-2",
    "steep-across",
    "steep-along",
    "edge-across-1",
    "edge-along-1",
    "edge-across-2",
    "edge-along-2",
    "flat-across-8",
    "flat-along-8",
    "brightness",
    "brightest",
    "white",
)
"""Names of the features, in the order of their numbers.

The number is a scale in pixels; "across" compares neighbours in a row, "along" in a column. `noise`, `texture` and
`detail` are the mask's response in the flattest tenth, the middle and the richest tenth of the blocks.
"""

_STRIP_ROWS = 16
_BLOCK_COLUMNS = 8
_MOST_PIXELS = 1 << 16
_FLAT, _MIDDLE, _RICH, _STEEPEST = 0.1, 0.5, 0.9, 0.98
# Differences of a tenth of a grey level are rounding, not picture.
_LEAST_LEVEL, _LEAST_SHARE = 0.1, 1e-3
_WHITE = 254

_MOST_CLASSES = 32
_MOST_WEIGHT = 1e6
CLASS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
"""What a class may be called."""


def features(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Measure a frame: uint8 RGB [height, width, 3] or [1, height, width, 3] to float32 [len(FEATURES)].

    Larger frames are sampled in strips of 16 rows, so the time does not grow with the height.

    Raises
    ------
    ValueError
        Not such a frame.
    """
    fine = _strips(pixels)
    half = _halved(fine)
    quarter = _halved(half)
    eighth = _halved(quarter)
    across = [_across(picture, scale) for picture, scale in ((fine, 1), (half, 2), (quarter, 4), (eighth, 8))]
    along = [_along(picture, scale) for picture, scale in ((fine, 1), (half, 2), (quarter, 4), (eighth, 8))]
    curved_1, curved_2 = np.sort(_curvature(fine, 1)), np.sort(_curvature(half, 2))
    steps = [_at(curved_1, _FLAT), _at(curved_2, _FLAT), _at(curved_2, _MIDDLE)]
    steps += [_at(curved_1, _RICH), _at(curved_2, _RICH)]
    steps += [_at(np.sort(across[0]), _STEEPEST), _at(np.sort(along[0]), _STEEPEST)]
    edges_across, edges_along = _at_edges(*across[:3]), _at_edges(*along[:3])
    edges = [edges_across[0], edges_along[0], edges_across[1], edges_along[1]]
    flat = [_at(np.sort(across[3]), _FLAT), _at(np.sort(along[3]), _FLAT)]
    tones = np.sort(eighth, axis=None) / 64
    white = np.count_nonzero(fine >= _WHITE) / fine.size
    logarithms = (
        np.log(np.array(steps) + _LEAST_LEVEL),
        np.array(edges),
        np.log(np.array(flat) + _LEAST_LEVEL),
        np.log(np.array([tones.mean(), _at(tones, 0.95)]) + 1),
        np.log([white + _LEAST_SHARE]),
    )
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
        if not all(isinstance(name, str) and CLASS_NAME.fullmatch(name) for name in classes):
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
    halved: NDArray[np.int16] = rows[..., ::2] + rows[..., 1::2]
    return halved


def _across(picture: NDArray[np.int16], scale: int) -> NDArray[np.float64]:
    """Mean size of the differences of neighbours in a row, block by block."""
    return _blocks(np.abs(np.diff(picture, axis=2)), scale)


def _along(picture: NDArray[np.int16], scale: int) -> NDArray[np.float64]:
    """Mean size of the differences of neighbours in a column, block by block."""
    return _blocks(np.abs(np.diff(picture, axis=1)), scale)


def _curvature(picture: NDArray[np.int16], scale: int) -> NDArray[np.float64]:
    """Mean size of the response to Immerkaer's mask, by block; a plane and an edge along either axis give none."""
    return _blocks(np.abs(np.diff(np.diff(picture, n=2, axis=1), n=2, axis=2)), scale)


def _blocks(values: NDArray[np.int16], scale: int) -> NDArray[np.float64]:
    """Means in grey levels over each strip's rows and eight columns of the frame: [strips x blocks]."""
    block = _BLOCK_COLUMNS // scale
    columns = values.sum(axis=1, dtype=np.int32)
    starts = np.arange(0, columns.shape[1], block)
    sums = np.add.reduceat(columns, starts, axis=1)
    wide = np.minimum(block, columns.shape[1] - starts)
    # A value of scale s is the sum of s x s pixels.
    means: NDArray[np.float64] = (sums / (wide * values.shape[1] * scale**2)).reshape(-1)
    return means


def _at_edges(one: NDArray[np.float64], two: NDArray[np.float64], four: NDArray[np.float64]) -> tuple[float, float]:
    """Compare steps at one and at two pixels with those at four, in the tenth of the blocks where these are largest."""
    edges = np.argpartition(four, four.size - 1 - four.size // 10)[four.size - 1 - four.size // 10 :]
    coarse, middle, fine = (math.log(float(each[edges].mean()) + _LEAST_LEVEL) for each in (four, two, one))
    return fine - coarse, middle - coarse


def _at(ordered: NDArray[np.float64], share: float) -> float:
    return float(ordered[math.floor(share * (ordered.size - 1))])
