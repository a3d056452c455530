"""What has come in: bounded for frames whatever the cameras do, in order for all the rest."""

from __future__ import annotations

import queue
import threading

import pytest

from agent import mailbox
from agent.mailbox import Flooded, FrameArrived, Mailbox
from popexd.bus import Message


def frame(camera: str, number: int) -> Message:
    """Make a frame's message."""
    return Message(f"frames/{camera}", str(number).encode())


def drained(box: Mailbox) -> list[object]:
    """Take out everything that is there."""
    found = []
    while True:
        try:
            found.append(box.get(0))
        except queue.Empty:
            return found


def test_the_newest_frame_of_a_camera_wins() -> None:
    """One slot per camera; those pushed out are counted."""
    box = Mailbox()
    for number in range(5):
        box.post_frame(frame("left", number))
    box.post_frame(frame("right", 9))

    assert drained(box) == [FrameArrived(frame("left", 4), 4), FrameArrived(frame("right", 9), 0)]


def test_a_fast_camera_does_not_starve_a_slow_one() -> None:
    """A slot keeps its place in the queue, however often its frame is replaced."""
    box = Mailbox()
    box.post_frame(frame("slow", 0))
    for number in range(100):
        box.post_frame(frame("fast", number))
    box.post("something else")

    assert drained(box) == [FrameArrived(frame("slow", 0), 0), FrameArrived(frame("fast", 99), 99), "something else"]


def test_the_next_frame_opens_a_slot_anew() -> None:
    """Once a frame is handed out, the count starts from nothing."""
    box = Mailbox()
    box.post_frame(frame("left", 1))
    assert box.get(0) == FrameArrived(frame("left", 1), 0)
    box.post_frame(frame("left", 2))

    assert drained(box) == [FrameArrived(frame("left", 2), 0)]


def test_a_stored_frame_pushes_nothing_out() -> None:
    """What the broker had stored is older than what is live, whichever comes first."""
    box = Mailbox()
    stored = Message("frames/left", b"old", retain=True)
    box.post_frame(frame("left", 1))
    box.post_frame(stored)

    assert drained(box) == [FrameArrived(frame("left", 1), 0), FrameArrived(stored, 0)]


def test_everything_else_is_queued_in_order() -> None:
    """Nothing is lost and nothing overtakes."""
    box = Mailbox()
    for number in range(1000):
        box.post(number)

    assert drained(box) == list(range(1000))


def test_cameras_without_end_find_no_room_and_are_counted() -> None:
    """However many names somebody makes up: so many slots, every frame in one or counted as skipped."""
    box = Mailbox()
    names = mailbox._MOST_TOPICS + 50
    for number in range(names):
        box.post_frame(frame(f"made-up-{number}", number))
    found = drained(box)

    assert len(found) == mailbox._MOST_TOPICS
    assert sum(1 + arrived.skipped for arrived in found if isinstance(arrived, FrameArrived)) == names


def test_a_flood_of_frames_is_held_in_constant_room() -> None:
    """From several threads at once, every frame is either handed out or counted as skipped."""
    box = Mailbox()
    each, threads = 2000, 4

    def flood(camera: str) -> None:
        for number in range(each):
            box.post_frame(frame(camera, number))

    started = [threading.Thread(target=flood, args=(f"c{index % 2}",)) for index in range(threads)]
    for thread in started:
        thread.start()
    seen = 0
    while any(thread.is_alive() for thread in started):
        seen += sum(1 + arrived.skipped for arrived in drained(box) if isinstance(arrived, FrameArrived))
        assert len(box._slots) <= 2
    for thread in started:
        thread.join()
    seen += sum(1 + arrived.skipped for arrived in drained(box) if isinstance(arrived, FrameArrived))

    assert seen == each * threads


def test_an_empty_box_says_so() -> None:
    """At once, or after the time given."""
    box = Mailbox()
    for timeout in (0, -1.0, 0.01):
        with pytest.raises(queue.Empty):
            box.get(timeout)


def test_a_flood_of_messages_takes_bounded_room_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """By number and by size; our own events always find room, and afterwards all is as before."""
    monkeypatch.setattr(mailbox, "_MOST_MESSAGES", 3)
    monkeypatch.setattr(mailbox, "_MOST_MESSAGE_BYTES", 100)
    box = Mailbox()
    for number in range(5):
        box.post_message(number, 1)
    box.post("ours")

    assert drained(box) == [0, 1, 2, Flooded(2), "ours"]
    box.post_message("large", 90)
    box.post_message("too large beside it", 20)
    assert drained(box) == ["large", Flooded(1)]
    box.post_message("again", 90)
    assert drained(box) == ["again"]


def test_frames_of_many_cameras_take_bounded_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """What finds none is counted as skipped, so that the counts still add up."""
    monkeypatch.setattr(mailbox, "_MOST_FRAME_BYTES", 10)
    box = Mailbox()
    for camera in ("a", "b", "c"):
        box.post_frame(Message(f"frames/{camera}", b"12345"))
    box.post_frame(Message("frames/a", b"1234567"))

    found = [item for item in drained(box) if isinstance(item, FrameArrived)]
    assert [item.message.topic for item in found] == ["frames/a", "frames/b"]
    assert sum(1 + item.skipped for item in found) == 4
    box.post_frame(Message("frames/c", b"1234567890"))
    assert len(drained(box)) == 1
