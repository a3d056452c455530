"""The main thread of a daemon: what it tells the service manager, and what signals ask of it.

The protocol is that of sd_notify(3), datagrams of `KEY=value` lines to the socket that `$NOTIFY_SOCKET` names. Where
there is none nothing is sent, and everything else is the same.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol

from popexd.backoff import Backoff
from popexd.errors import PopexdError
from popexd.logs import get_logger

log = get_logger("service")

_LOOK_SECONDS = 5.0
_SETTLED_SECONDS = 60.0
_STOP, _RELOAD = "stop", "reload"


class Notifier:
    """Says how it goes to whoever started us; never fails and never waits.

    Arguments:
        environment: where `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` are looked up.

    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the null byte of Linux's abstract names, which an environment cannot hold.
        folder = environment.get("RUNTIME_DIRECTORY", "").split(":")[0]
        self.runtime_folder = Path(folder) if folder else None
        self._address = "\0" + address[1:] if address.startswith("@") else address
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "")
        self.watchdog_seconds = int(microseconds) / 1e6 if mine and microseconds.isdecimal() else None

    def send(self, *lines: str) -> None:
        """Send these lines as one message."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto("\n".join(lines).encode(), self._address)


@dataclass(frozen=True, slots=True)
class Pulse:
    """How one living part shows that it gets on.

    `beat` returns a number that changes as it does, None while nothing can be expected of it; a number that has not
    changed for `patience_seconds` means that the part hangs.
    """

    beat: Callable[[], int | None]
    patience_seconds: float


class Watchdog:
    """Looks at the pulses; `late` names the parts that hang."""

    def __init__(self, pulses: Mapping[str, Pulse]) -> None:
        self._pulses = pulses
        self._seen: dict[str, tuple[int | None, float]] = {}

    def late(self, now: float) -> list[str]:
        """Return the parts that have not moved within their patience."""
        found = []
        for name, pulse in self._pulses.items():
            beat = pulse.beat()
            last, moved_at = self._seen.get(name, (None, now))
            if beat is None or beat != last:
                self._seen[name] = (beat, now)
            elif now - moved_at > pulse.patience_seconds:
                found.append(name)
        return found


class Program(Protocol):
    """A daemon, as its main thread sees it."""

    def start(self) -> None:
        """Return once the program does what it is there for."""

    def stop(self) -> bool:
        """Finish what is owed and end; tell whether all of it was done."""

    def reload(self) -> str:
        """Read the configuration again and put in force what can change now; say what cannot, else nothing.

        Raises:
            PopexdError: the configuration cannot be used; the one in force stays so.

        """

    def status(self) -> str:
        """Say on one line what the program is doing."""

    def pulses(self) -> Mapping[str, Pulse]:
        """Return the parts whose hanging means that the program hangs."""


class Service:
    """Runs a program until SIGTERM, SIGINT or `stop`; SIGHUP makes it read its configuration again.

    The service manager hears that the program is ready, how it goes, and, only while every part of it is seen to get
    on, that it lives.
    """

    def __init__(self, notifier: Notifier | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._notifier = notifier or Notifier()
        self._monotonic = monotonic
        self._backoff = Backoff(self._notifier.runtime_folder)
        self._wishes: SimpleQueue[str] = SimpleQueue()  # its put() may interrupt itself, as signals do
        self._told = ""
        self._note = ""
        self._late: list[str] = []

    def stop(self) -> None:
        """Ask the program to end; any thread may."""
        self._wishes.put(_STOP)

    def run(self, make: Callable[[], Program]) -> bool:
        """Make the program and run it to its end; tell whether everything owed was done. For the main thread only."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._wishes.put(_STOP))
        signal.signal(signal.SIGHUP, lambda *_: self._wishes.put(_RELOAD))
        if self._wait():
            return True
        program = make()
        program.start()
        self._told = program.status()
        self._notifier.send("READY=1", f"STATUS={self._told}")
        watchdog = Watchdog(program.pulses())
        settled_at = self._monotonic() + _SETTLED_SECONDS
        while (wish := self._next()) != _STOP:
            if wish == _RELOAD:
                self._reload(program)
            self._look(program, watchdog)
            if self._monotonic() >= settled_at:
                self._backoff.settled()
                settled_at = math.inf
        self._notifier.send("STOPPING=1", "STATUS=answering what is owed")
        done = program.stop()
        if done:
            self._backoff.settled()
        return done

    def _wait(self) -> bool:
        """Wait where the last starts failed; tell whether we were asked to end meanwhile."""
        seconds = self._backoff.starting()
        if not seconds:
            return False
        self._notifier.send(f"STATUS=the last starts failed, waiting {seconds:.0f} s")
        give_up_at = self._monotonic() + seconds
        while (left := give_up_at - self._monotonic()) > 0:
            with contextlib.suppress(Empty):
                if self._wishes.get(timeout=left) == _STOP:
                    self._backoff.settled()
                    return True
        return False

    def _next(self) -> str | None:
        limit = self._notifier.watchdog_seconds
        try:
            return self._wishes.get(timeout=_LOOK_SECONDS if limit is None else min(_LOOK_SECONDS, limit / 4))
        except Empty:
            return None

    def _look(self, program: Program, watchdog: Watchdog) -> None:
        late = watchdog.late(self._monotonic())
        if late != self._late and late:
            log.error("watchdog.withheld", stalled=",".join(late))
        elif late != self._late:
            log.info("watchdog.resumed")
        self._late = late
        status = f"stalled: {', '.join(late)}" if late else f"{program.status()}{self._note}"
        lines = [f"STATUS={status}"] if status != self._told else []
        self._told = status
        if self._notifier.watchdog_seconds is not None and not late:
            lines.append("WATCHDOG=1")
        if lines:
            self._notifier.send(*lines)

    def _reload(self, program: Program) -> None:
        # systemd wants the instant on the same clock as its own (sd_notify(3)).
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notifier.send("RELOADING=1", f"MONOTONIC_USEC={microseconds}")
        try:
            note = program.reload()
        except PopexdError as error:
            note = "the changed configuration is refused, see the journal"
            log.error("configuration.refused", detail=str(error))  # noqa: TRY400 the user's mistake: no traceback
        except Exception as error:  # noqa: BLE001 what nobody thought of must not end a daemon that works
            note = "the changed configuration is refused, see the journal"
            log.error("configuration.refused", detail=f"{type(error).__name__}: {error}"[:300])  # noqa: TRY400 one line
        self._note = f"; {note}" if note else ""
        self._told = f"{program.status()}{self._note}"
        self._notifier.send("READY=1", f"STATUS={self._told}")
