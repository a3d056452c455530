"""A bus over a connection that comes and goes: what waits, what is sent again, what is dropped, and the reconnecting.

It knows no MQTT library: `popexd.bus.mqtt` supplies the connections. One thread serves one connection after the other
and is the only one to touch them; other threads put something into an outbox and wake that thread.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from popexd.bus.base import Bus, Delivery, Outgoing, Subscription, Will, report
from popexd.bus.outbox import Entry, Outbox
from popexd.bus.receipt import Receipts
from popexd.logs import get_logger

logger = get_logger(__name__)

_PROTOCOL_LIMIT_BYTES = 268_435_460
_PACKET_TOO_LARGE = 0x95
# A broker throws us out with one of these for what we published, so sending it again would never end.
_BLAMES_A_MESSAGE = {0x81, 0x82, 0x90, _PACKET_TOO_LARGE, 0x99}
# A connection that broke sooner does not count as a recovery: two clients of one name put each other out in turns.
_SETTLED_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How much may wait, how much may be under way, and how patient the bus is."""

    control_queue_bytes: int = 8_000_000
    control_window_messages: int = 14
    control_window_bytes: int = 262_144
    bulk_queue_bytes: int = 4_000_000
    bulk_window_messages: int = 4
    bulk_window_bytes: int = 262_144
    retry_seconds: float = 0.2
    longest_retry_seconds: float = 2.0
    flush_seconds: float = 2.0


class Connection(Protocol):
    """One connection from its first packet to its end."""

    reason: str
    broker_code: int
    was_online: bool

    def run(self, wake_reader: socket.socket) -> None:
        """Connect and serve until the connection ends; `reason` and `broker_code` then say why."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a connection ended: why in words, the broker's reason code or 0, and whether it ever worked."""

    reason: str
    broker_code: int
    was_online: bool


@dataclass(frozen=True, slots=True)
class FilterChange:
    """A subscription to put in force, or to end; `on_done` wants to hear that it has ended."""

    subscription: Subscription
    wanted: bool
    on_done: Callable[[], None] | None = None


Sending = tuple[Outbox[Outgoing], Entry[Outgoing]]


class QueuedBus(Bus):
    """Outboxes, the retained set and the subscriptions, brought through one connection after the other."""

    def __init__(self, address: str, limits: QueueLimits, will: Will | None) -> None:
        super().__init__(will)
        self.address = address
        self.limits = limits
        self._control: Outbox[Outgoing] = Outbox(
            queue_bytes=limits.control_queue_bytes,
            window_messages=limits.control_window_messages,
            window_bytes=limits.control_window_bytes,
        )
        self._bulk: Outbox[Outgoing] = Outbox(
            queue_bytes=limits.bulk_queue_bytes,
            window_messages=limits.bulk_window_messages,
            window_bytes=limits.bulk_window_bytes,
        )
        self._filter_changes: deque[FilterChange] = deque()
        self._retiring: list[Callable[[], None]] = []
        self._online = False
        self._limit_bytes: int | None = None
        self.receipts = Receipts(self._wake)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._wake_writer: socket.socket | None = None
        self._answers = 0
        self.woken = False

    def heartbeat(self) -> int | None:
        """Return how often the broker has answered; None while there is no connection, unless its thread has ended."""
        thread = self._thread
        return None if not self._online and (thread is None or thread.is_alive()) else self._answers

    @property
    def connected(self) -> bool:
        """True from the moment the broker confirmed all subscriptions until the connection is seen to break."""
        return self._online

    @property
    def max_packet_bytes(self) -> int | None:
        """Return the Maximum Packet Size of the last CONNACK, or what the broker taught us by throwing us out."""
        return self._limit_bytes

    @property
    def stopping(self) -> bool:
        """True from the end of the flush in `stop`: time for the connection to say farewell."""
        return self._stopping.is_set()

    def start(self) -> None:
        """Begin to connect, on a thread of its own."""
        if self._thread is not None:
            return
        self._stopping.clear()
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        self._wake_writer = writer
        self.woken = False
        self._thread = threading.Thread(
            target=self._run, args=(reader, writer), name=f"mqtt-{self.address}", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Flush, say farewell, and report what could not be sent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            with self._changed:
                self._changed.wait_for(lambda: not self._control, self.limits.flush_seconds)
        self._stopping.set()
        self._wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join(10.0)
        self._interrupt(survives=lambda _: False)

    # -- called by any thread ---------------------------------------------------------------------------------------

    def _send(self, outgoing: Outgoing) -> None:
        waits = outgoing.message.qos > 0 and not outgoing.kept
        self._offer(self._control, outgoing, waits=waits)

    def _send_bulk(self, outgoing: Outgoing) -> None:
        self._offer(self._bulk, outgoing, waits=False)

    def _offer(self, outbox: Outbox[Outgoing], outgoing: Outgoing, *, waits: bool) -> None:
        with self._lock:
            if self._too_large(outgoing):
                settled = [(outgoing, Delivery.TOO_LARGE)]
            elif self.stopping or not (self._online or waits):
                settled = [(outgoing, Delivery.DISCONNECTED)]
            else:
                settled = outbox.offer(_entry(outgoing))
        self._settle_all(settled)
        self._wake()

    def _too_large(self, outgoing: Outgoing) -> bool:
        return outgoing.packet_bytes > (self._limit_bytes or _PROTOCOL_LIMIT_BYTES)

    def _subscribed(self, subscription: Subscription) -> None:
        with self._lock:
            self._filter_changes.append(FilterChange(subscription, wanted=True))
        self._wake()

    def _unsubscribed(self, subscription: Subscription) -> None:
        with self._lock:
            self._filter_changes.append(FilterChange(subscription, wanted=False))
        self._wake()

    def _retired(self, subscription: Subscription, on_done: Callable[[], None]) -> None:
        with self._lock:
            if online := self._online:
                self._retiring.append(on_done)
                self._filter_changes.append(FilterChange(subscription, wanted=False, on_done=on_done))
        if not online:
            self._guarded(on_done, subscription.topic_filter)
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            writer = None if self.woken else self._wake_writer
            self.woken = True
        if writer is not None and threading.current_thread() is not self._thread:
            with contextlib.suppress(OSError):  # closed: the thread has ended
                writer.send(b"\0")

    def _settle_all(self, settled: list[tuple[Outgoing, Delivery]]) -> None:
        for outgoing, delivery in settled:
            self._settle(outgoing, delivery)

    # -- the network thread -----------------------------------------------------------------------------------------

    @abstractmethod
    def _new_connection(self) -> Connection: ...

    def _run(self, reader: socket.socket, writer: socket.socket) -> None:
        retry_seconds = self.limits.retry_seconds
        with reader, writer:
            while not self.stopping:
                began = time.monotonic()
                ending = self._serve_once(reader)
                if ending.was_online and time.monotonic() - began > _SETTLED_SECONDS:
                    retry_seconds = self.limits.retry_seconds
                self._went_offline(ending)
                self._stopping.wait(retry_seconds)
                retry_seconds = min(retry_seconds * 1.6, self.limits.longest_retry_seconds)

    def _serve_once(self, reader: socket.socket) -> Ending:
        connection = None
        fault = ""
        try:
            connection = self._new_connection()
            connection.run(reader)
        except Exception as error:  # noqa: BLE001 a broker's odd bytes, or a bug of ours, must not end the reconnecting
            report(logger.exception, "connection.failed", address=self.address)
            fault = f"{self.address}: {type(error).__name__}: {error}"
        if connection is None:
            return Ending(fault, 0, was_online=False)
        return Ending(connection.reason or fault, connection.broker_code, was_online=connection.was_online)

    def _went_offline(self, ending: Ending) -> None:
        with self._lock:
            was_online, self._online = self._online, False
            retiring, self._retiring = self._retiring, []
            news = was_online or ending.reason != self._reason
        for on_done in retiring:
            self._guarded(on_done, "retired")
        self._blame(ending.broker_code)
        self._interrupt(survives=lambda outgoing: outgoing.message.qos > 0 and not outgoing.kept)
        if self.stopping:
            self._announce(False, "stopped")
        elif news:
            report(logger.warning, "connection.lost" if was_online else "connection.failed", reason=ending.reason)
            self._announce(False, ending.reason)

    def _blame(self, broker_code: int) -> None:
        """Take out the message for which the broker threw us out, so that it is not sent for ever."""
        with self._lock:
            suspects = [(outbox, entry) for outbox in (self._control, self._bulk) for entry in outbox.in_flight]
            if broker_code not in _BLAMES_A_MESSAGE or not suspects:
                return
            outbox, entry = max(suspects, key=lambda suspect: suspect[1].bytes)
            outbox.done(entry)
            if entry.item.kept:
                self._retained.pop(entry.item.message.topic, None)
            if broker_code == _PACKET_TOO_LARGE:
                self._limit_bytes = entry.bytes - 1
        report(logger.error, "message.refused", topic=entry.item.message.topic, bytes=entry.bytes)
        self._settle(entry.item, Delivery.TOO_LARGE if broker_code == _PACKET_TOO_LARGE else Delivery.REFUSED)

    def _interrupt(self, survives: Callable[[Outgoing], bool]) -> None:
        with self._changed:
            settled = self._control.interrupt(survives, Delivery.DISCONNECTED)
            settled += self._bulk.interrupt(lambda _: False, Delivery.STALE)
            self._changed.notify_all()
        self._settle_all(settled)

    # -- called by the connection, on the network thread ------------------------------------------------------------

    def accepted(self, limit_bytes: int | None) -> list[Subscription]:
        """Note what the broker said to our CONNECT; returns the subscriptions to put in force."""
        with self._lock:
            self._limit_bytes = limit_bytes
            self._filter_changes.clear()
            return list(self._subscriptions.values())

    def went_online(self) -> None:
        """Take note that the subscriptions are in force: publish what is retained, then what waits."""
        with self._lock:
            self._online = True
            settled = self._control.precede([_entry(outgoing) for outgoing in self._retained.values()])
        self._settle_all(settled)
        self._announce(True, "")

    def answered(self) -> None:
        """Take note that the broker has answered something of ours."""
        self._answers += 1

    def filter_changes(self) -> list[FilterChange]:
        """Return the subscriptions to put in force or to end; `woken` is false from here on."""
        with self._lock:
            self.woken = False
            changes = list(self._filter_changes)
            self._filter_changes.clear()
        return changes

    def unsubscribed(self, on_done: Callable[[], None]) -> None:
        """Take note that the broker has ended a subscription that was retired."""
        with self._lock:
            if on_done not in self._retiring:
                return
            self._retiring.remove(on_done)
        self._guarded(on_done, "retired")

    def next_to_send(self) -> Sending | None:
        """Return what to send next, now in flight; small things first."""
        settled: list[tuple[Outgoing, Delivery]] = []
        found: Sending | None = None
        with self._lock:
            for outbox in (self._control, self._bulk) if self._online else ():
                while found is None:
                    entry, stale = outbox.next(time.monotonic())
                    settled += stale
                    if entry is None:
                        break
                    if self._too_large(entry.item):  # it has waited since before the limit was known
                        outbox.done(entry)
                        settled.append((entry.item, Delivery.TOO_LARGE))
                        continue
                    found = (outbox, entry)
        self._settle_all(settled)
        return found

    def done(self, sending: Sending, delivery: Delivery) -> None:
        """Report what became of something sent."""
        outbox, entry = sending
        with self._changed:
            known = outbox.done(entry)
            self.woken = True  # there is room in the window: the thread, which is ours, looks again before it waits
            if not self._control:
                self._changed.notify_all()
        if known:
            self._settle(entry.item, delivery)


def _entry(outgoing: Outgoing) -> Entry[Outgoing]:
    expires_at = None if outgoing.expiry_seconds is None else time.monotonic() + outgoing.expiry_seconds
    return Entry(outgoing, outgoing.packet_bytes, outgoing.message.topic if outgoing.kept else None, expires_at)
