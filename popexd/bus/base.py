"""The transport as every program sees it: one small class, its values, and what each of its promises means.

**Threads.** Any method may be called from any thread and none waits for the network, `stop` excepted. Handlers,
`on_done` and connection callbacks run on a thread of the transport, or inside the very call that caused them: they may
only put something on a queue. One that raises is counted in `callback_errors` and logged; it never stops the transport.
"""

from __future__ import annotations

import contextlib
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial

from popexd.bus.receipt import Receipt
from popexd.bus.topic import check_filter, check_topic, matches
from popexd.errors import BusError
from popexd.logs import get_logger

logger = get_logger(__name__)


class Delivery(Enum):
    """What became of one publish; reported once."""

    DELIVERED = "delivered"
    """The broker acknowledged it; at QoS 0, it was handed to the operating system."""
    NO_SUBSCRIBERS = "no_subscribers"
    """The broker took it and nobody listens (PUBACK 0x10)."""
    TOO_LARGE = "too_large"
    """Larger than the broker, or our own queue, accepts; never sent."""
    DROPPED = "dropped"
    """Pushed out of a full queue by a newer one."""
    STALE = "stale"
    """Bulk that was under way when the connection broke, or that waited past its expiry."""
    DISCONNECTED = "disconnected"
    """There was no connection, and it is not of the kind that waits for one."""
    REFUSED = "refused"
    """The broker said no: not authorised, quota exceeded, malformed."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it came in or goes out; `user_properties` may repeat a name.

    `receipt` comes with what was subscribed to with `held`, from a broker that remembers us: whoever handles the
    message acknowledges it, now or later.
    """

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    correlation_data: bytes | None = None
    user_properties: tuple[tuple[str, str], ...] = ()
    response_topic: str | None = None
    receipt: Receipt | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes on our behalf when the connection ends without a farewell."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True


Handler = Callable[[Message], None]
OnDone = Callable[[Delivery], None]
OnConnection = Callable[[bool, str], None]


def packet_bytes(message: Message, expiry_seconds: int | None = None) -> int:
    """Return the size of the whole PUBLISH packet, which is what a broker's limit counts (MQTT 5, 2.1.4 and 3.3)."""
    properties = 0 if expiry_seconds is None else 5
    if message.correlation_data is not None:
        properties += 3 + len(message.correlation_data)
    if message.response_topic is not None:
        properties += 3 + len(message.response_topic.encode())
    properties += sum(5 + len(name.encode()) + len(value.encode()) for name, value in message.user_properties)
    rest = 2 + len(message.topic.encode()) + (2 if message.qos else 0)
    rest += _length_bytes(properties) + properties + len(message.payload)
    return 1 + _length_bytes(rest) + rest


def _length_bytes(value: int) -> int:
    """Return how many bytes MQTT's variable length integer takes (1.5.5)."""
    return 1 + (value > 127) + (value > 16_383) + (value > 2_097_151)


@dataclass(frozen=True, slots=True, eq=False)
class Outgoing:
    """A message on its way out.

    `kept` marks a copy from the retained set, which every connect publishes anyway; `answers` is acknowledged right
    behind it.
    """

    message: Message
    expiry_seconds: int | None = None
    on_done: OnDone | None = None
    kept: bool = False
    answers: Receipt | None = None
    packet_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "packet_bytes", packet_bytes(self.message, self.expiry_seconds))


@dataclass(slots=True)
class Subscription:
    """The handlers of one filter, and the number under which the broker may refer to it."""

    topic_filter: str
    identifier: int
    qos: int
    held: bool = False
    handlers: list[Handler] = field(default_factory=list)


class Bus(ABC):
    """Publish and subscribe, whatever the transport.

    Two filters of one bus may overlap: a handler hears a message once for each matching subscription of its own.
    """

    def __init__(self, will: Will | None = None) -> None:
        self.will = will
        self.callback_errors = 0
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._reason = ""
        self._subscriptions: dict[str, Subscription] = {}
        self._retained: dict[str, Outgoing] = {}
        self._watchers: list[OnConnection] = []
        self._last_identifier = 0

    @abstractmethod
    def start(self) -> None:
        """Begin to connect, and to reconnect for ever; neither waits for the broker nor fails without one.

        Raises:
            ConfigurationError: what it was given can never work (a certificate file that is not there).

        """

    @abstractmethod
    def stop(self) -> None:
        """Wait a bounded time until what was published at QoS 1 is acknowledged, then say farewell; no will is sent."""

    @property
    @abstractmethod
    def connected(self) -> bool:
        """True while the broker knows us and every subscription is in force."""

    @property
    @abstractmethod
    def max_packet_bytes(self) -> int | None:
        """Return the largest packet the broker takes, None when it set no limit or was not reached yet."""

    @property
    def window_messages(self) -> int:
        """Return how many messages the broker sends us, as far as is known, before one of them is acknowledged."""
        return 65_535

    def heartbeat(self) -> int | None:
        """Return how often the broker has answered us so far; None while no answer can be expected.

        A transport makes sure that there is something to answer every few seconds.
        """
        return None

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        correlation_data: bytes | None = None,
        user_properties: Iterable[tuple[str, str]] = (),
        response_topic: str | None = None,
        expiry_seconds: float | None = None,
        on_done: OnDone | None = None,
        answers: Receipt | None = None,
    ) -> None:
        """Publish something small that matters.

        At QoS 1 it waits for a connection and survives a restart of the broker (it may then arrive twice); at QoS 0 it
        is dropped when there is none. Order is kept. `expiry_seconds` is rounded up to whole seconds by MQTT. What it
        `answers` is acknowledged as soon as it has been handed to the connection, and never ahead of it.
        """
        message = Message(topic, payload, qos, retain, correlation_data, tuple(user_properties), response_topic)
        self._send(Outgoing(_checked(message), _whole_seconds(expiry_seconds), on_done, answers=answers))

    def publish_bulk(
        self,
        topic: str,
        payload: bytes,
        *,
        on_done: OnDone,
        qos: int = 1,
        correlation_data: bytes | None = None,
        user_properties: Iterable[tuple[str, str]] = (),
        response_topic: str | None = None,
        expiry_seconds: float | None = None,
    ) -> None:
        """Publish something large that is soon worthless: a tensor, a probe.

        It waits in a queue bounded in bytes where the newest wins, and never outlives the connection.
        """
        message = Message(topic, payload, qos, False, correlation_data, tuple(user_properties), response_topic)
        self._send_bulk(Outgoing(_checked(message), _whole_seconds(expiry_seconds), on_done))

    def retain(self, topic: str, payload: bytes, qos: int = 1) -> None:
        """Publish retained, and again after every connect: a broker may lose what it retained."""
        outgoing = Outgoing(_checked(Message(topic, payload, qos, retain=True)), kept=True)
        with self._lock:
            self._retained[topic] = outgoing
            connected = self.connected
        if connected:
            self._send(outgoing)

    def subscribe(self, topic_filter: str, handler: Handler, qos: int = 1, *, held: bool = False) -> Callable[[], None]:
        """Let `handler` hear what matches, after reconnects too; returns the undo, which may be called twice.

        With `held` a QoS 1 message of a broker that remembers us carries a receipt, and the handler sees to it that it
        is acknowledged; otherwise that happens when the handlers return.
        """
        check_filter(topic_filter)
        with self._lock:
            subscription = self._subscriptions.get(topic_filter)
            if subscription is None:
                self._last_identifier += 1
                subscription = Subscription(topic_filter, self._last_identifier, qos, held)
                self._subscriptions[topic_filter] = subscription
            subscription.handlers.append(handler)
            subscription.qos = max(subscription.qos, qos)
        self._subscribed(subscription)
        undone = threading.Event()

        def undo() -> None:
            with self._lock:
                if undone.is_set():
                    return
                undone.set()
                subscription.handlers.remove(handler)
                if subscription.handlers:
                    return
                del self._subscriptions[topic_filter]
            self._unsubscribed(subscription)

        return undo

    def retire(self, topic_filter: str, on_done: Callable[[], None]) -> None:
        """Ask the broker for no more; handlers hear what was under way until then, and `on_done` says that it is then.

        A broker that had a queue for us may deliver the rest of it afterwards. `on_done` is called at once where there
        is no connection, and when it breaks.
        """
        with self._lock:
            subscription = self._subscriptions.get(topic_filter)
        if subscription is None:
            self._guarded(on_done, topic_filter)
        else:
            self._retired(subscription, on_done)

    def wait_connected(self, seconds: float) -> None:
        """Wait until connected, for programs that can do nothing without.

        Raises:
            BusError: not connected in time; the text is the last reason.

        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.connected, seconds):
                raise BusError(self._reason or f"no broker answered within {seconds:g} seconds")

    def on_connection(self, callback: OnConnection) -> None:
        """Call `callback(connected, reason)` at every change, and when the reason of a failure to connect changes."""
        with self._lock:
            self._watchers.append(callback)

    def dispatch(self, message: Message, identifiers: Iterable[int] = ()) -> None:
        """Hand a message to the handlers of the subscriptions the broker named, or of every one that matches.

        What a broker kept for us may bear the numbers of an earlier start, so only those that match count.
        """
        named = set(identifiers)
        with self._lock:
            matching = [each for each in self._subscriptions.values() if matches(each.topic_filter, message.topic)]
            meant = [each for each in matching if each.identifier in named] or matching
            handlers = [handler for subscription in meant for handler in subscription.handlers]
        for handler in handlers:
            self._guarded(partial(handler, message), message.topic)
        if message.receipt is not None and not any(subscription.held for subscription in meant):
            message.receipt.acknowledge()

    @abstractmethod
    def _send(self, outgoing: Outgoing) -> None: ...

    @abstractmethod
    def _send_bulk(self, outgoing: Outgoing) -> None: ...

    @abstractmethod
    def _subscribed(self, subscription: Subscription) -> None: ...

    @abstractmethod
    def _unsubscribed(self, subscription: Subscription) -> None: ...

    @abstractmethod
    def _retired(self, subscription: Subscription, on_done: Callable[[], None]) -> None: ...

    def _settle(self, outgoing: Outgoing, delivery: Delivery) -> None:
        if outgoing.kept and delivery in {Delivery.TOO_LARGE, Delivery.REFUSED}:  # nobody else hears of it
            topic, size = outgoing.message.topic, outgoing.packet_bytes
            report(logger.error, "retained.refused", topic=topic, bytes=size, reason=delivery.value)
        if outgoing.answers is not None and delivery is not Delivery.DISCONNECTED:  # no better answer will come
            outgoing.answers.acknowledge()
        if outgoing.on_done is not None:
            self._guarded(partial(outgoing.on_done, delivery), outgoing.message.topic)

    def _announce(self, connected: bool, reason: str) -> None:
        with self._changed:
            self._reason = reason
            self._changed.notify_all()
            watchers = list(self._watchers)
        for watcher in watchers:
            self._guarded(partial(watcher, connected, reason), "connection")

    def _guarded(self, callback: Callable[[], None], about: str) -> None:
        try:
            callback()
        except Exception:  # noqa: BLE001 whatever a caller's code raises must not end the transport's thread
            self.callback_errors += 1
            report(logger.exception, "callback.failed", about=about)


def report(say: Callable[..., object], event: str, **fields: object) -> None:
    """Log; a stream that is closed or full must not end the thread that keeps us connected."""
    with contextlib.suppress(Exception):
        say(event, **fields)


def _checked(message: Message) -> Message:
    check_topic(message.topic)
    strings = [text for pair in message.user_properties for text in pair] + [message.response_topic or ""]
    if any(len(text.encode()) > 65_535 for text in strings) or len(message.correlation_data or b"") > 65_535:
        raise ValueError("a property of a message holds at most 65535 bytes")
    if message.qos not in {0, 1}:
        raise ValueError(f"qos: {message.qos}, expected 0 or 1")
    return message


def _whole_seconds(seconds: float | None) -> int | None:
    return None if seconds is None else max(1, math.ceil(seconds))
