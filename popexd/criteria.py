"""When a side branch is sure enough to answer: maximum confidence with temperature, or entropy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

CRITERIA = ("confidence", "entropy", "normalised-entropy")
"""How a branch's threshold is meant: a confidence; an entropy in nats; an entropy as a share of ln(classes)."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """A branch's criterion on the one scale that planner, brain and worker compare: its certainty, 0..1.

    Certainty is the confidence, or for a branch that goes by entropy 1 - entropy / ln(classes). A branch answers where
    its certainty is at least the bound; so all that is said in thresholds of entropy is turned at the door, once.

    Attributes:
        name: one of CRITERIA.
        classes: how many there are; what entropy is measured against.
    """

    name: str = "confidence"
    classes: int = 2

    @property
    def largest(self) -> float:
        """The largest value there can be: a confidence of one, or the entropy of a branch that has no idea."""
        return math.log(self.classes) if self.name == "entropy" else 1.0

    def certainty(self, confidence: ArrayLike, entropy_nats: ArrayLike) -> NDArray[np.float64]:
        """The certainty of answers with this confidence and entropy, elementwise."""
        if self.name == "confidence":
            return np.asarray(confidence, dtype=np.float64)
        return np.clip(1.0 - np.asarray(entropy_nats, dtype=np.float64) / math.log(self.classes), 0.0, 1.0)

    def bound(self, threshold: float) -> float:
        """The least certainty that answers at `threshold`, which an entropy must be strictly below."""
        if self.name == "confidence":
            return threshold
        return max(0.0, math.nextafter(1.0 - threshold / self.largest, math.inf))

    def threshold(self, bound: float) -> float:
        """The threshold that gives this bound, in the criterion's own unit."""
        return bound if self.name == "confidence" else max(0.0, round((1.0 - bound) * self.largest, 12))


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
