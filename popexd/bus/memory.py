"""An MQTT broker and its clients inside one process: synchronous, deterministic, no sockets.

It keeps the promises of `popexd.bus.mqtt` on a real broker (one set of tests runs on both) and adds what tests want to
say: this client dies, that one loses its connection, the broker restarts. It remembers nobody, so no message carries a
receipt: what sessions promise is tested on a real broker alone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from popexd.bus.base import Bus, Delivery, Message, Outgoing, Subscription, Will
from popexd.bus.topic import matches, shared_group


class MemoryBroker:
    """The meeting point of memory buses.

    A message published while another is being delivered waits its turn, so handlers never nest; published from a
    second thread meanwhile, it is delivered by the first.
    """

    def __init__(self, max_packet_bytes: int | None = None) -> None:
        self.max_packet_bytes = max_packet_bytes
        self.running = True
        self._lock = threading.RLock()
        self._buses: list[MemoryBus] = []
        self._attached: dict[MemoryBus, dict[str, Subscription]] = {}
        self._retained: dict[str, Message] = {}
        self._turns: dict[str, int] = {}
        self._jobs: deque[Callable[[], None]] = deque()
        self._delivering = False

    def bus(self, will: Will | None = None) -> MemoryBus:
        """Return a new client of this broker, not started yet."""
        bus = MemoryBus(self, will)
        self._buses.append(bus)
        return bus

    def stop(self) -> None:
        """Die: every connection breaks and what was retained is lost."""
        with self._lock:
            self.running = False
            self._retained.clear()
            attached = list(self._attached)
            self._attached.clear()
        for bus in attached:
            bus._lost("broker stopped")

    def restart(self) -> None:
        """Come back empty; every started client that was not disconnected on purpose reconnects, in order of birth."""
        self.running = True
        for bus in self._buses:
            bus._try_to_connect()

    def attach(self, bus: MemoryBus) -> None:
        """Accept a connection."""
        with self._lock:
            self._attached[bus] = {}

    def detach(self, bus: MemoryBus, *, farewell: bool) -> None:
        """End a connection; without a farewell its last will is published."""
        with self._lock:
            if self._attached.pop(bus, None) is None:
                return
        if not farewell and bus.will is not None:
            self.publish(Message(bus.will.topic, bus.will.payload, bus.will.qos, bus.will.retain))

    def subscribe(self, bus: MemoryBus, subscription: Subscription) -> None:
        """Put a subscription in force and send what is retained, unless it is a shared one."""
        with self._lock:
            self._attached[bus][subscription.topic_filter] = subscription
            if shared_group(subscription.topic_filter) is not None:
                return
            for message in list(self._retained.values()):
                if matches(subscription.topic_filter, message.topic):
                    self._jobs.append(lambda message=message: bus._deliver(message, subscription))  # type: ignore[misc]
        self._run()

    def unsubscribe(self, bus: MemoryBus, subscription: Subscription) -> None:
        """Take a subscription out of force."""
        with self._lock:
            self._attached.get(bus, {}).pop(subscription.topic_filter, None)

    def publish(self, message: Message, on_done: Callable[[Delivery], None] | None = None) -> None:
        """Deliver to every matching subscription and to one member, in turn, of every shared group."""
        with self._lock:
            self._jobs.append(lambda: self._publish(message, on_done))
        self._run()

    def _publish(self, message: Message, on_done: Callable[[Delivery], None] | None) -> None:
        live = replace(message, retain=False)
        with self._lock:
            if message.retain and message.payload:
                self._retained[message.topic] = message
            elif message.retain:
                self._retained.pop(message.topic, None)
            receivers: list[_Receiver] = []
            groups: dict[str, list[_Receiver]] = {}
            for bus, subscriptions in self._attached.items():
                for topic_filter, subscription in subscriptions.items():
                    if not matches(topic_filter, message.topic):
                        continue
                    if shared_group(topic_filter) is None:
                        receivers.append((bus, subscription))
                    else:
                        groups.setdefault(topic_filter, []).append((bus, subscription))
            for topic_filter, members in groups.items():
                turn = self._turns[topic_filter] = self._turns.get(topic_filter, -1) + 1
                receivers.append(members[turn % len(members)])
        for bus, subscription in receivers:
            bus._deliver(live, subscription)
        if on_done is not None:
            on_done(Delivery.NO_SUBSCRIBERS if message.qos and not receivers else Delivery.DELIVERED)

    def _run(self) -> None:
        with self._lock:
            if self._delivering:
                return
            self._delivering = True
        while True:
            with self._lock:
                if not self._jobs:
                    self._delivering = False
                    return
                job = self._jobs.popleft()
            job()


_Receiver = tuple["MemoryBus", Subscription]


class MemoryBus(Bus):
    """A client of a `MemoryBroker`."""

    def __init__(self, broker: MemoryBroker, will: Will | None = None) -> None:
        super().__init__(will)
        self._broker = broker
        self._started = False
        self._ended = False
        self._unplugged = False
        self._connected = False
        self._waiting: deque[Outgoing] = deque()

    @property
    def connected(self) -> bool:
        """True while attached to a running broker."""
        return self._connected

    @property
    def max_packet_bytes(self) -> int | None:
        """Return the broker's limit, None when it has none or was not reached yet."""
        return self._broker.max_packet_bytes if self._connected else None

    def start(self) -> None:
        """Attach to the broker, now or when it runs."""
        self._started, self._ended = True, False
        self._try_to_connect()
        if not self._connected:
            self._announce(False, "broker stopped")

    def stop(self) -> None:
        """Say farewell."""
        self._started, self._ended = False, True
        if self._connected:
            self._connected = False
            self._broker.detach(self, farewell=True)
            self._announce(False, "stopped")
        while self._waiting:
            self._settle(self._waiting.popleft(), Delivery.DISCONNECTED)

    def kill(self) -> None:
        """Die without a farewell, as a killed process does: the will is sent, nothing of ours is heard again."""
        self._started, self._connected, self._ended = False, False, True
        self._subscriptions.clear()
        self._waiting.clear()
        self._broker.detach(self, farewell=False)

    def disconnect(self) -> None:
        """Lose the connection, and stay without until `reconnect`."""
        self._unplugged = True
        self._broker.detach(self, farewell=False)
        self._lost("connection lost")

    def reconnect(self) -> None:
        """End what `disconnect` began."""
        self._unplugged = False
        self._try_to_connect()

    def _try_to_connect(self) -> None:
        with self._lock:
            if not self._started or self._unplugged or self._connected or not self._broker.running:
                return
            self._broker.attach(self)
            self._connected = True
            subscriptions, retained = list(self._subscriptions.values()), list(self._retained.values())
            waiting, self._waiting = self._waiting, deque()
        for subscription in subscriptions:
            self._broker.subscribe(self, subscription)
        self._announce(True, "")
        for outgoing in (*retained, *waiting):
            self._send(outgoing)

    def _lost(self, reason: str) -> None:
        if self._connected:
            self._connected = False
            self._announce(False, reason)

    def _deliver(self, message: Message, subscription: Subscription) -> None:
        if self._connected:
            self.dispatch(replace(message, qos=min(message.qos, subscription.qos)), (subscription.identifier,))

    def _send(self, outgoing: Outgoing) -> None:
        with self._lock:
            if not self._connected and outgoing.message.qos and not self._ended:
                self._waiting.append(outgoing)
                return
        self._send_bulk(outgoing)

    def _send_bulk(self, outgoing: Outgoing) -> None:
        limit = self.max_packet_bytes
        if not self._connected:
            self._settle(outgoing, Delivery.DISCONNECTED)
        elif limit is not None and outgoing.packet_bytes > limit:
            self._settle(outgoing, Delivery.TOO_LARGE)
        else:
            self._broker.publish(outgoing.message, lambda delivery: self._settle(outgoing, delivery))

    def _subscribed(self, subscription: Subscription) -> None:
        if self._connected:
            self._broker.subscribe(self, subscription)

    def _unsubscribed(self, subscription: Subscription) -> None:
        if self._connected:
            self._broker.unsubscribe(self, subscription)

    def _retired(self, subscription: Subscription, on_done: Callable[[], None]) -> None:
        self._unsubscribed(subscription)
        self._guarded(on_done, subscription.topic_filter)
