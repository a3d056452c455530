"""`popexd broker run`: Mosquitto until it ends or a signal comes, and what the service manager hears of it."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Protocol

from popexd.backoff import Backoff
from popexd.errors import BusError
from popexd.service import Notifier

from .heartbeat import Heartbeat
from .process import Broker

LOOK_SECONDS = 1.0
_SETTLED_SECONDS = 60.0
_SAME_TIME_SECONDS = 0.2
_ENDING = (signal.SIGTERM, signal.SIGINT)


class Runnable(Protocol):
    """A broker, and what is to be seen to while it runs."""

    broker: Broker

    def look(self) -> None:
        """See to it, about once a second."""


class Plain:
    """A broker as the options describe it: nothing to follow."""

    def __init__(self, broker: Broker, heartbeat: Heartbeat) -> None:
        self.broker = broker
        self._heartbeat = heartbeat

    def look(self) -> None:
        """See whether Mosquitto answers."""
        self._heartbeat.look()


class Asked:
    """Whether somebody wants us to end: SIGTERM or SIGINT. Nothing is raised, so nothing is cut short."""

    def __init__(self) -> None:
        self._signals: SimpleQueue[int] = SimpleQueue()  # its put() may interrupt itself, as signals do
        for number in _ENDING:
            signal.signal(number, lambda got, _: self._signals.put(got))

    def within(self, seconds: float) -> bool:
        """Wait for it; tell whether it came."""
        try:
            self._signals.get(timeout=seconds)
        except Empty:
            return False
        return True

    def no_more(self) -> None:
        """Hear no further signal: what is left to do is short."""
        for number in (*_ENDING, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)


def until_signalled(make: Callable[[], Runnable], notifier: Notifier, as_json: bool) -> int:
    """Make a broker and run it; the first line says where it listens. For the main thread only.

    Raises:
        BusError: it ended by itself, or did not start; the text carries its last words.

    """
    asked, backoff = Asked(), Backoff(notifier.runtime_folder)
    if _waited(asked, backoff, notifier):
        return 0
    broker: Broker | None = None
    try:
        service = make()
        broker = service.broker
        signal.signal(signal.SIGHUP, lambda *_: service.broker.reload())
        broker.start()
        place = {"host": broker.host, "port": broker.port}
        print(json.dumps(place) if as_json else f"mosquitto listens on {broker.host}:{broker.port}", flush=True)
        _serve(service, asked, backoff)
    except BusError as error:
        # A service manager asks every process of a unit, and Mosquitto may be the first to hear it.
        if asked.within(_SAME_TIME_SECONDS):
            backoff.settled()
            return 0
        if "in use" not in str(error):
            raise
        raise BusError(f"{error}; expected a free port, --port 0 finds one") from error
    finally:
        asked.no_more()
        if broker is not None:
            broker.stop()
    return 0


def _waited(asked: Asked, backoff: Backoff, notifier: Notifier) -> bool:
    """Wait where the last starts failed; tell whether we were asked to end meanwhile."""
    seconds = backoff.starting()
    if not seconds:
        return False
    notifier.send(f"STATUS=the last starts failed, waiting {seconds:.0f} s")
    if asked.within(seconds):
        backoff.settled()
        return True
    notifier.send("STATUS=")
    return False


def _serve(service: Runnable, asked: Asked, backoff: Backoff) -> None:
    settled_at = time.monotonic() + _SETTLED_SECONDS
    while not asked.within(LOOK_SECONDS):
        if (status := service.broker.wait(0)) is not None:
            raise BusError(_ended(status, service.broker))
        service.look()
        if time.monotonic() >= settled_at:
            backoff.settled()
            settled_at = math.inf
    backoff.settled()


def _ended(status: int, broker: Broker) -> str:
    if status >= 0:
        return f"mosquitto ended with status {status}: {broker.last_words}"
    try:
        name = f" ({signal.Signals(-status).name})"
    except ValueError:  # a real-time signal
        name = ""
    return f"mosquitto was killed by signal {-status}{name}"
