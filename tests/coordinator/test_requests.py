"""Requests, settings, metrics: what others may ask and see."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from popexd.coordinator import events as ev
from popexd.coordinator.brain import Settings
from popexd.coordinator.settings import PlannerSettings
from popexd.coordinator.statistics import percentile
from popexd.errors import InputError
from popexd.validation import FINAL

from .makers import Bench, first, only

BAD: list[dict[str, Any]] = [
    {"mode": "moon"},
    {"mode": 5},
    {"mode": ["device"]},
    {"solver": "magic"},
    {"objective": "beauty"},
    {"min_accuracy": 1.5},
    {"min_accuracy": True},
    {"min_accuracy": "0.5"},
    {"min_accuracy": math.nan},
    {"min_agreement": -1},
    {"deadline_seconds": 0},
    {"deadline_seconds": math.inf},
    {"dwell_seconds": -0.1},
    {"dwell_seconds": None},
    {"thresholds": {"b1": 2}},
    {"thresholds": {"b7": 0.5}},
    {"thresholds": 0.5},
    {"thresholds": {"b1": "high"}},
    {"speed": 9000},
    {"mode": "device", "speed": 9000},
]


@pytest.mark.parametrize("fields", BAD, ids=json.dumps)
def test_a_bad_setting_is_refused_whole(fields: dict[str, Any]) -> None:
    """The error names the key and what was expected; nothing is changed, and it is counted."""
    bench = Bench()
    before = bench.brain.world.planner.settings
    answer = bench.asked("set", **fields)
    assert answer is not None
    assert "expected" in (answer.error or "")
    assert any(key in (answer.error or "") for key in fields)
    assert bench.brain.world.planner.settings == before
    assert bench.counts["requests"] == {"rejected": 1, "by_reason": {"value": 1}}


def test_a_refusal_is_told_with_its_reason_and_who_asked() -> None:
    """Whether anybody waits for a response or not; JSON's null is called null, and nothing says that it was set."""
    bench = Bench()
    bench.tell(ev.RequestReceived("set", None, {"mode": None}, "boss"))
    (told,) = bench.notices("request.rejected")
    assert (told["verb"], told["asked_by"], told["transaction"]) == ("set", "boss", None)
    assert told["detail"].startswith("mode: null, expected one of auto, ")
    assert not bench.notices("settings.changed")


def test_what_changes_nothing_is_not_told() -> None:
    """Neither an empty request, nor what is as it was, nor the same file again."""
    bench = Bench()
    for fields in ({}, {"thresholds": None}, {"mode": "auto"}):
        answer = bench.asked("set", **fields)
        assert answer is not None
        assert answer.error is None
    bench.tell(ev.Reconfigured(Settings()))
    assert not bench.notices("settings.changed")


def test_a_pin_that_is_not_in_force_says_so() -> None:
    """In the response, in the status, and as an event; not any more once the tier is there."""
    bench = Bench()
    answer = bench.asked("set", mode="cloud")
    assert answer is not None
    assert answer.data is not None
    assert "cloud is not in force" in answer.data["infeasible"]
    assert bench.notices("plan.infeasible") == [{"detail": answer.data["infeasible"]}]
    bench.connected().measured().wait(3.0)
    status = bench.asked("status")
    assert status is not None
    assert status.data is not None
    assert status.data["infeasible"] is None
    assert len(bench.notices("plan.infeasible")) == 1


def test_settings_are_checked_on_construction() -> None:
    """A configuration cannot hold what a request could not set."""
    with pytest.raises(InputError, match="mode"):
        PlannerSettings(mode="moon")


def test_a_setting_takes_effect_at_once_and_is_told() -> None:
    """The response holds all settings, the event those that were given."""
    bench = Bench().offloading()
    answer = bench.asked("set", mode="device", dwell_seconds=7)
    assert answer is not None
    assert answer.error is None
    assert answer.data is not None
    assert (answer.data["mode"], answer.data["dwell_seconds"], answer.data["solver"]) == ("device", 7, "joint")
    assert bench.decision.cut == "output"
    (told,) = bench.notices("settings.changed")
    assert {"mode": "device", "dwell_seconds": 7}.items() <= told.items()
    assert bench.notices("plan.changed")[0]["reason"] == "set"


def test_thresholds_add_up_over_requests() -> None:
    """One exit's is set without unsetting the other's, and the next frame is asked by it."""
    bench = Bench()
    bench.asked("set", thresholds={"b1": 0.5})
    bench.asked("set", thresholds={"b2": 0.6})
    assert dict(bench.brain.world.planner.settings.thresholds) == {"b1": 0.5, "b2": 0.6}
    assert bench.decision.form["exits"]["b1"]["threshold"] == 0.5
    assert only(ev.Answer, bench.ran(first(ev.Run, bench.frame()), 0.55))


def test_null_takes_thresholds_back() -> None:
    """One that was set, or all of them: the bundle's own stand again; the event names each, from and to."""
    bench = Bench()
    own = bench.decision.form["exits"]["b1"]["threshold"]
    bench.asked("set", thresholds={"b1": 0.5, "b2": 0.6})
    bench.asked("set", thresholds={"b1": None})
    assert dict(bench.brain.world.planner.settings.thresholds) == {"b2": 0.6}
    assert bench.decision.form["exits"]["b1"]["threshold"] == own
    bench.asked("set", thresholds={})
    assert dict(bench.brain.world.planner.settings.thresholds) == {"b2": 0.6}
    bench.asked("set", thresholds=None, min_accuracy=0.5)
    assert dict(bench.brain.world.planner.settings.thresholds) == {}
    assert [told["changed"] for told in bench.notices("settings.changed")] == [
        {"thresholds.b1": {"from": None, "to": 0.5}, "thresholds.b2": {"from": None, "to": 0.6}},
        {"thresholds.b1": {"from": 0.5, "to": None}},
        {"min_accuracy": {"from": None, "to": 0.5}, "thresholds.b2": {"from": 0.6, "to": None}},
    ]


def test_a_request_without_a_transaction_is_carried_out_silently() -> None:
    """There is nobody to tell; a bad one is counted."""
    bench = Bench().offloading()
    assert bench.asked("set", None, mode="device") is None
    assert bench.decision.cut == "output"
    assert bench.asked("set", None, mode="moon") is None
    assert bench.counts["requests"]["rejected"] == 1


def test_probe_measures_now() -> None:
    """Whatever the schedule and the traffic say; the response tells whether that can be."""
    bench = Bench().offloading()
    answer = bench.asked("probe")
    assert answer is not None
    assert answer.data == {"ordered": True, "workers": ["w1"]}
    assert only(ev.SendProbe, bench.log)
    bench.tell(ev.UplinkChanged(False, "gone"))
    answer = bench.asked("probe")
    assert answer is not None
    assert answer.data == {"ordered": False, "workers": []}


def test_replan_takes_the_best_plan_there_is() -> None:
    """Without dwell time and however small the gain."""
    bench = Bench(dwell_seconds=3_000.0).offloading()
    bench.asked("set", mode="device")
    bench.brain.world.planner.settings = PlannerSettings(dwell_seconds=3_000.0)
    bench.tell(ev.Due("replan"), after=10.0)
    assert bench.decision.cut == "output"
    answer = bench.asked("replan")
    assert answer is not None
    assert answer.data == {"plan_id": bench.decision.plan_id, "cut": "v1"}


def test_status_tells_what_is_in_force() -> None:
    """Settings, plan, uplink, workers and counts; all of it can be written as JSON."""
    bench = Bench().offloading()
    bench.frame()
    answer = bench.asked("status")
    assert answer is not None
    data = json.loads(json.dumps(answer.data))
    assert data["cut"] == "v1"
    assert data["uplink"] == {"connected": True, "usable": True, "suspect": []}
    assert data["workers"] == {"w1": "cloud"}
    assert data["frames"]["received"] == 1
    assert data["settings"]["deadline_seconds"] == 2.0


def test_a_malformed_request_is_answered_where_it_can_be() -> None:
    """With a transaction there is somebody to tell; counted are all."""
    bench = Bench()
    effects = bench.tell(ev.RequestRejected("set", "json", "line 1", "t9"))
    assert first(ev.Respond, effects).error == "json: line 1"
    assert not bench.tell(ev.RequestRejected("set", "json"))
    assert bench.counts["requests"] == {"rejected": 2, "by_reason": {"json": 2}}


def test_a_configuration_read_again_is_in_force_at_once() -> None:
    """Planner, probing and metrics; what was measured stays."""
    bench = Bench().offloading()
    link = bench.brain.world.uplink.link
    bench.tell(ev.Reconfigured(Settings(PlannerSettings(mode="device", quantile=0.5), 5.0, 1_000, 30.0)))
    assert bench.decision.cut == "output"
    assert bench.brain.world.uplink.link is not None
    assert link is not None
    assert bench.brain.world.uplink.link.round_trip_seconds == link.round_trip_seconds
    assert bench.counts["window_seconds"] == 30.0
    changed = {"mode": {"from": "auto", "to": "device"}, "quantile": {"from": 0.25, "to": 0.5}}
    assert bench.brain.world.uplink.estimator.quantile == 0.5
    assert bench.notices("settings.changed") == [{"source": "configuration", "changed": changed}]


# ---------------------------------------------------------------------------------------- metrics


def test_counts_agree_with_each_other() -> None:
    """Exits, tiers and fallbacks add up to the answers, in a session where everything happens."""
    bench = Bench().offloading()
    bench.replied(bench.shipped())
    bench.ran(first(ev.Run, bench.frame()), 0.99)
    bench.ran(first(ev.Run, bench.ended(bench.shipped(), "dropped")))
    run = first(ev.Run, bench.frame())
    bench.tell(ev.RunFailed(run.key, True, "decode"))
    bench.tell(ev.InputRejected("empty"))
    bench.tell(ev.FramesSkipped("c", 2))
    counts = bench.counts
    assert counts["exits"] == {FINAL: 2, "b1": 1}
    assert counts["tiers"] == {"cloud": 1, "device": 2}
    assert counts["fallbacks"] == {"dropped": 1}
    assert counts["frames"]["answered"] == sum(counts["exits"].values()) == sum(counts["tiers"].values())
    assert counts["bytes_sent"] == 4_000
    bench.at_rest()


def test_figures_are_over_the_window_and_counts_since_the_start() -> None:
    """After a quiet hour there are no percentiles, but as many answers as ever."""
    bench = Bench().offloading()
    bench.replied(bench.shipped())
    counts = bench.counts
    assert counts["seconds"]["p50"] == counts["seconds"]["p99"] == pytest.approx(0.0575, abs=0.002)
    assert counts["exit_probabilities"] == {FINAL: 1.0}
    assert counts["prediction_error"]["median_ratio"] == pytest.approx(1.0, abs=0.25)
    bench.wait(3_600.0)
    counts = bench.counts
    assert counts["seconds"] == {"p50": None, "p95": None, "p99": None, "mean": None}
    assert counts["prediction_error"] == {"median_ratio": None}
    assert counts["frames"]["answered"] == 1


def test_what_fell_back_or_was_sent_twice_is_not_held_against_the_prediction() -> None:
    """It was not the predicted way."""
    bench = Bench().offloading()
    bench.ran(first(ev.Run, bench.ended(bench.shipped(), "dropped")), seconds=1.0)
    assert bench.counts["prediction_error"] == {"median_ratio": None}


def test_metrics_are_reported_when_due() -> None:
    """With the link, the plan and the probes' bytes."""
    bench = Bench().offloading()
    report = first(ev.Report, bench.tell(ev.Due("metrics"))).figures
    assert report["network"]["device"].bits_per_second == pytest.approx(10e6, rel=0.1)
    assert report["plan_id"] == bench.decision.plan_id
    assert report["probe_bytes"] > 4_096


def test_bad_replies_are_counted_by_reason() -> None:
    """Each is one."""
    bench = Bench()
    for reason in ("json", "json", "stranger"):
        bench.tell(ev.ReplyRejected(reason))
    assert bench.counts["replies"] == {"rejected": 3, "by_reason": {"json": 2, "stranger": 1}}


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2.0), (0.95, 4.0), (0.0, 1.0), (1.0, 4.0)])
def test_percentiles_are_of_the_nearest_rank(share: float, expected: float) -> None:
    """A figure that really occurred."""
    assert percentile([1.0, 2.0, 3.0, 4.0], share) == expected
    assert percentile([], share) is None


def test_parts_never_exceed_the_total_whatever_a_worker_says() -> None:
    """Its seconds are its own; they are cut down to what there was."""
    bench = Bench().offloading()
    for seconds in (
        {"queue": 9.0, "decode": 9.0, "compute": 9.0},
        {"edge": 50.0, "compute": 1.0},
        {"edge": 0.01, "compute": 50.0},
        {},
    ):
        ship = bench.shipped()
        timing = first(ev.Answer, bench.replied(ship, seconds=seconds)).timing
        parts = [timing.queue, timing.decode, timing.device, timing.encode, timing.transfer, timing.edge, timing.cloud]
        assert all(part is None or part >= 0 for part in parts)
        assert sum(part or 0.0 for part in parts) <= timing.total + 1e-9
        bench.wait(1.0)


def test_a_part_that_was_not_involved_is_none() -> None:
    """An early exit has neither encoding nor transfer, nor anybody else's time."""
    bench = Bench()
    timing = first(ev.Answer, bench.ran(first(ev.Run, bench.frame()), 0.99)).timing
    assert (timing.encode, timing.transfer, timing.edge, timing.cloud) == (None, None, None, None)
    assert timing.decode == 0.005


def test_whoever_asks_is_told_the_decision_again_though_the_plan_stays() -> None:
    """The decision names the solver and the objective that are in force."""
    bench = Bench().offloading()
    before = bench.decision.plan_id
    bench.asked("set", solver="exact")
    first = bench.decided()[-1]
    bench.asked("replan")
    second = bench.decided()[-1]
    assert (first.solver, first.plan_id, first.reason) == ("exact", before, "set")
    assert second.reason == "request"
