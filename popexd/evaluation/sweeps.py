"""What other thresholds would give: one for all branches, every combination of a list, and the choice for a target.

The screening is BranchyNet's (Teerapittayanon et al., ICPR 2016): every combination of a list of thresholds, and of
these the ones that buy accuracy with their time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from popexd.bundle import FINAL, Bundle
from popexd.criteria import Criterion
from popexd.errors import Infeasible
from popexd.evaluation.losses import NORMAL_90, bound
from popexd.evaluation.outcomes import Answers
from popexd.evaluation.policy import CONFIDENCE, certainty

BRANCHYNET_NATS = (1e-4, 1e-3, 5e-3, 0.01, 0.05, 0.1, 0.5, 0.75, 1.0, 5.0, 10.0)
CONFIDENCES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)
BRANCHYNET_INCREASE = -0.0005

ABOVE_ANY_CONFIDENCE = 1.01
"""What a branch that should answer nothing is given; the largest that the daemon's settings take."""

_MOST_POINTS = 20_000
_MOST_LEVELS = 200


@dataclass(frozen=True)
class Point:
    """What one choice of thresholds gives.

    Attributes:
        thresholds: by branch, in its criterion's unit.
        accuracy: of all answers, 0..1.
        cost: mean over the samples of what the exit that they take costs.
        shares: by exit, of the samples it answers.
        device_accuracy: of the samples that leave at a side branch; None where none does.
        least_accuracy: the lower bound of 90 % of `accuracy` against what the network's end alone has: of thousands of
            choices some are lucky, and only samples that both answer otherwise tell how much.
        most_cost: the upper bound of 90 % of `cost`.
    """

    thresholds: Mapping[str, float]
    accuracy: float
    cost: float
    shares: Mapping[str, float]
    device_accuracy: float | None
    least_accuracy: float
    most_cost: float


def depth(bundle: Bundle) -> dict[str, float]:
    """The share of the segments that have run when an exit answers: what it costs where no times are known."""
    place = {segment.name: index + 1 for index, segment in enumerate(bundle.segments)}
    return {exit_.name: place[exit_.after] / len(place) for exit_ in bundle.exits} | {FINAL: 1.0}


def points(
    answers: Answers,
    levels: Mapping[str, Sequence[float]],
    costs: Mapping[str, float],
    criteria: Mapping[str, Criterion] | None = None,
    end: npt.NDArray[np.bool_] | None = None,
) -> list[Point]:
    """Count every combination of thresholds, branches in the network's order; one not in `levels` does not run.

    Args:
        answers: what the exits say.
        levels: thresholds by branch, in its criterion's unit.
        costs: by exit that runs.
        criteria: by branch, confidence where not said otherwise.
        end: [samples], which are answered rightly where no branch is sure; by default those that the final exit is.
    """
    return list(_combinations(answers, _Walk(answers, levels, costs, criteria or {}, end)))


def common(
    answers: Answers,
    branches: Sequence[str],
    costs: Mapping[str, float],
    levels: Sequence[float],
    criteria: Mapping[str, Criterion] | None = None,
    end: npt.NDArray[np.bool_] | None = None,
) -> list[Point]:
    """Count one threshold for all `branches` at a time, in the order of `levels`; see `points`."""
    found = []
    for level in levels:
        found += points(answers, {branch: [level] for branch in branches}, costs, criteria, end)
    return found


def increasing(found: Sequence[Point], increase: float = BRANCHYNET_INCREASE) -> list[Point]:
    """Sort by cost and keep a point if it is more accurate than the last one kept plus `increase` (BranchyNet)."""
    kept: list[Point] = []
    for point in sorted(found, key=lambda each: (each.cost, -each.accuracy)):
        if not kept or point.accuracy > kept[-1].accuracy + increase:
            kept.append(point)
    return kept


def base_levels(criterion: Criterion, branches: int) -> tuple[float, ...]:
    """BranchyNet's list in the criterion's unit, thinned out where its combinations would be too many."""
    whole = criterion.threshold(0.0)
    lists = {
        "confidence": CONFIDENCES,
        "entropy": BRANCHYNET_NATS,
        "normalised-entropy": tuple(nats / math.log(criterion.classes) for nats in BRANCHYNET_NATS),
    }
    levels = lists[criterion.name]
    if criterion.name != "confidence":
        # Beyond the largest entropy every level is the same: everything leaves.
        below = tuple(level for level in levels if level < whole)
        levels = (*below, next(level for level in levels if level >= whole))
    step = 1
    while len(levels[::step]) ** branches > _MOST_POINTS:
        step += 1
    return levels[::step]


def fine_levels(answers: Answers, branches: Sequence[str], criteria: Mapping[str, Criterion]) -> dict[str, list[float]]:
    """Quantiles of each branch's certainty as thresholds, as many as their combinations allow; all and none among them.

    Rounded to the strict side, so that they can be written down: to three places, entropies to four.
    """
    count = max(3, min(_MOST_LEVELS, int(_MOST_POINTS ** (1 / max(len(branches), 1)))))
    found = {}
    for branch in branches:
        criterion = criteria.get(branch, CONFIDENCE)
        bounds = np.quantile(certainty(answers, branch, criterion), np.linspace(0, 1, count - 2))
        found[branch] = sorted({strict(criterion, float(bound)) for bound in (0.0, *bounds)} | {nothing(criterion)})
    return found


def nothing(criterion: Criterion) -> float:
    """The threshold at which a branch answers nothing, not even where it is certain: a saturated softmax is 1."""
    return ABOVE_ANY_CONFIDENCE if criterion.name == "confidence" else 0.0


def strict(criterion: Criterion, bound: float) -> float:
    """The threshold for a certainty, rounded so that no more samples answer than at the exact one."""
    exact = criterion.threshold(bound)
    if criterion.name == "confidence":
        return min(1.0, math.ceil(round(exact * 1000, 6)) / 1000)
    return math.floor(round(exact * 10_000, 6)) / 10_000


def cheapest(found: Sequence[Point], accuracy: float) -> Point:
    """Choose the cheapest point that is right in a share `accuracy`, as a bound of 90 %; of equal ones the best.

    Raises:
        Infeasible: none is; says how far one can get.
    """
    good = [point for point in found if point.least_accuracy >= accuracy]
    if not good:
        best = max(point.accuracy for point in found)
        if best < accuracy:
            raise Infeasible(f"accuracy {accuracy:.2%} is not reached at any thresholds, the best is {best:.2%}")
        sure = max(point.least_accuracy for point in found)
        raise Infeasible(
            f"accuracy {accuracy:.2%} is reached by {best:.2%} at most, which may be owed to chance; "
            f"sure on so few samples is {sure:.2%}"
        )
    return min(good, key=lambda each: (each.cost, -each.accuracy))


def most_accurate(found: Sequence[Point], cost: float = math.inf) -> Point:
    """Choose the most accurate point that costs at most `cost`, as a bound of 90 %; of equal ones the cheapest.

    Raises:
        Infeasible: none is cheap enough; says how far one can get.
    """
    good = [point for point in found if point.most_cost <= cost]
    if not good:
        least = min(point.most_cost for point in found)
        raise Infeasible(f"{cost * 1e3:.3g} ms are not reached at any thresholds, the least is {least * 1e3:.3g} ms")
    return max(good, key=lambda each: (each.accuracy, -each.cost))


class _Walk:
    """The samples' certainty and correctness at the branches that run, ready to be counted."""

    def __init__(
        self,
        answers: Answers,
        levels: Mapping[str, Sequence[float]],
        costs: Mapping[str, float],
        criteria: Mapping[str, Criterion],
        end: npt.NDArray[np.bool_] | None,
    ) -> None:
        self.exits = answers.exits
        self.running = [name for name in answers.exits[:-1] if name in levels]
        self.levels = levels
        self.costs = costs
        self.criteria = criteria
        self.correct = answers.correct
        self.end = self.correct[-1] if end is None else end
        self.certainty = {name: certainty(answers, name, criteria.get(name, CONFIDENCE)) for name in self.running}


class _Took(NamedTuple):
    """What left at a branch: how many, how many of them right, and against the end's answers lost and gained."""

    threshold: float
    leaving: int
    right: int
    lost: int
    gained: int


def _combinations(answers: Answers, walk: _Walk) -> Iterator[Point]:
    samples = max(answers.samples, 1)

    def further(place: int, left: npt.NDArray[np.intp], took: dict[str, _Took]) -> Iterator[Point]:
        """Take the samples `left` over through the branches from `place` on."""
        if place == len(walk.running):
            yield _point(walk, samples, took, left.size)
            return
        name = walk.running[place]
        criterion = walk.criteria.get(name, CONFIDENCE)
        sure, right, end = walk.certainty[name][left], walk.correct[walk.exits.index(name)][left], walk.end[left]
        for level in walk.levels[name]:
            leaves = sure >= criterion.bound(level)
            here, there = right[leaves], end[leaves]
            own = _Took(level, here.size, int(here.sum()), int((there & ~here).sum()), int((here & ~there).sum()))
            yield from further(place + 1, left[~leaves], took | {name: own})

    yield from further(0, np.arange(answers.samples), {})


def _point(walk: _Walk, samples: int, took: Mapping[str, _Took], rest: int) -> Point:
    counts = dict.fromkeys(walk.exits, 0) | {name: each.leaving for name, each in took.items()} | {FINAL: rest}
    right, lost, gained = (sum(each[row] for each in took.values()) for row in (2, 3, 4))
    left = samples - rest
    end = float(walk.end.mean()) if walk.end.size else 0.0
    # A branch that does not run answers nothing and has no cost.
    spent = [(count, walk.costs[name]) for name, count in counts.items() if count]
    cost = sum(count * each for count, each in spent) / samples
    spread = sum(count * (each - cost) ** 2 for count, each in spent) / samples
    return Point(
        thresholds={name: each.threshold for name, each in took.items()},
        accuracy=end - (lost - gained) / samples,
        cost=cost,
        shares={name: count / samples for name, count in counts.items()},
        device_accuracy=right / left if left else None,
        least_accuracy=end - float(bound(lost, gained, samples, NORMAL_90)),
        most_cost=cost + NORMAL_90 * math.sqrt(spread / samples),
    )
