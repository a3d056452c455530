"""Frames in hand: what the broker is told, and what a start learns from the one before that was killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.diary import Diary
from agent.mailbox import FrameArrived, Mailbox
from agent.owed import Owed
from popexd.bus import Message
from popexd.bus.memory import MemoryBroker, MemoryBus
from popexd.bus.receipt import Receipt, mark
from popexd.coordinator import events as ev
from popexd.plan import Tier

WINDOW = 20


class Acknowledged:
    """Makes receipts, and remembers those that were given."""

    def __init__(self) -> None:
        self.given: list[int] = []

    def receipt(self, number: int, *, again: bool = False) -> Receipt:
        """A message's receipt; the same number is the same message."""
        return Receipt(
            mark(number, "frames/c", b"%d" % number, b""), again, number, give=lambda r: self.given.append(r.number)
        )


class NarrowBus(MemoryBus):
    """Of a broker that sends as many messages as Mosquitto does."""

    @property
    def window_messages(self) -> int:
        """Mosquitto's default."""
        return WINDOW


class Start:
    """One start of an agent: what it owes, and what it publishes."""

    def __init__(self, diary: Path) -> None:
        self.published: list[tuple[Any, ...]] = []
        self.diary = Diary(diary)
        self.owed = Owed(NarrowBus(MemoryBroker()), self.diary, lambda *said: self.published.append(said))

    def came(self, receipt: Receipt) -> list[ev.Event]:
        """Let a frame come in."""
        frame = ev.FrameReceived("c", b"x", f"f{receipt.number}", b"correlated", receipt, receipt.again)
        return self.owed.came(Message("frames/c", b"x", receipt=receipt), [frame])

    def answer(self, receipt: Receipt, payload: bytes) -> None:
        """Let it be answered."""
        said = ev.Classified(1, "nut", 0.9)
        timing = ev.Timing(total=0.1, queue=0.0)
        answer = ev.Answer(
            1, "f", b"correlated", "c", said, "final", Tier.DEVICE, None, "p", 0.0, timing, 0, ticket=receipt
        )
        self.owed.answer(answer, payload, "f")


@pytest.fixture
def told() -> Acknowledged:
    """What the broker is told."""
    return Acknowledged()


@pytest.fixture
def start(tmp_path: Path) -> Callable[[], Start]:
    """Starts of one agent, one after the other."""
    return lambda: Start(tmp_path / "diary")


def test_a_frame_is_acknowledged_when_it_is_done_with(told: Acknowledged, start: Callable[[], Start]) -> None:
    """Dropped or rejected, at once; answered, by whoever publishes the answer."""
    agent = start()
    dropped, answered = told.receipt(1), told.receipt(2)
    assert len(agent.came(dropped)) == len(agent.came(answered)) == 1
    assert told.given == []
    agent.owed.settled(ev.Settled(dropped))
    assert told.given == [1]
    agent.answer(answered, b"{}")
    assert told.given == [1]
    assert agent.published == [("c", b"{}", "f", b"correlated", answered)]


def test_what_is_no_frame_is_acknowledged_at_once(told: Acknowledged, start: Callable[[], Start]) -> None:
    """Nobody will ever answer it."""
    rejected: list[ev.Event] = [ev.InputRejected("topic")]
    assert start().owed.came(Message("frames/c/d", b"x", receipt=told.receipt(1)), rejected) == rejected
    assert told.given == [1]


def test_half_of_the_brokers_window_is_left_to_the_newest(told: Acknowledged, start: Callable[[], Start]) -> None:
    """However many cameras wait: frames beyond are acknowledged, and taken in all the same."""
    agent = start()
    receipts = [told.receipt(number) for number in range(WINDOW)]
    for receipt in receipts:
        assert len(agent.came(receipt)) == 1
    assert told.given == list(range(WINDOW // 2, WINDOW))
    agent.owed.settled(ev.Settled(receipts[0]))
    agent.came(told.receipt(99))
    assert told.given[-1] == 0


def test_an_answer_whose_question_comes_again_is_given_again_byte_for_byte(
    told: Acknowledged, start: Callable[[], Start]
) -> None:
    """The start before was killed when it had answered and the broker had not been told so."""
    payload = json.dumps({"frame_id": "made-7", "label": "nut"}).encode()
    start().answer(told.receipt(1), payload)
    agent = start()
    again = told.receipt(1, again=True)

    assert agent.came(again) == [ev.FramesSkipped("c", 1, "answered")]
    assert agent.published == [("c", payload, "made-7", b"correlated", again)]
    assert len(agent.came(told.receipt(2, again=True))) == 1
    assert len(agent.published) == 1


def test_a_frame_that_three_starts_died_with_is_given_up(told: Acknowledged, start: Callable[[], Start]) -> None:
    """Else it would kill every start for ever."""
    for _ in range(3):
        (event,) = start().came(told.receipt(1, again=True))
        assert isinstance(event, ev.FrameReceived)
    assert told.given == []
    (event,) = start().came(told.receipt(1, again=True))
    assert isinstance(event, ev.InputRejected)
    assert event.reason == "fatal"
    assert told.given == [1]


def test_without_a_diary_a_frame_is_tried_once_more_and_not_for_ever(tmp_path: Path, told: Acknowledged) -> None:
    """Nothing can be noted, so the broker must not bring it a third time."""
    (tmp_path / "file").touch()
    agent = Start(tmp_path / "file" / "diary")
    (event,) = agent.came(told.receipt(1, again=True))
    assert isinstance(event, ev.FrameReceived)
    assert told.given == [1]


def test_a_diary_outlives_many_answers_and_half_written_ones(tmp_path: Path) -> None:
    """A ring of fixed size: the latest are there, and what a kill cut off counts as not written."""
    path = tmp_path / "diary"
    first = Diary(path)
    size = path.stat().st_size
    for number in range(1000):
        first.answered(mark(number, "t", b"", b""), b"answer %d" % number)
    first.answered(mark(5000, "t", b"", b""), bytes(10_000))
    assert path.stat().st_size == size
    found = {number for number in range(1000) if Diary(path).answer(mark(number, "t", b"", b""))}
    assert found == set(range(min(found), 1000))
    assert len(found) >= 100
    assert Diary(path).answer(mark(999, "t", b"", b"")) == b"answer 999"
    assert Diary(path).answer(mark(5000, "t", b"", b"")) is None

    data = bytearray(path.read_bytes())
    at = data.index(b"answer 999")
    data[at] ^= 1
    path.write_bytes(bytes(data))
    assert Diary(path).answer(mark(999, "t", b"", b"")) is None
    path.write_bytes(b"garbage")
    assert Diary(path).answer(mark(998, "t", b"", b"")) is None


def test_the_mailbox_acknowledges_what_it_pushes_out(told: Acknowledged) -> None:
    """At once, before anybody looks; what comes again has a slot of its own."""
    box = Mailbox()
    for number in range(3):
        box.post_frame(Message("frames/c", b"%d" % number, receipt=told.receipt(number)))
    for number in (7, 8):
        box.post_frame(Message("frames/c", b"%d" % number, receipt=told.receipt(number, again=True)))
    assert told.given == [0, 1]
    found = [box.get(0) for _ in range(3)]
    assert found == [
        FrameArrived(Message("frames/c", b"2"), 2),
        FrameArrived(Message("frames/c", b"7"), 0),
        FrameArrived(Message("frames/c", b"8"), 0),
    ]
