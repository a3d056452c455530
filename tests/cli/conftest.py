"""A real broker for the commands, and an agent that answers in the fewest lines."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog

from broker.process import Broker
from popexd.bus.base import Message, Will
from popexd.bus.mqtt import MqttBus, MqttSettings
from popexd.cli.main import main
from popexd.protocol.messages import AgentState, EventPayload, ResultPayload, ResultSeconds
from popexd.protocol.topics import DeviceTopics
from tests.broker.site import Site

TOPICS = DeviceTopics("site", "bench")

Run = Callable[..., int]


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """Mosquitto on a free port."""
    with Broker() as running:
        yield running


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Commands configure logging for their process; here it is ours."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture
def run() -> Run:
    """Run `popexd` with these words in this process; returns its exit status."""

    def run_words(*words: object) -> int:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        return int(ended.value.code or 0)

    return run_words


def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for a condition with a deadline."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not true():
        assert time.monotonic() < deadline, "the condition did not come true"
        pause.wait(0.005)


def online(bus: MqttBus) -> MqttBus:
    """Start a bus and wait for its connection."""
    bus.start()
    until(lambda: bus.connected)
    return bus


def state(online: bool) -> bytes:
    """What the retained state topic says."""
    return AgentState(
        state="online" if online else "offline", version="0.1.0", model="toy", reason=None if online else "stopped"
    ).to_bytes()


def result(frame_id: str, camera: str = "publish") -> bytes:
    """Make an answer."""
    return ResultPayload(
        frame_id=frame_id,
        camera=camera,
        label="washer",
        class_index=3,
        confidence=0.91,
        exit="b1",
        tier="device",
        plan_id="p1",
        captured_at=datetime.now(UTC),
        seconds=ResultSeconds(total=0.0123, device=0.01),
        bytes_sent=0,
    ).to_bytes()


class AnsweringAgent:
    """Answers every frame with a fixed label, rejects what begins with `bad`, ignores what begins with `mute`."""

    def __init__(self, broker: Broker) -> None:
        self.frames: list[Message] = []
        self.bus = MqttBus(MqttSettings(port=broker.port), Will(TOPICS.state, state(online=False)))
        self.bus.subscribe(TOPICS.frames("+"), self._answer)
        self.bus.retain(TOPICS.state, state(online=True))
        online(self.bus)

    def _answer(self, message: Message) -> None:
        self.frames.append(message)
        frame_id = dict(message.user_properties)["frame_id"]
        if message.payload.startswith(b"bad"):
            event = EventPayload.model_validate(
                {"event": "input.rejected", "at": datetime.now(UTC), "frame_id": frame_id, "reason": "type"}
            )
            self.bus.publish(TOPICS.event, event.to_bytes(), qos=1)
        elif not message.payload.startswith(b"mute"):
            camera = TOPICS.camera_of(message.topic)
            self.bus.publish(TOPICS.results(camera), result(frame_id, camera), qos=1)

    def stop(self) -> None:
        """Say farewell and leave no retained state behind."""
        self.bus.publish(TOPICS.state, b"", qos=1, retain=True)
        self.bus.stop()


@pytest.fixture
def agent(broker: Broker) -> Iterator[AnsweringAgent]:
    """Run an agent on site/bench."""
    running = AnsweringAgent(broker)
    yield running
    running.stop()


class Examination:
    """What doctor printed with --json."""

    def __init__(self, text: str, status: int) -> None:
        self.status = status
        said = json.loads(text.splitlines()[-1])  # the broker of this process may have logged before
        self.findings: list[dict[str, str]] = said["findings"]
        self.level: str = said["status"]

    def of(self, check: str) -> list[dict[str, str]]:
        """Every finding of one check."""
        return [each for each in self.findings if each["check"] == check]

    def the(self, check: str) -> dict[str, str]:
        """The only finding of a check."""
        (found,) = self.of(check)
        return found


@pytest.fixture
def examine(run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs it with these words; measurements would go to a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("POPEXD_MQTT__DEVICE", "pi")

    def examination(*words: object) -> Examination:
        status = run("doctor", *words, "--json")
        return Examination(capsys.readouterr().out, status)

    return examination


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A broker with TLS and accounts."""
    made = Site(tmp_path_factory.mktemp("broker"))
    with made.running():
        yield made
