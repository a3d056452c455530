"""What has arrived and waits for its turn; bounded, the oldest goes first when it overflows."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

from popexd.bus.base import Message

_MOST_MESSAGES = 256
_MOST_BYTES = 128_000_000


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message and when it arrived, by the monotonic clock."""

    message: Message
    arrived_at: float


class Backlog:
    """Filled by the network's thread, emptied by the worker's; `pushed_out` counts what found no room."""

    def __init__(self) -> None:
        self.arrived = 0
        self.pushed_out = 0
        self._waiting: deque[Waiting] = deque()
        self._bytes = 0
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, message: Message) -> None:
        """Queue a message, pushing out the oldest ones where there is no room."""
        with self._changed:
            self.arrived += 1
            self._waiting.append(Waiting(message, time.monotonic()))
            self._bytes += len(message.payload)
            while len(self._waiting) > _MOST_MESSAGES or (self._bytes > _MOST_BYTES and len(self._waiting) > 1):
                self._bytes -= len(self._waiting.popleft().message.payload)
                self.pushed_out += 1
            self._changed.notify()

    def get(self, timeout_seconds: float) -> Waiting | None:
        """Return the message that waits longest; None after `timeout_seconds`, or once closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting) or self._closed, max(0.0, timeout_seconds))
            if not self._waiting:
                return None
            waiting = self._waiting.popleft()
            self._bytes -= len(waiting.message.payload)
            return waiting

    def close(self) -> None:
        """Say that nothing comes any more; what is there is still handed out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def done(self) -> bool:
        """Whether nothing comes any more and nothing waits."""
        return self._closed and not self._waiting
