"""What waits to be sent and what is under way, bounded in bytes, the newest winning. Pure: no clock, no network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from popexd.bus.base import Delivery

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, eq=False)
class Entry(Generic[Item]):
    """One thing to send; `key`, where given, lets a newer one take its place while it waits."""

    item: Item
    bytes: int
    key: Hashable = None
    expires_at: float | None = None


class Outbox(Generic[Item]):
    """A queue followed by an in-flight window.

    Every entry offered leaves exactly once: by `done`, or in one of the returned lists as (item, what became of it).
    Queued bytes never exceed `queue_bytes`; bytes in flight never exceed `window_bytes`, save for a single entry that
    is larger than the window by itself.
    """

    def __init__(self, *, queue_bytes: int, window_messages: int, window_bytes: int) -> None:
        self.queue_bytes = queue_bytes
        self.window_messages = window_messages
        self.window_bytes = window_bytes
        self.queued_bytes = 0
        self.in_flight_bytes = 0
        self._waiting: deque[Entry[Item]] = deque()
        self._in_flight: dict[Entry[Item], None] = {}  # in the order of sending

    def __len__(self) -> int:
        return len(self._waiting) + len(self._in_flight)

    @property
    def in_flight(self) -> tuple[Entry[Item], ...]:
        """Return the entries handed out and not yet done, oldest first."""
        return tuple(self._in_flight)

    def offer(self, entry: Entry[Item]) -> list[tuple[Item, Delivery]]:
        """Queue an entry; returns what had to make room for it."""
        if entry.bytes > self.queue_bytes:
            return [(entry.item, Delivery.TOO_LARGE)]
        pushed_out = []
        if entry.key is not None:
            pushed_out = [waiting for waiting in self._waiting if waiting.key == entry.key]
            for waiting in pushed_out:
                self._waiting.remove(waiting)
                self.queued_bytes -= waiting.bytes
        while self.queued_bytes + entry.bytes > self.queue_bytes:
            pushed_out.append(self._take_oldest())
        self._waiting.append(entry)
        self.queued_bytes += entry.bytes
        return [(entry.item, Delivery.DROPPED) for entry in pushed_out]

    def precede(self, entries: Sequence[Entry[Item]]) -> list[tuple[Item, Delivery]]:
        """Queue entries, in their order, ahead of all that wait; returns what had to make room and what has none."""
        total_bytes = sum(entry.bytes for entry in entries)
        left = []
        while self._waiting and self.queued_bytes + total_bytes > self.queue_bytes:
            left.append((self._take_oldest().item, Delivery.DROPPED))
        for entry in reversed(entries):
            if self.queued_bytes + entry.bytes > self.queue_bytes:
                left.append((entry.item, Delivery.TOO_LARGE))
                continue
            self._waiting.appendleft(entry)
            self.queued_bytes += entry.bytes
        return left

    def next(self, now: float) -> tuple[Entry[Item] | None, list[tuple[Item, Delivery]]]:
        """Move the oldest waiting entry in flight and return it, with those ahead of it that waited past their expiry.

        None when nothing waits or the window is full.
        """
        late = []
        while self._waiting:
            entry = self._waiting[0]
            if entry.expires_at is not None and entry.expires_at <= now:
                late.append((entry.item, Delivery.STALE))
                self._take_oldest()
                continue
            full = len(self._in_flight) >= self.window_messages
            if full or (self._in_flight and self.in_flight_bytes + entry.bytes > self.window_bytes):
                break
            self._take_oldest()
            self._in_flight[entry] = None
            self.in_flight_bytes += entry.bytes
            return entry, late
        return None, late

    def done(self, entry: Entry[Item]) -> bool:
        """Take an entry out of the window; False when it was not in it any more."""
        if entry not in self._in_flight:
            return False
        del self._in_flight[entry]
        self.in_flight_bytes -= entry.bytes
        return True

    def interrupt(self, survives: Callable[[Item], bool], otherwise: Delivery) -> list[tuple[Item, Delivery]]:
        """The connection broke: what survives waits again, in its old order ahead of the rest; the others leave."""
        entries = [*self._in_flight, *self._waiting]
        self._in_flight.clear()
        self._waiting.clear()
        self.in_flight_bytes = self.queued_bytes = 0
        left = [(entry.item, otherwise) for entry in entries if not survives(entry.item)]
        # Newest first: when what was under way no longer fits into the queue, the oldest have to go.
        for entry in reversed([entry for entry in entries if survives(entry.item)]):
            if self.queued_bytes + entry.bytes > self.queue_bytes:
                left.append((entry.item, Delivery.DROPPED))
                continue
            self._waiting.appendleft(entry)
            self.queued_bytes += entry.bytes
        return left

    def _take_oldest(self) -> Entry[Item]:
        entry = self._waiting.popleft()
        self.queued_bytes -= entry.bytes
        return entry
