"""An agent as the camera and the watcher see it: frames in, answers and decisions out, each with its arrival."""

from __future__ import annotations

import itertools
import json
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from popexd.bus.base import Message
from popexd.bus.mqtt import MqttBus
from popexd.protocol.messages import AgentState, DecisionPayload, MetricsPayload, ResultPayload
from popexd.protocol.topics import DeviceTopics

from .pictures import Picture

if TYPE_CHECKING:
    from .stage import Program

SITE, CAMERA = "bench", "belt"
_ANSWER_SECONDS = 10.0


@dataclass(frozen=True)
class Answer:
    """A result, the seconds from publishing the frame to hearing it, and its plan as it was decided then."""

    seconds: float
    result: ResultPayload
    plan: DecisionPayload | None = None

    def right(self, picture: Picture) -> bool:
        """Whether it names what is in the picture."""
        return self.result.label == picture.class_name


class Device:
    """One agent, watched through the site's broker."""

    program: Program

    def __init__(self, site: MqttBus, name: str) -> None:
        self.name = name
        self.topics = DeviceTopics(SITE, name)
        self.changed = threading.Condition()
        self.online_at = float("-inf")
        self.decisions: list[tuple[float, DecisionPayload]] = []
        self.metrics: MetricsPayload | None = None
        self._site = site
        self._numbers = itertools.count()
        self._published: dict[str, float] = {}
        self._answers: dict[str, Answer] = {}
        self._plans: dict[str, DecisionPayload] = {}
        site.subscribe(self.topics.results("+"), self._hear_result)
        site.subscribe(self.topics.decision, self._hear_decision)
        site.subscribe(self.topics.metrics, self._hear_metrics)
        site.subscribe(self.topics.state, self._hear_state)

    # ------------------------------------------------------------------------------------------ what is heard

    def _hear_result(self, message: Message) -> None:
        now = time.perf_counter()
        result = ResultPayload.from_bytes(message.payload)
        with self.changed:
            published_at = self._published.pop(result.frame_id, None)
            if published_at is not None:
                plan = self._plans.get(result.plan_id)
                self._answers[result.frame_id] = Answer(now - published_at, result, plan)
                self.changed.notify_all()

    def _hear_decision(self, message: Message) -> None:
        now = time.monotonic()
        decision = DecisionPayload.from_bytes(message.payload)
        with self.changed:
            self.decisions.append((now, decision))
            self._plans[decision.plan_id] = decision
            self.changed.notify_all()

    def _hear_metrics(self, message: Message) -> None:
        with self.changed:
            self.metrics = MetricsPayload.from_bytes(message.payload)
            self.changed.notify_all()

    def _hear_state(self, message: Message) -> None:
        now = time.monotonic()
        with self.changed:
            if AgentState.from_bytes(message.payload).state == "online":
                self.online_at = now
            self.changed.notify_all()

    @property
    def decision(self) -> DecisionPayload | None:
        """The plan in force."""
        return self.decisions[-1][1] if self.decisions else None

    def close_to(self, bits_per_second: float, decision: DecisionPayload | None = None) -> bool:
        """Whether a decision (the one in force, by default) was made on this rate, within a factor of two."""
        decision = decision or self.decision
        link = None if decision is None else decision.network.get("device")
        known = None if link is None else link.bits_per_second
        return known is not None and 0.5 <= known / bits_per_second <= 2

    # ------------------------------------------------------------------------------------------ what is said

    def publish(self, picture: Picture) -> str:
        """Publish a frame; return its id."""
        frame_id = f"{self.name}-{next(self._numbers)}"
        with self.changed:
            self._published[frame_id] = time.perf_counter()
        self._site.publish(self.topics.frames(CAMERA), picture.jpeg, user_properties=(("frame_id", frame_id),))
        return frame_id

    def ask(self, picture: Picture) -> Answer | None:
        """Publish a frame and wait for its answer; None if there is none in time."""
        frame_id = self.publish(picture)
        with self.changed:
            self.changed.wait_for(lambda: frame_id in self._answers, _ANSWER_SECONDS)
            return self._answers.pop(frame_id, None)

    def taken_answers(self) -> list[Answer]:
        """Return the answers that nobody has waited for, oldest first, and forget them."""
        with self.changed:
            found = list(self._answers.values())
            self._answers.clear()
            return found

    def request(self, verb: str, **fields: object) -> None:
        """Ask the agent for something; its response is not waited for."""
        self._site.publish(self.topics.request(verb), json.dumps(fields).encode(), qos=1)
