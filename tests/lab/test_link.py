"""The emulated link: its arithmetic, measured on real transfers, and its outages."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from broker.process import Broker
from popexd.bus import Delivery
from popexd.bus.mqtt import MqttBus, MqttSettings
from popexd.lab.link import FOURTH_GENERATION, PRESETS, THIRD_GENERATION, WIFI, Link, Profile
from tests.bus.waiting import PATIENCE_SECONDS, Fates, Inbox, until


class Peer:
    """The far end: notes what arrives and when, and echoes if told to."""

    def __init__(self, *, echoes: bool = False) -> None:
        self.arrivals: list[tuple[float, bytes]] = []
        self.ended = 0
        self._echoes = echoes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def received(self) -> int:
        """Bytes so far."""
        return sum(len(data) for _, data in list(self.arrivals))

    def moment_of(self, count: int) -> float:
        """When the byte number `count` had arrived."""
        total = 0
        for moment, data in self.arrivals:
            total += len(data)
            if total >= count:
                return moment
        raise AssertionError(f"only {total} of {count} bytes")

    def close(self) -> None:
        """Stop listening and hang up; without the shutdown a thread in `accept` would keep the port open."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for each in (self._listener, *self._connections):
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65_536):
                self.arrivals.append((time.monotonic(), data))
                if self._echoes:
                    connection.sendall(data)
            self.ended += 1


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A far end that listens."""
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture
def echo() -> Iterator[Peer]:
    """A far end that says everything back."""
    peer = Peer(echoes=True)
    yield peer
    peer.close()


def dial(link: Link) -> socket.socket:
    """A connection through the link."""
    connection = socket.create_connection(("127.0.0.1", link.port), timeout=PATIENCE_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def exactly(connection: socket.socket, count: int) -> bytes:
    """The next `count` bytes."""
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        assert part, "the connection ended"
        data += part
    return data


def one_of_several(attempt: Callable[[], bool], times: int = 12) -> bool:
    """Whether an attempt at last comes out well: a busy machine makes some of them slow, and none quick."""
    return any(attempt() for _ in range(times))


@pytest.mark.parametrize(
    ("bits_per_second", "size_bytes"), [(18.8e6, 2_000_000), (5.5e6, 500_000), (1.1e6, 100_000), (100e3, 10_000)]
)
def test_the_achieved_rate_is_the_set_rate(peer: Peer, bits_per_second: float, size_bytes: int) -> None:
    """Never above it, over the whole or the first half; and within 10 % below."""

    def attempt() -> bool:
        before = peer.received
        with Link("127.0.0.1", peer.port, Profile("x", bits_per_second, 1e6)) as link, dial(link) as connection:
            begin = time.monotonic()
            connection.sendall(bytes(size_bytes))
            until(lambda: peer.received == before + size_bytes, "the transfer")
            half = 4 * size_bytes / (peer.moment_of(before + size_bytes // 2) - begin)
            whole = 8 * size_bytes / (peer.moment_of(before + size_bytes) - begin)
            assert max(half, whole) < 1.05 * bits_per_second
            assert link.bytes_up == size_bytes
            return whole > 0.9 * bits_per_second

    assert one_of_several(attempt)


def test_a_new_rate_takes_effect_at_once(peer: Peer) -> None:
    """What the sender had already handed over does not slip through at the old rate."""

    def attempt() -> bool:
        already = peer.received
        with Link("127.0.0.1", peer.port, Profile("fast", 10e6, 1e6)) as link, dial(link) as connection:
            sender = threading.Thread(target=connection.sendall, args=(bytes(800_000),))
            sender.start()
            until(lambda: link.bytes_up >= 400_000, "half of it")
            link.set(Profile("slow", 2e6, 1e6))
            changed_at = time.monotonic()
            before = already + link.bytes_up
            until(lambda: peer.received >= before + 200_000, "a quarter")
            early, late = peer.moment_of(before + 50_000), peer.moment_of(before + 200_000)
            # Less one chunk of the old rate, and what a wire may make up for that was late.
            assert late - changed_at > 8 * 195_000 / 2e6 - 0.05
            link.set(Profile("fast", 100e6, 1e6))
            sender.join()
            until(lambda: peer.received == already + 800_000, "the rest")
        return 8 * 150_000 / (late - early) == pytest.approx(2e6, rel=0.1)

    assert one_of_several(attempt)


def test_connections_share_the_wire(peer: Peer) -> None:
    """Two at once get the rate of one."""

    def attempt() -> bool:
        before = peer.received
        with Link("127.0.0.1", peer.port, Profile("x", 8e6, 1e6)) as link, dial(link) as one, dial(link) as other:
            begin = time.monotonic()
            threads = [threading.Thread(target=each.sendall, args=(bytes(250_000),)) for each in (one, other)]
            for thread in threads:
                thread.start()
            until(lambda: peer.received == before + 500_000, "both")
            for thread in threads:
                thread.join()
        rate = 8 * 500_000 / (peer.moment_of(before + 500_000) - begin)
        assert rate < 1.05 * 8e6
        return rate > 0.9 * 8e6

    assert one_of_several(attempt)


def test_a_small_message_takes_its_time_on_the_wire_and_the_delay(echo: Peer) -> None:
    """A round trip is two delays and the bits both ways, no more."""
    profile = Profile("x", 1e6, 2e6, 0.020)
    expected = 2 * 0.020 + 8 * 200 / 1e6 + 8 * 200 / 2e6
    with Link("127.0.0.1", echo.port, profile) as link, dial(link) as connection:

        def attempt() -> bool:
            begin = time.monotonic()
            connection.sendall(bytes(200))
            exactly(connection, 200)
            seconds = time.monotonic() - begin
            assert seconds >= expected
            return seconds < 1.1 * expected

        assert one_of_several(attempt, 200)


def test_what_arrives_is_what_was_sent(echo: Peer) -> None:
    """In both directions, in order, to the last byte."""
    data = bytes(range(256)) * 2_000
    with Link("127.0.0.1", echo.port, Profile("x", 50e6, 30e6, 0.005)) as link, dial(link) as connection:
        sender = threading.Thread(target=connection.sendall, args=(data,))
        sender.start()

        assert exactly(connection, len(data)) == data
        sender.join()
        assert link.bytes_up == link.bytes_down == len(data)


def test_an_outage_stops_the_bytes_and_keeps_the_connections(echo: Peer) -> None:
    """Nothing arrives, nothing closes; afterwards everything goes on."""
    with Link("127.0.0.1", echo.port, WIFI) as link, dial(link) as connection:
        connection.sendall(b"before")
        assert exactly(connection, 6) == b"before"
        link.cut()
        connection.sendall(b"during")
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(6)
        assert echo.received == 6

        link.restore()
        connection.settimeout(PATIENCE_SECONDS)
        assert exactly(connection, 6) == b"during"


def test_nobody_gets_through_during_an_outage_or_learns_of_a_hang_up(peer: Peer) -> None:
    """A new connection stays without an answer; a closed one stays open at the far end until the outage ends."""
    with Link("127.0.0.1", peer.port, WIFI) as link:
        with dial(link) as connection:
            connection.sendall(b"hello")
            until(lambda: peer.received == 5, "the greeting")
            link.cut()
        with dial(link) as newcomer:
            newcomer.sendall(b"knock")
            assert not link._stopping.wait(0.2)
            assert (peer.received, peer.ended) == (5, 0)

            link.restore()
            until(lambda: (peer.received, peer.ended) == (10, 1), "both")


def test_the_end_of_a_stream_arrives_after_its_last_byte(peer: Peer) -> None:
    """Half closing included."""
    with Link("127.0.0.1", peer.port, Profile("x", 1e6, 1e6, 0.01)) as link, dial(link) as connection:
        connection.sendall(bytes(20_000))
        connection.shutdown(socket.SHUT_WR)
        until(lambda: peer.ended == 1, "the end")

        assert peer.received == 20_000
        assert connection.recv(1) == b""


def test_a_far_end_that_is_not_there_ends_the_connection(peer: Peer) -> None:
    """As a refusal would; the link itself lives on."""
    peer.close()
    with Link("127.0.0.1", peer.port, WIFI) as link:
        for _ in range(2):
            with dial(link) as connection:
                assert connection.recv(1) == b""


def test_stop_ends_everything(echo: Peer) -> None:
    """Also during an outage."""
    link = Link("127.0.0.1", echo.port, WIFI)
    link.start()
    with dial(link) as connection:
        connection.sendall(b"x")
        assert exactly(connection, 1) == b"x"
        link.cut()
        link.stop()

        connection.settimeout(PATIENCE_SECONDS)
        assert connection.recv(1) == b""
    assert not any(thread.is_alive() for thread in link._threads)


def test_an_mqtt_connection_survives_an_outage() -> None:
    """Publishing goes on without blocking, and what matters arrives afterwards, on the same connection."""
    with Broker() as broker, Link("127.0.0.1", broker.port, FOURTH_GENERATION) as link:
        inbox, fates = Inbox(), Fates()
        far, near = MqttBus(MqttSettings(port=broker.port)), MqttBus(MqttSettings(port=link.port))
        far.subscribe("#", inbox)
        for bus in (far, near):
            bus.start()
            bus.wait_connected(PATIENCE_SECONDS)
        changes: list[bool] = []
        near.on_connection(lambda connected, _: changes.append(connected))

        link.cut()
        for number in range(200):
            near.publish_bulk("work", bytes(50_000), on_done=fates.on_done(number), expiry_seconds=60)
        near.publish("result", b"answer", qos=1)
        assert fates.count(Delivery.DROPPED) > 100
        link.set(WIFI)
        link.restore()

        assert fates.wait(199) is Delivery.DELIVERED
        until(lambda: sum(len(fate) for fate in fates.of.values()) == 200, "every fate")
        heard = [inbox.next().topic for _ in range(fates.count(Delivery.DELIVERED) + 1)]
        assert heard.count("result") == 1
        assert changes == []
        for bus in (far, near):
            bus.stop()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Profile("x", 0.0, 1.0),
        lambda: Profile("x", 1.0, -1.0),
        lambda: Profile("x", 1.0, 1.0, -0.1),
    ],
)
def test_an_impossible_profile_is_refused(make: Callable[[], Profile]) -> None:
    """No rate below zero, and nothing arrives before it was sent."""
    with pytest.raises(ValueError, match="link x"):
        make()


def test_the_presets_are_the_papers_uplinks() -> None:
    """By the names the demo uses."""
    assert {"wifi": WIFI, "4g": FOURTH_GENERATION, "3g": THIRD_GENERATION} == PRESETS
    assert [profile.bits_per_second_up for profile in PRESETS.values()] == [18.8e6, 5.5e6, 1.1e6]
