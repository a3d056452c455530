"""The broker's watchdog is fed while Mosquitto answers, whoever is let in, and not while it hangs."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from broker.accounts import BrokerFolder, Register
from broker.config import BrokerSettings
from broker.heartbeat import Heartbeat
from broker.process import Broker
from broker.service import Service
from popexd.service import Notifier
from tests.bus.waiting import until


class Manager:
    """Listens to what a service says of itself."""

    def __init__(self, folder: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self._socket.setblocking(False)
        self.environment = {
            "NOTIFY_SOCKET": str(folder / "notify"),
            "RUNTIME_DIRECTORY": str(folder),
            "WATCHDOG_USEC": "20000000",
        }

    def heartbeat(self) -> Heartbeat:
        """One whose time has always come."""
        hours = itertools.count(3600, 3600)
        return Heartbeat(Notifier(self.environment), lambda: float(next(hours)))

    def fed(self) -> int:
        """How often the watchdog was fed since the last question."""
        count = 0
        while True:
            try:
                count += b"WATCHDOG=1" in self._socket.recv(4096)
            except BlockingIOError:
                return count

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """A service manager with a watchdog of twenty seconds."""
    manager = Manager(tmp_path)
    yield manager
    manager.close()


def test_the_watchdog_is_fed_while_mosquitto_answers(manager: Manager) -> None:
    """Over one connection; not while it is paused, and again when it goes on or was started anew."""
    heartbeat = manager.heartbeat()
    with Broker(settings=BrokerSettings(extra_lines=heartbeat.lines)) as broker:
        for _ in range(3):
            heartbeat.look()
        assert manager.fed() == 3
        until(lambda: "New client connected" in broker.log, "the line of its coming")
        assert broker.log.count("New client connected") == 1
        broker.pause()
        heartbeat.look()
        assert manager.fed() == 0
        broker.resume()
        heartbeat.look()
        assert manager.fed() == 1
        broker.kill()
        heartbeat.look()
        assert manager.fed() == 0
        broker.start()
        heartbeat.look()
        assert manager.fed() == 1


def test_who_asks_is_no_news_where_strangers_are_refused(
    manager: Manager, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With accounts the answer is no, which is an answer; neither file nor journal tell of it."""
    folder = BrokerFolder(tmp_path / "broker")
    folder.init(Register("site", "127.0.0.1", 8883, ("localhost",)))
    heartbeat = manager.heartbeat()
    with ExitStack() as stack:
        service = Service(folder, 0, heartbeat)
        stack.callback(service.stop)
        service.start()
        for _ in range(3):
            heartbeat.look()
        assert manager.fed() == 3
        log = service.broker.log
    said = capsys.readouterr()
    assert "refused" not in said.out + said.err
    assert "not authorised" not in log
    assert "heartbeat" not in log.replace("Opening unix listen socket", "").split("running")[-1]


def test_without_a_watchdog_nothing_is_opened_and_nobody_asked(tmp_path: Path) -> None:
    """On a terminal the broker is what its options say."""
    heartbeat = Heartbeat(Notifier({"RUNTIME_DIRECTORY": str(tmp_path)}))
    heartbeat.look()
    assert heartbeat.lines == ()
    assert list(tmp_path.iterdir()) == []
