"""Thresholds for a target, against brute force; and the rules by which a branch keeps its word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from popexd.coordinator.settings import PlannerSettings
from popexd.criteria import Criterion
from popexd.errors import Infeasible
from popexd.evaluation.choosing import LEAST_LEAVING, Target, choose, choose_by_quality, reliable, reliable_by_quality
from popexd.evaluation.losses import NORMAL_90
from popexd.evaluation.metrics import answered_right, right_at_the_end
from popexd.evaluation.outcomes import Answers, of_table
from popexd.evaluation.policy import Policy
from popexd.evaluation.report import Question, examine, refuted
from popexd.evaluation.sweeps import (
    BRANCHYNET_NATS,
    base_levels,
    cheapest,
    common,
    depth,
    fine_levels,
    increasing,
    most_accurate,
    nothing,
    points,
    strict,
)
from tests.evaluation.tables import BUNDLE, drawn, table

COSTS = {"b1": 1.0, "b2": 2.5, "final": 6.0}
LEVELS = {"b1": [0.6, 0.75, 0.9, 1.0], "b2": [0.55, 0.7, 0.85, 0.99]}


def counted(answers: Answers, thresholds: Mapping[str, float]) -> tuple[float, float]:
    """Accuracy and mean cost, sample by sample."""
    right = cost = 0.0
    for sample in range(answers.samples):
        row = next(
            (
                index
                for index, name in enumerate(answers.exits[:-1])
                if name in thresholds and answers.confidence[index, sample] >= thresholds[name]
            ),
            len(answers.exits) - 1,
        )
        right += bool(answers.predicted[row, sample] == answers.label[sample])
        cost += COSTS[answers.exits[row]]
    return right / answers.samples, cost / answers.samples


@pytest.mark.parametrize("seed", range(3))
def test_every_combination_is_counted_as_a_loop_does(seed: int) -> None:
    """Accuracy, cost, shares and device accuracy of all sixteen."""
    answers = drawn(seed, 150)
    found = points(answers, LEVELS, COSTS)

    assert len(found) == 16
    for point, (one, two) in zip(found, product(LEVELS["b1"], LEVELS["b2"]), strict=True):
        assert point.thresholds == {"b1": one, "b2": two}
        assert (point.accuracy, point.cost) == pytest.approx(counted(answers, point.thresholds))
        taken = Policy(point.thresholds).taken(answers)
        assert point.shares == pytest.approx({name: (taken == row).mean() for row, name in enumerate(answers.exits)})
        if (taken < 2).any():
            assert point.device_accuracy == pytest.approx(answers.correct[taken, np.arange(150)][taken < 2].mean())


def test_a_branch_that_does_not_run_needs_no_cost() -> None:
    """Behind a cut it answers nothing, in a combination, in a sweep and in the choice for a target."""
    answers, costs = drawn(3, 150), {name: cost for name, cost in COSTS.items() if name != "b2"}
    for point, level in zip(points(answers, {"b1": LEVELS["b1"]}, costs), LEVELS["b1"], strict=True):
        assert (point.accuracy, point.cost) == pytest.approx(counted(answers, {"b1": level}))
        assert point.shares["b2"] == 0
    best = choose(answers, ["b1"], costs, Target(accuracy=0.7))
    assert (best.accuracy, best.cost) == pytest.approx(counted(answers, best.thresholds))
    question = Question(sweep=True, target=Target(accuracy=0.6), reshuffles=5)
    report = examine(answers, Policy({"b1": 0.8}), costs, question, timed=True)
    for swept in report.swept:
        assert swept.point.cost == pytest.approx(counted(answers, {"b1": swept.level})[1])
    assert report.choices["all"].held_out is not None


@pytest.mark.parametrize("rule", ["final", "most-confident"])
def test_sweep_screening_and_choice_go_by_the_rule_of_the_answer(rule: str) -> None:
    """Their accuracies are those of the figures at the same thresholds, where the rules make a difference."""
    answers = drawn(4, 600)
    question = Question(rule=rule, p_target=0.9, sweep=True, target=Target(accuracy=0.7), reshuffles=2)
    report = examine(answers, Policy({"b1": 0.9, "b2": 0.9}), COSTS, question)

    def right(thresholds: Mapping[str, float], other: str = rule) -> float:
        return float(answered_right(answers, Policy(thresholds), other, 0.9).mean())

    for point in (*(each.point for each in report.swept), *report.screened):
        assert point.accuracy == pytest.approx(right(point.thresholds))
    assert any(
        right(point.thresholds, "final") != right(point.thresholds, "most-confident") for point in report.screened
    )
    choice = report.choices["all"]
    assert choice.chosen is not None
    assert choice.held_out is not None
    halves = ((choice.chosen.accuracy, choice.samples), (choice.held_out.figures.accuracy, 600 - choice.samples))
    assert sum(share * count for share, count in halves) == pytest.approx(600 * right(choice.chosen.thresholds))
    end = right_at_the_end(answers, ("b1", "b2"), rule, 0.9)
    best = choose(answers, ["b1", "b2"], COSTS, Target(), end=end)
    assert best.accuracy == pytest.approx(right(best.thresholds))


def bounds(answers: Answers, thresholds: Mapping[str, float]) -> tuple[float, float]:
    """How right, at least, and how dear, at most, as bounds of 90 %: by definition, sample by sample."""
    taken = Policy(thresholds).taken(answers)
    here, end = answers.correct[taken, np.arange(answers.samples)], answers.correct[-1]
    paid = np.array([COSTS[answers.exits[row]] for row in taken])
    difference = here.astype(float) - end
    error = NORMAL_90 / np.sqrt(answers.samples)
    return end.mean() + difference.mean() - error * difference.std(), paid.mean() + error * paid.std()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("wanted", [0.6, 0.72, 0.78])
def test_the_cheapest_and_the_most_accurate_are_those_of_brute_force(seed: int, wanted: float) -> None:
    """Over the same grid, counted here; what may be luck does not count."""
    answers = drawn(seed, 200)
    pairs = [dict(zip(("b1", "b2"), pair, strict=True)) for pair in product(LEVELS["b1"], LEVELS["b2"])]
    every = [(*counted(answers, pair), *bounds(answers, pair)) for pair in pairs]
    found = points(answers, LEVELS, COSTS)
    assert [(p.accuracy, p.cost, p.least_accuracy, p.most_cost) for p in found] == [pytest.approx(e) for e in every]
    good = [cost for _, cost, least, _ in every if least >= wanted]
    if good:
        assert cheapest(found, wanted).cost == pytest.approx(min(good))
        assert cheapest(found, wanted).accuracy >= wanted
    else:
        with pytest.raises(Infeasible, match=r"not reached at any thresholds, the best is|owed to chance; sure on"):
            cheapest(found, wanted)
    affordable = [accuracy for accuracy, _, _, most in every if most <= 3.0]
    assert most_accurate(found, 3.0).accuracy == pytest.approx(max(affordable))
    with pytest.raises(Infeasible, match="the least is"):
        most_accurate(found, 0.5)


def test_a_target_is_kept_more_often_than_by_luck() -> None:
    """Chosen on a hundred frames of a trained network, asked of the others: in three draws of four, not in two of five.

    The cheapest of thousands of combinations that pass on these very frames is a lucky one.
    """
    answers, costs = of_table(BUNDLE.validation, 8), depth(BUNDLE)
    criteria = {exit_.name: exit_.criterion for exit_ in BUNDLE.exits}
    random = np.random.default_rng(1)
    kept = {"bound": 0, "luck": 0}
    for _ in range(25):
        order = random.permutation(answers.samples)
        fit, others = answers.only(order[:100]), answers.only(order[100:])
        every = points(fit, fine_levels(fit, ["b1", "b3"], criteria), costs, criteria)
        lucky = min((p for p in every if p.accuracy >= 0.88), key=lambda p: (p.cost, -p.accuracy))
        for rule, point in (("bound", cheapest(every, 0.88)), ("luck", lucky)):
            kept[rule] += bool(answered_right(others, Policy(point.thresholds), "final", 0.8).mean() >= 0.88)
    assert kept["luck"] < 15 < 19 <= kept["bound"]


def test_the_choice_on_the_trained_network_meets_its_target_at_the_least_cost() -> None:
    """On its own table and grid; nothing cheaper on that grid is as good."""
    answers, costs = of_table(BUNDLE.validation, 8), depth(BUNDLE)
    point = choose(answers, ["b1", "b3"], costs, Target(accuracy=0.93))
    levels = fine_levels(answers, ["b1", "b3"], {})

    assert costs == {"b1": 1 / 8, "b3": 3 / 8, "final": 1.0}
    assert point.accuracy > point.least_accuracy >= 0.93
    assert all(each.cost >= point.cost for each in points(answers, levels, costs) if each.least_accuracy >= 0.93)
    assert choose(answers, ["b1", "b3"], costs, Target(cost=0.3)).cost <= 0.3


def test_one_threshold_for_all_and_the_screening() -> None:
    """Points come in the order of the levels; kept are those that are more accurate than the last one kept."""
    answers = drawn(2)
    swept = common(answers, ["b1", "b2"], COSTS, [0.5, 0.8, 1.0])
    assert [point.thresholds for point in swept] == [{"b1": level, "b2": level} for level in (0.5, 0.8, 1.0)]
    every = points(answers, LEVELS, COSTS)
    kept = increasing(every)

    best, expected = None, []
    for accuracy, cost in sorted(((p.accuracy, p.cost) for p in every), key=lambda pair: (pair[1], -pair[0])):
        if best is None or accuracy > best - 0.0005:
            expected.append((accuracy, cost))
            best = accuracy
    assert [(point.accuracy, point.cost) for point in kept] == expected


def test_the_screening_list_is_branchynet_s() -> None:
    """In nats, those beyond ln(classes) once; 121 combinations of confidences for two branches; fewer for many."""
    assert base_levels(Criterion("entropy", 10), 1) == BRANCHYNET_NATS[:-1]
    assert base_levels(Criterion("entropy", 2), 1) == BRANCHYNET_NATS[:8]
    assert len(base_levels(Criterion("confidence", 10), 2)) ** 2 == 121
    assert len(base_levels(Criterion("confidence", 10), 6)) ** 6 <= 20_000


@pytest.mark.parametrize("name", ["confidence", "entropy", "normalised-entropy"])
def test_a_written_threshold_lets_no_more_through(name: str) -> None:
    """Rounded to the strict side; all and none are on the grid."""
    answers, criterion = drawn(5), Criterion(name, 2)
    for bound in np.linspace(0, 1, 57):
        exact = Policy({"b1": criterion.threshold(float(bound))}, {"b1": criterion})
        rounded = Policy({"b1": strict(criterion, float(bound))}, {"b1": criterion})
        assert not (rounded.answered(answers, "b1") & ~exact.answered(answers, "b1")).any()
    levels = fine_levels(answers, ["b1", "b2"], {"b1": criterion})["b1"]
    shares = [Policy({"b1": level}, {"b1": criterion}).answered(answers, "b1").mean() for level in levels]
    assert max(shares) == 1
    assert min(shares) == 0


@pytest.mark.parametrize("name", ["confidence", "entropy", "normalised-entropy"])
def test_a_branch_that_should_answer_nothing_does_not_where_it_is_saturated(name: str) -> None:
    """Confidence 1 and entropy 0 throughout, always wrong: nothing leaves; the daemon's settings take the threshold."""
    answers, criterion = table([np.ones(100), np.ones(100)], [np.zeros(100), np.ones(100)]), Criterion(name, 2)
    few = answers.only(np.arange(LEAST_LEAVING - 1))
    levels = fine_levels(answers, ["b1"], {"b1": criterion})["b1"]
    chosen = choose(answers, ["b1"], COSTS, Target(accuracy=1.0), {"b1": criterion}).thresholds["b1"]
    by_rule = [reliable(each, ["b1"], criteria={"b1": criterion})["b1"] for each in (answers, few)]

    assert nothing(criterion) in levels
    for threshold in (nothing(criterion), chosen, *by_rule):
        assert not Policy({"b1": threshold}, {"b1": criterion}).answered(answers, "b1").any()
        assert (
            PlannerSettings().updated({"thresholds": {"b1": threshold}}, {"b1": criterion}).thresholds["b1"]
            == threshold
        )


@pytest.mark.parametrize("seed", range(5))
def test_a_reliable_branch_is_as_right_as_the_end(seed: int) -> None:
    """What leaves is right as often as asked and loses next to nothing; a lower threshold would not do."""
    answers = drawn(seed, 600)
    thresholds = reliable(answers, ["b1", "b2"])
    taken = Policy(thresholds).taken(answers)
    bar = answers.correct[-1].mean()
    for row, name in enumerate(("b1", "b2")):
        left = taken == row
        if left.any():
            assert left.sum() >= LEAST_LEAVING
            assert answers.correct[row][left].mean() >= bar
            here, end = answers.correct[row][left], answers.correct[-1][left]
            loss = end.astype(int) - here
            assert loss.mean() + NORMAL_90 * loss.std() / left.sum() ** 0.5 <= 0.005 + 1e-9
        else:
            assert thresholds[name] == 1.01


@pytest.mark.parametrize(("samples", "least"), [(1000, 0.25), (5000, 0.25)])
def test_the_allowance_holds_in_the_mean_on_frames_that_were_not_chosen_on(samples: int, least: float) -> None:
    """The best of hundreds of levels is not taken at its word; branches that are worth it still answer."""
    population = drawn(99, 100_000, branches=1)
    sure = population.confidence[0]
    # The end is right wherever the branch is, and there besides where it is not so sure.
    better = np.random.default_rng(1).random(population.samples) < 0.3 * (1 - sure)
    right = np.stack([population.correct[0], population.correct[0] | better])
    found = table(population.confidence, right)
    losses, shares = [], []
    for seed in range(60):
        chosen = np.random.default_rng(seed).integers(0, found.samples, samples)
        threshold = reliable(found.only(chosen), ["b1"])["b1"]
        left = sure >= threshold
        shares.append(left.mean())
        losses.append(right[1][left].mean() - right[0][left].mean() if left.any() else 0.0)

    assert np.mean(losses) <= 0.005
    assert np.mean(shares) >= least


def test_a_blurred_frame_does_not_leave_confidently_and_wrongly() -> None:
    """A branch that is sure of everything is asked for more where frames are seen blurred, and only there."""
    random = np.random.default_rng(0)
    blurred = np.arange(600) % 3 == 0
    sure = random.uniform(0.9, 1.0, 600)
    # Clear frames: always right. Blurred ones: right only from 0.97 on.
    right = np.where(blurred, sure >= 0.97, True)
    words = np.where(blurred, "blurred", "clear").tolist()
    answers = table([sure, np.ones(600)], [right, np.ones(600)], words, words)
    found = reliable_by_quality(answers, {"b1": 0.8})

    assert set(found) == {"blurred"}
    # Half a per cent may be lost to the network's end, which is always right.
    assert found["blurred"]["b1"] == pytest.approx(0.97, abs=0.002)
    taken = Policy({"b1": 0.8}, by_quality=found).taken(answers)
    assert (taken[~blurred] == 0).all()
    assert right[(taken == 0)].mean() >= 0.995
    assert (Policy({"b1": 0.8}).taken(answers) == 0).all()


def test_no_class_gets_a_laxer_threshold_and_rare_ones_none() -> None:
    """Of reliability; forty samples are the least."""
    for seed in range(4):
        answers = drawn(seed, 600)
        for own in reliable_by_quality(answers, {"b1": 0.7, "b2": 0.6}).values():
            assert own["b1"] >= 0.7
            assert own["b2"] >= 0.6
    few = drawn(1, 600).only(np.arange(90))
    assert "blurred" not in reliable_by_quality(few, {"b1": 0.7, "b2": 0.6})
    assert reliable_by_quality(table([[0.9], [0.9]], [[1], [1]]), {"b1": 0.7}) == {}


def test_a_class_that_cannot_reach_the_target_gets_the_best_there_is() -> None:
    """The other classes keep theirs."""
    answers = drawn(1, 900)
    parts = {name: answers.only(answers.seen == name) for name in ("blurred", "clear")}
    grids = {name: points(own, fine_levels(own, ["b1", "b2"], {}), COSTS) for name, own in parts.items()}
    best = {name: max(point.accuracy for point in grid) for name, grid in grids.items()}
    target = (best["blurred"] + best["clear"]) / 2
    found = choose_by_quality(answers, ["b1", "b2"], COSTS, Target(accuracy=target))

    assert best["blurred"] < target < best["clear"]
    assert found["clear"].accuracy >= target
    assert found["blurred"].accuracy == pytest.approx(best["blurred"])
    quick = choose_by_quality(answers, ["b1", "b2"], COSTS, Target(cost=0.5))
    assert quick["clear"].cost == quick["blurred"].cost == COSTS["b1"]


def test_a_branch_that_no_sample_comes_to_is_closed() -> None:
    """All leave at the first: what the second would do is not known, and where it runs alone it does nothing."""
    answers = drawn(3, 300)
    for target in (Target(accuracy=0.2), Target(cost=COSTS["b1"])):
        point = choose(answers, ["b1", "b2"], COSTS, target)
        assert (point.shares["b1"], point.thresholds) == (1.0, {"b1": 0.0, "b2": nothing(Criterion())})
        nats = Criterion("entropy", 2)
        assert choose(answers, ["b1", "b2"], COSTS, target, {"b1": nats, "b2": nats}).thresholds["b2"] == 0.0
    by_class = choose_by_quality(answers, ["b1", "b2"], COSTS, Target(cost=0.5))
    assert {own.thresholds["b2"] for own in by_class.values()} == {nothing(Criterion())}


def test_an_accuracy_that_other_samples_refute_is_said() -> None:
    """The half that is chosen on is all right; of the other so many are wrong."""
    sure = np.linspace(0.5, 0.99, 400)
    plain = table([sure] * 2, np.ones((2, 400)))
    others = np.flatnonzero(np.isin(sure, plain.halves(5)[1].confidence[0]))
    question = Question(seed=5, reshuffles=1, target=Target(accuracy=0.95))

    def told(wrong: int) -> str:
        predicted = plain.predicted.copy()
        predicted[:, others[:wrong]] = 1 - plain.label[others[:wrong]]
        answers = replace(plain, predicted=predicted)
        return refuted(examine(answers, Policy({"b1": 0.9}), {"b1": 0.5, "final": 1.0}, question))

    # 93 % of 200 may well be 95 %, 90 % may not (Wilson: 0.8506 to 0.9343).
    assert told(0) == told(14) == ""
    assert told(20) == "accuracy 95.00% is not reached on 200 frames not chosen on: 90.00% (95 %: 85.06% to 93.43%)"
