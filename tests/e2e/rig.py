"""A whole installation in miniature: brokers, agents, workers, a camera, and a watcher who forgets nothing."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from agent.runtime import Agent
from broker.config import BrokerSettings
from broker.process import Broker, free_port
from cloud_worker.worker import Worker
from popexd.bundle import Bundle, load
from popexd.bus import Message
from popexd.bus.mqtt import MqttBus, MqttSettings
from popexd.bus.topic import matches
from popexd.config import AgentConfig, WorkerConfig, as_toml
from popexd.lab.conveyor import scene
from popexd.lab.link import Link, Profile
from popexd.protocol.messages import (
    AgentState,
    DecisionPayload,
    EventPayload,
    MetricsPayload,
    Payload,
    ResponsePayload,
    ResultPayload,
    WorkerMetrics,
    WorkerState,
)
from popexd.protocol.topics import DeviceTopics
from popexd.runtime import background
from popexd.runtime.segments import SegmentRunner

PATIENCE_SECONDS = 30.0
TOPICS = DeviceTopics("lab", "box")
TENSORS = "popexd-data/+/tier/cloud/conveyor-b-alexnet"
THREADS = 1
# Fast enough to be no matter: what the link emulator is for here is to be cut.
FAST = Profile("fast", 1e9, 1e9)
# Stands in a profile for what the planner must not choose.
_FORBIDDEN_SECONDS = 20.0

T = TypeVar("T")
P = TypeVar("P", bound=Payload)
Tables = dict[str, dict[str, Any]]


@cache
def bundle() -> Bundle:
    """The model that everybody here runs."""
    return load("default")


@cache
def photo(index: int) -> bytes:
    """A camera's JPEG file; the same for the same index."""
    return scene(index, 11, (160, 120)).jpeg()


def until(condition: Callable[[], T | None], what: str, seconds: float = PATIENCE_SECONDS) -> T:
    """Return the first true value of `condition`; fail when there is none in time."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, f"still waiting for {what}"
        pause.wait(0.01)
    return found


class Watch:
    """Hears everything that is published on one broker, in order."""

    def __init__(self, port: int, *filters: str) -> None:
        self.bus = MqttBus(MqttSettings(port=port))
        self._heard: list[Message] = []
        self._by_topic: defaultdict[str, list[Message]] = defaultdict(list)
        self._answers: defaultdict[str, dict[bytes, ResultPayload]] = defaultdict(dict)
        self._transactions = itertools.count(1)
        self._changed = threading.Condition()
        for topic_filter in filters or ("popexd/#",):
            self.bus.subscribe(topic_filter, self._hear)
        self.bus.start()
        self.bus.wait_connected(PATIENCE_SECONDS)

    def _hear(self, message: Message) -> None:
        with self._changed:
            self._heard.append(message)
            self._by_topic[message.topic].append(message)
            if matches(TOPICS.results("+"), message.topic):
                answer = ResultPayload.from_bytes(message.payload)
                self._answers[answer.frame_id][message.payload] = answer
            self._changed.notify_all()

    def stop(self) -> None:
        """Hear no more."""
        self.bus.stop()

    def until(self, condition: Callable[[], T | None], what: str, seconds: float = PATIENCE_SECONDS) -> T:
        """Return the first true value of `condition`, asked anew at every message; fail when there is none in time."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not (found := condition()):
                assert time.monotonic() < deadline, f"still waiting for {what}; heard {self._summary()}"
                self._changed.wait(0.1)
        return found

    def _summary(self) -> str:
        last = {topic: heard[-1] for topic, heard in self._by_topic.items() if topic.startswith("popexd/")}
        return "\n".join(f"{topic} {message.payload[:300]!r}" for topic, message in last.items())

    def messages(self, topic_filter: str) -> list[Message]:
        """What was heard on matching topics, oldest first."""
        with self._changed:
            if "+" not in topic_filter and "#" not in topic_filter:
                return list(self._by_topic.get(topic_filter, ()))
            return [message for message in self._heard if matches(topic_filter, message.topic)]

    def payloads(self, topic_filter: str, kind: type[P]) -> list[P]:
        """The same, as payloads; an empty one (a retained message taken back) is none."""
        return [kind.from_bytes(each.payload) for each in self.messages(topic_filter) if each.payload]

    def last(self, topic: str, kind: type[P]) -> P | None:
        """The newest payload of a topic."""
        found = self.messages(topic)
        return kind.from_bytes(found[-1].payload) if found and found[-1].payload else None

    # ---------------------------------------------------------------------------------------- what an agent says

    def results(self) -> dict[str, list[ResultPayload]]:
        """Every different answer by frame id: the same one byte for byte counts once."""
        with self._changed:
            return {frame_id: list(answers.values()) for frame_id, answers in self._answers.items()}

    def answer(self, frame_id: str) -> ResultPayload:
        """Wait for the one answer of a frame."""
        answers = self.until(lambda: self._answers.get(frame_id), f"the answer to {frame_id}")
        assert len(answers) == 1
        return next(iter(answers.values()))

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of this name, with all their fields."""
        payloads = self.payloads(TOPICS.event, EventPayload)
        return [payload.model_dump() for payload in payloads if payload.event == name]

    def metrics(self) -> MetricsPayload:
        """The agent's newest metrics."""
        return self.until(lambda: self.last(TOPICS.metrics, MetricsPayload), "metrics")

    def agent_is(self, state: str) -> bool:
        """Whether the agent's retained state says so."""
        found = self.last(TOPICS.state, AgentState)
        return found is not None and found.state == state

    def decision(self) -> DecisionPayload | None:
        """The plan in force."""
        return self.last(TOPICS.decision, DecisionPayload)

    def cut_is(self, cut: str) -> None:
        """Wait until this is where frames are cut."""
        self.until(lambda: (made := self.decision()) is not None and made.cut == cut, f"a plan with the cut {cut}")

    def planned(self, cut: str) -> None:
        """Ask the agent until it says that this is where it cuts; what is retained may be of a time before a fault."""
        topic = TOPICS.response("status")

        def told() -> bool:
            name = f"t{next(self._transactions)}"
            self.bus.publish(TOPICS.request("status"), json.dumps({"transaction": name}).encode(), qos=1)
            deadline = time.monotonic() + 1.0
            while time.monotonic() < deadline:
                self._changed.wait(0.1)
                said = self.last(topic, ResponsePayload)
                if said is not None and said.transaction == name and said.data is not None:
                    return bool(said.data["cut"] == cut)
            return False

        self.until(told, f"an agent with the cut {cut}")

    def shipped(self, count: int) -> None:
        """Wait until so many tensor messages have passed this broker, for who listens to them."""
        self.until(lambda: len(self.messages(TENSORS)) >= count, f"{count} tensor messages")

    def worker_is(self, name: str, state: str) -> bool:
        """Whether a worker's retained state says so."""
        found = self.last(TOPICS.worker(name, "state"), WorkerState)
        return found is not None and found.state == state

    def worker_metrics(self, name: str) -> WorkerMetrics:
        """A worker's newest metrics."""
        return self.until(lambda: self.last(TOPICS.worker(name, "metrics"), WorkerMetrics), f"metrics of {name}")

    # ---------------------------------------------------------------------------------------- what one does to it

    def send(self, camera: str, payload: bytes, frame_id: str | None = None, **properties: Any) -> None:
        """Publish a frame."""
        named = () if frame_id is None else (("frame_id", frame_id),)
        self.bus.publish(TOPICS.frames(camera), payload, qos=1, user_properties=named, **properties)

    def ask(self, verb: str, transaction: str | None = None, **fields: Any) -> ResponsePayload:
        """Send a request and wait for its response."""
        transaction = transaction or f"t{next(self._transactions)}"
        self.bus.publish(TOPICS.request(verb), json.dumps({"transaction": transaction, **fields}).encode(), qos=1)
        return self.response(verb, transaction)

    def response(self, verb: str, transaction: str | int) -> ResponsePayload:
        """Wait for the response to a request."""
        return self.until(
            lambda: next(
                (
                    each
                    for each in self.payloads(TOPICS.response(verb), ResponsePayload)
                    if each.transaction == transaction
                ),
                None,
            ),
            f"the response to {transaction}",
        )

    def at_rest(self, received: int) -> MetricsPayload:
        """Wait until the agent owes nothing and has seen `received` frames; check its books against the answers."""

        def balanced() -> bool:
            frames = self.metrics().frames
            return frames.received == received and frames.taken == frames.answered == len(self.results())

        self.until(balanced, f"{received} frames at rest, {len(self.results())} answered so far")
        metrics = self.metrics()
        frames = metrics.frames
        assert frames.received == frames.taken + frames.dropped + frames.rejected
        assert all(len(answers) == 1 for answers in self.results().values())
        return metrics


class Program:
    """`popexd agent run` or `popexd worker run` as a child process of its own."""

    def __init__(self, kind: str, config: Path) -> None:
        self._log = config.with_suffix(".log")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [Path(sys.executable).with_name("popexd"), kind, "run", "--config", config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether it is alive, paused or not."""
        return self._process.poll() is None

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text(errors="replace")

    def pause(self) -> None:
        """SIGSTOP: its connections stay open and nothing is answered."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End a pause."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, paused or not, and wait until it is gone."""
        self._process.kill()
        self._process.wait(PATIENCE_SECONDS)

    def terminate(self) -> int:
        """SIGTERM; returns the exit status."""
        self._process.terminate()
        return self._process.wait(PATIENCE_SECONDS)

    def stop(self) -> None:
        """Be rid of it."""
        if self.running:
            self.kill()


class Rig:
    """Starts what a test needs and stops it afterwards, in reverse; `folder` is for files, `caches` for profiles."""

    def __init__(self, stack: ExitStack, folder: Path, caches: Caches) -> None:
        self.caches = caches
        self._stack = stack
        self._folder = folder
        self._count = 0

    def broker(self, *, started: bool = True, **settings: Any) -> Broker:
        """A real Mosquitto on a port of its own."""
        broker = Broker(0 if started else free_port(), settings=BrokerSettings(**settings))
        self._stack.callback(broker.stop)
        if started:
            broker.start()
        return broker

    def link(self, broker: Broker) -> Link:
        """A link to a broker that can be cut."""
        return self._stack.enter_context(Link(broker.host, broker.port, FAST))

    def watch(self, port: int, *filters: str) -> Watch:
        """A watcher, already connected."""
        watch = Watch(port, *filters)
        self._stack.callback(watch.stop)
        return watch

    def agent(self, tables: Tables) -> Agent:
        """An agent in this process; returned once it is started."""
        agent = Agent(AgentConfig.model_validate(tables))
        agent.start()
        self._stack.callback(agent.stop)
        return agent

    def worker(self, tables: Tables) -> Worker:
        """A worker in this process; returned once it is started."""
        worker = Worker(WorkerConfig.model_validate(tables))
        worker.start()
        self._stack.callback(worker.stop)
        return worker

    def program(self, kind: str, tables: Tables) -> Program:
        """An agent or a worker as a child process."""
        self._count += 1
        config = self._folder / f"{kind}-{self._count}.toml"
        config.write_text(as_toml(tables))
        program = Program(kind, config)
        self._stack.callback(program.stop)
        return program

    def agent_tables(
        self, port: int, uplink: int | None = None, *, cut: str = "input camera", **over: Mapping[str, Any]
    ) -> Tables:
        """An agent's configuration that pins where frames are cut: `cut` is a point and a codec, or `measured`."""
        tables: Tables = {
            "mqtt": {"port": port, "site": TOPICS.site, "device": TOPICS.device},
            "planner": {"mode": "cloud"},
            "probe": {"interval_seconds": 1.0},
            "metrics": {"interval_seconds": 0.1},
            "runtime": {"threads": THREADS, "cache_folder": str(self.caches.folder(cut))},
        }
        if uplink is not None:
            tables["uplink"] = {"port": uplink}
        return _over(tables, over)

    def worker_tables(
        self, port: int, name: str = "w1", *, cut: str = "input camera", **over: Mapping[str, Any]
    ) -> Tables:
        """A worker's configuration; `cut` as with the agent."""
        tables: Tables = {
            "mqtt": {"port": port, "site": TOPICS.site},
            "worker": {"name": name},
            "metrics": {"interval_seconds": 0.1},
            "runtime": {"threads": THREADS, "cache_folder": str(self.caches.folder(cut))},
        }
        return _over(tables, over)


def _over(tables: Tables, over: Mapping[str, Mapping[str, Any]]) -> Tables:
    return {name: {**tables.get(name, {}), **over.get(name, {})} for name in {**tables, **over}}


class Caches:
    """Folders with this machine's profile: as measured once, or edited so that a planner can only choose one cut."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def folder(self, cut: str) -> Path:
        """Return the folder for `<point> <codec>`, or for `measured`."""
        folder = self._root / cut.replace(" ", "-")
        if folder.exists():
            return folder
        if cut == "measured":
            background.measured_once(SegmentRunner(bundle(), THREADS), bundle(), folder)
            return folder
        shutil.copytree(self.folder("measured"), folder)
        (file,) = folder.glob("profile-*.json")
        file.write_text(json.dumps(_pinned(json.loads(file.read_text()), *cut.split())))
        return folder


def _pinned(profile: dict[str, Any], point: str, codec: str) -> dict[str, Any]:
    """Make every other way to ship dear: what the device encodes for long, and the camera's bytes decoded for long."""
    encode = {
        cut: {name: seconds if (cut, name) == (point, codec) else _FORBIDDEN_SECONDS for name, seconds in table.items()}
        for cut, table in profile["encode"].items()
    }
    decode = {cut: dict(table) for cut, table in profile["decode"].items()}
    if codec != "camera":
        decode["input"]["camera"] = _FORBIDDEN_SECONDS
    return {**profile, "encode": encode, "decode": decode}
