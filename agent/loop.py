"""The loop: the one thread that owns the agent's state. It asks the brain and carries out what the brain orders."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from popexd.bus.base import Bus, Delivery, Message
from popexd.bus.receipt import Receipt
from popexd.coordinator import events as ev
from popexd.coordinator.brain import Coordinator
from popexd.logs import get_logger
from popexd.protocol.replies import probe
from popexd.protocol.tensors import TensorMessage
from popexd.protocol.topics import DeviceTopics

from . import render
from .compute import Compute
from .diary import Diary
from .inlet import Inlet
from .mailbox import Empty, Flooded, FrameArrived, Mailbox
from .owed import Owed

log = get_logger("agent")

# How loud an event is in the log; what can come with every frame is for debugging, or a warning, which is thinned.
_LEVELS = {
    "frame.dropped": logging.DEBUG,
    "offload.retried": logging.DEBUG,
    "input.rejected": logging.WARNING,
    "request.rejected": logging.WARNING,
    "settings.rejected": logging.WARNING,
    "offload.failed": logging.WARNING,
    "compute.failed": logging.ERROR,
    "plan.infeasible": logging.WARNING,
    "drift.detected": logging.WARNING,
    "uplink.lost": logging.WARNING,
    "tier.lost": logging.WARNING,
    "worker.lost": logging.WARNING,
    "worker.mismatched": logging.WARNING,
}
_STATUS_SECONDS = 60.0
_EVENTS_PER_SECOND = 5.0
_EVENTS_BURST = 20.0


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message and the inlet that understands it; parsed on the loop, never on the network's thread."""

    parse: Callable[[Message], list[ev.Event]]
    message: Message


@dataclass(frozen=True, slots=True)
class Buses:
    """The site's connection and the uplink's; the same one where there is one broker."""

    site: Bus
    uplink: Bus

    @property
    def each(self) -> tuple[Bus, ...]:
        """Every connection once."""
        return (self.site,) if self.site is self.uplink else (self.site, self.uplink)


class EventLimit:
    """Events may be rate-limited, counts never: a burst passes, then a few a second; what was left out is told."""

    def __init__(self) -> None:
        self._tokens: dict[str, tuple[float, float]] = {}
        self._left_out: dict[str, int] = {}

    def passes(self, event: str, now: float) -> int | None:
        """Return how many of this event were left out before; None if this one is left out too."""
        tokens, at = self._tokens.get(event, (_EVENTS_BURST, now))
        tokens = min(_EVENTS_BURST, tokens + (now - at) * _EVENTS_PER_SECOND)
        if tokens < 1:
            self._tokens[event] = (tokens, now)
            self._left_out[event] = self._left_out.get(event, 0) + 1
            return None
        self._tokens[event] = (tokens - 1, now)
        return self._left_out.pop(event, 0)


class Loop:
    """Runs until the brain has drained.

    Arguments:
        brain: decides.
        mailbox: where everything comes in.
        compute: where orders go.
        buses: where messages go.
        inlet: turns frame messages into events.
        topics: this device's.
        boot: this start's token; a frame on the wire is called `<boot>-<key>`.
        model: name and fingerprint of the bundle.
        diary: what earlier starts noted.

    """

    def __init__(
        self,
        brain: Coordinator,
        mailbox: Mailbox,
        compute: Compute,
        buses: Buses,
        inlet: Inlet,
        topics: DeviceTopics,
        boot: str,
        model: tuple[str, str],
        diary: Diary,
    ) -> None:
        self.brain = brain
        self.progress = 0
        self.status = "planning"
        self._reports: deque[tuple[float, Mapping[str, Any]]] = deque()
        self._mailbox = mailbox
        self._compute = compute
        self._buses = buses
        self._inlet = inlet
        self._topics = topics
        self._boot = boot
        self._model, self._fingerprint = model
        self._owed = Owed(buses.site, diary, self._publish_result)
        self._limit = EventLimit()
        self._started_at = time.monotonic()
        self._drained = threading.Event()
        self.on_failure: Callable[[], None] = lambda: None
        self.failed = False
        self._thread = threading.Thread(target=self._guarded, name="loop", daemon=True)
        self._effects: dict[type, Callable[[Any, float], None]] = {
            ev.Run: lambda run, _now: self._compute.order(run),
            ev.Forget: lambda forget, _now: self._compute.order(forget),
            ev.Ship: self._ship,
            ev.SendProbe: self._probe,
            ev.Answer: self._answer,
            ev.Settled: lambda settled, _now: self._owed.settled(settled),
            ev.Notice: self._notice,
            ev.Decided: self._decided,
            ev.Report: self._report,
            ev.Respond: self._respond,
            ev.Drained: lambda _drained, _now: self._drained.set(),
        }

    def start(self) -> None:
        """Begin to take in events."""
        self._thread.start()

    def drain(self, timeout_seconds: float) -> bool:
        """Answer what is owed, then end; tell whether that came about in time."""
        self._mailbox.post(ev.Drain())
        done = self._drained.wait(timeout_seconds) and not self.failed
        self._drained.set()
        self._mailbox.post(ev.Wakeup())
        self._thread.join(5)
        return done

    # ------------------------------------------------------------------------------------------ in

    def _guarded(self) -> None:
        """Serve; a fault of the brain ends the program, since a state that is half changed is not to be trusted."""
        try:
            self._serve()
        except Exception:
            log.exception("loop.failed")
            self.failed = True
            self._drained.set()
            self.on_failure()

    def _serve(self) -> None:
        now = time.monotonic()
        self._carry_out(self.brain.start(now), now)
        self._report_now(now)
        while not self._drained.is_set():
            for event in self._next():
                now = time.monotonic()
                self._carry_out(self.brain.handle(event, now), now)
            self.progress += 1
        self._report_now(time.monotonic())

    def _next(self) -> list[ev.Event]:
        wakeup = self.brain.next_wakeup()
        timeout = 1.0 if math.isinf(wakeup) else min(1.0, max(0.0, wakeup - time.monotonic()))
        try:
            item = self._mailbox.get(timeout)
        except Empty:
            return [ev.Wakeup()]
        if isinstance(item, FrameArrived):
            return self._owed.came(item.message, self._inlet.frame(item))
        if isinstance(item, Flooded):
            self.brain.statistics.replies_rejected["overload"] += item.count
            return []
        return self._parsed(item) if isinstance(item, Arrived) else [item]

    def _parsed(self, arrived: Arrived) -> list[ev.Event]:
        try:
            return arrived.parse(arrived.message)
        except Exception:  # what comes from outside is dropped and counted, never fatal
            log.exception("message.failed", topic=arrived.message.topic)
            return [ev.ReplyRejected("internal")]

    # ------------------------------------------------------------------------------------------ out

    def _carry_out(self, effects: list[ev.Effect], now: float) -> None:
        for effect in effects:
            self._effects[type(effect)](effect, now)

    def _ship(self, ship: ev.Ship, _now: float) -> None:
        message = TensorMessage(
            frame_id=f"{self._boot}-{ship.key}",
            device=self._topics.device,
            fingerprint=self._fingerprint,
            plan_id=ship.plan_id,
            attempt=ship.attempt,
            route=ship.route,
            deadline_seconds=ship.deadline_seconds,
            tensors=self._compute.shipment(ship.key),
            quality=ship.quality,
        )
        self._buses.uplink.publish_bulk(
            self._topics.tensors(ship.tier.label, self._model),
            message.to_bytes(),
            on_done=lambda delivery: self._ended(ship, delivery),
            expiry_seconds=ship.deadline_seconds,
        )

    def _ended(self, ship: ev.Ship, delivery: Delivery) -> None:
        self._mailbox.post(ev.ShipmentEnded(ship.key, ship.attempt, delivery.value))

    def _probe(self, order: ev.SendProbe, _now: float) -> None:
        topic = self._topics.probe(order.tier.label)
        payload = probe(order.sequence, order.bytes, self._topics.device)
        self._buses.uplink.publish_bulk(
            topic, payload, on_done=lambda delivery: self._probed(order, delivery), expiry_seconds=3
        )

    def _probed(self, order: ev.SendProbe, delivery: Delivery) -> None:
        self._mailbox.post(ev.ProbeEnded(order.sequence, delivery.value))

    def _answer(self, answer: ev.Answer, _now: float) -> None:
        frame_id = answer.frame_id or f"{self._boot}-{answer.key}"
        payload = render.result(answer, frame_id)
        self._owed.answer(answer, payload.to_bytes(), frame_id)
        log.debug("frame.answered", frame_id=frame_id, label=payload.label, exit=answer.exit, tier=payload.tier)

    def _publish_result(
        self, camera: str, payload: bytes, frame_id: str, correlation: bytes | None, answers: Receipt | None
    ) -> None:
        # A string of MQTT holds no control characters, and a broker hangs up on who sends one.
        named = (("frame_id", frame_id),) if frame_id.isprintable() else ()
        self._buses.site.publish(
            self._topics.results(camera),
            payload,
            qos=1,
            correlation_data=correlation,
            user_properties=named,
            answers=answers,
        )

    def _notice(self, notice: ev.Notice, now: float) -> None:
        left_out = self._limit.passes(notice.event, now)
        if left_out is None:
            return
        fields = {**notice.fields, **({"left_out": left_out} if left_out else {})}
        told = {key: value for key, value in fields.items() if value is not None and key != "event"}
        log.log(_LEVELS.get(notice.event, logging.INFO), notice.event, **told)
        payload = render.event(ev.Notice(notice.event, fields), now)
        self._buses.site.publish(self._topics.event, payload.to_bytes(), qos=1)

    def _decided(self, decided: ev.Decided, _now: float) -> None:
        made = decided.decision
        log.info("plan.decided", plan_id=made.plan_id, cut=made.cut, codec=made.form["codec"], reason=made.reason)
        self._tell(made)
        payload = render.decision(made, self._model).to_bytes()
        for bus in self._buses.each:
            bus.retain(self._topics.decision, payload)

    def _report_now(self, now: float) -> None:
        self._report(ev.Report(self.brain.figures(now)), now)

    def _report(self, report: ev.Report, now: float) -> None:
        self._reports.append((now, report.figures))
        while len(self._reports) > 1 and now - self._reports[1][0] > _STATUS_SECONDS:
            self._reports.popleft()
        self._tell(self.brain.world.planner.decision)
        payload = render.metrics(report.figures, self._started_at, now).to_bytes()
        for bus in self._buses.each:
            bus.retain(self._topics.metrics, payload, qos=0)

    def _tell(self, made: ev.Decision | None) -> None:
        before, now = (self._reports[0][1], self._reports[-1][1]) if self._reports else ({}, {})
        self.status = render.status(self._model, made, before, now)

    def _respond(self, answer: ev.Respond, _now: float) -> None:
        self._buses.site.publish(self._topics.response(answer.verb), render.response(answer).to_bytes(), qos=1)
