"""What only a real broker, a real socket and a real process can show."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from broker.config import BrokerSettings
from broker.process import Broker, free_port
from popexd.bus import Delivery
from popexd.bus.mqtt import MqttBus, MqttSettings
from popexd.bus.queued import QueueLimits
from popexd.errors import BusError, ConfigurationError
from tests.bus.server import Answer, answering
from tests.bus.waiting import PATIENCE_SECONDS, Fates, Inbox, until

Connect = Callable[..., MqttBus]


def listen(connect: Connect, port: int, topic_filter: str) -> Inbox:
    """An inbox whose subscription is in force."""
    inbox = Inbox()
    bus = connect(port, wait=False)
    bus.subscribe(topic_filter, inbox)
    until(lambda: bus.connected, "the listener")
    # Subscribed after start: one round trip of our own proves that it is in force.
    fates = Fates()
    bus.publish("settled", b"", qos=1, on_done=fates.on_done())
    fates.wait()
    return inbox


def test_a_qos_1_round_trip_does_not_wait_for_nagle(connect: Connect) -> None:
    """With TCP_NODELAY on both ends it is many times quicker than with a broker that leaves Nagle's algorithm on.

    A busy machine makes some round trips slow, and none quick: one in four is compared with the usual one under Nagle.
    """

    def round_trips(nodelay: str) -> list[float]:
        with Broker(settings=BrokerSettings(extra_lines=(f"set_tcp_nodelay {nodelay}",))) as broker:
            client, server, inbox = (
                connect(broker.port, wait=False),
                MqttBus(MqttSettings(port=broker.port)),
                Inbox(),
            )
            client.subscribe("pong", inbox)
            server.subscribe("ping", lambda message: server.publish("pong", message.payload, qos=1))
            server.start()
            server.wait_connected(PATIENCE_SECONDS)
            client.wait_connected(PATIENCE_SECONDS)
            seconds = []
            for _ in range(40):
                begin = time.perf_counter()
                client.publish("ping", b"x" * 200, qos=1)
                inbox.next()
                seconds.append(time.perf_counter() - begin)
            server.stop()
            client.stop()
            return sorted(seconds)

    assert round_trips("true")[10] < round_trips("false")[20] / 4


def test_a_killed_broker_costs_bulk_and_nothing_else(broker: Broker, connect: Connect) -> None:
    """Under way when it died: the result arrives after the restart as it was, the tensor is reported as stale."""
    bus, fates, changes = connect(broker.port), Fates(), Inbox()
    bus.on_connection(lambda connected, reason: changes((connected, reason)))  # type: ignore[arg-type]
    result = bytes(range(256)) * 40
    broker.pause()
    bus.publish("result", result, qos=1, on_done=fates.on_done("result"), correlation_data=b"\x01")
    bus.publish_bulk("work", b"tensor", on_done=fates.on_done("bulk"))
    broker.kill()
    assert fates.wait("bulk") is Delivery.STALE
    bus.publish("result", b"second", qos=1)

    listener, inbox = connect(broker.port, wait=False), Inbox()
    listener.subscribe("result", inbox)
    with delayed(bus):
        broker.start()
        until(lambda: listener.connected, "the listener")

    first = inbox.next()
    assert (first.payload, first.correlation_data) == (result, b"\x01")
    assert inbox.next().payload == b"second"
    assert fates.wait("result") is Delivery.DELIVERED


@contextmanager
def delayed(bus: MqttBus) -> Iterator[None]:
    """Keep what waits until a listener is there: the bus is stopped without being told what to drop."""
    original = bus._new_connection
    released = threading.Event()

    def later() -> object:
        released.wait(PATIENCE_SECONDS)
        return original()

    bus._new_connection = later  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        released.set()


def test_a_stalled_connection_neither_blocks_nor_grows(broker: Broker, connect: Connect) -> None:
    """The peer is silent and the connection open: publishing returns, memory is bounded, the newest survive."""
    limits = QueueLimits(control_queue_bytes=200_000, bulk_queue_bytes=1_000_000)
    bus, fates = connect(broker.port, limits=limits), Fates()
    broker.pause()

    for number in range(300):
        bus.publish_bulk("work", bytes(100_000), on_done=fates.on_done(number))
        bus.publish("result", bytes(10_000), qos=1, on_done=fates.on_done(("result", number)))
        bus.retain("metrics", b"%d" % number, qos=0)
    assert bus._bulk.queued_bytes <= 1_000_000
    assert bus._control.queued_bytes <= 200_000
    assert bus._bulk.in_flight_bytes + bus._control.in_flight_bytes < 700_000
    dropped = fates.count(Delivery.DROPPED)
    assert dropped > 500
    broker.resume()

    assert fates.wait(299) is Delivery.NO_SUBSCRIBERS
    assert fates.wait(("result", 299)) is Delivery.NO_SUBSCRIBERS
    until(lambda: sum(len(fate) for fate in fates.of.values()) == 600, "every fate")
    assert listen(connect, broker.port, "metrics").next().payload == b"299"


def test_bulk_that_waited_past_its_expiry_is_not_sent(broker: Broker, connect: Connect) -> None:
    """After an outage with the connection open, the slow link is not spent on the past."""
    bus, fates, inbox = connect(broker.port), Fates(), Inbox()
    bus.subscribe("work", inbox)
    broker.pause()
    for number in range(4):
        bus.publish_bulk("work", b"under way", on_done=fates.on_done(number))
    bus.publish_bulk("work", b"late", on_done=fates.on_done("late"), expiry_seconds=1)
    bus.publish_bulk("work", b"fresh", on_done=fates.on_done("fresh"), expiry_seconds=60)
    late = time.monotonic() + 1
    until(lambda: len(bus._bulk.in_flight) == 4, "a full window")
    until(lambda: late <= time.monotonic(), "the expiry")
    broker.resume()

    assert fates.wait("late") is Delivery.STALE
    assert fates.wait("fresh") is Delivery.DELIVERED
    assert inbox.payloads(5) == [b"under way"] * 4 + [b"fresh"]


def test_the_broker_may_be_absent_at_the_start(connect: Connect) -> None:
    """Starting neither fails nor waits; the reason is reported once, and the connection comes when the broker does."""
    changes: list[tuple[bool, str]] = []
    port = free_port()
    bus = MqttBus(MqttSettings(port=port))
    bus.on_connection(lambda connected, reason: changes.append((connected, reason)))
    bus.start()
    until(lambda: bool(changes), "the first attempt")
    with pytest.raises(BusError, match=f"127.0.0.1:{port}: Connection refused"):
        bus.wait_connected(0.0)

    with Broker(port=port):
        bus.wait_connected(PATIENCE_SECONDS)
        until(lambda: len(changes) == 2, "its being told")
        assert changes == [(False, f"127.0.0.1:{port}: Connection refused"), (True, "")]
        bus.stop()
    assert changes[2:] == [(False, "stopped")]


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (Answer(b"\x20\x02\x00\x01"), "does not speak MQTT 5"),
        (Answer(b"\x20\x03\x00\x84\x00"), "does not speak MQTT 5"),
        (Answer(b"", closes=True), "is it an MQTT 5 broker, or does it want TLS, or a valid client certificate"),
        (Answer(b"\x20\x02\x00\x00"), "is it an MQTT 5 broker"),
        (Answer(b"HTTP/1.1 400 Bad Request\r\n" + b"x" * 200, closes=True), "."),
        (Answer(b"\x20\x03\x00\x86\x00"), "refuses us: Bad user name or password"),
        (Answer(b""), "no answer from the broker"),
    ],
)
def test_what_is_no_mqtt_5_broker_is_refused_in_one_line(connect: Connect, answer: Answer, complaint: str) -> None:
    """The reason is one clear line, and the bus keeps trying."""
    silent = answer == Answer(b"")
    with answering(answer) as server:
        bus = connect(server.port, wait=False, connect_timeout_seconds=0.5 if silent else PATIENCE_SECONDS)
        until(lambda: server.connections >= 2, "a second attempt")
        with pytest.raises(BusError, match=complaint) as caught:
            bus.wait_connected(0.0)

        assert "\n" not in str(caught.value)
        assert str(server.port) in str(caught.value)


def test_a_broker_that_throws_us_out_for_a_message_teaches_us(connect: Connect) -> None:
    """A limit the broker did not announce costs that one message, not the connection for good."""
    with Broker(settings=BrokerSettings(extra_lines=("message_size_limit 1000",))) as broker:
        inbox = listen(connect, broker.port, "result")
        bus, fates = connect(broker.port), Fates()
        bus.publish("result", bytes(5_000), qos=1, on_done=fates.on_done("over"))
        bus.publish("result", b"good", qos=1, on_done=fates.on_done("good"))

        assert fates.wait("over") in {Delivery.REFUSED, Delivery.TOO_LARGE}
        assert fates.wait("good") is Delivery.DELIVERED
        assert inbox.next().payload == b"good"


def test_a_broker_that_takes_few_at_a_time_gets_few_at_a_time(connect: Connect) -> None:
    """CONNACK's Receive Maximum is kept; with more under way the broker may throw us out."""
    with Broker(settings=BrokerSettings(extra_lines=("max_inflight_messages 2",))) as broker:
        inbox = listen(connect, broker.port, "result")
        bus, changes = connect(broker.port), []
        bus.on_connection(lambda *change: changes.append(change))
        broker.pause()
        for number in range(50):
            bus.publish("result", b"%d" % number, qos=1)
        until(lambda: len(bus._control.in_flight) == 2, "two under way")
        broker.resume()

        assert inbox.payloads(50) == [b"%d" % number for number in range(50)]
        assert changes == []


def test_a_killed_process_leaves_its_will(broker: Broker, connect: Connect) -> None:
    """The broker publishes it retained, so that late comers know too."""
    inbox = listen(connect, broker.port, "state")
    program = (
        "import sys, threading\n"
        "from popexd.bus import Will\n"
        "from popexd.bus.mqtt import MqttBus, MqttSettings\n"
        "bus = MqttBus(MqttSettings(port=int(sys.argv[1])), Will('state', b'offline'))\n"
        "bus.retain('state', b'online')\n"
        "bus.start()\n"
        "threading.Event().wait(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(broker.port)])
    try:
        assert inbox.next().payload == b"online"
    finally:
        process.kill()
        process.wait()

    assert inbox.next().payload == b"offline"
    late = listen(connect, broker.port, "state").next()
    assert (late.payload, late.retain) == (b"offline", True)


def test_publishing_from_many_threads_loses_nothing(broker: Broker, connect: Connect) -> None:
    """Each thread's own messages stay in order."""
    inbox = listen(connect, broker.port, "t/+")
    bus = connect(broker.port)

    def publish(name: int) -> None:
        for number in range(100):
            bus.publish(f"t/{name}", b"%d" % number, qos=1)

    threads = [threading.Thread(target=publish, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    heard = [inbox.next() for _ in range(400)]

    for name in range(4):
        own = [message.payload for message in heard if message.topic == f"t/{name}"]
        assert own == [b"%d" % number for number in range(100)]


def test_a_certificate_file_that_is_not_there_fails_at_the_start() -> None:
    """A configuration that can never work is fatal, unlike a broker that is away."""
    with pytest.raises(ConfigurationError, match=r"ca_file: /nowhere/ca.pem"):
        MqttBus(MqttSettings(ca_file="/nowhere/ca.pem")).start()  # type: ignore[arg-type]


def test_a_log_that_cannot_be_written_ends_nothing(
    broker: Broker, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream may be a pipe whose reader has gone; the bus reconnects all the same."""

    def broken(*_: object, **__: object) -> None:
        raise BrokenPipeError

    for module in ("base", "queued", "mqtt"):
        for method in ("warning", "error", "exception"):
            monkeypatch.setattr(f"popexd.bus.{module}.logger.{method}", broken, raising=False)
    bus, inbox = connect(broker.port), Inbox()
    bus.subscribe("t", inbox)
    bus.subscribe("t", broken)
    changes: list[bool] = []
    bus.on_connection(lambda connected, _: changes.append(connected))

    broker.restart()
    until(lambda: True in changes, "the way back")
    bus.publish("t", b"x", qos=1)

    assert inbox.next().payload == b"x"
    until(lambda: bus.callback_errors == 1, "the counted error")
