"""The per-sample table of a model's exits: how sure each exit was of each sample, and whether it was right.

Exits are not independent: what an early branch leaves over is harder for the later ones. So shares and accuracies are
counted on the samples themselves, never multiplied from averages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popexd.errors import ProfileError

FINAL = "final"
"""The name of the network's own end among the exits."""

DEFAULT_THRESHOLD = 0.9
"""Confidence from which a branch answers where neither plan nor profile says otherwise."""


@dataclass(frozen=True)
class Outcomes:
    """What becomes of a frame when some branches are evaluated one after the other.

    Attributes:
        reach: share of frames that each branch evaluates, in order, and last the share that reaches the final exit.
        shares: share answered by each branch, in order, and last by the final exit.
        correct: share answered *and right*, likewise; None where the profile has no table.
    """

    reach: tuple[float, ...]
    shares: tuple[float, ...]
    correct: tuple[float, ...] | None


class Samples:
    """What each exit said of each sample of a validation set: the table without its weights, which alone ever change.

    It is never written to. Arguments and attributes are those of `Validation`.

    Raises:
        ProfileError: shapes disagree or a value is out of range.
    """

    def __init__(
        self,
        exits: Sequence[str],
        confidence: ArrayLike,
        correct: ArrayLike,
        quality: Sequence[str] | NDArray[np.str_] | None = None,
    ) -> None:
        self.exits = tuple(exits)
        scores = np.asarray(confidence)
        self.confidence: NDArray[np.floating] = scores if scores.dtype.kind == "f" else scores.astype(np.float64)
        self.correct: NDArray[np.bool_] = np.asarray(correct, dtype=bool)
        self.quality: NDArray[np.str_] | None = None if quality is None else np.asarray(quality, dtype=np.str_)
        self._check()
        self.row = {name: index for index, name in enumerate(self.exits)}

    def _check(self) -> None:
        if not self.exits or self.exits[-1] != FINAL or len(set(self.exits)) != len(self.exits):
            raise ProfileError(f"joint.exits: is {list(self.exits)}, expected distinct names with {FINAL!r} last")
        if self.confidence.ndim != 2 or self.confidence.shape[0] != len(self.exits) or not self.confidence.shape[1]:
            raise ProfileError(f"joint.confidence: expected {len(self.exits)} rows of at least one sample")
        if self.correct.shape != self.confidence.shape:
            raise ProfileError("joint.correct: expected the same shape as joint.confidence")
        if not np.all((self.confidence >= 0) & (self.confidence <= 1)):
            raise ProfileError("joint.confidence: expected numbers in 0..1")
        if self.quality is not None and self.quality.shape != (len(self),):
            raise ProfileError(f"joint.quality: expected {len(self)} names")

    def __len__(self) -> int:
        return int(self.confidence.shape[1])

    @cached_property
    def qualities(self) -> dict[str, NDArray[np.bool_]]:
        """By image-quality class, which samples are of it: [samples]; empty where that is not known."""
        if self.quality is None:
            return {}
        return {str(name): self.quality == name for name in np.unique(self.quality)}

    @cached_property
    def by_quality(self) -> dict[str, Samples]:
        """The samples of each image-quality class by themselves."""
        return {
            name: Samples(self.exits, self.confidence[:, own], self.correct[:, own])
            for name, own in self.qualities.items()
        }

    def answers(self, branch: str, threshold: float) -> NDArray[np.bool_]:
        """Which samples `branch` would answer: certainty >= `threshold`."""
        certain: NDArray[np.bool_] = self.confidence[self.row[branch]] >= threshold
        return certain


@lru_cache(maxsize=64)
def _fates(samples: Samples, evaluated: tuple[tuple[str, float], ...]) -> NDArray[np.intp]:
    """By which of the branches `evaluated` in this order each sample is answered, and whether right: [samples].

    Twice the branch's place (the final exit's is the last), and one more where it is right.
    """
    found = np.where(samples.correct[-1], 2 * len(evaluated) + 1, 2 * len(evaluated)).astype(np.intp)
    for place, (branch, threshold) in reversed(list(enumerate(evaluated))):
        certain = samples.answers(branch, threshold)
        found[certain] = 2 * place + samples.correct[samples.row[branch]][certain]
    return found


class Validation:
    """Confidence and correctness of every exit on the samples of a validation set.

    Args:
        exits: names of the exits in the network's order, `final` last.
        confidence: [exits, samples], in 0..1, kept in the precision given; for a branch that goes by entropy its
            certainty (see `popexd.criteria`).
        correct: [exits, samples], booleans.
        weights: [samples], zero or more, any scale; None counts every sample alike.
        quality: [samples], the image-quality class of each; None where it is not known.

    Raises:
        ProfileError: shapes disagree or a value is out of range.
    """

    def __init__(
        self,
        exits: Sequence[str],
        confidence: ArrayLike,
        correct: ArrayLike,
        weights: ArrayLike | None = None,
        quality: Sequence[str] | NDArray[np.str_] | None = None,
    ) -> None:
        self._weigh(Samples(exits, confidence, correct, quality), weights)

    def _weigh(self, samples: Samples, weights: ArrayLike | None) -> None:
        count = len(samples)
        given = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
        total = given.sum() if given.shape == (count,) else 0.0
        if not 0 < total < np.inf or given.min() < 0:
            raise ProfileError(f"joint.weights: expected {count} numbers, none negative, not all zero")
        self.samples = samples
        self.weights: NDArray[np.float64] | None = None if weights is None else given
        self.mass: NDArray[np.float64] = given / total
        """Share of each sample: [samples], together 1."""
        self._known: dict[tuple[tuple[str, float], ...], Outcomes] = {}

    @classmethod
    def of(cls, samples: Samples, weights: ArrayLike | None) -> Validation:
        """Return the table of these samples, which need no further check."""
        found = cls.__new__(cls)
        found._weigh(samples, weights)
        return found

    @property
    def exits(self) -> tuple[str, ...]:
        """Names of the exits, `final` last."""
        return self.samples.exits

    @property
    def confidence(self) -> NDArray[np.floating]:
        """How sure each exit was: [exits, samples]."""
        return self.samples.confidence

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each exit was right: [exits, samples]."""
        return self.samples.correct

    @property
    def quality(self) -> NDArray[np.str_] | None:
        """The image-quality class of each sample: [samples]."""
        return self.samples.quality

    @property
    def qualities(self) -> dict[str, NDArray[np.bool_]]:
        """By image-quality class, which samples are of it: [samples]; empty where that is not known."""
        return self.samples.qualities

    def share_of(self, quality: str) -> float:
        """How large a part of all is of an image-quality class."""
        own = self.qualities.get(quality)
        return 0.0 if own is None else float(self.mass[own].sum())

    def weighed(self, weights: ArrayLike) -> Validation:
        """Return the same table with other weights."""
        return Validation.of(self.samples, weights)

    def of_quality(self, name: str, weights: ArrayLike | None = None) -> Validation:
        """Return the samples of one image-quality class, with `weights`, or else each with the weight that it has here.

        Where the class weighs nothing here, all of its samples count alike.
        """
        own = self.qualities[name]
        if weights is None and self.weights is not None and self.weights[own].any():
            weights = self.weights[own]
        return Validation.of(self.samples.by_quality[name], weights)

    @property
    def final_accuracy(self) -> float:
        """Accuracy of the final exit, every sample counted alike: what codecs are measured against."""
        return float(self.correct[-1].mean())

    def answers(self, branch: str, threshold: float) -> NDArray[np.bool_]:
        """Which samples `branch` would answer: certainty >= `threshold`."""
        return self.samples.answers(branch, threshold)

    def outcomes(self, evaluated: Sequence[tuple[str, float]]) -> Outcomes:
        """Count what becomes of the samples when the (branch, threshold) pairs `evaluated` run in this order."""
        key = tuple(evaluated)
        if key not in self._known:
            self._known[key] = self._count(key)
        return self._known[key]

    def _count(self, evaluated: tuple[tuple[str, float], ...]) -> Outcomes:
        masses = np.bincount(_fates(self.samples, evaluated), self.mass, minlength=2 * len(evaluated) + 2)
        wrong, right = masses[::2], masses[1::2]
        shares = wrong + right
        reach = [1.0, *np.cumsum(shares[::-1])[-2::-1].tolist()]
        return Outcomes(tuple(reach), tuple(shares.tolist()), tuple(right.tolist()))

    def reweighted(self, evaluated: Sequence[tuple[str, float]], probabilities: Mapping[str, float]) -> Validation:
        """Weigh the samples anew so that each branch answers the given share of those that it evaluates.

        With all `evaluated` branches running in order, the table then has exactly the conditional `probabilities`
        (of the branches named there); among themselves, samples that fare alike keep their proportions.

        Raises:
            ProfileError: a share is asked for that no sample of the table could make up.
        """
        mass = self.mass.copy()
        left = np.ones(mass.shape, dtype=bool)
        for branch, threshold in evaluated:
            certain = self.answers(branch, threshold)
            if branch in probabilities:
                wanted, total = probabilities[branch], mass[left].sum()
                for chosen, share in ((left & certain, wanted), (left & ~certain, 1.0 - wanted)):
                    have = mass[chosen].sum()
                    if share > 0 and total > 0 and have <= 0:
                        asked = f"exit probability {wanted:g} of {branch!r} at threshold {threshold:g}"
                        raise ProfileError(f"joint: no sample could make up an {asked}")
                    mass[chosen] *= share * total / have if have > 0 else 0.0
            left &= ~certain
        return self.weighed(mass)


@dataclass(frozen=True)
class Independent:
    """Conditional exit probabilities, where there is no table: each branch decides as if alone.

    Attributes:
        probability: P[answers | evaluated] by branch.
    """

    probability: Mapping[str, float] = field(default_factory=dict)

    def outcomes(self, evaluated: Sequence[tuple[str, float]]) -> Outcomes:
        """Multiply what becomes of a frame when `evaluated` run in this order (popex: P[Y=k] = p_k * prod(1 - p_j))."""
        reach, shares = [1.0], []
        for branch, _ in evaluated:
            answered = self.probability.get(branch, 0.0)
            shares.append(reach[-1] * answered)
            reach.append(reach[-1] * (1.0 - answered))
        return Outcomes(tuple(reach), (*shares, reach[-1]), None)


def conditional_probabilities(counts: Sequence[int]) -> tuple[list[float], list[float]]:
    """Turn counts of answers per exit (in order, final last) into P[answers | evaluated] and the share that gets there.

    >>> conditional_probabilities([200, 300, 400, 100])
    ([0.2, 0.375, 0.8, 1.0], [1.0, 0.8, 0.5, 0.1])
    """
    total = sum(counts)
    left = total
    probabilities, reach = [], []
    for count in counts:
        reach.append(left / total if total else 0.0)
        probabilities.append(count / left if left else 0.0)
        left -= count
    return probabilities, reach
