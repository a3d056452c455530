"""The daemon's brain on a clock of its own: what it is told is made up, what it does with it is the real thing."""

from __future__ import annotations

import itertools
import time
from collections import deque
from typing import Any

from popexd.bundle import Bundle
from popexd.coordinator import events as ev
from popexd.coordinator.brain import Coordinator, Settings
from popexd.coordinator.settings import PlannerSettings
from popexd.plan import Tier
from popexd.runtime import background
from popexd.runtime.background import MachineProfile

_ROUND_TRIP_SECONDS = 0.02
_DEVICE_SECONDS = 0.02
_CLOUD_SECONDS = 0.002
_QUIET_SECONDS = 30.0
_SHIPMENT_BYTES = 3000
_FRAME_BYTES = 50_000


class VirtualDaemon:
    """A brain with a worker online and a link of a known rate; probes and frames come back after what these take."""

    def __init__(
        self,
        bundle: Bundle,
        device: MachineProfile,
        worker: MachineProfile,
        bits_per_second: float,
        **planner: Any,
    ) -> None:
        self.bits_per_second = bits_per_second
        self.decisions: list[ev.Decision] = []
        self.decision_seconds: list[float] = []
        self._now = 0.0
        self._bundle = bundle
        self._sure = itertools.cycle((0.99, 0.2, 0.6))
        self._brain = Coordinator(
            lambda remote: background.graph(bundle, device, remote),
            Settings(PlannerSettings(**planner)),
            "bench",
            time.perf_counter,
        )
        self._follow(deque(self._brain.start(self._now)))
        self.tell(ev.UplinkChanged(True))
        self.tell(ev.WorkerChanged("w1", Tier.CLOUD, True, worker))

    def tell(self, event: ev.Event) -> None:
        """Hand an event to the brain, and let everything that it orders come about."""
        self._follow(deque(self._handled(event)))

    def frame(self) -> None:
        """Let the camera send a frame."""
        self.tell(ev.FrameReceived("belt", b"frame"))

    def link(self, bits_per_second: float) -> None:
        """Change the link, and let the brain probe it; after a while, since probes are rationed."""
        self._now += _QUIET_SECONDS
        self.bits_per_second = bits_per_second
        self.tell(ev.RequestReceived("probe", None))

    def _handled(self, event: ev.Event) -> list[ev.Effect]:
        """Let the brain handle an event; the real seconds count where it made a decision."""
        began = time.perf_counter()
        effects = self._brain.handle(event, self._now)
        seconds = time.perf_counter() - began
        self.decision_seconds += [seconds] * any(isinstance(effect, ev.Decided) for effect in effects)
        return effects

    def _follow(self, waiting: deque[ev.Effect]) -> None:
        while waiting:
            event = self._outcome(waiting.popleft())
            if event is not None:
                waiting.extend(self._handled(event))

    def _outcome(self, effect: ev.Effect) -> ev.Event | None:
        match effect:
            case ev.Decided(decision):
                self.decisions.append(decision)
            case ev.SendProbe(sequence=sequence, bytes=size):
                self._cross(size)
                return ev.ProbeReturned(sequence, 0.0)
            case ev.Run():
                return self._run(effect)
            case ev.Ship(key=key, attempt=attempt, plan_id=plan_id):
                self._cross(_SHIPMENT_BYTES)
                self._now += _CLOUD_SECONDS
                seconds = {"queue": 0.0, "decode": 0.0001, "compute": _CLOUD_SECONDS - 0.0001}
                return ev.Replied(
                    key, attempt, "w1", Tier.CLOUD, _SHIPMENT_BYTES, seconds, self._said(), plan_id=plan_id
                )
        return None

    def _run(self, order: ev.Run) -> ev.RunDone:
        self._now += _DEVICE_SECONDS
        return ev.RunDone(
            order.key,
            decode_seconds=0.002 if order.decode else 0.0,
            device_seconds=_DEVICE_SECONDS - 0.003 if order.segments else 0.0,
            encode_seconds=0.001 if order.codec else 0.0,
            classified=self._said() if order.exit else None,
            image_bytes=_FRAME_BYTES if order.payload is not None else None,
            shipment_bytes=_SHIPMENT_BYTES if order.codec else None,
        )

    def _cross(self, size: int) -> None:
        self._now += _ROUND_TRIP_SECONDS + 8 * size / self.bits_per_second

    def _said(self) -> ev.Classified:
        return ev.Classified(0, self._bundle.classes[0], next(self._sure))
