"""Four cameras that never wait, and the book that is kept of every answer."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from itertools import cycle
from typing import Any

from popexd.bus.base import Delivery, Message
from popexd.bus.mqtt import MqttBus, MqttSettings
from popexd.lab.conveyor import scene
from popexd.protocol.topics import DeviceTopics

CAMERAS = ("north", "east", "south", "west")
FRAMES_PER_SECOND = 50.0
_PICTURES = 16


class Cameras:
    """Publishes frames at QoS 0, so that none comes twice by the broker's doing."""

    def __init__(self, port: int, topics: DeviceTopics) -> None:
        self.published = 0
        self.handed_over = 0
        self._topics = topics
        self._bus = MqttBus(MqttSettings(port=port))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._publish, name="cameras", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._bus.start()
        self._bus.wait_connected(60)
        self._thread.start()

    def stop(self) -> None:
        """End; what is on its way arrives."""
        self._stopped.set()
        self._thread.join(60)
        self._bus.stop()

    def ask(self, mode: str) -> None:
        """Ask the agent for another mode."""
        self._bus.publish(self._topics.request("set"), json.dumps({"mode": mode}).encode(), qos=1)

    def _publish(self) -> None:
        pictures = cycle([scene(index, 5, (160, 120)).jpeg() for index in range(_PICTURES)])
        begun = time.monotonic()
        while not self._stopped.wait(max(0.0, begun + self.published / FRAMES_PER_SECOND - time.monotonic())):
            camera = CAMERAS[self.published % len(CAMERAS)]
            self.published += 1
            name = [("frame_id", f"{camera}-{self.published}")]
            topic = self._topics.frames(camera)
            self._bus.publish_bulk(topic, next(pictures), qos=0, user_properties=name, on_done=self._done)

    def _done(self, delivery: Delivery) -> None:
        self.handed_over += delivery is Delivery.DELIVERED


class Book:
    """Every answer once, by frame; the agent's own counts; how long answers took."""

    def __init__(self, port: int, topics: DeviceTopics) -> None:
        self.metrics: dict[str, Any] = {}
        self.counts: dict[str, int] = {}
        self.tiers: Counter[str] = Counter()
        self.fallbacks: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.different: list[str] = []
        self.repeated = 0
        self._answers: dict[str, bytes] = {}
        self._topics = topics
        self._bus = MqttBus(MqttSettings(port=port))
        self._bus.subscribe(topics.results("+"), self._result)
        self._bus.subscribe(topics.metrics, self._measured)
        self._bus.subscribe(topics.response("status"), self._counted)

    def start(self) -> None:
        """Begin to listen."""
        self._bus.start()
        self._bus.wait_connected(60)

    def stop(self) -> None:
        """Listen no more."""
        self._bus.stop()

    def _result(self, message: Message) -> None:
        answer = json.loads(message.payload)
        digest = hashlib.blake2b(message.payload, digest_size=8).digest()
        known = self._answers.setdefault(answer["frame_id"], digest)
        if known is not digest:
            self.repeated += 1
            if known != digest:
                self.different.append(answer["frame_id"])
            return
        self.tiers[answer["tier"]] += 1
        self.fallbacks[answer["fallback"] or "none"] += 1
        self.seconds.append(answer["seconds"]["total"])

    def _measured(self, message: Message) -> None:
        self.metrics = json.loads(message.payload)

    def ask(self) -> None:
        """Ask the agent what it has counted so far; what it published before it says so is heard before that."""
        self._bus.publish(self._topics.request("status"), json.dumps({"transaction": "count"}).encode(), qos=1)

    def _counted(self, message: Message) -> None:
        self.counts = json.loads(message.payload)["data"]["frames"]

    @property
    def connected(self) -> bool:
        """Whether answers are heard."""
        return self._bus.connected

    def has(self, frame_id: str) -> bool:
        """Whether a frame's answer was heard."""
        return frame_id in self._answers

    @property
    def answered(self) -> int:
        """How many frames have an answer that was heard."""
        return len(self._answers)

    def percentile(self, share: float) -> float:
        """Seconds from the frame's arrival to its answer."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
