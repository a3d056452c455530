"""Waiting for conditions with a deadline; nothing here sleeps a fixed time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from popexd.bus import Delivery, Message

PATIENCE_SECONDS = 60.0


def until(condition: Callable[[], bool], what: str = "the condition") -> None:
    """Return as soon as `condition` holds; fail when it does not in time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"still waiting for {what}"
        pause.wait(0.005)


class Inbox:
    """A handler that keeps what it hears."""

    def __init__(self) -> None:
        self._messages: queue.Queue[Message] = queue.Queue()

    def __call__(self, message: Message) -> None:
        """Keep it."""
        self._messages.put(message)

    def next(self) -> Message:
        """The oldest message not yet taken."""
        return self._messages.get(timeout=PATIENCE_SECONDS)

    def payloads(self, count: int) -> list[bytes]:
        """The payloads of the next `count` messages, all of them within one patience."""
        until(lambda: len(self) >= count, f"{count} messages")
        return [self.next().payload for _ in range(count)]

    def __len__(self) -> int:
        return self._messages.qsize()


class Fates:
    """An `on_done` for many publishes: remembers what became of each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.of: dict[object, list[Delivery]] = {}

    def on_done(self, name: object = "it") -> Callable[[Delivery], None]:
        """A callback for the publish called `name`."""
        with self._lock:
            self.of[name] = []

        def done(delivery: Delivery) -> None:
            with self._lock:
                self.of[name].append(delivery)

        return done

    def wait(self, name: object = "it") -> Delivery:
        """What became of `name`, reported once."""
        until(lambda: bool(self.of[name]), f"the fate of {name}")
        assert len(self.of[name]) == 1
        return self.of[name][0]

    def count(self, delivery: Delivery) -> int:
        """How many publishes ended this way."""
        with self._lock:
            return sum(fates == [delivery] for fates in self.of.values())
