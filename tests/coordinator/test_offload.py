"""Frames at a worker: retried once, taken back in time, and never lost whatever the network does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from popexd.coordinator import events as ev
from popexd.validation import FINAL

from .makers import CLOUD, DEVICE, EDGE, FRAME_BYTES, UNSURE, Bench, cheaper, first, graph, only

FAILURES = ["no_subscribers", "too_large", "dropped", "stale", "disconnected", "refused"]


@pytest.mark.parametrize("outcome", FAILURES)
def test_what_the_bus_could_not_deliver_is_finished_here(outcome: str) -> None:
    """From the tensors that were kept: only the layers behind the cut run, and the reason is told."""
    bench = Bench().offloading()
    ship = bench.shipped()
    run = first(ev.Run, bench.ended(ship, outcome))
    assert (run.segments, run.exit, run.decode) == (("v2", "v3"), FINAL, False)
    answer = first(ev.Answer, bench.ran(run))
    assert (answer.fallback, answer.tier) == (outcome.replace("_", "-"), DEVICE)
    assert bench.notices("offload.failed")[0]["reason"] == outcome.replace("_", "-")
    assert bench.counts["fallbacks"] == {outcome.replace("_", "-"): 1}
    bench.at_rest()


def test_delivered_is_no_answer_yet() -> None:
    """The broker has it; the worker may still fall silent."""
    bench = Bench().offloading()
    ship = bench.shipped()
    assert not bench.ended(ship, "delivered")
    run = first(ev.Run, bench.wait(2.0))
    assert first(ev.Answer, bench.ran(run)).fallback == "timeout"
    bench.at_rest()


def test_without_an_answer_the_device_takes_over_in_time_for_the_deadline() -> None:
    """A few times the expected time is waited, no longer."""
    bench = Bench().offloading()
    bench.shipped()
    (run,) = only(ev.Run, bench.wait(0.5))
    bench.ran(run, seconds=0.08)
    (answer,) = bench.answers()
    assert answer.fallback == "timeout"
    assert 0.2 < answer.timing.transfer < 0.4
    assert answer.timing.total < 0.7
    bench.at_rest()


def test_a_short_deadline_shortens_the_patience() -> None:
    """The device begins while it can still keep the deadline, though the answer might yet come."""
    begun = {}
    for deadline in (0.5, 5.0):
        bench = Bench(mode="cloud", deadline_seconds=deadline).offloading(1e6, 0.05)
        received = bench.now
        bench.shipped()
        while not only(ev.Run, bench.wait(0.01)):
            assert bench.now < received + 5
        begun[deadline] = bench.now - received
        bench.ran(only(ev.Run, bench.log)[-1], seconds=0.08)
        assert bench.answers()[0].timing.total < deadline
    assert begun[0.5] < 0.42 < begun[5.0]


def test_a_device_that_cannot_keep_the_deadline_still_offloads() -> None:
    """Giving up at once would leave it with its own slowness for ever."""
    slow = cheaper(graph(), v1=1.0, v2=2.0, v3=2.0)
    bench = Bench(slow).offloading(100e6)
    run = first(ev.Run, bench.frame())
    ship = first(ev.Ship, bench.ran(run, shipment_bytes=FRAME_BYTES))
    assert not only(ev.Run, bench.wait(0.03))
    assert first(ev.Answer, bench.replied(ship)).tier is CLOUD


def test_frames_that_are_out_together_can_all_be_rescued() -> None:
    """No more are shipped than the device could finish one after the other before their deadlines."""
    model = cheaper(graph(), v1=0.02, v2=0.2, v3=0.2)
    bench = Bench(model).offloading()
    for camera in "abcdefgh":
        effects = bench.frame(camera)
        while runs := only(ev.Run, effects):
            effects = bench.ran(runs[0], UNSURE)
    out = [frame for frame in bench.brain.flow.frames.values() if frame.phase.value == "shipped"]
    assert 1 <= len(out) <= 3
    for _ in range(200):
        runs = only(ev.Run, bench.wait(0.01))
        while runs:
            runs = only(ev.Run, bench.ran(runs[0], UNSURE if runs[0].exit != FINAL else None, seconds=0.4))
    assert max(answer.timing.total - answer.timing.queue for answer in bench.answers()) <= 2.0


def test_it_is_asked_once_more_where_the_link_is_proven_alive() -> None:
    """Another frame's answer shows that this one was lost, not slow; the second silence is final."""
    bench = Bench().offloading()
    lost, other = bench.shipped("a"), bench.shipped("b")
    bench.replied(other)
    (again,) = only(ev.Ship, bench.wait(0.4))
    assert (again.key, again.attempt, again.route) == (lost.key, 2, lost.route)
    assert bench.notices("offload.retried")
    (run,) = only(ev.Run, bench.wait(1.0))
    answer = first(ev.Answer, bench.ran(run))
    assert (answer.fallback, answer.bytes_sent) == ("timeout", 4_000)
    assert bench.counts["bytes_sent"] == 6_000
    bench.at_rest()


def test_a_retry_that_is_answered_is_no_fallback() -> None:
    """It took longer, that is all; and what was predicted is not held against it."""
    bench = Bench().offloading()
    bench.shipped("a")
    bench.replied(bench.shipped("b"))
    (again,) = only(ev.Ship, bench.wait(0.4))
    answer = first(ev.Answer, bench.replied(again))
    assert (answer.fallback, answer.tier) == (None, CLOUD)
    assert answer.timing.transfer > 0.2
    assert bench.counts["prediction_error"]["median_ratio"] < 2
    bench.at_rest()


def test_a_late_answer_beats_the_device_that_is_finishing() -> None:
    """Whoever is first answers; what the device then says is for nobody."""
    bench = Bench().offloading()
    ship = bench.shipped()
    run = first(ev.Run, bench.wait(0.5))
    answer = first(ev.Answer, bench.replied(ship))
    assert (answer.tier, answer.fallback) == (CLOUD, None)
    assert not only(ev.Answer, bench.ran(run))
    bench.at_rest()


def test_both_answers_of_a_retried_frame_make_one() -> None:
    """The first counts, be it to the first or to the second attempt."""
    for first_to_come in (1, 2):
        bench = Bench().offloading()
        lost = bench.shipped("a")
        bench.replied(bench.shipped("b"))
        (again,) = only(ev.Ship, bench.wait(0.4))
        order = [lost, again] if first_to_come == 1 else [again, lost]
        assert len(only(ev.Answer, bench.replied(order[0]))) == 1
        assert not only(ev.Answer, bench.replied(order[1]))
        assert not only(ev.Answer, bench.replied(order[1]))
        bench.at_rest()


def test_a_doubled_answer_and_a_strangers_answer_change_nothing() -> None:
    """QoS 1 may deliver twice, and anyone may send nonsense."""
    bench = Bench().offloading()
    ship = bench.shipped()
    bench.replied(ship)
    bench.replied(ship)
    bench.tell(ev.Replied(999, 1, "w9", CLOUD, 10, {}, ev.Classified(0, "x", 1.0)))
    assert len(bench.answers()) == 1
    bench.at_rest()


def test_an_answer_to_a_frame_that_was_never_shipped_is_not_believed() -> None:
    """The device's own work decides."""
    bench = Bench().offloading()
    run = first(ev.Run, bench.frame())
    assert not only(ev.Answer, bench.tell(ev.Replied(run.key, 1, "w1", CLOUD, 10, {}, ev.Classified(0, "x", 1.0))))
    bench.replied(first(ev.Ship, bench.ran(first(ev.Run, bench.ran(run, UNSURE)))))
    bench.at_rest()


@pytest.mark.parametrize(
    ("over", "reason"),
    [({"plan_id": "t-99"}, "plan"), ({"attempt": 2}, "attempt"), ({"attempt": 0}, "attempt"), ({"tier": EDGE}, "tier")],
)
def test_an_answer_to_what_was_never_asked_is_not_believed(over: dict[str, Any], reason: str) -> None:
    """Another plan, an attempt that there was not, a tier without a part: counted, and the right one is waited for."""
    bench = Bench().offloading()
    ship = bench.shipped()
    said = {"plan_id": ship.plan_id, "attempt": ship.attempt, "tier": CLOUD, **over}
    forged = ev.Replied(ship.key, said["attempt"], "w9", said["tier"], 10, {}, ev.Classified(0, "x", 1.0))
    assert not only(ev.Answer, bench.tell(replace(forged, plan_id=said["plan_id"])))
    assert bench.counts["replies"]["by_reason"] == {reason: 1}
    assert first(ev.Answer, bench.replied(ship)).classified.label == "bolt"
    bench.at_rest()


def test_an_answer_from_an_exit_that_there_is_not_is_refused() -> None:
    """Counters are kept by exit: what comes from outside may not invent names."""
    bench = Bench().offloading()
    run = first(ev.Run, bench.replied(bench.shipped(), exit="b999"))
    assert bench.counts["replies"]["by_reason"] == {"exit": 1}
    assert first(ev.Answer, bench.ran(run)).fallback == "worker-error"
    assert set(bench.counts["exits"]) == {FINAL}


def test_a_workers_error_is_finished_here() -> None:
    """And told, with the worker's name."""
    bench = Bench().offloading()
    run = first(ev.Run, bench.replied(bench.shipped(), classified=None, error="tensors"))
    assert first(ev.Answer, bench.ran(run)).fallback == "worker-error"
    assert bench.notices("offload.failed") == [{"camera": "c", "reason": "tensors", "worker": "w1"}]
    bench.at_rest()


def test_an_unusable_frame_that_only_the_worker_saw_is_rejected_in_the_end() -> None:
    """Sent on undecoded, refused there, and then not decodable here either."""
    bench = Bench().offloading(100e6)
    ship = first(ev.Ship, bench.ran(first(ev.Run, bench.frame()), shipment_bytes=FRAME_BYTES))
    run = first(ev.Run, bench.replied(ship, classified=None, error="frame"))
    assert (run.segments, run.decode) == (("v1", "v2", "v3"), True)
    bench.tell(ev.RunFailed(run.key, True, "decode"))
    assert bench.counts["frames"]["rejected"] == 1
    bench.at_rest()


def test_a_worker_without_our_model_is_planned_without() -> None:
    """One refusal is enough; when it says that it has the model after all, it is welcome again."""
    bench = Bench().offloading()
    run = first(ev.Run, bench.replied(bench.shipped(), classified=None, error="fingerprint"))
    assert bench.decision.cut == "output"
    bench.ran(run)
    bench.wait(3.0)
    bench.worker("w1", profile="another profile")
    assert bench.decision.cut == "v1"


def test_losing_the_connection_takes_everything_back_at_once() -> None:
    """What was under way is void; the device goes through it, the earliest deadline first."""
    bench = Bench().offloading()
    ships = [bench.shipped(camera) for camera in "abc"]
    effects = bench.tell(ev.UplinkChanged(False, "gone"))
    assert bench.decision.cut == "output"
    order = []
    runs = only(ev.Run, effects)
    while runs:
        order.append(runs[0].key)
        runs = only(ev.Run, bench.ran(runs[0]))
    assert order == [ship.key for ship in ships]
    assert {answer.fallback for answer in bench.answers()} == {"disconnected"}
    bench.at_rest()


def test_promises_come_before_new_frames() -> None:
    """A frame that has to be finished here goes before those that wait in the inbox."""
    bench = Bench().offloading()
    ship = bench.shipped("a")
    run = first(ev.Run, bench.frame("b"))
    bench.frame("c")
    bench.ended(ship, "dropped")
    assert first(ev.Run, bench.ran(run, 0.99)).key == ship.key


def test_a_lost_workers_frames_go_to_another_one() -> None:
    """At once and once; without another one the device finishes."""
    bench = Bench().offloading()
    bench.worker("w2")
    ship = bench.shipped()
    effects = bench.worker("w2", online=False)
    assert first(ev.Ship, effects).attempt == 2
    run = first(ev.Run, bench.worker("w1", online=False))
    assert first(ev.Answer, bench.ran(run)).fallback == "worker-lost"
    assert ship.attempt == 1
    bench.at_rest()


def test_a_stranger_that_leaves_disturbs_nobody() -> None:
    """Its last will is as retained as anyone's."""
    bench = Bench().offloading()
    bench.shipped()
    assert not only(ev.Ship, bench.worker("never-seen", online=False))


def test_without_room_the_frame_waits_in_the_inbox() -> None:
    """While the link is busy a newer frame of the camera takes the waiting one's place."""
    bench = Bench().offloading(0.8e6)
    bench.shipped("a", shipment_bytes=10_000)
    assert not only(ev.Run, bench.frame("b"))
    bench.frame("b")
    assert bench.counts["frames"]["dropped_by_reason"] == {"newer": 1}
    assert only(ev.Run, bench.wait(0.1))


def test_while_the_uplink_is_overdue_the_device_helps_itself() -> None:
    """Two frames are late: the next is answered here, exits included, and says why."""
    bench = Bench().offloading()
    for camera in "ab":
        bench.shipped(camera)
    bench.wait(0.15)
    run = first(ev.Run, bench.frame("c"))
    assert (run.segments, run.exit) == (("v1",), "b1")
    answer = first(ev.Answer, bench.ran(run, 0.99))
    assert (answer.fallback, answer.exit, answer.tier) == ("uplink-busy", "b1", DEVICE)


def test_a_limit_is_kept_before_anything_is_sent() -> None:
    """The broker said how large a packet may be: what comes out larger stays here."""
    bench = Bench()
    bench.connected(max_packet_bytes=5_000).measured().wait(3.0)
    assert bench.decision.prediction.packet_bytes < 5_000
    assert bench.decision.cut == "v1"
    cut = first(ev.Run, bench.ran(first(ev.Run, bench.frame()), UNSURE))
    run = first(ev.Run, bench.ran(cut, shipment_bytes=6_000))
    assert first(ev.Answer, bench.ran(run)).fallback == "too-large"
    assert not only(ev.Ship, bench.log)
    bench.at_rest()


def test_a_limit_that_was_not_announced_is_learnt() -> None:
    """After one refusal nothing of that size is planned or sent any more."""
    bench = Bench().offloading(100e6)
    ship = first(ev.Ship, bench.ran(first(ev.Run, bench.frame()), shipment_bytes=FRAME_BYTES))
    run = first(ev.Run, bench.ended(ship, "too_large"))
    assert bench.brain.world.uplink.max_packet_bytes == FRAME_BYTES - 1
    assert bench.decision.cut == "v1"
    bench.ran(run)
    bench.at_rest()


def test_when_nobody_listens_the_tier_counts_as_lost_until_somebody_does() -> None:
    """A retained presence may lie; a ping does not."""
    bench = Bench().offloading()
    run = first(ev.Run, bench.ended(bench.shipped(), "no_subscribers"))
    assert bench.notices("tier.lost") == [{"tier": "cloud", "reason": "no worker listens"}]
    assert not bench.notices("uplink.lost")
    assert bench.decision.cut == "output"
    bench.ran(run)
    ping = only(ev.SendProbe, bench.wait(2.5))[-1]
    bench.tell(ev.ProbeReturned(ping.sequence, 0.0), after=0.02)
    bench.measured()
    assert bench.notices("tier.restored") == [{"tier": "cloud"}]
    assert bench.decision.cut == "v1"
