"""All there is to say about exits on samples: figures, risks, sweeps, chosen thresholds; together and apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from popexd.criteria import Criterion
from popexd.errors import Infeasible, InputError
from popexd.evaluation.choosing import LEAST_OF_A_CLASS, Target, choose
from popexd.evaluation.losses import interval
from popexd.evaluation.metrics import (
    Figures,
    Probability,
    answered_right,
    by_quality,
    figures,
    missed_deadline,
    outage,
    right_at_the_end,
)
from popexd.evaluation.outcomes import Answers
from popexd.evaluation.policy import Policy
from popexd.evaluation.sweeps import Point, base_levels, common, increasing, points

LEVELS = 41
TARGETS = tuple(round(0.5 + 0.025 * step, 3) for step in range(21))


@dataclass(frozen=True)
class Question:
    """What is asked besides the figures themselves.

    Attributes:
        rule: see `metrics.answered_right`.
        p_target: accuracy below which a batch is an outage; also the confidence of the rule "most-confident".
        deadline_seconds: for missed deadlines; needs seconds.
        batch, reshuffles, seed: see `metrics.outage`.
        sweep: whether other thresholds are counted.
        target: whether thresholds are chosen, and for what.
    """

    rule: str = "final"
    p_target: float = 0.8
    deadline_seconds: float | None = None
    batch: int = 256
    reshuffles: int = 100
    seed: int = 0
    sweep: bool = False
    target: Target | None = None


@dataclass(frozen=True)
class Group:
    """Figures and risks of samples that belong together; `seconds` is the mean time to the answer."""

    figures: Figures
    outage: Probability
    missed_deadline: Probability | None
    seconds: float | None


@dataclass(frozen=True)
class Swept:
    """One threshold for all branches, and the outage probability at a target that is the threshold itself."""

    level: float
    point: Point
    outage: Probability


@dataclass(frozen=True)
class Choice:
    """Thresholds chosen on one half, of so many `samples`, and what they are worth on the other; None: out of reach."""

    samples: int
    chosen: Point | None
    refusal: str
    held_out: Group | None


@dataclass(frozen=True)
class Report:
    """What `examine` found; `costs` are seconds by exit where `timed`, else shares of the segments."""

    answers: Answers
    policy: Policy
    question: Question
    costs: Mapping[str, float]
    timed: bool
    every: Group
    apart: Mapping[str, Group]
    swept: tuple[Swept, ...]
    screened: tuple[Point, ...]
    outages: Mapping[float, float]
    choices: Mapping[str, Choice]

    def to_json(self) -> dict[str, Any]:
        """The report in plain values."""
        found: dict[str, Any] = {
            "policy": {
                "thresholds": dict(self.policy.thresholds),
                "criteria": {name: self.policy.criterion(name).name for name in self.policy.thresholds},
                "by_quality": {name: dict(own) for name, own in self.policy.by_quality.items()},
                "answer": self.question.rule,
                "p_target": self.question.p_target,
            },
            "batches": {"samples": self.question.batch, "reshuffles": self.question.reshuffles},
            "seconds" if self.timed else "depth": dict(self.costs),
            **_plain(self.every),
            "by_quality": {name: _plain(group) for name, group in self.apart.items()},
        }
        if self.swept:
            found["sweep"] = [
                {"threshold": each.level, **asdict(each.point), "outage_at_threshold": each.outage.mean}
                for each in self.swept
            ]
            found["increasing_points"] = [asdict(point) for point in self.screened]
            found["outage_by_target"] = {f"{target:g}": share for target, share in self.outages.items()}
        if self.choices:
            found["choice"] = {name: asdict(choice) for name, choice in self.choices.items()}
        return found


ALL = "all"


def refuted(report: Report) -> str:
    """Say that samples not chosen on refute the accuracy asked for, which is above their 95 % interval; else nothing.

    What is asked of all samples together counts, not what their groups reach.
    """
    target, choice = report.question.target, report.choices.get(ALL)
    if target is None or target.accuracy is None or choice is None or choice.held_out is None:
        return ""
    found = choice.held_out.figures
    low, high = interval(found.accuracy, found.samples)
    if target.accuracy <= high:
        return ""
    return (
        f"accuracy {target.accuracy:.2%} is not reached on {found.samples} frames not chosen on: {found.accuracy:.2%} "
        f"(95 %: {low:.2%} to {high:.2%})"
    )


def examine(
    answers: Answers,
    policy: Policy,
    costs: Mapping[str, float],
    question: Question,
    *,
    timed: bool = False,
    groups: Mapping[str, npt.NDArray[np.bool_]] | None = None,
) -> Report:
    """Answer everything that is asked about samples.

    Args:
        answers: what the exits say.
        policy: which exit is taken.
        costs: of each exit that runs: seconds where `timed`, else anything that grows with depth.
        question: what is asked.
        timed: whether costs are seconds.
        groups: masks [samples] of samples that are reported apart; by default by what was done to them.

    Raises:
        InputError: no samples, or what cannot be asked together.
    """
    seconds = costs if timed else None
    parts = by_quality(answers) if groups is None else {name: answers.only(mask) for name, mask in groups.items()}
    swept: tuple[Swept, ...] = ()
    screened: tuple[Point, ...] = ()
    outages: dict[float, float] = {}
    if question.sweep and policy.thresholds:
        swept, screened = _sweep(answers, policy, costs, question)
        outages = {target: _outage(answers, policy, replace(question, p_target=target)).mean for target in TARGETS}
    return Report(
        answers,
        policy,
        question,
        costs,
        timed,
        _group(answers, policy, seconds, question),
        {name: _group(own, policy, seconds, question) for name, own in parts.items()} if len(parts) > 1 else {},
        swept,
        screened,
        outages,
        {} if question.target is None else _choices(answers, parts, policy, costs, question, seconds),
    )


def _group(answers: Answers, policy: Policy, seconds: Mapping[str, float] | None, question: Question) -> Group:
    taken = policy.taken(answers)
    right = answered_right(answers, policy, question.rule, question.p_target)
    missed, each = None, None
    if seconds is not None:
        each = np.array([seconds.get(name, np.nan) for name in answers.exits])[taken]
        if question.deadline_seconds is not None:
            missed = missed_deadline(
                taken < len(answers.exits) - 1,
                right,
                each,
                question.deadline_seconds,
                question.p_target,
                batch=question.batch,
                reshuffles=question.reshuffles,
                seed=question.seed,
            )
    return Group(
        figures(answers, policy, rule=question.rule, target_confidence=question.p_target),
        _outage(answers, policy, question),
        missed,
        None if each is None else float(each.mean()),
    )


def _outage(answers: Answers, policy: Policy, question: Question) -> Probability:
    return outage(
        policy.taken(answers) < len(answers.exits) - 1,
        answered_right(answers, policy),
        question.p_target,
        batch=question.batch,
        reshuffles=question.reshuffles,
        seed=question.seed,
    )


def _sweep(
    answers: Answers, policy: Policy, costs: Mapping[str, float], question: Question
) -> tuple[tuple[Swept, ...], tuple[Point, ...]]:
    """Count one threshold for all branches, and the screening; classes of quality have none of their own here."""
    branches, criterion = list(policy.thresholds), one_criterion(policy)
    whole = 1.0 if criterion.name == "confidence" else criterion.threshold(0.0)
    levels = [round(float(level), 4) for level in np.linspace(0.0, whole, LEVELS)]
    end = right_at_the_end(answers, branches, question.rule, question.p_target)
    swept = []
    for level, point in zip(levels, common(answers, branches, costs, levels, policy.criteria, end), strict=True):
        # Where thresholds are confidences, the published curves ask for the accuracy that the threshold promises.
        target = level if criterion.name == "confidence" else question.p_target
        own = Policy(dict.fromkeys(branches, level), policy.criteria)
        swept.append(Swept(level, point, _outage(answers, own, replace(question, p_target=target))))
    lists = {branch: base_levels(policy.criterion(branch), len(branches)) for branch in branches}
    return tuple(swept), tuple(increasing(points(answers, lists, costs, policy.criteria, end)))


def one_criterion(policy: Policy) -> Criterion:
    """What all branches that run go by. Raises InputError where they differ; there must be a branch."""
    found = {policy.criterion(branch) for branch in policy.thresholds}
    if len(found) > 1:
        raise InputError(f"--sweep: branches go by {' and '.join(sorted(each.name for each in found))}, expected one")
    return found.pop()


def _choices(
    answers: Answers,
    parts: Mapping[str, Answers],
    policy: Policy,
    costs: Mapping[str, float],
    question: Question,
    seconds: Mapping[str, float] | None,
) -> dict[str, Choice]:
    """Choose on half of the photos, report on the others; for all together, and for each group large enough."""
    assert question.target is not None
    everything = {ALL: answers} | (dict(parts) if len(parts) > 1 else {})
    found = {}
    for name, own in everything.items():
        if name != ALL and own.samples < 2 * LEAST_OF_A_CLASS:
            continue
        fit, rest = own.halves(question.seed)
        try:
            end = right_at_the_end(fit, policy.thresholds, question.rule, question.p_target)
            point = choose(fit, list(policy.thresholds), costs, question.target, policy.criteria, end)
        except Infeasible as error:
            found[name] = Choice(fit.samples, None, str(error), None)
            continue
        chosen = Policy(point.thresholds, policy.criteria)
        found[name] = Choice(fit.samples, point, "", _group(rest, chosen, seconds, question) if rest.samples else None)
    return found


def _plain(group: Group) -> dict[str, Any]:
    found: dict[str, Any] = {**asdict(group.figures), "outage": asdict(group.outage)}
    if group.missed_deadline is not None:
        found["missed_deadline"] = asdict(group.missed_deadline)
    if group.seconds is not None:
        found["mean_seconds"] = group.seconds
    return found
