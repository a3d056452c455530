"""A plan per image-quality class: the frame's own class decides its way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from popexd.coordinator import events as ev
from popexd.coordinator.choosing import Candidate, Known, best
from popexd.coordinator.itinerary import Itinerary, Order, Step, Ways
from popexd.coordinator.settings import PlannerSettings
from popexd.estimators.drift import FEWEST, Drift
from popexd.latency import predict
from popexd.network import Link, NetworkState
from popexd.plan import Tier
from popexd.profile import LayerGraph
from popexd.validation import FINAL, Validation

from .makers import DEVICE, FRAME_BYTES, TENSOR_BYTES, Bench, graph, only

SAMPLES = 200
CLEAR, BLURRED = "clear", "blurred"
LENIENT, STRICT = 0.5, 0.8
EASY = {CLEAR: 0.9, BLURRED: 0.05}


def told_apart(easy: dict[str, float] | None = None) -> LayerGraph:
    """The bench's model, with samples of two classes: nine of ten clear ones leave at b1, one of twenty blurred."""
    easy = easy or EASY
    quality = np.array([CLEAR, BLURRED] * (SAMPLES // 2))
    order = np.arange(SAMPLES) // 2 / (SAMPLES // 2)
    sure = np.where(quality == CLEAR, order < easy[CLEAR], order < easy[BLURRED])
    confidence = np.array([np.where(sure, 0.95, 0.3 + 0.1 * order), np.full(SAMPLES, 0.3), np.full(SAMPLES, 0.97)])
    correct = np.array([sure, sure, np.ones(SAMPLES, dtype=bool)])
    table = Validation(("b1", "b2", FINAL), confidence, correct, quality=quality)
    thresholds = {"b1": LENIENT, "b2": LENIENT}
    return replace(
        graph(), validation=table, thresholds=thresholds, quality_thresholds={BLURRED: {"b1": STRICT, "b2": STRICT}}
    )


def order(effects: list[ev.Effect]) -> ev.Run:
    """The one order among the effects."""
    (run,) = only(ev.Run, effects)
    return run


def ran(bench: Bench, run: ev.Run, quality: str | None, said: float | None = None) -> list[ev.Effect]:
    """Carry out an order on a frame of a class."""
    return bench.tell(
        ev.RunDone(
            run.key,
            decode_seconds=0.005 if run.decode else 0.0,
            device_seconds=0.02 if run.segments else 0.0,
            encode_seconds=0.001 if run.codec else 0.0,
            classified=None if run.exit is None else ev.Classified(3, "nut", 1.0 if said is None else said),
            image_bytes=FRAME_BYTES if run.payload is not None else None,
            shipment_bytes=TENSOR_BYTES if run.codec else None,
            quality=quality,
        ),
        after=0.03,
    )


def looking(bits_per_second: float = 10e6, **settings: Any) -> Bench:
    """A brain that has decided to look at its frames, and whose plans may run every branch."""
    bench = Bench(told_apart(), **settings).connected().measured(bits_per_second)
    bench.wait(3.0)
    assert bench.decision.by_quality, bench.decision.form
    bench.log.clear()
    return bench


def test_each_class_has_its_own_plan() -> None:
    """Clear frames leave at b1, so they ask it; blurred ones hardly would, so for them it is not worth its time."""
    plans = looking().decision.by_quality
    assert plans.keys() == {CLEAR, BLURRED}
    assert plans[CLEAR].plan.runs("b1")
    assert not plans[BLURRED].plan.runs("b1")
    assert plans[CLEAR].prediction.exit_probabilities["b1"] == pytest.approx(EASY[CLEAR], abs=0.02)


@pytest.mark.parametrize(("quality", "answered"), [(CLEAR, True), (BLURRED, False)])
def test_the_same_certainty_answers_for_one_class_and_not_for_another(quality: str, answered: bool) -> None:
    """Thresholds are per class, so that a blurred frame does not leave confidently and wrongly."""
    bench = Bench(told_apart({CLEAR: 0.9, BLURRED: 0.6}), mode="device")
    assert all(choice.plan.runs("b1") for choice in bench.decision.by_quality.values())
    run = order(bench.frame())
    assert (run.exit, run.decode) == ("b1", True)
    answers = only(ev.Answer, ran(bench, run, quality, (LENIENT + STRICT) / 2))
    assert bool(answers) is answered
    if answered:
        assert (answers[0].exit, answers[0].quality) == ("b1", quality)


def test_a_frame_of_unknown_class_goes_by_the_strictest_threshold() -> None:
    """What would have been sure of a clear frame is not sure of a frame that nobody looked at."""
    bench = Bench(told_apart({CLEAR: 0.9, BLURRED: 0.6}), mode="device")
    assert not only(ev.Answer, ran(bench, order(bench.frame()), None, (LENIENT + STRICT) / 2))
    bench = Bench(told_apart({CLEAR: 0.9, BLURRED: 0.6}), mode="device")
    (answer,) = only(ev.Answer, ran(bench, order(bench.frame()), None, STRICT))
    assert answer.quality is None


def test_a_frame_takes_the_way_of_its_class() -> None:
    """Where the ways differ from the first step on, the first order is to decode and look, and nothing else."""
    bench = looking()
    first = order(bench.frame())
    ways = bench.brain.world.planner.ways
    assert {way.opening for way in ways.by_quality.values()} != {ways.opening}
    assert (first.segments, first.exit, first.codec, first.decode) == ((), None, None, True)
    second = order(ran(bench, first, CLEAR))
    assert (second.segments, second.exit, second.decode) == (("v1",), "b1", False)
    (answer,) = only(ev.Answer, ran(bench, second, CLEAR, 0.95))
    assert (answer.exit, answer.plan_id) == ("b1", bench.decision.plan_id)
    effects = bench.frame()
    effects = ran(bench, order(effects), BLURRED)
    while not (ships := only(ev.Ship, effects)):
        effects = ran(bench, order(effects), BLURRED, 0.3)
    assert ships[0].quality == BLURRED
    assert [stage.segments for stage in ships[0].route] == [
        tuple(name for name, tier in bench.decision.of(BLURRED).plan.tiers.items() if tier is Tier.CLOUD)
    ]


def test_ways_that_begin_alike_lose_no_turn_by_looking() -> None:
    """Then the first order runs what all have in common, and the class is known when its answer is judged."""
    bench = Bench(told_apart({CLEAR: 0.9, BLURRED: 0.6}), mode="device")
    run = order(bench.frame())
    assert (run.segments, run.exit, run.decode) == (("v1",), "b1", True)


def test_nobody_looks_where_looking_costs_more_than_it_gains() -> None:
    """On a fast link the camera's own bytes are best for every frame; decoding them to see that would be lost time."""
    bench = Bench(told_apart(EASY | {CLEAR: 0.1})).connected().measured(200e6, 0.001)
    bench.wait(3.0)
    assert bench.decision.by_quality == {}
    run = order(bench.frame())
    assert (run.decode, run.codec) == (False, "camera")


def test_what_is_expected_is_the_classes_mixture() -> None:
    """Each class priced on its own samples, decoding first, weighed by its share: computed here anew."""
    bench = looking()
    decision, found = bench.decision, told_apart()
    assert found.validation is not None
    total = 0.0
    for name, choice in decision.by_quality.items():
        own = found.of_quality(name)
        assert own.validation is not None
        assert own.validation.confidence.shape[1] == SAMPLES // 2
        network = NetworkState(decision.network["device"])
        exact = predict(choice.plan, bench.brain.world.planner._graphs[name], network)
        assert choice.prediction.seconds == pytest.approx(exact.seconds + 0.005)
        total += decision.shares[name] * choice.prediction.seconds
    assert decision.prediction.seconds == pytest.approx(total)
    assert sum(decision.shares.values()) == pytest.approx(1)


def test_the_shares_of_the_classes_follow_the_frames() -> None:
    """Half of the table is clear; a camera that sees only blur makes the mixture so."""
    bench = looking()
    for _ in range(60):
        effects = ran(bench, order(bench.frame()), BLURRED)
        while not (ships := only(ev.Ship, effects)):
            effects = ran(bench, order(effects), BLURRED, 0.3)
        bench.replied(ships[0])
    bench.tell(ev.Due("replan"))
    assert bench.decision.shares.get(BLURRED, 1.0) > 0.8


def test_exit_shares_are_learnt_per_class() -> None:
    """That many clear frames leave says nothing of blurred ones."""
    bench = Bench(told_apart({CLEAR: 0.5, BLURRED: 0.5}), mode="device")
    before = bench.decision.by_quality[BLURRED].prediction.exit_probabilities["b1"]
    for _ in range(100):
        assert only(ev.Answer, ran(bench, order(bench.frame()), CLEAR, 0.95))
    bench.tell(ev.Due("replan"))
    after = {name: choice.prediction.exit_probabilities["b1"] for name, choice in bench.decision.by_quality.items()}
    assert after[CLEAR] > 0.75
    assert after[BLURRED] == pytest.approx(before, abs=0.01)


def test_a_threshold_that_is_set_stands_for_every_class() -> None:
    """Who sets one by hand means it."""
    bench = Bench(told_apart({CLEAR: 0.9, BLURRED: 0.6}), mode="device")
    answer = bench.asked("set", thresholds={"b1": 0.6})
    assert answer is not None
    assert answer.error is None
    assert {choice.form["exits"]["b1"]["threshold"] for choice in bench.decision.by_quality.values()} == {0.6}
    assert only(ev.Answer, ran(bench, order(bench.frame()), BLURRED, 0.6))


def test_a_threshold_that_was_set_can_be_taken_back() -> None:
    """With null: then each class has its own again."""
    bench = Bench(told_apart({CLEAR: 0.9, BLURRED: 0.6}), mode="device")
    bench.asked("set", thresholds={"b1": 0.6})
    answer = bench.asked("set", thresholds={"b1": None})
    assert answer is not None
    assert answer.error is None
    assert answer.data is not None
    assert answer.data["thresholds"] == {}
    thresholds = {name: choice.form["exits"]["b1"]["threshold"] for name, choice in bench.decision.by_quality.items()}
    assert thresholds == {CLEAR: LENIENT, BLURRED: STRICT}


def test_no_class_is_asked_for_more_than_the_network_has() -> None:
    """Where the whole network is right on 60 % of blurred frames, 90 % are not demanded of them."""
    model = told_apart()
    assert model.validation is not None
    correct = model.validation.correct.copy()
    worse = np.flatnonzero(model.validation.quality == BLURRED)[:40]
    correct[:, worse] = False
    table = Validation(model.validation.exits, model.validation.confidence, correct, quality=model.validation.quality)
    bench = Bench(replace(model, validation=table), mode="device", min_accuracy=0.9)
    planner = bench.brain.world.planner
    accuracies = {name: choice.prediction.accuracy for name, choice in bench.decision.by_quality.items()}
    assert accuracies[CLEAR] is not None
    assert accuracies[CLEAR] >= 0.9
    assert accuracies[BLURRED] == pytest.approx(0.6, abs=1e-5)
    assert planner.infeasible is not None  # said of all frames together: 80 % is all there is


def test_a_busy_uplink_takes_the_class_into_account_too() -> None:
    """The quick way on the device has the class's thresholds as well."""
    bench = looking()
    local = bench.brain.world.planner.local()
    assert local.by_quality.keys() == {CLEAR, BLURRED}
    assert all(not way.route for way in (local.usual, *local.by_quality.values()))
    bounds = {name: way.thresholds.get("b1") for name, way in local.by_quality.items()}
    assert bounds[CLEAR] == LENIENT
    assert bounds[BLURRED] in (None, STRICT)


def test_the_device_alone_still_works_without_any_link() -> None:
    """No uplink: plans per class, all here."""
    bench = Bench(told_apart())
    assert all(set(choice.plan.tiers.values()) == {DEVICE} for choice in bench.decision.by_quality.values())
    assert bench.decision.network == {}


def rarely(blurred: int) -> LayerGraph:
    """The same model with a table in which hardly any sample is blurred."""
    model = told_apart()
    assert model.validation is not None
    quality = np.where(np.arange(SAMPLES) < blurred, BLURRED, CLEAR)
    table = model.validation
    return replace(model, validation=Validation(table.exits, table.confidence, table.correct, quality=quality))


@pytest.mark.parametrize("blurred", [0, 10])
def test_a_rare_class_keeps_its_thresholds_and_is_counted_on_all_samples(blurred: int) -> None:
    """A handful of samples says nothing of its exits; what the bundle says of its threshold holds all the same."""
    bench = Bench(rarely(blurred), mode="device")
    plans = bench.decision.by_quality
    assert plans.keys() == {CLEAR, BLURRED}
    assert plans[BLURRED].plan.runs("b1")
    table = told_apart().validation
    assert table is not None
    assert plans[BLURRED].prediction.exit_probabilities["b1"] == pytest.approx(
        float((table.confidence[0] >= STRICT).mean()), abs=1e-6
    )
    between = (LENIENT + STRICT) / 2
    assert only(ev.Answer, ran(bench, order(bench.frame()), CLEAR, between))
    assert not only(ev.Answer, ran(bench, order(bench.frame()), BLURRED, between))


def test_a_class_that_nobody_knows_goes_the_usual_way_from_its_first_step() -> None:
    """Whatever the other classes begin with: what a frame's exit says is judged by the step that was ordered."""
    bench = Bench(told_apart({CLEAR: 0.9, BLURRED: 0.6}), mode="device")
    effects = bench.frame()
    asked = []
    while not (answers := only(ev.Answer, effects)):
        run = order(effects)
        asked += [*run.segments]
        effects = ran(bench, run, "foggy", 0.3)
    assert asked == ["v1", "v2", "v3"]
    assert (answers[0].exit, answers[0].quality) == (FINAL, "foggy")


def test_the_link_of_a_plan_is_the_one_that_was_measured() -> None:
    """The bench's own check that a decision which looks still tells what it knew."""
    link = looking().decision.network["device"]
    assert isinstance(link, Link)
    assert link.bits_per_second == pytest.approx(10e6, rel=0.5)


def test_a_replan_that_changes_nothing_solves_for_one_class_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Solving takes its time from the frames: for all frames, and for one class in turn; but for all on a change."""
    bench = looking()
    solved: list[int] = []

    def counted(graph: LayerGraph, known: Known, settings: PlannerSettings) -> tuple[Candidate, str | None]:
        assert graph.validation is not None
        solved.append(graph.validation.confidence.shape[1])
        return best(graph, known, settings)

    monkeypatch.setattr("popexd.coordinator.planning.best", counted)
    bench.tell(ev.Due("replan"))
    bench.tell(ev.Due("replan"))
    assert solved == [SAMPLES, SAMPLES // 2] * 2
    solved.clear()
    bench.worker("w1", online=False)
    assert solved == [SAMPLES, SAMPLES // 2, SAMPLES // 2]


def test_who_asks_for_another_mode_gets_it_without_a_look() -> None:
    """Looking was free while the device did everything; when it is not, the margin for changes does not keep it."""
    bench = Bench(told_apart(EASY | {CLEAR: 0.1})).connected().measured(200e6, 0.001)
    bench.asked("set", mode="device")
    assert bench.decision.by_quality
    bench.asked("set", mode="cloud")
    assert bench.decision.by_quality == {}
    assert bench.decision.cut == "input"


def test_ways_that_differ_from_the_usual_one_begin_with_a_look() -> None:
    """So a frame whose class has no way of its own can still go the usual one."""
    here = Itinerary((Step(("v1",), "b1", 0.5), Step(("v2", "v3"), FINAL)), None, ())
    there = Itinerary((Step(("v1", "v2", "v3"), FINAL),), None, ())
    assert Ways(here, {CLEAR: here}).opening == here.opening
    assert Ways(there, {CLEAR: here, BLURRED: here}).opening == Order()
    assert Ways(there).opening == there.opening


def test_expected_shares_weigh_the_classes_until_frames_have_told() -> None:
    """A table of a laboratory's mix is not what a camera shows: its weights say so, planning and drift go by them."""
    model = told_apart()
    assert model.validation is not None
    table = model.validation
    assert table.quality is not None
    weights = np.where(table.quality == CLEAR, 0.95, 0.05)
    bench = Bench(replace(model, validation=table.weighed(weights)), mode="device")
    assert bench.decision.shares == pytest.approx({CLEAR: 0.95, BLURRED: 0.05})
    drift = Drift(table.weighed(weights))
    for _ in range(FEWEST):
        drift.looked(CLEAR)
    assert drift.changes() == []
    drift = Drift(table)
    for _ in range(FEWEST):
        drift.looked(CLEAR)
    assert [change.signal for change in drift.changes()] == ["quality"]
