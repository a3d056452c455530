"""A link of given rate and delay between a client and a broker: a TCP proxy on this machine.

A byte occupies the wire for eight bits' worth of time, strictly one after the other, then travels for the delay. There
is no bucket of tokens and so no burst; a chunk lasts a few milliseconds, so a new rate takes effect at once. What the
wire cannot take stays in the sender's own buffers, as on a real link.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

_CHUNK_SECONDS = 0.004
_LEAST_CHUNK_BYTES, _LARGEST_CHUNK_BYTES = 64, 32_768
# A thread that wakes up late by less than this does not slow the wire down: the next chunk follows where it should.
_LATE_SECONDS = 0.05
_RECEIVE_BUFFER_BYTES = 32_768
# Loopback's segments are 64 kB, twice that buffer; whoever sends would wait for window probes.
_SEGMENT_BYTES = 1_448
_MOST_CHUNKS_TRAVELLING = 256


@dataclass(frozen=True, slots=True)
class Profile:
    """How a link behaves; `delay_seconds` is one way, so a round trip takes twice that."""

    name: str
    bits_per_second_up: float
    bits_per_second_down: float
    delay_seconds: float = 0.0

    def __post_init__(self) -> None:
        if min(self.bits_per_second_up, self.bits_per_second_down) <= 0 or self.delay_seconds < 0:
            raise ValueError(f"link {self.name}: expected rates above zero and a delay of at least zero")


# Uplinks as the papers have them; the rest is what such links plausibly do.
WIFI = Profile("Wi-Fi", 18.8e6, 40e6, 0.002)
FOURTH_GENERATION = Profile("4G", 5.5e6, 15e6, 0.012)
THIRD_GENERATION = Profile("3G", 1.1e6, 3e6, 0.040)
PRESETS = {"wifi": WIFI, "4g": FOURTH_GENERATION, "3g": THIRD_GENERATION}


class Link:
    """Listens on a port of its own and carries every connection to `host`:`port` over one shared wire each way."""

    def __init__(self, host: str, port: int, profile: Profile = WIFI) -> None:
        self.profile = profile
        self.target = (host, port)
        self.port = 0
        self._up = _Wire(self, up=True)
        self._down = _Wire(self, up=False)
        self._open = threading.Event()
        self._open.set()
        self._stopping = threading.Event()
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()

    @property
    def is_cut(self) -> bool:
        """True between `cut` and `restore`."""
        return not self._open.is_set()

    @property
    def bytes_up(self) -> int:
        """Bytes that have left the client over the wire so far."""
        return self._up.bytes

    @property
    def bytes_down(self) -> int:
        """Bytes that have come back so far."""
        return self._down.bytes

    def start(self) -> None:
        """Listen on a free port of loopback."""
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        # Both are inherited by accepted sockets, and only there early enough to shape the window.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        _small_segments(listener)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        self._listener = listener
        self.port = listener.getsockname()[1]
        self._spawn(self._accept, listener)

    def stop(self) -> None:
        """Break every connection and stop listening."""
        self._stopping.set()
        self._open.set()
        with self._lock:
            sockets = [*self._sockets, *([self._listener] if self._listener else [])]
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(5.0)

    def set(self, profile: Profile) -> None:
        """Change rates and delay from the next chunk on; an outage stays one."""
        self.profile = profile

    def cut(self) -> None:
        """Begin an outage: nothing flows, nothing closes, nobody is told."""
        self._open.clear()

    def restore(self) -> None:
        """End an outage; what was under way goes on."""
        self._open.set()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()

    def wait_open(self) -> None:
        """Wait for the end of an outage."""
        self._open.wait()

    @property
    def stopping(self) -> bool:
        """True from `stop` on."""
        return self._stopping.is_set()

    def _spawn(self, target: Callable[[socket.socket], None], argument: socket.socket) -> None:
        thread = threading.Thread(target=target, args=(argument,), name="link", daemon=True)
        with self._lock:
            self._threads = [each for each in self._threads if each.is_alive()]
            self._threads.append(thread)
            thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while not self.stopping:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self._spawn(self._carry, client)

    def _carry(self, client: socket.socket) -> None:
        """Carry one connection until both directions have ended."""
        self.wait_open()  # the first packet of a connection does not get through an outage either
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        with client, server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
            _small_segments(server)
            try:
                server.connect(self.target)
            except OSError:
                return
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._sockets |= {client, server}
            if self.stopping:
                return
            ways = [_Way(self, self._up, client, server), _Way(self, self._down, server, client)]
            for way in ways:
                way.start()
            for way in ways:
                way.join()
        with self._lock:
            self._sockets -= {client, server}


class _Wire:
    """One direction of the link, taken by one chunk at a time, whichever connection it belongs to."""

    def __init__(self, link: Link, *, up: bool) -> None:
        self.bytes = 0
        self._link = link
        self._up = up
        self._free_at = 0.0
        self._lock = threading.Lock()

    @property
    def bits_per_second(self) -> float:
        """Return the rate at this moment."""
        profile = self._link.profile
        return profile.bits_per_second_up if self._up else profile.bits_per_second_down

    def occupy(self, size_bytes: int, *, follows: bool) -> float:
        """Take the wire for a chunk as soon as it is free; returns when the last bit is on it.

        `follows`: the chunk had been waiting, so it begins where the last one ended, even if we are a little late.
        """
        with self._lock:
            now = time.monotonic()
            late = now - self._free_at
            begin = self._free_at if late < 0 or (follows and late < _LATE_SECONDS) else now
            self._free_at = begin + 8 * size_bytes / self.bits_per_second
            self.bytes += size_bytes
            return self._free_at


class _Way:
    """One direction of one connection: one thread puts chunks on the wire, another hands them over at the far end."""

    def __init__(self, link: Link, wire: _Wire, source: socket.socket, sink: socket.socket) -> None:
        self._link = link
        self._wire = wire
        self._source = source
        self._sink = sink
        self._travelling: queue.Queue[tuple[float, bytes]] = queue.Queue(_MOST_CHUNKS_TRAVELLING)
        self._threads = [threading.Thread(target=each, name="link", daemon=True) for each in (self._send, self._arrive)]

    def start(self) -> None:
        """Begin to carry."""
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until the source has ended and all of it has arrived."""
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        data = b"-"
        while data:
            data, follows = self._take()
            self._link.wait_open()
            leaves_at = self._wire.occupy(len(data), follows=follows)
            _sleep_until(leaves_at)
            self._travelling.put((leaves_at + self._link.profile.delay_seconds, data))

    def _take(self) -> tuple[bytes, bool]:
        """Return the next bytes, nothing at the end, and whether they had been waiting."""
        chunk_bytes = int(self._wire.bits_per_second / 8 * _CHUNK_SECONDS)
        chunk_bytes = min(max(chunk_bytes, _LEAST_CHUNK_BYTES), _LARGEST_CHUNK_BYTES)
        try:
            with contextlib.suppress(BlockingIOError):
                return self._source.recv(chunk_bytes, socket.MSG_DONTWAIT), True
            return self._source.recv(chunk_bytes), False
        except OSError:
            return b"", False

    def _arrive(self) -> None:
        data = b"-"
        broken = False
        while data:
            arrives_at, data = self._travelling.get()
            _sleep_until(arrives_at)
            self._link.wait_open()
            if broken:
                continue  # nobody is there any more; empty the queue so that the sender's end is heard
            try:
                if data:
                    self._sink.sendall(data)
                else:
                    self._sink.shutdown(socket.SHUT_WR)
            except OSError:
                broken = True
                with contextlib.suppress(OSError):
                    self._source.shutdown(socket.SHUT_RDWR)


def _sleep_until(moment: float) -> None:
    remaining = moment - time.monotonic()
    if remaining > 0:
        time.sleep(remaining)


def _small_segments(connection: socket.socket) -> None:
    with contextlib.suppress(OSError, AttributeError):  # not every system lets one choose
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT_BYTES)
