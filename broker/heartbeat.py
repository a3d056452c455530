"""The watchdog of a broker that runs as a service: fed while Mosquitto answers, not while we merely wait for its end.

Mosquitto is asked over a socket of its own in the unit's runtime folder, where nobody else can reach it: no certificate
and no account is needed, for "not authorised" is an answer, too.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable

from popexd.logs import get_logger
from popexd.service import Notifier

log = get_logger("broker")

_SOCKET = "heartbeat.sock"
_MOST_SECONDS = 5.0
"""Between two questions, and to wait for an answer; less where the watchdog is sooner."""
# MQTT 5: CONNECT with a clean start, without a keepalive, a name or properties; CONNACK; PINGREQ; PINGRESP.
_CONNECT = b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x00"
_CONNECTED = 0x20
_ASK, _ANSWER = b"\xc0\x00", b"\xd0\x00"
_REASON_AT = 3


class Heartbeat:
    """Asks Mosquitto as often as the service manager wants to hear; nothing where it does not.

    Arguments:
        notifier: knows whether there is a watchdog, and feeds it.
        monotonic: the clock.

    """

    def __init__(self, notifier: Notifier | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._notifier = notifier or Notifier()
        self._monotonic = monotonic
        folder, limit = self._notifier.runtime_folder, self._notifier.watchdog_seconds
        self.path = None if folder is None or limit is None else folder.absolute() / _SOCKET
        self._seconds = min(_MOST_SECONDS, (limit or 0.0) / 4)
        self._due_at = 0.0
        self._silent = False
        self._connection: socket.socket | None = None

    @property
    def lines(self) -> tuple[str, ...]:
        """What Mosquitto's configuration needs for it."""
        return () if self.path is None else (f"listener 0 {self.path}",)

    def look(self) -> None:
        """Ask, if it is time, and feed the watchdog if an answer comes."""
        if self.path is None or self._monotonic() < self._due_at:
            return
        answered = self._answered()
        if answered:
            self._notifier.send("WATCHDOG=1")
        elif not self._silent:
            log.error("watchdog.withheld", stalled="mosquitto")
        self._silent = not answered
        self._due_at = self._monotonic() + self._seconds

    def _answered(self) -> bool:
        try:
            if self._connection is None:
                return self._connect()
            self._connection.sendall(_ASK)
            if self._connection.recv(2) == _ANSWER:
                return True
        except OSError:
            pass
        self._hang_up()
        return False

    def _connect(self) -> bool:
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.settimeout(self._seconds)
        self._connection.connect(str(self.path))
        self._connection.sendall(_CONNECT)
        said = self._connection.recv(1024)
        if len(said) <= _REASON_AT or said[_REASON_AT]:
            self._hang_up()
        return said[:1] == bytes([_CONNECTED])

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.close()
