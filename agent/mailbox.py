"""What has come in and not been looked at yet: one slot per camera, and one queue for everything else."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from popexd.bus.base import Message

_MOST_TOPICS = 256
_MOST_FRAME_BYTES = 128_000_000
_MOST_MESSAGES = 4096
_MOST_MESSAGE_BYTES = 32_000_000

_RETAINED = b"retained"

_Key = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class FrameArrived:
    """The newest frame of a topic, and how many were pushed out before it."""

    message: Message
    skipped: int


@dataclass(frozen=True, slots=True)
class Flooded:
    """So many messages found no room."""

    count: int


class Mailbox:
    """Bounded for what comes from outside, whatever others do; our own events are queued. Any thread may post."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._lock = threading.Lock()
        self._slots: dict[_Key, tuple[Message, int]] = {}
        self._frame_bytes = 0
        self._messages = 0
        self._message_bytes = 0
        self._flooded = 0

    def post(self, item: Any) -> None:
        """Queue an event of our own."""
        self._queue.put(item)

    def post_message(self, item: Any, size_bytes: int) -> None:
        """Queue something made of a message; where there is no room it is counted instead."""
        with self._lock:
            if self._messages >= _MOST_MESSAGES or self._message_bytes + size_bytes > _MOST_MESSAGE_BYTES:
                self._flooded += 1
                if self._flooded == 1:
                    self._queue.put(_Flood())
                return
            self._messages += 1
            self._message_bytes += size_bytes
        self._queue.put(_Letter(item, size_bytes))

    def post_frame(self, message: Message) -> None:
        """Put a frame into its topic's slot; the one that is there is pushed out.

        One that is delivered again has a slot of its own: it may have been taken before we were started. So has one
        that the broker had stored: it is old, and must not push out what is new.
        """
        receipt = message.receipt
        mark = receipt.mark if receipt is not None and receipt.again else b""
        key = (message.topic, _RETAINED if message.retain else mark)
        with self._lock:
            held = self._slots.get(key)
            others = self._frame_bytes - (0 if held is None else len(held[0].payload))
            crowded_out = bool(self._slots) and others + len(message.payload) > _MOST_FRAME_BYTES
            if crowded_out or (held is None and len(self._slots) >= _MOST_TOPICS):
                crowded = next(iter(self._slots))
                self._slots[crowded] = (self._slots[crowded][0], self._slots[crowded][1] + 1)
                gone: Message | None = message
            else:
                self._frame_bytes = others + len(message.payload)
                self._slots[key] = (message, 0 if held is None else held[1] + 1)
                gone = None if held is None else held[0]
                if held is None:
                    self._queue.put(_Slot(key))
        if gone is not None and gone.receipt is not None:
            gone.receipt.acknowledge()

    def get(self, timeout: float | None) -> Any:
        """Return the next item; a `FrameArrived` for a slot, a `Flooded` where messages found no room.

        Raises:
            queue.Empty: nothing came within `timeout` seconds.

        """
        item = self._queue.get(timeout=timeout) if timeout is None or timeout > 0 else self._queue.get_nowait()
        with self._lock:
            match item:
                case _Slot(key):
                    message, skipped = self._slots.pop(key)
                    self._frame_bytes -= len(message.payload)
                    return FrameArrived(message, skipped)
                case _Letter(inner, size_bytes):
                    self._messages -= 1
                    self._message_bytes -= size_bytes
                    return inner
                case _Flood():
                    flooded, self._flooded = self._flooded, 0
                    return Flooded(flooded)
        return item


@dataclass(frozen=True, slots=True)
class _Slot:
    key: _Key


@dataclass(frozen=True, slots=True)
class _Letter:
    item: Any
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Flood:
    pass


__all__ = ["Empty", "Flooded", "FrameArrived", "Mailbox"]
