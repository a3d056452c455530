"""An agent and a worker on one broker, and what strangers say to them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from popexd.protocol.messages import MetricsPayload, Rejections

from .rig import Watch, photo


@dataclass
class Site:
    """What these tests share: who watches, and a token of the agent's start."""

    watch: Watch
    boot: str

    def publish(self, topic: str, payload: bytes | str, *, retain: bool = False) -> None:
        """Say something to the agent."""
        data = payload.encode() if isinstance(payload, str) else payload
        self.watch.bus.publish(topic, data, qos=1, retain=retain)

    def metrics(self) -> MetricsPayload:
        """The agent's newest figures."""
        return self.watch.metrics()

    def counted(self, kind: str, reason: str, before: int) -> None:
        """Wait until one more message of a kind has been refused for a reason."""
        self.watch.until(lambda: self.count(kind, reason) > before, f"{kind} refused: {reason}")

    def count(self, kind: str, reason: str) -> int:
        """How many messages of a kind have been refused for a reason."""
        counts: Rejections = getattr(self.metrics(), kind)
        return counts.by_reason.get(reason, 0)

    def alive(self) -> None:
        """See that the next frame is answered."""
        self.watch.send("c0", photo(0), name := f"alive-{random.getrandbits(64)}")
        self.watch.answer(name)
