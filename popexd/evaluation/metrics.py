"""What early exits are worth: accuracies, shares, and how often a batch of frames falls short.

The definitions are those of Pacheco, Couto and Simeone (ICC 2021, arXiv 2010.16335; JNCA 217:103679, 2023): *device
accuracy* is that of the samples that leave at a side branch; an *inference outage* is a batch whose device accuracy is
below the target; a *missed deadline* a batch whose mean inference time is above the deadline or whose accuracy is below
the target.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from popexd.errors import InputError
from popexd.evaluation.losses import Loss, paired
from popexd.evaluation.outcomes import Answers
from popexd.evaluation.policy import Policy
from popexd.evaluation.reliability import BINS, expected_calibration_error

ANSWER_RULES = ("most-confident", "final")
"""What is answered where no branch was sure: by the most confident exit of all, or by the network's end."""

_NORMAL_95 = 1.959963984540054

Taken = npt.NDArray[np.intp]
Right = npt.NDArray[np.bool_]
_Short = Callable[[npt.NDArray[np.intp]], tuple[Right, Right]]


@dataclass(frozen=True)
class Figures:
    """What a policy makes of samples; shares and accuracies in 0..1, None where there is no sample to count.

    Attributes:
        samples: how many.
        accuracy_alone: by exit, if it answered every sample.
        calibration_error: by exit, over all samples (15 equal bins).
        mean_confidence: by exit, over all samples.
        shares: by exit, of the samples it answers.
        accuracy_where_taken: by exit, of these.
        accuracy: of all answers, by the answer rule.
        device_share: of the samples that leave at a side branch.
        offloading: the rest.
        device_accuracy: of the samples that leave at a side branch.
        lost: by branch at which some leave, what these lose to the network's end.
    """

    samples: int
    accuracy_alone: Mapping[str, float]
    calibration_error: Mapping[str, float]
    mean_confidence: Mapping[str, float]
    shares: Mapping[str, float]
    accuracy_where_taken: Mapping[str, float | None]
    accuracy: float
    device_share: float
    offloading: float
    device_accuracy: float | None
    lost: Mapping[str, Loss]


@dataclass(frozen=True)
class Probability:
    """Share of batches that fall short: mean over the reshuffles, with a normal 95 % interval of that mean.

    Attributes:
        mean: in 0..1.
        low, high: the interval; None where there is but one batch, of all samples, or one reshuffle.
        size: samples in a batch.
        batches: in all reshuffles together.
        without_exits: those of them in which no sample left at a side branch. They are not outages.
    """

    mean: float
    low: float | None
    high: float | None
    size: int
    batches: int
    without_exits: int


def answered_right(answers: Answers, policy: Policy, rule: str = "final", target_confidence: float = 0.8) -> Right:
    """Say of each sample whether its answer is right: [samples].

    Args:
        answers: what the exits say.
        policy: which exit is taken.
        rule: one of ANSWER_RULES, for samples that no branch answers. "most-confident": where the final exit's
            confidence is below `target_confidence`, the class of the most confident exit that ran, itself included.
        target_confidence: for "most-confident".
    """
    taken = policy.taken(answers)
    end = right_at_the_end(answers, policy.thresholds, rule, target_confidence)
    left = taken < len(answers.exits) - 1
    right: Right = np.where(left, answers.correct[taken, np.arange(answers.samples)], end)
    return right


def right_at_the_end(
    answers: Answers, branches: Collection[str], rule: str = "final", target_confidence: float = 0.8
) -> Right:
    """Say of each sample whether its answer is right if no branch was sure of it, whatever the thresholds: [samples].

    `branches` are those that run; see `answered_right` for the rest.
    """
    last = len(answers.exits) - 1
    taken: Taken = np.full(answers.samples, last, dtype=np.intp)
    if rule == "most-confident":
        rows = [*(index for index, name in enumerate(answers.exits[:-1]) if name in branches), last]
        # Of equal ones the last, which has seen most of the network.
        surest = np.array(rows[::-1])[answers.confidence[rows[::-1]].argmax(axis=0)]
        taken = np.where(answers.confidence[-1] < target_confidence, surest, last)
    return answers.correct[taken, np.arange(answers.samples)]


def figures(
    answers: Answers, policy: Policy, *, rule: str = "final", target_confidence: float = 0.8, bins: int = BINS
) -> Figures:
    """Count what `policy` makes of the samples. Raises InputError where there are none."""
    if not answers.samples:
        raise InputError("samples: none, expected at least one")
    taken, right = policy.taken(answers), answered_right(answers, policy, rule, target_confidence)
    correct = answers.correct
    own = {name: taken == index for index, name in enumerate(answers.exits)}
    left = taken < len(answers.exits) - 1
    return Figures(
        samples=answers.samples,
        accuracy_alone={name: _mean(correct[index]) for index, name in enumerate(answers.exits)},
        calibration_error={
            name: expected_calibration_error(answers.confidence[index], correct[index], bins)
            for index, name in enumerate(answers.exits)
        },
        mean_confidence={name: _mean(answers.confidence[index]) for index, name in enumerate(answers.exits)},
        shares={name: _mean(mask) for name, mask in own.items()},
        accuracy_where_taken={name: _mean(right[mask]) if mask.any() else None for name, mask in own.items()},
        accuracy=_mean(right),
        device_share=_mean(left),
        offloading=1.0 - _mean(left),
        device_accuracy=_mean(right[left]) if left.any() else None,
        lost={
            name: loss
            for row, name in enumerate(answers.exits[:-1])
            if (loss := paired(correct[row][own[name]], correct[-1][own[name]])) is not None
        },
    )


def by_quality(answers: Answers) -> dict[str, Answers]:
    """Sort the samples by what was done to them; one entry where all are alike."""
    return {str(name): answers.only(answers.quality == name) for name in np.unique(answers.quality)}


def outage(
    left: Right, right: Right, target: float, *, batch: int = 256, reshuffles: int = 100, seed: int = 0
) -> Probability:
    """Return the probability of an inference outage: that a batch's device accuracy is below `target`.

    Only samples that left at a side branch count. A batch in which none did is not an outage: nothing wrong was
    answered on the device. The samples are shuffled and cut into whole batches, the rest is dropped. No more samples
    than `batch` are one batch, which no shuffle changes.

    Args:
        left: [samples], whether the sample left at a side branch.
        right: [samples], whether its answer is right.
        target: p_tar, in 0..1.
        batch: samples in a batch.
        reshuffles: how often.
        seed: of the shuffles.
    """

    def short(order: npt.NDArray[np.intp]) -> tuple[Right, Right]:
        exits = left[order].sum(axis=1)
        # Nothing over nothing is nan, and nan is not below the target.
        with np.errstate(invalid="ignore"):
            return (left & right)[order].sum(axis=1) / exits < target, exits == 0

    return _over_batches(left.size, batch, reshuffles, seed, short)


def missed_deadline(
    left: Right,
    right: Right,
    seconds: npt.NDArray[np.floating],
    deadline_seconds: float,
    target: float,
    *,
    batch: int = 256,
    reshuffles: int = 100,
    seed: int = 0,
) -> Probability:
    """Return the probability that a batch takes longer than the deadline in the mean, or is right less than `target`.

    `seconds` is [samples]: the inference time of each. Here every sample's answer counts, wherever it left. See
    `outage` for the rest.
    """

    def short(order: npt.NDArray[np.intp]) -> tuple[Right, Right]:
        late = np.asarray(seconds[order].mean(axis=1) > deadline_seconds)
        wrong = np.asarray(right[order].mean(axis=1) < target)
        return late | wrong, np.asarray(~left[order].any(axis=1))

    return _over_batches(left.size, batch, reshuffles, seed, short)


def _over_batches(samples: int, batch: int, reshuffles: int, seed: int, short: _Short) -> Probability:
    if not samples:
        raise InputError("samples: none, expected at least one")
    size = min(batch, samples)
    rounds = reshuffles if size < samples else 1
    random = np.random.default_rng(seed)
    shares, empty = [], 0
    for _ in range(rounds):
        order = random.permutation(samples)[: samples // size * size].reshape(-1, size)
        fell, none = short(order)
        shares.append(float(fell.mean()))
        empty += int(none.sum())
    mean = float(np.mean(shares))
    low = high = None
    if rounds > 1:
        spread = _NORMAL_95 * float(np.std(shares, ddof=1)) / rounds**0.5
        low, high = max(0.0, mean - spread), min(1.0, mean + spread)
    return Probability(mean, low, high, size, rounds * (samples // size), empty)


def _mean(values: npt.NDArray[np.generic]) -> float:
    return float(np.asarray(values, dtype=np.float64).mean())
