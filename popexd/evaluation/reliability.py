"""Whether an exit is right as often as it says: reliability diagrams and the expected calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """What becomes of the samples of each confidence bin (edges[i], edges[i+1]].

    Attributes:
        edges: [bins + 1], from 0 to 1.
        counts: [bins].
        confidence: [bins], mean of the samples in it, nan where there are none.
        accuracy: [bins], likewise.
    """

    edges: npt.NDArray[np.float64]
    counts: npt.NDArray[np.intp]
    confidence: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]

    @property
    def error(self) -> float:
        """The expected calibration error: |confidence - accuracy|, weighed with each bin's share of the samples."""
        gaps = np.abs(self.confidence - self.accuracy)[self.counts > 0]
        return float((gaps * self.counts[self.counts > 0]).sum() / max(int(self.counts.sum()), 1))


def reliability(confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int = BINS) -> Reliability:
    """Sort samples into equal bins by confidence (Guo et al. 2017, section 2).

    Args:
        confidence: [samples], in 0..1. One of exactly 0 counts in the first bin.
        correct: [samples], booleans.
        bins: how many.
    """
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, sure, side="left") - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(place, sure, minlength=bins) / counts
        accuracy = np.bincount(place, right, minlength=bins) / counts
    return Reliability(edges, counts, mean, accuracy)


def expected_calibration_error(confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int = BINS) -> float:
    """Return the expected calibration error over `bins` equal bins, 0..1; 0 without samples."""
    return reliability(confidence, correct, bins).error
