"""The container with popexd installed in it, and everything that one does to it and hears from it."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from popexd.bus.base import Message
from popexd.bus.mqtt import MqttBus, MqttSettings
from popexd.protocol.topics import DeviceTopics

from .container import Container, until

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
SOURCE = "/usr/src/popexd"
WHEELS = "/usr/src/wheels"
HOST = "box"
TOPICS = DeviceTopics("site", HOST)
AGENT, WORKER, BROKER = "popexd-agent", "popexd-worker@cloud", "popexd-broker"
# What installing from wheels reads of the project.
_NEEDED = ("Makefile", "constraints.txt", "LICENSE", "CHANGELOG.md", "systemd", "packaging", "broker", "examples")


class Ear:
    """Hears everything on the container's broker, tensors too; sends frames and requests."""

    def __init__(self, port: int) -> None:
        self._heard: list[Message] = []
        self._lock = threading.Lock()
        self._asked = 0
        self.bus = MqttBus(MqttSettings(port=port))
        for topic_filter in ("popexd/#", "popexd-data/+/tier/#"):
            self.bus.subscribe(topic_filter, self._hear)
        self.bus.start()
        self.bus.wait_connected(60)

    def _hear(self, message: Message) -> None:
        with self._lock:
            self._heard.append(message)

    def all(self, topic: str) -> list[bytes]:
        """Every payload of a topic, oldest first."""
        with self._lock:
            return [message.payload for message in self._heard if message.topic == topic]

    def last(self, topic: str) -> dict[str, Any]:
        """The newest payload of a topic; empty before the first."""
        found = self.all(topic)
        return json.loads(found[-1]) if found and found[-1] else {}

    def until(self, topic: str, seconds: float = 60, **fields: Any) -> dict[str, Any]:
        """Wait until the newest payload of a topic has these fields."""
        wanted = fields.items()
        return until(lambda: wanted <= self.last(topic).items() and self.last(topic), f"{topic} {fields}", seconds)

    def send(self, frame_id: str, jpeg: bytes, camera: str = "gate") -> None:
        """Publish a frame."""
        self.bus.publish(TOPICS.frames(camera), jpeg, qos=1, user_properties=[("frame_id", frame_id)])

    def answers(self, frame_id: str, camera: str = "gate") -> set[bytes]:
        """Every different answer to a frame so far."""
        return {each for each in self.all(TOPICS.results(camera)) if json.loads(each)["frame_id"] == frame_id}

    def answer(self, frame_id: str, camera: str = "gate") -> dict[str, Any]:
        """Wait for the one answer to a frame."""
        found = until(lambda: self.answers(frame_id, camera), f"the answer to {frame_id}")
        assert len(found) == 1
        return json.loads(found.pop())

    def ask(self, verb: str, **fields: Any) -> dict[str, Any]:
        """Send a request and wait for its response."""
        self._asked += 1
        transaction = f"{id(self)}-{self._asked}"
        self.bus.publish(TOPICS.request(verb), json.dumps({"transaction": transaction, **fields}).encode(), qos=1)
        return self.until(TOPICS.response(verb), transaction=transaction)

    def tensors(self) -> int:
        """How many tensor messages have passed."""
        with self._lock:
            return sum("/tier/cloud/" in each.topic and not each.topic.endswith("/probe") for each in self._heard)

    def at_rest(self) -> dict[str, int]:
        """Wait until the agent owes nothing; its books balance."""

        def balanced() -> dict[str, int] | None:
            frames = self.last(TOPICS.metrics).get("frames")
            return frames if frames and frames["taken"] == frames["answered"] else None

        frames = until(balanced, "an agent that owes nothing")
        assert frames["received"] == frames["taken"] + frames["dropped"] + frames["rejected"]
        return frames


class Machine:
    """Installs, looks at units, reads the journal."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.ear: Ear
        self.sh = container.sh

    def prepare(self, wheels: Path) -> None:
        """Put the project's installer and its wheels on the machine."""
        source = self.container.root / SOURCE.lstrip("/")
        source.mkdir(parents=True)
        for name in _NEEDED:
            copy: Callable[[Path, Path], object] = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            copy(ROOT / name, source / name)
        shutil.copytree(wheels, self.container.root / WHEELS.lstrip("/"))

    def install(self, *variables: str, wheels: str = WHEELS, check: bool = True) -> str:
        """Run `make install`; returns what it said."""
        words = ("make", "--no-print-directory", "-C", SOURCE, "install", f"WHEELS={wheels}", "SETTLE_SECONDS=2")
        done = self.container.run(*words, *variables, check=check, timeout=240)
        return done.stdout + done.stderr

    @property
    def installed(self) -> bool:
        """Whether `make install` was done and not undone."""
        return (self.container.root / "opt/popexd/current").is_symlink()

    def ready(self) -> None:
        """Have agent and worker installed, running with the examples' configuration, and heard."""
        if not self.installed:
            self.install(f"UNITS={AGENT} {WORKER}")
        if (self.container.root / "var/lib/popexd-broker").exists():
            self.sh("systemctl disable --now popexd-broker; rm -rf /var/lib/popexd-broker")
        for example, name in (("agent", AGENT), ("worker-cloud", WORKER)):
            text = (ROOT / "examples" / f"{example}.toml").read_text()
            # Sooner than in a minute: what a test waits for.
            text = text.replace("interval_seconds = 10.0", "interval_seconds = 0.5")
            if self.configuration(example) != text:
                self.configure(example, text)
                self.sh(f"systemctl reset-failed {name}; systemctl restart {name}")
        self.sh(f"systemctl start mosquitto {AGENT} {WORKER}")
        self.listen()
        until(lambda: self.ear.last(TOPICS.state).get("state") == "online", "the agent")
        until(lambda: self.ear.last(TOPICS.worker(HOST, "state")).get("state") == "online", "the worker")

    def listen(self) -> None:
        """Have an ear that has heard nothing yet but what is retained."""
        if hasattr(self, "ear"):
            self.ear.bus.stop()
        self.ear = Ear(self.container.door(1883))

    def configuration(self, name: str) -> str:
        """The text of a configuration file."""
        return (self.container.root / "etc/popexd" / f"{name}.toml").read_text()

    def configure(self, name: str, text: str) -> None:
        """Write a configuration file."""
        self.container.write(f"/etc/popexd/{name}.toml", text)

    def drop_in(self, unit: str, text: str) -> None:
        """Add settings to a unit, and restart it."""
        self.container.write(f"/etc/systemd/system/{unit}.service.d/test.conf", f"[Service]\n{text}\n")
        self.sh(f"systemctl daemon-reload; systemctl restart {unit}")

    def no_drop_in(self, unit: str) -> None:
        """Take them away again."""
        self.sh(f"rm -rf /etc/systemd/system/{unit}.service.d; systemctl daemon-reload; systemctl restart {unit}")

    def show(self, unit: str, key: str) -> str:
        """A property of a unit."""
        return self.sh(f"systemctl show -p {key} --value {unit}").strip()

    def journal(self, *words: str) -> list[dict[str, Any]]:
        """Journal entries of this boot, as systemd exports them."""
        done = self.container.run("journalctl", "--boot", "--no-pager", "-o", "json", *words)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def logged(self, unit: str, event: str) -> list[dict[str, Any]]:
        """Entries of one of our events."""
        return self.journal(f"_SYSTEMD_UNIT={unit}.service", f"POPEXD_EVENT={event}")
