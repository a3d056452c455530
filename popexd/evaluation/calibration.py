"""Temperature scaling: one number per exit that makes its confidence mean what it says.

Guo et al. 2017, On Calibration of Modern Neural Networks. The negative log-likelihood is convex in 1/T, so its slope in
1/T crosses zero at most once, and a bracketed search on that one axis finds the best T; gradient descent on T itself is
known to end in negative temperatures. What an early-exit network is calibrated *on* follows Pacheco et al. (ICC 2021;
JNCA 217:103679, 2023): one temperature for all exits, fitted on what the exit says that is taken at the target
confidence, or one for each exit, fitted on all samples or on those that leave there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from popexd.criteria import confidence, softmax

COLDEST, HOTTEST = 0.05, 20.0
METHODS = ("none", "global", "per-branch")
SAMPLES = ("all", "exiting")


@dataclass(frozen=True)
class Temperatures:
    """One temperature per exit, `final` last.

    Attributes:
        values: the temperatures.
        samples: how many each was learned from; 0: it stayed 1.
        there: how many there were to learn from.
    """

    values: tuple[float, ...]
    samples: tuple[int, ...]
    there: tuple[int, ...]


def temperature(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> float:
    """Find the T in COLDEST…HOTTEST by which logits [samples, classes] are divided for the least loss on `labels`.

    Where nothing can be learned T stays 1: no samples, all answers right, every class always as likely as the others,
    or logits that are not finite.
    """
    exact = np.asarray(logits, dtype=np.float64)
    if labels.size == 0 or bool((exact.argmax(axis=1) == labels).all()):
        return 1.0
    if not np.isfinite(exact).all() or not np.ptp(exact, axis=1).any():
        return 1.0
    right = np.take_along_axis(exact, np.asarray(labels, dtype=np.intp)[:, None], axis=1)[:, 0]

    def slope(inverse: float) -> float:
        """Derivative of the loss in 1/T: what the logits are expected to be, less what they are at the label."""
        return float(((softmax(exact * inverse) * exact).sum(axis=1) - right).mean())

    if slope(1 / HOTTEST) >= 0:
        return HOTTEST
    if slope(1 / COLDEST) <= 0:
        return COLDEST
    return 1 / float(brentq(slope, 1 / HOTTEST, 1 / COLDEST, xtol=1e-12))


def fit(
    logits: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    method: str = "per-branch",
    samples_of: str = "all",
    target_confidence: float = 0.8,
) -> Temperatures:
    """Fit the temperatures of all exits.

    Args:
        logits: [exits, samples, classes], not divided by any temperature, `final` last.
        labels: [samples].
        method: "none": all 1; "global": one for all, on the logits of the exit taken at `target_confidence`;
            "per-branch": one for each exit.
        samples_of: for "per-branch": "all" samples, or those "exiting" there at `target_confidence`.
        target_confidence: a sample leaves at the first exit whose uncalibrated confidence is at least this.

    Raises:
        ValueError: a method or a choice of samples that is not there.
    """
    if method not in METHODS or samples_of not in SAMPLES:
        raise ValueError(f"{method!r} on {samples_of!r}, expected one of {METHODS} on one of {SAMPLES}")
    exits = len(logits)
    if method == "none":
        return Temperatures((1.0,) * exits, (0,) * exits, (0,) * exits)
    taken = exits_taken(logits, [target_confidence] * (exits - 1))
    if method == "global":
        one, count = _learned(logits[taken, np.arange(labels.size)], labels)
        return Temperatures((one,) * exits, (count,) * exits, (labels.size,) * exits)
    everyone = np.ones(labels.size, dtype=bool)
    masks = [everyone if samples_of == "all" else taken == index for index in range(exits)]
    each = [_learned(own[mask], labels[mask]) for own, mask in zip(logits, masks, strict=True)]
    return Temperatures(
        tuple(value for value, _ in each),
        tuple(count for _, count in each),
        tuple(int(mask.sum()) for mask in masks),
    )


def exits_taken(logits: npt.NDArray[np.floating], thresholds: Sequence[float]) -> npt.NDArray[np.intp]:
    """Say which exit each sample takes when branch i answers from uncalibrated confidence `thresholds[i]` on."""
    taken = np.full(logits.shape[1], len(logits) - 1, dtype=np.intp)
    for index in reversed(range(len(logits) - 1)):
        taken[confidence(logits[index]) >= thresholds[index]] = index
    return taken


def _learned(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> tuple[float, int]:
    found = temperature(logits, labels)
    return found, 0 if found == 1.0 else int(labels.size)
