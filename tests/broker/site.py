"""A broker set up as `popexd broker init` and `add` do, with one account of every kind."""

from __future__ import annotations

import io
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from broker.access import User
from broker.accounts import BrokerFolder, Credentials, Register
from broker.client import write_folder
from broker.service import Service
from popexd import logs
from popexd.bus import Will
from popexd.bus.mqtt import MqttBus, MqttSettings
from tests.bus.waiting import PATIENCE_SECONDS, until

USERS = (
    User("pi", "agent"),
    User("other", "agent"),
    User("w1", "worker", tier="cloud"),
    User("e1", "worker", tier="edge"),
    User("gate", "camera", devices=("pi",)),
    User("eyes", "monitor"),
    User("boss", "operator"),
)


class Site:
    """A broker's folder, the clients' files in it, and what the broker logs."""

    def __init__(self, path: Path) -> None:
        self.folder = BrokerFolder(path)
        self.folder.init(Register("site", "127.0.0.1", 8883, ("127.0.0.1", "localhost")))
        self.log = io.StringIO()
        self.port = 0
        for user in USERS:
            self.hand_over(self.folder.add(user))

    def hand_over(self, credentials: Credentials) -> None:
        """Write a client's files where `of` finds them."""
        write_folder(self.folder.path / "clients" / credentials.name, credentials, self.folder.read())

    def of(self, name: str, **changed: Any) -> MqttSettings:
        """How this account connects; `changed` says otherwise."""
        home = self.folder.path / "clients" / name
        told: dict[str, Any] = {
            "port": self.port,
            "username": name,
            "password": (home / "password").read_text().strip(),
            "ca_file": self.folder.path / "authority.pem",
            "cert_file": home / "certificate.pem",
            "key_file": home / "key.pem",
        }
        return MqttSettings(**(told | changed))

    def logged(self, *words: str) -> bool:
        """Tell whether one line of the log has all these words."""
        return any(all(word in line for word in words) for line in self.log.getvalue().splitlines())

    @property
    def mosquitto(self) -> str:
        """What Mosquitto wrote itself."""
        return (self.folder.path / "mosquitto.log").read_text()

    def wait_logged(self, *words: str) -> None:
        """Wait until one line of the log has all these words."""
        until(lambda: self.logged(*words), f"{words} in\n{self.log.getvalue()}\nof\n{self.mosquitto[-2000:]}")

    def listen(self) -> None:
        """Begin the log anew; what repeats is thinned out from here on only."""
        self.log = io.StringIO()
        logs.configure(stream=self.log)

    @contextmanager
    def running(self) -> Iterator[Service]:
        """The broker, as `popexd broker run` runs it."""
        self.listen()
        service = Service(self.folder, port=0)
        service.start()
        self.port = service.broker.port
        try:
            yield service
        finally:
            service.stop()
            structlog.reset_defaults()


@contextmanager
def connected(settings: MqttSettings, will: Will | None = None) -> Iterator[MqttBus]:
    """A connection that is up."""
    bus = MqttBus(settings, will)
    bus.start()
    try:
        bus.wait_connected(PATIENCE_SECONDS)
        yield bus
    finally:
        bus.stop()


def refusal(settings: MqttSettings) -> str:
    """Why the broker does not let us in; fail if it does."""
    told: queue.Queue[tuple[bool, str]] = queue.Queue()
    bus = MqttBus(settings)
    bus.on_connection(lambda connected, reason: told.put((connected, reason)))
    bus.start()
    try:
        connected, reason = told.get(timeout=PATIENCE_SECONDS)
    finally:
        bus.stop()
    assert not connected
    return reason


@contextmanager
def connecting(settings: MqttSettings) -> Iterator[MqttBus]:
    """A connection that may never come up."""
    bus = MqttBus(settings)
    bus.start()
    try:
        yield bus
    finally:
        bus.stop()
