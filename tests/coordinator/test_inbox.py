"""The inbox: one slot per camera, newest wins, nobody starves."""

from __future__ import annotations

from popexd.coordinator import events as ev
from popexd.coordinator.frames import Inbox

from .makers import SURE, Bench, first, only


def received(camera: str, number: int) -> ev.FrameReceived:
    """A frame with an id and bytes of its own."""
    return ev.FrameReceived(camera, b"%d" % number, f"{camera}{number}")


def taken(inbox: Inbox) -> str | None:
    """The id of the frame that is next."""
    waiting = inbox.take()
    return None if waiting is None else waiting.received.frame_id


def test_the_newest_frame_of_a_camera_wins() -> None:
    """The one that is pushed out is told."""
    inbox = Inbox()
    assert inbox.put(received("a", 1), 0.0) is None
    assert inbox.put(received("a", 2), 0.1) == ("newer", received("a", 1))
    assert (len(inbox), taken(inbox), taken(inbox)) == (1, "a2", None)


def test_the_camera_that_waits_longest_goes_first() -> None:
    """A fast camera keeps its place when it replaces its own frame, and goes to the back when it was served."""
    inbox = Inbox()
    for at, (camera, number) in enumerate([("fast", 1), ("slow", 1), ("fast", 2), ("fast", 3)]):
        inbox.put(received(camera, number), float(at))
    assert taken(inbox) == "fast3"
    inbox.put(received("fast", 4), 5.0)
    assert [taken(inbox), taken(inbox)] == ["slow1", "fast4"]


def test_a_thousand_frames_of_one_camera_leave_the_other_its_turn() -> None:
    """With one busy compute thread each of three cameras gets a third, however fast one of them is."""
    bench = Bench()
    run = first(ev.Run, bench.frame("first"))
    for _ in range(90):
        for _ in range(10):
            bench.frame("fast")
        bench.frame("slow")
        bench.frame("third")
        run = first(ev.Run, bench.ran(run, SURE))
    served = [answer.camera for answer in bench.answers()]
    assert min(served.count(camera) for camera in ("fast", "slow", "third")) >= 29


def test_the_very_same_frame_again_is_a_duplicate() -> None:
    """A broker may deliver it once more after a restart; the same id with other bytes is another frame."""
    bench = Bench()
    bench.frame("c", "one", b"pixels")
    bench.frame("c", "one", b"pixels")
    bench.frame("c", "one", b"other pixels")
    bench.frame("d", "one", b"pixels")
    assert bench.counts["frames"]["dropped_by_reason"] == {"duplicate": 1}
    assert len(bench.brain.flow.inbox) == 2


def test_frames_without_an_id_are_never_duplicates() -> None:
    """A camera that looks at a wall sends the same bytes again and again."""
    inbox = Inbox()
    frames = [ev.FrameReceived("wall", b"grey") for _ in range(3)]
    reasons = [dropped and dropped[0] for dropped in (inbox.put(frame, 0.0) for frame in frames)]
    assert reasons == [None, "newer", "newer"]


def test_a_frame_is_forgotten_after_a_minute() -> None:
    """Later the same id and bytes are a frame again; what is remembered is bounded."""
    inbox = Inbox()
    inbox.put(received("a", 1), 0.0)
    assert inbox.put(received("a", 1), 59.0) == ("duplicate", received("a", 1))
    for number in range(5_000):
        inbox.put(received("b", number), 60.0)
    assert len(inbox._seen) <= 1_024
    inbox = Inbox()
    inbox.put(received("a", 1), 0.0)
    inbox.take()
    assert inbox.put(received("a", 1), 61.0) is None


def test_more_cameras_than_there_can_be_push_each_other_out() -> None:
    """Topics are cheap for whoever may publish; memory is not."""
    inbox = Inbox()
    reasons = [inbox.put(received(f"c{number}", 1), 0.0) for number in range(300)]
    assert len(inbox) == 256
    assert [dropped and dropped[0] for dropped in reasons[256:]] == ["cameras"] * 44


def test_what_is_dropped_is_told() -> None:
    """One notice per frame, with its id and why."""
    bench = Bench()
    for _ in range(3):
        bench.frame("c")
    assert bench.notices("frame.dropped") == [{"camera": "c", "frame_id": "f2", "reason": "newer"}]
    assert not only(ev.Answer, bench.log)
