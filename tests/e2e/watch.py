"""A watcher who hears everything that is published on a broker, and forgets nothing."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeVar

from popexd.bus import Message
from popexd.bus.mqtt import MqttBus, MqttSettings
from popexd.bus.topic import matches
from popexd.protocol.messages import (
    AgentState,
    DecisionPayload,
    EventPayload,
    MetricsPayload,
    ResponsePayload,
    ResultPayload,
    WorkerMetrics,
    WorkerState,
)
from popexd.protocol.payload import Payload
from popexd.protocol.topics import DeviceTopics

PATIENCE_SECONDS = 60.0
TOPICS = DeviceTopics("lab", "box")
# What a machine that is busy with something else may cost a frame at a worker; the device then finishes it.
BUSY = ("timeout", "no-answer", "uplink-busy")
TENSORS = "popexd-data/+/tier/cloud/conveyor-b-alexnet"

T = TypeVar("T")
P = TypeVar("P", bound=Payload)


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

    def finished(
        self, tier: str, name: str, payload: bytes, camera: str = "c0", cut: str = "input"
    ) -> tuple[ResultPayload, int]:
        """Send a frame, under other names again where a busy machine costs it the agent's patience, or the link its
        trust; return the answer of the one that was finished at this tier as planned, and how many were sent.
        """
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        for count in itertools.count(1):
            called = name if count == 1 else f"{name}, {count}"
            self.send(camera, payload, called)
            answer = self.answer(called)
            if (answer.tier, answer.fallback) == (tier, None):
                return answer, count
            assert answer.fallback in (None, *BUSY)
            assert time.monotonic() < give_up_at, f"still waiting for {tier}: {answer}"
            if tier != "device":
                self.planned(cut)
        raise AssertionError

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
