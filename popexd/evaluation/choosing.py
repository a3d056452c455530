"""Thresholds chosen on samples: for a target accuracy, for a target time, or so that a branch keeps its word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from popexd.criteria import Criterion
from popexd.errors import Infeasible
from popexd.evaluation.losses import NORMAL_90, bound
from popexd.evaluation.outcomes import Answers
from popexd.evaluation.policy import CONFIDENCE, certainty
from popexd.evaluation.sweeps import Point, cheapest, fine_levels, most_accurate, nothing, points, strict
from popexd.quality import CLEAR

LEAST_LEAVING = 20
"""Fewer samples than that say nothing about a branch."""

LEAST_OF_A_CLASS = 40
"""A quality class with fewer samples keeps the thresholds of all frames."""

LEAST_TO_CALIBRATE = 100
"""And with fewer than these to fit one on, the temperature of all frames."""

LEAST_TO_FIT = 50
"""With fewer than these the temperature of all frames stays what it was: a fitted one is about as often worse."""

_NOBODY = 1e-9
"""A share of the samples that is less than one of them, but for rounding."""

ALLOWANCE = 0.005

RULE = "leaving frames as often right as the final exit on all, at most {:.1%} lost to it, as a bound of 90 %"
"""What `reliable` asks of a branch, for an allowance, in words."""


@dataclass(frozen=True)
class Target:
    """What thresholds are chosen for: the cheapest that are right in a share, or the most accurate within a cost.

    Either as a bound of 90 %: the best of thousands of combinations is a lucky one.
    """

    accuracy: float | None = None
    cost: float | None = None


def choose(
    answers: Answers,
    branches: Sequence[str],
    costs: Mapping[str, float],
    target: Target,
    criteria: Mapping[str, Criterion] | None = None,
    end: npt.NDArray[np.bool_] | None = None,
) -> Point:
    """Choose the thresholds of `branches` for a target, over a grid of quantiles of their certainty.

    What is right where no branch is sure is in `end`, see `sweeps.points`. A branch that no sample comes to is closed.

    Raises:
        Infeasible: it cannot be reached; says how far one can get.
    """
    known = criteria or {}
    found = points(answers, fine_levels(answers, branches, known), costs, known, end)
    if target.cost is not None:
        best = most_accurate(found, target.cost)
    else:
        best = most_accurate(found) if target.accuracy is None else cheapest(found, target.accuracy)
    return _closed(best, known)


def _closed(point: Point, criteria: Mapping[str, Criterion]) -> Point:
    """Let branches that no sample comes to answer nothing: under a plan without those before them it would be all."""
    coming, thresholds = 1.0, {}
    for name, level in point.thresholds.items():
        thresholds[name] = level if coming > _NOBODY else nothing(criteria.get(name, CONFIDENCE))
        coming -= point.shares[name]
    return replace(point, thresholds=thresholds)


def choose_by_quality(
    answers: Answers,
    branches: Sequence[str],
    costs: Mapping[str, float],
    target: Target,
    criteria: Mapping[str, Criterion] | None = None,
) -> dict[str, Point]:
    """Choose thresholds by the same rule for each class that the estimator sees in enough samples.

    What a class cannot reach is not given up for the others: it then gets the most accurate thresholds that there are
    for it, or for a time that it cannot keep the quickest.
    """
    if answers.seen is None:
        return {}
    found = {}
    for quality in np.unique(answers.seen):
        own = answers.only(answers.seen == quality)
        if own.samples < LEAST_OF_A_CLASS:
            continue
        try:
            found[str(quality)] = choose(own, branches, costs, target, criteria)
        except Infeasible:
            if target.cost is None:
                found[str(quality)] = choose(own, branches, costs, Target(), criteria)
            else:
                every = points(own, fine_levels(own, branches, criteria or {}), costs, criteria)
                quickest = min(every, key=lambda point: (point.cost, -point.accuracy))
                found[str(quality)] = _closed(quickest, criteria or {})
    return found


def reliable(
    answers: Answers,
    branches: Sequence[str],
    *,
    criteria: Mapping[str, Criterion] | None = None,
    least_right: float | None = None,
    allowance: float = ALLOWANCE,
) -> dict[str, float]:
    """Choose every branch's threshold so that it answers hardly worse than the network's end, first branch first.

    The rule: the lowest certainty at which the samples that leave there (of those that come that far) are right at
    least in a share `least_right`, and lose at most `allowance` (a share of them) against the final exit's answers to
    the same samples, as the upper bound of 90 % of that loss: among hundreds of levels there is always one that was
    lucky. A branch that never gets there, or only for fewer than LEAST_LEAVING samples, answers nothing. What the rule
    is worth on few samples is in docs/decisions/0013-thresholds-by-a-bound.md.

    Args:
        answers: what the exits say.
        branches: those that run, in the network's order.
        criteria: by branch, confidence where not said otherwise.
        least_right: by default the final exit's accuracy on these samples.
        allowance: share of the leaving samples that may be lost to the final exit.
    """
    bar = float(answers.correct[-1].mean()) if least_right is None else least_right
    # Too few to judge it: it answers nothing.
    nowhere = {name: nothing((criteria or {}).get(name, CONFIDENCE)) for name in branches}
    return _reliable(answers, nowhere, criteria or {}, bar, allowance)


def _reliable(
    answers: Answers, otherwise: Mapping[str, float], criteria: Mapping[str, Criterion], bar: float, allowance: float
) -> dict[str, float]:
    """See `reliable`; where fewer than LEAST_LEAVING samples come, a branch's threshold is that of `otherwise`."""
    correct = answers.correct
    remaining = np.ones(answers.samples, dtype=bool)
    found: dict[str, float] = {}
    for name, unknown in otherwise.items():
        row, criterion = answers.exits.index(name), criteria.get(name, CONFIDENCE)
        sure = certainty(answers, name, criterion)
        order = np.flatnonzero(remaining)[np.argsort(-sure[remaining], kind="stable")]
        # Only thresholds that can be written down are tried, and judged by what really leaves at them.
        levels = np.array(sorted({strict(criterion, float(each)) for each in sure[order]}, key=criterion.bound))
        leaving = np.searchsorted(-sure[order], [-criterion.bound(float(each)) for each in levels], side="right")
        here, end = correct[row][order], correct[-1][order]
        right, lost, gained = (np.append(0, np.cumsum(each))[leaving] for each in (here, end & ~here, here & ~end))
        kept = (right >= bar * leaving) & (bound(lost, gained, leaving, NORMAL_90) <= allowance)
        good = levels[kept & (leaving >= LEAST_LEAVING)]
        lowest = float(good[0]) if good.size else nothing(criterion)
        found[name] = lowest if order.size >= LEAST_LEAVING else unknown
        remaining &= sure < criterion.bound(found[name])
    return found


def of_clear(answers: Answers) -> Answers:
    """Keep the samples that are seen clear where there are LEAST_OF_A_CLASS or more; all where not, or none is told.

    What all frames are held to is chosen on these: distorted ones make the network's end worse and with it the bar.
    """
    if answers.seen is None:
        return answers
    clear = answers.only(answers.seen == CLEAR)
    return clear if clear.samples >= LEAST_OF_A_CLASS else answers


def reliable_by_quality(
    answers: Answers,
    thresholds: Mapping[str, float],
    *,
    criteria: Mapping[str, Criterion] | None = None,
    allowance: float = ALLOWANCE,
) -> dict[str, dict[str, float]]:
    """Choose stricter thresholds for the classes (as the estimator sees them) that branches are too sure of.

    Frames of a worse class that leave at a branch must be right as often as the network's end is on clear ones (see
    `of_clear` and `reliable`). No class gets a laxer threshold than that for all frames.
    """
    if answers.seen is None:
        return {}
    known = criteria or {}
    bar = float(of_clear(answers).correct[-1].mean())
    found: dict[str, dict[str, float]] = {}
    for quality in np.unique(answers.seen):
        own = answers.only(answers.seen == quality)
        if quality == CLEAR or own.samples < LEAST_OF_A_CLASS:
            continue
        asked = _reliable(own, thresholds, known, bar, allowance)
        found[str(quality)] = {
            name: _stricter(known.get(name, CONFIDENCE), level, asked[name]) for name, level in thresholds.items()
        }
    return found


def _stricter(criterion: Criterion, one: float, other: float) -> float:
    return max(one, other, key=criterion.bound)
