"""What a broker that remembers us is still owed: acknowledgements given late, over connections that come and go.

Pure but for a lock: no clock, no network. A packet's number means something on the connection that brought it, and on
a later one only after the broker has brought the same message again (MQTT 5, 4.4); so an acknowledgement that was due
when a connection broke waits until then.
"""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

_REMEMBERED = 1024


@dataclass(slots=True, eq=False)
class Receipt:
    """Of one message that the broker keeps, and delivers to our next start, until it is acknowledged.

    `mark` tells the message from others of a session, in our next start too. `again`: it was delivered before.
    """

    mark: bytes
    again: bool = False
    number: int = 0
    live: bool = True
    give: Callable[[Receipt], None] = field(default=lambda _: None, repr=False)

    def acknowledge(self) -> None:
        """Let the broker forget the message. Any thread may; a second call does nothing."""
        self.give(self)


class Receipts:
    """Those of one session; `wake` is called when an acknowledgement is due."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._held: dict[int, Receipt] = {}
        self._given: OrderedDict[int, bytes] = OrderedDict()
        self._due: list[int] = []

    def connected(self, *, resumed: bool) -> None:
        """Begin another connection; where the broker has forgotten the session, nothing is owed any more."""
        with self._lock:
            self._due.clear()
            if not resumed:
                self._held.clear()
                self._given.clear()
            for receipt in self._held.values():
                receipt.live = False

    def arrived(self, number: int, mark: bytes, *, again: bool) -> Receipt | None:
        """Take note of a message; None if it is one that we hold or have acknowledged, which was lost on the way."""
        with self._lock:
            if again and self._given.get(number) == mark:
                self._due.append(number)
                return None
            held = self._held.get(number)
            if again and held is not None and held.mark == mark:
                held.live = True
                return None
            self._given.pop(number, None)
            receipt = self._held[number] = Receipt(mark, again, number, give=self._give)
            return receipt

    def due(self) -> list[int]:
        """Return the numbers of the packets to acknowledge now, in order."""
        with self._lock:
            due, self._due = self._due, []
        return due

    def _give(self, receipt: Receipt) -> None:
        with self._lock:
            if self._held.get(receipt.number) is not receipt:
                return
            del self._held[receipt.number]
            self._given[receipt.number] = receipt.mark
            if len(self._given) > _REMEMBERED:
                self._given.popitem(last=False)
            if not receipt.live:
                return
            self._due.append(receipt.number)
        self._wake()


def mark(number: int, topic: str, payload: bytes, properties: bytes) -> bytes:
    """Return what tells a message from others that one session may deliver again."""
    parts = (zlib.crc32(topic.encode()), zlib.crc32(properties), zlib.crc32(payload), len(payload))
    return b"".join(part.to_bytes(4, "big") for part in (number, *parts))
