"""What waits for a worker: in order, bounded, and handed out to the end."""

from __future__ import annotations

import threading

from cloud_worker import backlog
from cloud_worker.backlog import Backlog
from popexd.bus import Message


def message(payload: bytes = b"") -> Message:
    """Make a message."""
    return Message("t", payload)


def test_messages_come_out_in_the_order_they_came_in() -> None:
    """Each with the instant at which it arrived."""
    waiting = Backlog()
    for payload in (b"a", b"b"):
        waiting.put(message(payload))

    first, second = waiting.get(0), waiting.get(0)
    assert first is not None
    assert second is not None
    assert (first.message.payload, second.message.payload) == (b"a", b"b")
    assert first.arrived_at <= second.arrived_at
    assert waiting.get(0) is None


def test_the_oldest_make_room_by_number() -> None:
    """A worker that is behind answers the newest; what it left out is counted."""
    waiting = Backlog()
    for number in range(backlog._MOST_MESSAGES + 3):
        waiting.put(message(str(number).encode()))

    assert len(waiting) == backlog._MOST_MESSAGES
    assert waiting.pushed_out == 3
    first = waiting.get(0)
    assert first is not None
    assert first.message.payload == b"3"


def test_the_oldest_make_room_by_size() -> None:
    """Bytes are bounded too; a single message is taken whatever its size."""
    waiting = Backlog()
    block = bytes(backlog._MOST_BYTES // 4)
    for _ in range(6):
        waiting.put(message(block))
    assert len(waiting) == 4
    assert waiting.pushed_out == 2

    lonely = Backlog()
    lonely.put(message(bytes(backlog._MOST_BYTES + 1)))
    assert lonely.get(0) is not None


def test_whoever_waits_is_woken() -> None:
    """By a message, and by the end."""
    waiting = Backlog()
    found: list[object] = []

    def take() -> None:
        found.extend([waiting.get(60), waiting.get(60)])

    thread = threading.Thread(target=take)
    thread.start()
    waiting.put(message(b"x"))
    waiting.close()
    thread.join(60)

    assert not thread.is_alive()
    assert found[0] is not None
    assert found[1] is None


def test_a_closed_backlog_hands_out_what_is_there() -> None:
    """Only then is it done."""
    waiting = Backlog()
    waiting.put(message())
    waiting.close()

    assert not waiting.done
    assert waiting.get(0) is not None
    assert waiting.done
