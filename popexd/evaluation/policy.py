"""Which exit a sample takes: thresholds, what they are compared with, and how that depends on the image's quality."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from popexd.bundle import Bundle
from popexd.criteria import Criterion
from popexd.errors import InputError
from popexd.evaluation.outcomes import Answers

CONFIDENCE = Criterion()


@dataclass(frozen=True)
class Policy:
    """The exit rule of every branch that runs; a branch that is not in `thresholds` does not.

    Attributes:
        thresholds: by branch, in its criterion's unit.
        criteria: by branch; confidence where not said otherwise.
        by_quality: other thresholds for samples of a class, as the quality estimator *sees* it: class -> branch.
    """

    thresholds: Mapping[str, float]
    criteria: Mapping[str, Criterion] = field(default_factory=dict)
    by_quality: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def criterion(self, branch: str) -> Criterion:
        """What the branch's threshold is compared with."""
        return self.criteria.get(branch, CONFIDENCE)

    def bounds(self, answers: Answers, branch: str) -> npt.NDArray[np.float64]:
        """From which certainty on `branch` answers each sample: [samples]."""
        criterion = self.criterion(branch)
        found = np.full(answers.samples, criterion.bound(self.thresholds[branch]))
        if answers.seen is not None:
            for quality, own in self.by_quality.items():
                if branch in own:
                    found[answers.seen == quality] = criterion.bound(own[branch])
        return found

    def answered(self, answers: Answers, branch: str) -> npt.NDArray[np.bool_]:
        """Which samples `branch` would answer if it were asked: [samples]."""
        return np.asarray(certainty(answers, branch, self.criterion(branch)) >= self.bounds(answers, branch))

    def taken(self, answers: Answers) -> npt.NDArray[np.intp]:
        """Index into `answers.exits` of the exit that each sample takes: the first that answers, else the last."""
        found = np.full(answers.samples, len(answers.exits) - 1, dtype=np.intp)
        for index in reversed(range(len(answers.exits) - 1)):
            if answers.exits[index] in self.thresholds:
                found[self.answered(answers, answers.exits[index])] = index
        return found

    def only(self, branches: Collection[str]) -> Policy:
        """Let these branches run and no others."""
        return replace(self, thresholds={name: level for name, level in self.thresholds.items() if name in branches})


def certainty(answers: Answers, branch: str, criterion: Criterion) -> npt.NDArray[np.float64]:
    """How certain `branch` is of every sample, by a criterion, in 0..1: [samples].

    Raises:
        InputError: the criterion is an entropy, and entropies were not kept.
    """
    row = answers.exits.index(branch)
    if answers.entropy is None:
        if criterion.name != "confidence":
            raise InputError(
                f"{branch}: criterion {criterion.name}: no entropies in the validation table, expected --data"
            )
        return np.asarray(answers.confidence[row], dtype=np.float64)
    return np.asarray(criterion.certainty(answers.confidence[row], answers.entropy[row]), dtype=np.float64)


def of_bundle(bundle: Bundle) -> Policy:
    """Take the bundle's own rule."""
    by_quality: dict[str, dict[str, float]] = {}
    for exit_ in bundle.exits:
        for quality, variant in exit_.by_quality.items():
            if variant.threshold is not None:
                by_quality.setdefault(quality, {})[exit_.name] = variant.threshold
    return Policy(bundle.thresholds, bundle.criteria, by_quality)
