"""MQTT 5 over paho, and the only door to it.

paho serves as codec and bookkeeper of a single connection. Its own thread, queues and reconnection are not used:

* it sends everything it stored again at once after a reconnect, ignoring its in-flight limit, and has no limit at all
  for QoS 0; so what waits does so in `popexd.bus.queued`, and every connection gets a new paho client that remembers
  nothing;
* an exception on its thread ends the thread while `is_connected()` stays true; so the thread is ours;
* it ignores the broker's Maximum Packet Size, is thrown out, and sends the same packet again for ever;
* it leaves Nagle's algorithm on, which costs a QoS 1 round trip 44 ms on either side.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from popexd.bus.base import Delivery, Message, Outgoing, Subscription, Will, report
from popexd.bus.queued import QueuedBus, QueueLimits, Sending
from popexd.bus.receipt import mark
from popexd.errors import ConfigurationError
from popexd.logs import get_logger

logger = get_logger(__name__)

_UNSUPPORTED_VERSION = 0x84
_NO_MATCHING_SUBSCRIBERS = 0x10
_HEARTBEAT_SECONDS = 10.0
# Nobody ever subscribes to it; that it is not below our topics says that nothing is to be found there.
_NOWHERE = "heartbeat"


@dataclass(frozen=True, slots=True)
class MqttSettings:
    """How to reach a broker.

    `tls` alone trusts the system's authorities; `ca_file` names others and implies it. After a connection that broke,
    the broker remembers the client of this identifier, and what it has not acknowledged, for `session_seconds`.
    """

    host: str = "127.0.0.1"
    port: int = 1883
    client_id: str = ""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    keepalive_seconds: int = 20
    session_seconds: int = 0
    connect_timeout_seconds: float = 5.0
    largest_incoming_bytes: int = 32_000_000
    limits: QueueLimits = field(default_factory=QueueLimits)

    @property
    def address(self) -> str:
        """Host and port as people write them."""
        return f"{self.host}:{self.port}"


class MqttBus(QueuedBus):
    """A connection to an MQTT 5 broker that always comes back."""

    def __init__(self, settings: MqttSettings, will: Will | None = None) -> None:
        super().__init__(settings.address, settings.limits, will)
        self.settings = settings
        self.broker_window_messages = 65_535
        self._tls: ssl.SSLContext | None = None

    @property
    def window_messages(self) -> int:
        """Return the Receive Maximum of the last CONNACK: Mosquitto has one limit for both directions, and says it."""
        return self.broker_window_messages

    def start(self) -> None:
        """Begin to connect, on a thread of its own.

        Raises:
            ConfigurationError: a certificate, key or authority file cannot be used.

        """
        self._tls = _tls_context(self.settings)
        super().start()

    def _new_connection(self) -> _Connection:
        return _Connection(self, self._tls)


class _Connection:
    """One connection from CONNECT to its end, with a paho client of its own."""

    def __init__(self, bus: MqttBus, tls: ssl.SSLContext | None) -> None:
        self.reason = ""
        self.broker_code = 0
        self.was_online = False
        self._bus = bus
        self._settings = bus.settings
        self._accepted = False
        self._identifiers = True
        self._receive_maximum = 65_535
        self._unconfirmed: dict[int, str] = {}
        self._retiring: dict[int, Callable[[], None]] = {}
        self._in_flight: dict[int, Sending] = {}
        self._answered_at = time.monotonic()
        self._asked_at: float | None = None
        self._client = self._new_client(tls)

    def _new_client(self, tls: ssl.SSLContext | None) -> Client:
        settings, will = self._settings, self._bus.will
        client = Client(
            CallbackAPIVersion.VERSION2,
            settings.client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
            manual_ack=settings.session_seconds > 0,
        )
        client.connect_timeout = settings.connect_timeout_seconds
        client.max_inflight_messages_set(0)  # the outboxes count
        if settings.username is not None:
            client.username_pw_set(settings.username, settings.password)
        if tls is not None:
            client.tls_set_context(tls)
        if will is not None:
            client.will_set(will.topic, will.payload, will.qos, will.retain)
        client.on_socket_open = _without_delay
        # With a callback here paho leaves writing to us; else publish() writes, and QoS 0 is done before it has a mid.
        client.on_socket_register_write = lambda *_: None
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_unsubscribe = self._on_unsubscribe
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_disconnect = self._on_disconnect
        return client

    def run(self, wake_reader: socket.socket) -> None:
        """Connect and serve until the connection ends; `reason` says why."""
        client, settings = self._client, self._settings
        wishes = _properties(PacketTypes.CONNECT, MaximumPacketSize=settings.largest_incoming_bytes)
        if remembered := settings.session_seconds:
            wishes.SessionExpiryInterval = remembered
        try:
            client.connect(
                settings.host,
                settings.port,
                settings.keepalive_seconds,
                clean_start=not remembered,
                properties=wishes,
            )
        except (OSError, ValueError) as error:  # ValueError: a host name that no resolver accepts
            text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            self.reason = f"{settings.address}: {text}"
            return
        try:
            self._serve(wake_reader)
        finally:
            with contextlib.suppress(OSError):
                (client.socket() or socket.socket()).close()
        if not self.reason:
            self.reason = f"{settings.address}: connection lost"

    def _serve(self, wake_reader: socket.socket) -> None:
        client = self._client
        connection: Any = client.socket()
        answer_by = time.monotonic() + self._settings.connect_timeout_seconds
        with selectors.DefaultSelector() as selector:
            selector.register(wake_reader, selectors.EVENT_READ)
            selector.register(connection, selectors.EVENT_READ)
            while client.socket() is not None:
                wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.want_write() else 0)
                if selector.get_key(connection).events != wanted:
                    selector.modify(connection, wanted)
                decrypted = isinstance(connection, ssl.SSLSocket) and connection.pending() > 0
                patience = 0.0 if decrypted or self._bus.woken else 0.5
                ready = {key.fileobj: events for key, events in selector.select(patience)}
                if wake_reader in ready:
                    wake_reader.recv(4096)
                if decrypted or ready.get(connection, 0) & selectors.EVENT_READ:
                    client.loop_read()
                self._pump()
                if client.want_write():
                    client.loop_write()
                client.loop_misc()
                if self._deaf():
                    self.reason = f"{self._settings.address}: nothing heard within the keepalive time"
                    return
                if self._bus.stopping:
                    self._say_farewell()
                    return
                if not self.was_online and time.monotonic() > answer_by:
                    self.reason = self.reason or f"{self._settings.address}: no answer from the broker"
                    return

    def _deaf(self) -> bool:
        """Have the broker answer something every few seconds; tell whether it has not for the keepalive time.

        It has to answer an UNSUBSCRIBE from what nobody subscribed to (MQTT 5, 3.11.3), whatever the access list says,
        and no topic is touched. paho's own PINGREQ waits until nothing else was sent for a whole keepalive time.
        """
        now = time.monotonic()
        if self.was_online and self._asked_at is None and now - self._answered_at >= _HEARTBEAT_SECONDS:
            self._client.unsubscribe(_NOWHERE)
            self._asked_at = now
        return self._asked_at is not None and now - self._asked_at > self._settings.keepalive_seconds

    def _answered(self) -> None:
        self._answered_at, self._asked_at = time.monotonic(), None
        self._bus.answered()

    def _say_farewell(self) -> None:
        last_wish = _properties(PacketTypes.DISCONNECT, SessionExpiryInterval=0)  # who leaves is not to be waited for
        self._client.disconnect(properties=last_wish if self._settings.session_seconds else None)
        give_up_at = time.monotonic() + 0.5
        while (connection := self._client.socket()) is not None and time.monotonic() < give_up_at:
            with selectors.DefaultSelector() as selector:
                selector.register(connection, selectors.EVENT_WRITE)
                selector.select(0.1)
            self._client.loop_write()

    def _pump(self) -> None:
        """Hand over what waits, as far as the windows reach."""
        changes = self._bus.filter_changes()
        if not self._accepted:
            return
        for change in changes:
            if change.wanted:
                self._subscribe(change.subscription)
                continue
            _, mid = self._client.unsubscribe(change.subscription.topic_filter)
            if mid is not None and change.on_done is not None:
                self._retiring[mid] = change.on_done
        while len(self._in_flight) < self._receive_maximum and (sending := self._bus.next_to_send()) is not None:
            outgoing = sending[1].item
            message, properties = outgoing.message, _publish_properties(outgoing)
            sent = self._client.publish(message.topic, message.payload, message.qos, message.retain, properties)
            self._in_flight[sent.mid] = sending
            if outgoing.answers is not None:
                outgoing.answers.acknowledge()
        # Behind what was published: a broker that has an acknowledgement has the answer, too.
        for number in self._bus.receipts.due():
            self._client.ack(number, 1)

    def _subscribe(self, subscription: Subscription) -> int | None:
        properties = None
        if self._identifiers:
            properties = _properties(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=subscription.identifier)
        options = SubscribeOptions(qos=subscription.qos)
        _, mid = self._client.subscribe(subscription.topic_filter, options=options, properties=properties)
        if mid is not None:
            self._unconfirmed[mid] = subscription.topic_filter
        return mid

    # -- paho's callbacks -------------------------------------------------------------------------------------------

    def _on_connect(
        self, _client: Client, _: Any, flags: ConnectFlags, code: ReasonCode, answer: Properties | None
    ) -> None:
        if code.is_failure:
            self.broker_code = code.value
            self.reason = f"{self._settings.address}: the broker refuses us: {code}"
            if code.value == _UNSUPPORTED_VERSION:
                self.reason = f"{self._settings.address}: the broker does not speak MQTT 5, which popexd needs"
            return
        self._accepted = True
        self._receive_maximum = getattr(answer, "ReceiveMaximum", 65_535)
        self._bus.broker_window_messages = self._receive_maximum
        self._bus.receipts.connected(resumed=flags.session_present)
        self._identifiers = getattr(answer, "SubscriptionIdentifierAvailable", 1) == 1
        for subscription in self._bus.accepted(getattr(answer, "MaximumPacketSize", None)):
            self._subscribe(subscription)
        self._online_if_confirmed()

    def _on_subscribe(
        self, _client: Client, _: Any, mid: int, codes: list[ReasonCode], _answer: Properties | None
    ) -> None:
        self._answered()
        topic_filter = self._unconfirmed.pop(mid, "")
        if codes and codes[0].is_failure:
            report(logger.error, "subscription.refused", filter=topic_filter, reason=str(codes[0]))
        self._online_if_confirmed()

    def _on_unsubscribe(self, _client: Client, _: Any, mid: int, *_answer: Any) -> None:
        self._answered()
        if (on_done := self._retiring.pop(mid, None)) is not None:
            self._bus.unsubscribed(on_done)

    def _online_if_confirmed(self) -> None:
        if not self._unconfirmed and not self.was_online:
            self.was_online = True
            self._bus.went_online()

    def _on_message(self, _client: Client, _: Any, incoming: MQTTMessage) -> None:
        self._answered()
        try:
            topic = incoming.topic
        except UnicodeDecodeError:
            return
        properties = incoming.properties
        message = Message(
            topic=topic,
            payload=bytes(incoming.payload),
            qos=incoming.qos,
            retain=incoming.retain,
            correlation_data=getattr(properties, "CorrelationData", None),
            user_properties=tuple(getattr(properties, "UserProperty", ())),
            response_topic=getattr(properties, "ResponseTopic", None),
        )
        if incoming.qos and self._settings.session_seconds:
            said = repr((message.correlation_data, message.user_properties)).encode()
            known_by = mark(incoming.mid, topic, message.payload, said)
            receipt = self._bus.receipts.arrived(incoming.mid, known_by, again=incoming.dup)
            if receipt is None:
                return
            message = replace(message, receipt=receipt)
        self._bus.dispatch(message, getattr(properties, "SubscriptionIdentifier", ()))

    def _on_publish(self, _client: Client, _: Any, mid: int, code: ReasonCode, _answer: Properties | None) -> None:
        sending = self._in_flight.pop(mid)
        if sending[1].item.message.qos:
            self._answered()
        delivery = Delivery.DELIVERED
        if code.value == _NO_MATCHING_SUBSCRIBERS:
            delivery = Delivery.NO_SUBSCRIBERS
        elif code.is_failure:
            report(logger.warning, "publish.refused", topic=sending[1].item.message.topic, reason=str(code))
            delivery = Delivery.REFUSED
        self._bus.done(sending, delivery)

    def _on_disconnect(
        self, _client: Client, _: Any, flags: DisconnectFlags, code: ReasonCode, _answer: Properties | None
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self.broker_code = code.value
            self.reason = f"{self._settings.address}: the broker ended the connection: {code}"
        elif not self.reason and not self._accepted:
            asks = "is it an MQTT 5 broker, or does it want TLS, or a valid client certificate?"
            self.reason = f"{self._settings.address}: the connection closed before an answer; {asks}"
        elif not self.reason and code.getName() == "Keep alive timeout":
            self.reason = f"{self._settings.address}: nothing heard within the keepalive time"
        elif not self.reason and code.getName() == "Protocol error":
            # paho ends the connection over bytes it cannot read, such as a PUBACK with a code that is not in its table.
            self.broker_code = code.value
            self.reason = f"{self._settings.address}: the broker answered against the protocol"


def _without_delay(_client: Client, _: Any, connection: Any) -> None:
    with contextlib.suppress(OSError):  # a Unix socket knows no such option
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _properties(packet_type: int, **values: object) -> Properties:
    properties = Properties(packet_type)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


def _publish_properties(outgoing: Outgoing) -> Properties:
    message = outgoing.message
    values: dict[str, object] = {
        "CorrelationData": message.correlation_data,
        "ResponseTopic": message.response_topic,
        "MessageExpiryInterval": outgoing.expiry_seconds,
        "UserProperty": list(message.user_properties) or None,
    }
    return _properties(PacketTypes.PUBLISH, **{name: value for name, value in values.items() if value is not None})


def _tls_context(settings: MqttSettings) -> ssl.SSLContext | None:
    if not settings.tls and settings.ca_file is None:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:
        raise ConfigurationError(f"ca_file: {settings.ca_file}: {error}, expected certificates in PEM") from error
    if settings.cert_file is not None:
        try:
            context.load_cert_chain(settings.cert_file, settings.key_file)
        except OSError as error:
            raise ConfigurationError(f"cert_file, key_file: {error}, expected a pair in PEM") from error
    return context
