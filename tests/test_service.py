"""The main thread of a daemon, against a real notification socket and real signals."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from popexd.backoff import Backoff
from popexd.errors import ConfigurationError
from popexd.service import Notifier, Pulse, Service, Watchdog


class Manager:
    """What systemd is to a daemon: a socket, and whatever was said to it."""

    def __init__(self, address: str, watchdog_seconds: float | None = None) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.settimeout(60)
        self.environment = {"NOTIFY_SOCKET": address}
        if watchdog_seconds is not None:
            self.environment["WATCHDOG_USEC"] = str(int(watchdog_seconds * 1e6))
            self.environment["WATCHDOG_PID"] = str(os.getpid())

    def hears(self) -> dict[str, str]:
        """Wait for the next message."""
        lines = self._socket.recv(4096).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def until(self, key: str) -> dict[str, str]:
        """Wait for a message with this key."""
        while key not in (said := self.hears()):
            pass
        return said

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()


class Program:
    """A daemon that does what it is told."""

    def __init__(self, beat: Callable[[], int | None] = lambda: None) -> None:
        self.beat = beat
        self.happened: list[str] = []
        self.note = ""
        self.fault: Exception | None = None

    def start(self) -> None:
        """See Program."""
        self.happened.append("started")

    def stop(self) -> bool:
        """See Program."""
        self.happened.append("stopped")
        return True

    def reload(self) -> str:
        """See Program."""
        self.happened.append("reloaded")
        if self.fault is not None:
            raise self.fault
        return self.note

    def status(self) -> str:
        """See Program."""
        return "doing well"

    def pulses(self) -> Mapping[str, Pulse]:
        """See Program."""
        return {"loop": Pulse(self.beat, 0.0)}


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """A service manager that watches."""
    one = Manager(str(tmp_path / "notify"), watchdog_seconds=0.2)
    yield one
    one.close()


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def conducted(script: Callable[[], None]) -> threading.Thread:
    """Run what happens to the daemon from outside, while its main thread serves."""
    thread = threading.Thread(target=script, daemon=True)
    thread.start()
    return thread


def counting() -> Callable[[], int]:
    """Make a pulse that always moves."""
    numbers = iter(range(10**9))
    return lambda: next(numbers)


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_the_manager_hears_ready_alive_and_stopping(kind: str, tmp_path: Path) -> None:
    """In this order, at a socket in the file system or of Linux's abstract kind, until SIGTERM."""
    address = str(tmp_path / "notify") if kind == "path" else f"@popexd-{secrets.token_hex(8)}"
    manager = Manager(address, watchdog_seconds=0.2)
    program = Program(counting())
    heard = []

    def script() -> None:
        heard.append(manager.hears())
        heard.append(manager.until("WATCHDOG"))
        os.kill(os.getpid(), signal.SIGTERM)
        heard.append(manager.until("STOPPING"))

    thread = conducted(script)
    assert Service(Notifier(manager.environment)).run(lambda: program)
    thread.join(60)
    manager.close()

    assert heard[0] == {"READY": "1", "STATUS": "doing well"}
    assert "WATCHDOG" in heard[1]
    assert heard[2]["STOPPING"] == "1"
    assert program.happened == ["started", "stopped"]


def test_a_part_that_hangs_withholds_the_sign_of_life(manager: Manager) -> None:
    """The watchdog is fed by progress alone; which part it was is in the status line."""
    service = Service(Notifier(manager.environment))
    told = []

    def script() -> None:
        manager.until("READY")
        told.append(manager.until("STATUS"))
        service.stop()

    thread = conducted(script)
    service.run(lambda: Program(lambda: 7))
    thread.join(60)

    assert told == [{"STATUS": "stalled: loop"}]


def test_idle_parts_and_excused_ones_are_alive() -> None:
    """What moves within its patience is well, and so is what nothing can be expected of."""
    beats: dict[str, int | None] = {"loop": 1, "bus": 5}
    watchdog = Watchdog({name: Pulse(lambda name=name: beats[name], 10.0) for name in beats})

    assert watchdog.late(0.0) == []
    assert watchdog.late(10.0) == []
    assert watchdog.late(10.1) == ["loop", "bus"]
    beats.update(loop=2, bus=None)
    assert watchdog.late(11.0) == []
    assert watchdog.late(25.0) == ["loop"]
    beats["bus"] = 5
    assert watchdog.late(26.0) == ["loop"]


def test_sighup_reloads_and_says_what_waits(manager: Manager) -> None:
    """RELOADING with the instant, READY again when it is done, and what needs a restart in the status."""
    program = Program(counting())
    program.note = "needs a restart: mqtt.port"
    service = Service(Notifier(manager.environment))
    heard = []

    def script() -> None:
        manager.until("READY")
        os.kill(os.getpid(), signal.SIGHUP)
        heard.append(manager.until("RELOADING"))
        heard.append(manager.until("READY"))
        program.fault = ConfigurationError("agent.toml: not TOML")
        os.kill(os.getpid(), signal.SIGHUP)
        heard.append(manager.until("READY"))
        service.stop()

    thread = conducted(script)
    service.run(lambda: program)
    thread.join(60)

    assert heard[0]["MONOTONIC_USEC"].isdecimal()
    assert heard[1]["STATUS"] == "doing well; needs a restart: mqtt.port"
    assert heard[2]["STATUS"] == "doing well; the changed configuration is refused, see the journal"
    assert program.happened == ["started", "reloaded", "reloaded", "stopped"]


@pytest.mark.parametrize("fault", [OverflowError("x"), KeyError("x"), PermissionError(13, "x"), TypeError("x")])
def test_no_reload_ends_a_daemon_that_works(manager: Manager, fault: Exception) -> None:
    """Whatever it comes upon, the configuration in force stays so."""
    program = Program(counting())
    program.fault = fault
    service = Service(Notifier(manager.environment))
    heard = []

    def script() -> None:
        manager.until("READY")
        os.kill(os.getpid(), signal.SIGHUP)
        heard.append(manager.until("READY"))
        service.stop()

    thread = conducted(script)
    service.run(lambda: program)
    thread.join(60)

    assert heard[0]["STATUS"] == "doing well; the changed configuration is refused, see the journal"
    assert program.happened == ["started", "reloaded", "stopped"]


def test_without_a_manager_nothing_is_different() -> None:
    """Neither a missing socket nor a watchdog that is another's is any matter."""
    service = Service(Notifier({"NOTIFY_SOCKET": "/nowhere/at/all", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}))
    service.stop()
    program = Program()

    assert service.run(lambda: program)
    assert program.happened == ["started", "stopped"]


def test_starts_that_fail_wait_longer_and_longer(tmp_path: Path) -> None:
    """None after the first ones, then twice as long each time, at most a minute; running well begins anew."""
    backoff = Backoff(tmp_path)

    assert [backoff.starting() for _ in range(10)] == [0, 0, 0, 2, 4, 8, 16, 32, 60, 60]
    backoff.settled()
    assert backoff.starting() == 0
    assert Backoff(None).starting() == 0
    assert Backoff(tmp_path / "missing").starting() == 0


def test_a_stop_ends_the_waiting(manager: Manager, tmp_path: Path) -> None:
    """Whoever stops a service that waits for its next start need not wait too; nothing was made meanwhile."""
    (tmp_path / "starts").write_text("20")
    service = Service(Notifier({**manager.environment, "RUNTIME_DIRECTORY": str(tmp_path)}))
    service.stop()

    def never() -> Program:
        raise AssertionError

    assert service.run(never)
    assert manager.hears()["STATUS"] == "the last starts failed, waiting 60 s"
