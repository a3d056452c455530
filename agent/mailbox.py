"""What has come in and not been looked at yet: one slot per camera, and one queue for everything else."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from popexd.bus.base import Message

_MOST_TOPICS = 256


@dataclass(frozen=True, slots=True)
class FrameArrived:
    """The newest frame of a topic, and how many were pushed out before it."""

    message: Message
    skipped: int


class Mailbox:
    """Bounded for frames, whatever the cameras do; everything else is queued. Any thread may post."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._lock = threading.Lock()
        self._slots: dict[str, tuple[Message, int]] = {}

    def post(self, item: Any) -> None:
        """Queue anything but a frame."""
        self._queue.put(item)

    def post_frame(self, message: Message) -> None:
        """Put a frame into its topic's slot; the one that is there is pushed out."""
        with self._lock:
            held = self._slots.get(message.topic)
            if held is None and len(self._slots) >= _MOST_TOPICS:
                crowded = next(iter(self._slots))
                self._slots[crowded] = (self._slots[crowded][0], self._slots[crowded][1] + 1)
                return
            self._slots[message.topic] = (message, 0 if held is None else held[1] + 1)
        if held is None:
            self._queue.put(_Slot(message.topic))

    def get(self, timeout: float | None) -> Any:
        """Return the next item; a `FrameArrived` for a slot.

        Raises:
            queue.Empty: nothing came within `timeout` seconds.

        """
        item = self._queue.get(timeout=timeout) if timeout is None or timeout > 0 else self._queue.get_nowait()
        if not isinstance(item, _Slot):
            return item
        with self._lock:
            message, skipped = self._slots.pop(item.topic)
        return FrameArrived(message, skipped)


@dataclass(frozen=True, slots=True)
class _Slot:
    topic: str


__all__ = ["Empty", "FrameArrived", "Mailbox"]
