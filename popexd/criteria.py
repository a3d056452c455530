"""When a side branch is sure enough to answer: maximum confidence with temperature, or entropy."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def softmax(logits: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities over the last axis, of `logits` divided by `temperature` (Guo et al., ICML 2017).

    Raises:
        ValueError: the temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature:g}, expected a positive number")
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    odds = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    probabilities: NDArray[np.float64] = odds / odds.sum(axis=-1, keepdims=True)
    return probabilities


def confidence(logits: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """The largest probability over the last axis, in 1/classes..1."""
    largest: NDArray[np.float64] = softmax(logits, temperature).max(axis=-1)
    return largest


def entropy(probabilities: ArrayLike, *, normalised: bool = False) -> NDArray[np.float64]:
    """Entropy over the last axis, in nats, with 0 ln 0 = 0 (BranchyNet, ICPR 2016).

    Args:
        probabilities: [..., classes], each row summing to one.
        normalised: divide by ln(classes), so that the result is in 0..1 (DDNN, PORTEND).
    """
    p = np.asarray(probabilities, dtype=np.float64)
    logarithms = np.log(p, out=np.zeros_like(p), where=p > 0)
    nats: NDArray[np.float64] = 0.0 - (p * logarithms).sum(axis=-1)
    return nats / np.log(p.shape[-1]) if normalised and p.shape[-1] > 1 else nats


def confident_enough(certainty: ArrayLike, threshold: float) -> NDArray[np.bool_]:
    """Whether a confidence answers: at the threshold and above."""
    return np.greater_equal(certainty, threshold)


def low_enough(uncertainty: ArrayLike, threshold: float) -> NDArray[np.bool_]:
    """Whether an entropy answers: strictly below the threshold."""
    return np.less(uncertainty, threshold)
