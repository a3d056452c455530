"""Temperature scaling: one number per exit that makes its confidence mean what it says.

Guo et al. 2017, On Calibration of Modern Neural Networks. The negative log-likelihood is convex in 1/T, so a bounded
search on one axis finds the best T; gradient descent on T itself is known to end in negative temperatures.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

COLDEST, HOTTEST = 0.05, 20.0
_GOLDEN = (math.sqrt(5) - 1) / 2


def temperature(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8]) -> float:
    """Find the T in COLDEST…HOTTEST by which logits [samples, classes] are divided for the least loss on `labels`.

    Where nothing can be learned (all answers right, or no samples) T stays 1.
    """
    if labels.size == 0 or bool((logits.argmax(axis=1) == labels).all()):
        return 1.0
    exact = logits.astype(np.float64)
    low, high = 1 / HOTTEST, 1 / COLDEST
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    loss_left, loss_right = (negative_log_likelihood(exact * inverse, labels) for inverse in (left, right))
    while high - low > 1e-9:
        if loss_left <= loss_right:
            high, right, loss_right = right, left, loss_left
            left = high - _GOLDEN * (high - low)
            loss_left = negative_log_likelihood(exact * left, labels)
        else:
            low, left, loss_left = left, right, loss_right
            right = low + _GOLDEN * (high - low)
            loss_right = negative_log_likelihood(exact * right, labels)
    return 2 / (low + high)


def negative_log_likelihood(logits: npt.NDArray[np.float64], labels: npt.NDArray[np.uint8]) -> float:
    """Mean of -ln softmax at the label; logits are [samples, classes]."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    total = np.log(np.exp(shifted).sum(axis=1))
    return float((total - shifted[np.arange(labels.size), labels]).mean())
