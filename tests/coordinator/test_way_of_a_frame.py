"""The way of a frame: taken, run, answered here or elsewhere, exactly once."""

from __future__ import annotations

import pytest

from popexd.coordinator import events as ev
from popexd.validation import FINAL

from .makers import CLOUD, DEVICE, EDGE, FRAME_BYTES, SURE, UNSURE, Bench, first, graph, only


def test_before_anything_is_known_the_device_does_it_all() -> None:
    """A plan is in force from the start: every exit on the device, final at the end."""
    bench = Bench()
    run = first(ev.Run, bench.frame())
    assert (run.segments, run.exit, run.codec, run.decode) == (("v1",), "b1", None, True)
    assert run.payload == b"frame 1"
    second = first(ev.Run, bench.ran(run, UNSURE))
    assert (second.segments, second.exit, second.decode, second.payload) == (("v2",), "b2", False, None)
    last = first(ev.Run, bench.ran(second, UNSURE))
    assert (last.segments, last.exit) == (("v3",), FINAL)
    answer = first(ev.Answer, bench.ran(last, 0.1))
    assert (answer.exit, answer.tier, answer.fallback, answer.frame_id) == (FINAL, DEVICE, None, "f1")
    bench.at_rest()


def test_after_an_exit_that_is_sure_nothing_more_runs() -> None:
    """The frame is answered and forgotten, and the next order is another frame's."""
    bench = Bench()
    run = first(ev.Run, bench.frame())
    bench.frame("other")
    effects = bench.ran(run, SURE)
    answer = first(ev.Answer, effects)
    assert (answer.exit, answer.tier, answer.classified.label) == ("b1", DEVICE, "nut")
    assert first(ev.Forget, effects).key == run.key
    assert first(ev.Run, effects).key != run.key


@pytest.mark.parametrize(("confidence", "leaves"), [(0.8, True), (0.7999, False)])
def test_an_exit_answers_from_its_threshold_on(confidence: float, leaves: bool) -> None:
    """Reaching it is enough."""
    bench = Bench()
    effects = bench.ran(first(ev.Run, bench.frame()), confidence)
    assert bool(only(ev.Answer, effects)) is leaves


def test_a_frame_is_shipped_at_the_cut_and_answered_by_the_worker() -> None:
    """The encoding comes with the last order on the device; the answer is the worker's, with where the time went."""
    bench = Bench().offloading()
    run = first(ev.Run, bench.frame())
    cut = first(ev.Run, bench.ran(run, UNSURE))
    assert (cut.segments, cut.exit, cut.codec) == ((), None, "q8+zstd")
    ship = first(ev.Ship, bench.ran(cut))
    assert (ship.tier, ship.attempt, ship.route[0].segments) == (CLOUD, 1, ("v2", "v3"))
    assert ship.plan_id == bench.decision.plan_id
    assert 1.9 < ship.deadline_seconds < 2.0
    answer = first(ev.Answer, bench.replied(ship))
    assert (answer.tier, answer.exit, answer.fallback, answer.bytes_sent) == (CLOUD, FINAL, None, 2_000)
    timing = answer.timing
    assert timing.cloud == pytest.approx(0.0045)
    assert timing.transfer == pytest.approx(0.0255)
    assert timing.edge is None
    assert timing.total == pytest.approx(
        timing.queue + timing.decode + timing.device + timing.encode + timing.transfer + timing.cloud
    )
    bench.at_rest()


def test_a_camera_frame_is_sent_on_undecoded() -> None:
    """Where the camera's own bytes go to the cloud, the device neither decodes nor runs anything."""
    bench = Bench().offloading(100e6)
    run = first(ev.Run, bench.frame())
    assert (run.segments, run.exit, run.codec, run.decode) == ((), None, "camera", False)
    ship = first(ev.Ship, bench.ran(run, shipment_bytes=FRAME_BYTES))
    answer = first(ev.Answer, bench.replied(ship))
    assert (answer.timing.decode, answer.timing.device) == (None, None)


def test_an_edge_worker_answers_like_any_other() -> None:
    """The tier that finished is told, and its time is the edge's."""
    bench = Bench(graph(speed={EDGE: 20.0}))
    bench.tell(ev.UplinkChanged(True))
    bench.worker("e1", EDGE)
    bench.measured().wait(3.0)
    answer = first(ev.Answer, bench.replied(bench.shipped(), worker="e1", tier=EDGE))
    assert (answer.tier, answer.timing.cloud) == (EDGE, None)
    assert answer.timing.edge == pytest.approx(0.0045)


def test_an_unusable_frame_moves_from_taken_to_rejected() -> None:
    """It was taken on trust, and is told of; no answer is owed."""
    bench = Bench()
    run = first(ev.Run, bench.frame())
    assert bench.counts["frames"]["taken"] == 1
    effects = bench.tell(ev.RunFailed(run.key, True, "decode", "x" * 900))
    assert first(ev.Forget, effects).key == run.key
    (notice,) = bench.notices("input.rejected")
    assert notice["reason"] == "decode"
    assert len(notice["detail"]) <= 200
    frames = bench.counts["frames"]
    assert (frames["taken"], frames["rejected"], frames["rejected_by_reason"]) == (0, 1, {"decode": 1})
    bench.at_rest()


def test_an_order_that_fails_is_tried_once_more_whole_and_here() -> None:
    """A fault of a segment, or of the encoding, costs time and not the answer."""
    bench = Bench().offloading()
    run = first(ev.Run, bench.frame())
    effects = bench.tell(ev.RunFailed(run.key, False, "compute", "onnx says no"))
    again = first(ev.Run, effects)
    assert (again.segments, again.exit, again.codec, again.decode) == (("v1", "v2", "v3"), FINAL, None, True)
    assert bench.notices("compute.failed")[0]["detail"] == "onnx says no"
    answer = first(ev.Answer, bench.ran(again, 0.9))
    assert (answer.fallback, answer.tier) == ("compute", DEVICE)
    bench.at_rest()


def test_a_frame_that_cannot_be_computed_at_all_is_rejected() -> None:
    """After the second failure nobody waits for it any more."""
    bench = Bench()
    run = first(ev.Run, bench.frame())
    again = first(ev.Run, bench.tell(ev.RunFailed(run.key, False, "compute")))
    bench.tell(ev.RunFailed(again.key, False, "compute"))
    assert bench.counts["frames"]["rejected_by_reason"] == {"compute": 1}
    bench.at_rest()


def test_one_order_is_out_at_a_time() -> None:
    """The compute thread has one queue of one; frames wait in the inbox, where newer ones replace them."""
    bench = Bench()
    runs = [run for camera in "abcdef" for run in only(ev.Run, bench.frame(camera))]
    assert len(runs) == 1
    while runs:
        runs = only(ev.Run, bench.ran(runs[0], SURE))
        assert len(runs) <= 1
    assert len(bench.answers()) == 6
    bench.at_rest()


def test_an_answer_keeps_the_frames_own_marks() -> None:
    """Camera, id and correlation come back; without an id the shell makes one of the key."""
    bench = Bench()
    effects = bench.tell(ev.FrameReceived("left", b"x", None, b"\xff\x00"))
    answer = first(ev.Answer, bench.ran(first(ev.Run, effects), SURE))
    assert (answer.camera, answer.frame_id, answer.correlation) == ("left", None, b"\xff\x00")
    assert answer.plan_id == bench.decision.plan_id


def test_a_frame_goes_the_way_it_was_taken_for() -> None:
    """A new plan is for the frames after it."""
    bench = Bench().offloading()
    run = first(ev.Run, bench.frame())
    plan_id = bench.decision.plan_id
    bench.asked("set", mode="device")
    assert bench.decision.plan_id != plan_id
    ship = first(ev.Ship, bench.ran(first(ev.Run, bench.ran(run, UNSURE))))
    assert ship.plan_id == plan_id
    assert first(ev.Answer, bench.replied(ship)).plan_id == plan_id


def test_frames_skipped_and_input_rejected_are_counted() -> None:
    """What never got as far as the inbox is received too."""
    bench = Bench()
    bench.tell(ev.FramesSkipped("c", 3))
    bench.tell(ev.InputRejected("empty", "no bytes"))
    frames = bench.counts["frames"]
    assert (frames["received"], frames["dropped"], frames["rejected"]) == (4, 3, 1)
    bench.at_rest()


def test_draining_answers_what_was_taken_and_takes_no_more() -> None:
    """Then it says so, once."""
    bench = Bench().offloading()
    ship = bench.shipped("a")
    run = first(ev.Run, bench.frame("b"))
    bench.frame("c")
    effects = bench.tell(ev.Drain())
    assert not only(ev.Drained, effects)
    bench.frame("d")
    assert bench.counts["frames"]["dropped_by_reason"] == {"shutdown": 2}
    bench.ran(run, SURE)
    assert first(ev.Drained, bench.replied(ship)) == ev.Drained()
    assert not only(ev.Drained, bench.wait(5.0))
    assert len(bench.answers()) == 2
    bench.at_rest()


def test_draining_an_idle_brain_is_done_at_once() -> None:
    """There is nothing to wait for."""
    assert only(ev.Drained, Bench().tell(ev.Drain()))
