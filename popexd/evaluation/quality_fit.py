"""Fits the quality estimator to frames whose true class is known, and says how often it is right on others.

Multinomial logistic regression of the standardised features, every class counting alike: how often a class occurs in
the laboratory says nothing about a user's camera, and a blurred frame taken for a clear one costs more than the
opposite. The loss is convex, so the result does not depend on a start or a seed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from popexd.errors import InputError
from popexd.quality import CLEAR, FEATURES, QualityEstimator, features

UNSEEN = {"occluded": CLEAR}
"""True classes that pixels do not tell, and as what they count: what lies on a part is no fault of the picture."""

LEAST_FRAMES = 20
"""Of each class, to fit and to measure an estimator."""

_HOLD_OUT = 5
_PENALTY = 1e-4

Images = Iterable[npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class Fitted:
    """An estimator, and what it made of the frames that were held out.

    Attributes:
        estimator: its `agreement` is that on the held-out frames.
        confusion: [true class, seen class], counts of held-out frames, in the order of the estimator's classes.
    """

    estimator: QualityEstimator
    confusion: npt.NDArray[np.int64]


def measure(images: Images) -> npt.NDArray[np.float32]:
    """Measure the features of every frame, uint8 RGB [height, width, 3] each: float32 [samples, features]."""
    rows = [features(np.ascontiguousarray(image)) for image in images]
    return np.array(rows, dtype=np.float32).reshape(-1, len(FEATURES))


def visible(quality: npt.NDArray[np.str_]) -> npt.NDArray[np.str_]:
    """Name for every true class [samples] the one that an estimator is asked for; see UNSEEN."""
    return np.array([UNSEEN.get(str(name), str(name)) for name in quality])


def seen(estimator: QualityEstimator, images: Images) -> npt.NDArray[np.str_]:
    """Name the class that `estimator` gives each frame, as the daemon will: [samples]."""
    return np.array([estimator.classify(np.ascontiguousarray(image)) for image in images])


def fit_frames(images: Images, quality: npt.NDArray[np.str_]) -> Fitted:
    """Fit an estimator to frames, uint8 RGB of the network's input size, and their true classes [samples].

    Classes that pixels do not tell are merged first, see UNSEEN. Every fifth frame of a class is held out.

    Raises:
        InputError: fewer than two classes, or fewer than LEAST_FRAMES frames of one.
    """
    return fit(measure(images), visible(quality))


def fit(measured: npt.NDArray[np.float32], quality: npt.NDArray[np.str_]) -> Fitted:
    """Fit an estimator to features [samples, features] and classes [samples], without every fifth frame of a class.

    Those held out say how well it agrees. `clear` comes first among the classes, the others by their names.

    Raises:
        InputError: fewer than two classes, fewer than LEAST_FRAMES frames of one, or shapes that disagree.
    """
    names, index, counts = np.unique(quality, return_inverse=True, return_counts=True)
    if measured.shape != (quality.size, len(FEATURES)):
        raise InputError(f"quality: features {measured.shape}, expected ({quality.size}, {len(FEATURES)})")
    if names.size < 2:
        raise InputError(f"quality: only {', '.join(names) or 'no frames'}, expected frames of at least two classes")
    if counts.min() < LEAST_FRAMES:
        rare = names[counts.argmin()]
        raise InputError(f"quality: {counts.min()} frames are {rare}, expected at least {LEAST_FRAMES}")
    order = sorted(range(names.size), key=lambda each: (names[each] != CLEAR, names[each]))
    truth = np.argsort(order)[index]
    held = np.zeros(truth.size, dtype=bool)
    for which in range(names.size):
        held[np.flatnonzero(truth == which)[_HOLD_OUT - 1 :: _HOLD_OUT]] = True
    estimator = _fitted(measured[~held], truth[~held], tuple(str(names[each]) for each in order))
    return agree(estimator, measured[held], np.array(estimator.classes)[truth[held]])


def agree(estimator: QualityEstimator, measured: npt.NDArray[np.float32], quality: npt.NDArray[np.str_]) -> Fitted:
    """Measure `estimator` on other frames: features [samples, features] and true classes [samples] it knows."""
    truth = np.array([estimator.classes.index(str(name)) for name in quality])
    said = estimator.scores(measured).argmax(axis=1)
    confusion = np.zeros((len(estimator.classes),) * 2, dtype=np.int64)
    np.add.at(confusion, (truth, said), 1)
    return Fitted(replace(estimator, agreement=round(float((truth == said).mean()), 4)), confusion)


def _fitted(
    measured: npt.NDArray[np.float32], truth: npt.NDArray[np.intp], classes: tuple[str, ...]
) -> QualityEstimator:
    exact = measured.astype(np.float64)
    mean, deviation = exact.mean(axis=0), exact.std(axis=0)
    # A feature that never varies carries nothing; left at its own scale it cannot blow up on another frame.
    scale = np.where(deviation > 1e-3, deviation, 1.0)
    inputs = np.column_stack([(exact - mean) / scale, np.ones(truth.size)])
    shares = (1 / np.bincount(truth) / len(classes))[truth]
    wanted = np.eye(len(classes))[truth]

    def loss(flat: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        weights = flat.reshape(len(classes), -1)
        scores = inputs @ weights.T
        scores -= scores.max(axis=1, keepdims=True)
        logarithms = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        surprise = -(shares * (wanted * logarithms).sum(axis=1)).sum()
        slope = ((np.exp(logarithms) - wanted) * shares[:, None]).T @ inputs
        own = weights.copy()
        own[:, -1] = 0
        return float(surprise + _PENALTY / 2 * (own**2).sum()), (slope + _PENALTY * own).ravel()

    start = np.zeros(len(classes) * inputs.shape[1])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000})
    weights = np.round(found.x.reshape(len(classes), -1), 6)
    return QualityEstimator(classes, mean, scale, weights[:, :-1], weights[:, -1], 0.0)
