"""The way of a frame: taken, run step by step, shipped or not, answered exactly once."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from popexd.coordinator.events import (
    Answer,
    Classified,
    Effect,
    Forget,
    FrameReceived,
    FramesSkipped,
    InputRejected,
    Notice,
    Replied,
    Run,
    RunDone,
    RunFailed,
    Ship,
    ShipmentEnded,
)
from popexd.coordinator.frames import Frame, Inbox, Phase, Waiting
from popexd.coordinator.itinerary import Step, itinerary, local_plan
from popexd.coordinator.statistics import Statistics
from popexd.coordinator.timing import timing
from popexd.coordinator.world import World
from popexd.plan import Tier
from popexd.validation import FINAL

_MOST_SHIPPED = 8
_PATIENCE_FACTOR = 3.0
_PATIENCE_SECONDS = 0.1


class Flow:
    """Every frame that is waiting or owed an answer; orders go to `out`."""

    def __init__(self, world: World, statistics: Statistics, out: list[Effect]) -> None:
        self.world = world
        self.planner = world.planner
        self.uplink = world.uplink
        self.statistics = statistics
        self.inbox = Inbox()
        self.frames: dict[int, Frame] = {}
        self.draining = False
        self._orders: deque[Run] = deque()
        self._running: int | None = None
        self._last_key = 0
        self._out = out

    # ------------------------------------------------------------------------------------------ in

    def received(self, event: FrameReceived, now: float) -> None:
        """Put a frame into its camera's slot, newest wins."""
        self.statistics.received += 1
        if self.draining:
            self._dropped("shutdown", event.camera, event.frame_id)
            return
        dropped = self.inbox.put(event, now)
        if dropped is not None:
            reason, frame = dropped
            self._dropped(reason, frame.camera, frame.frame_id)

    def skipped(self, event: FramesSkipped, _now: float) -> None:
        """Count frames that were pushed out before they got here."""
        self.statistics.received += event.count
        self.statistics.dropped["newer"] += event.count
        self._out.append(Notice("frame.dropped", {"camera": event.camera, "count": event.count, "reason": "newer"}))

    def input_rejected(self, event: InputRejected, _now: float) -> None:
        """Count something that can never be a frame."""
        self.statistics.received += 1
        self.statistics.rejected[event.reason] += 1
        self._out.append(Notice("input.rejected", {"reason": event.reason, "detail": event.detail[:200]}))

    def drain(self) -> None:
        """Take no more frames; those that wait are dropped, those taken are answered."""
        self.draining = True
        for waiting in self.inbox.clear():
            self._dropped("shutdown", waiting.received.camera, waiting.received.frame_id)

    def _dropped(self, reason: str, camera: str, frame_id: str | None) -> None:
        self.statistics.dropped[reason] += 1
        self._out.append(Notice("frame.dropped", {"camera": camera, "frame_id": frame_id, "reason": reason}))

    def pump(self, now: float) -> None:
        """Keep the compute thread busy: the oldest promise first, then the frame that waits longest."""
        if self._running is not None:
            return
        while self._orders:
            order = self._orders.popleft()
            if order.key in self.frames:
                self._running = order.key
                self._out.append(order)
                return
        ready, overdue = self._room(now)
        if not self.draining and len(self.inbox) and (ready or overdue):
            waiting = self.inbox.take()
            assert waiting is not None
            self._take(waiting, None if ready else "uplink-busy", now)

    def _room(self, now: float) -> tuple[bool, bool]:
        """Whether the uplink has room for one more shipment, and whether one that is out is overdue."""
        if not self.planner.itinerary.route:
            return True, False
        shipped = [frame for frame in self.frames.values() if frame.phase is Phase.SHIPPED]
        overdue = any(now - frame.shipped_at > 2 * _expected(frame) + 0.05 for frame in shipped)
        if len(shipped) < 2:
            return True, overdue
        room = len(shipped) < _MOST_SHIPPED and self.uplink.backlog_seconds(now) <= _expected(shipped[-1])
        return room and not overdue, overdue

    def _take(self, waiting: Waiting, busy: str | None, now: float) -> None:
        decision = self.planner.decision
        assert decision is not None
        self._last_key += 1
        plan = self.planner.itinerary
        if busy is not None:
            plan = itinerary(local_plan(self.planner.profiled), self.planner.profiled)
        frame = Frame(
            key=self._last_key,
            camera=waiting.received.camera,
            frame_id=waiting.received.frame_id,
            correlation=waiting.received.correlation,
            received_at=waiting.at,
            taken_at=now,
            decision=decision,
            itinerary=plan,
            deadline_at=waiting.at + self.planner.settings.deadline_seconds,
            fallback=busy,
        )
        self.frames[frame.key] = frame
        self.statistics.taken += 1
        self._running = frame.key
        self._out.append(self._next_run(frame, waiting.received.payload))

    # ------------------------------------------------------------------------------------------ on the device

    def _next_run(self, frame: Frame, payload: bytes | None = None) -> Run:
        """Return the frame's next order. Where no exit is asked, the encoding comes along and saves a turn."""
        plan = frame.itinerary
        decode = plan.needs_decoding and not frame.decoded
        step = _step(frame)
        if step is None:
            return Run(frame.key, (), None, plan.codec, decode, payload)
        return Run(frame.key, step.segments, step.exit, plan.codec if step.exit is None else None, decode, payload)

    def run_done(self, event: RunDone, now: float) -> None:
        """Go on with a frame after an order was carried out."""
        self._running = None
        frame = self.frames.get(event.key)
        if frame is None:
            return
        self._learn_here(frame, event)
        if frame.phase is Phase.FINISHING:
            assert event.classified is not None
            self._answer(frame, event.classified, FINAL, Tier.DEVICE, {}, now)
            return
        step = _step(frame)
        frame.step += 1
        if step is not None:
            frame.done.extend(step.segments)
            said = event.classified
            if said is not None and (step.threshold is None or said.confidence >= step.threshold):
                self._answer(frame, said, step.exit or FINAL, Tier.DEVICE, {}, now)
                return
        if event.shipment_bytes is not None:
            frame.shipment_bytes = event.shipment_bytes
            self._ship(frame, now)
        else:
            self._orders.append(self._next_run(frame))

    def _learn_here(self, frame: Frame, event: RunDone) -> None:
        learnt = self.planner.corrections
        if event.decode_seconds > 0:
            frame.decoded = True
            learnt.decoded(event.decode_seconds, event.image_bytes)
        elif event.image_bytes is not None:
            learnt.camera_frame(event.image_bytes)
        frame.decode_seconds += event.decode_seconds
        frame.device_seconds += event.device_seconds
        frame.encode_seconds += event.encode_seconds
        if event.shipment_bytes is not None and frame.itinerary.codec is not None:
            learnt.encoded(frame.decision.cut, frame.itinerary.codec, event.encode_seconds)
        step = _step(frame)
        if frame.phase is Phase.RUNNING and step is not None:
            exits = () if step.exit is None or step.exit == FINAL else (step.exit,)
            profiled = self.planner.profiled_seconds(Tier.DEVICE, step.segments, exits)
            learnt.compute(Tier.DEVICE, event.device_seconds, profiled)

    def run_failed(self, event: RunFailed, now: float) -> None:
        """Reject a frame that proves unusable; anything else is tried once more, whole and here."""
        self._running = None
        frame = self.frames.get(event.key)
        if frame is None:
            return
        if event.unusable or frame.phase is Phase.FINISHING:
            self._reject(frame, event.reason, event.detail)
            return
        self._out.append(Notice("compute.failed", {"camera": frame.camera, "detail": event.detail}))
        self._finish_here(frame, "compute", now)

    def _reject(self, frame: Frame, reason: str, detail: str) -> None:
        del self.frames[frame.key]
        self.statistics.taken -= 1
        self.statistics.rejected[reason] += 1
        fields = {"camera": frame.camera, "frame_id": frame.frame_id, "reason": reason, "detail": detail[:200]}
        self._out.append(Notice("input.rejected", fields))
        self._out.append(Forget(frame.key))

    # ------------------------------------------------------------------------------------------ to a worker and back

    def _ship(self, frame: Frame, now: float) -> None:
        tier = frame.itinerary.tier
        assert tier is not None
        why = self._unshippable(frame, tier)
        if why is not None:
            self._finish_here(frame, why, now)
            return
        frame.phase = Phase.SHIPPED
        frame.attempt += 1
        if frame.attempt > 1:
            frame.waited_seconds += now - frame.shipped_at
        frame.shipped_at = now
        frame.bytes_sent += frame.shipment_bytes
        self.statistics.bytes_sent += frame.shipment_bytes
        patience = _PATIENCE_FACTOR * _expected(frame) + _PATIENCE_SECONDS + self.uplink.backlog_seconds(now)
        frame.give_up_at = max(now, min(now + patience, self._latest_finish(frame)))
        self.uplink.sent((frame.key, frame.attempt), frame.shipment_bytes, now)
        left = max(0.001, frame.deadline_at - now)
        self._out.append(Ship(frame.key, frame.attempt, tier, frame.itinerary.route, frame.decision.plan_id, left))

    def _unshippable(self, frame: Frame, tier: Tier) -> str | None:
        if not self.uplink.connected:
            return "disconnected"
        if self.uplink.suspect:
            return "no-answer"
        if tier not in self.world.profiles():
            return "no-worker"
        limit = self.uplink.max_packet_bytes
        return "too-large" if limit is not None and frame.shipment_bytes > limit else None

    def _rest(self, frame: Frame) -> tuple[str, ...]:
        return tuple(name for name in self.planner.profiled.names if name not in frame.done)

    def _latest_finish(self, frame: Frame) -> float:
        """When the device must begin to finish by itself so as to keep the deadline."""
        scale = self.planner.corrections.scales().get(Tier.DEVICE, 1.0)
        seconds = scale * self.planner.profiled_seconds(Tier.DEVICE, self._rest(frame))
        return frame.deadline_at - 1.5 * seconds - 0.05

    def shipment_ended(self, event: ShipmentEnded, now: float) -> None:
        """Finish here what the bus could not deliver."""
        if event.outcome == "delivered":
            return
        self.uplink.abandoned((event.key, event.attempt))
        frame = self.frames.get(event.key)
        if event.outcome == "no_subscribers" and self.uplink.usable:
            # Nobody of that tier listens, whatever the retained presence says; probing tells when somebody does.
            self.world.lose_uplink("no worker listens", now)
        if frame is not None and frame.phase is Phase.SHIPPED and frame.attempt == event.attempt:
            reason = event.outcome.replace("_", "-")
            self._out.append(Notice("offload.failed", {"camera": frame.camera, "reason": reason}))
            self._finish_here(frame, reason, now)

    def replied(self, event: Replied, now: float) -> None:
        """Answer with what a worker says, unless the frame has its answer already."""
        changed = self.uplink.returned((event.key, event.attempt), sum(event.seconds.values()), now)
        frame = self.frames.get(event.key)
        if frame is not None and frame.attempt > 0:
            if event.classified is not None:
                self._learn_there(frame, event)
                self._answer(frame, event.classified, event.exit, event.tier, event.seconds, now)
            else:
                self._refused(frame, event, now)
        if changed:
            self.world.link_changed(now)

    def _refused(self, frame: Frame, event: Replied, now: float) -> None:
        fields = {"camera": frame.camera, "reason": event.error, "worker": event.worker}
        self._out.append(Notice("offload.failed", fields))
        if event.error == "fingerprint":
            self.world.unfit(event.worker, now)
        if frame.phase is Phase.SHIPPED and event.attempt == frame.attempt:
            self._finish_here(frame, "worker-error", now)

    def _learn_there(self, frame: Frame, event: Replied) -> None:
        learnt = self.planner.corrections
        plan = frame.itinerary
        if plan.codec is not None and "decode" in event.seconds:
            learnt.far_decoded(frame.decision.cut, plan.codec, event.seconds["decode"])
        if len(plan.route) == 1 and "compute" in event.seconds:
            stage = plan.route[0]
            profiled = self.planner.profiled_seconds(stage.tier, stage.segments)
            learnt.compute(stage.tier, event.seconds["compute"], profiled)

    # ------------------------------------------------------------------------------------------ when it goes wrong

    def give_up(self, now: float) -> None:
        """Retry once where the link is proven alive, else finish here; for every frame whose time has come."""
        for frame in list(self.frames.values()):
            if frame.phase is not Phase.SHIPPED or frame.give_up_at > now or frame.key not in self.frames:
                continue
            heard = self.uplink.heard_at > frame.shipped_at
            was_usable = self.uplink.usable
            changed = self.uplink.timed_out((frame.key, frame.attempt), now)
            if frame.attempt == 1 and heard and self.uplink.usable and now < self._latest_finish(frame) - 0.02:
                self._out.append(Notice("offload.retried", {"camera": frame.camera}))
                self._ship(frame, now)
            else:
                self._out.append(Notice("offload.failed", {"camera": frame.camera, "reason": "timeout"}))
                self._finish_here(frame, "timeout", now)
            if was_usable and self.uplink.suspect:
                self.world.outage("no answer", now)
            elif changed:
                self.world.link_changed(now)
            else:
                self.uplink.order_probe()

    def disconnected(self, now: float) -> None:
        """Finish here whatever was with the network when the connection broke."""
        for frame in self._shipped():
            self._finish_here(frame, "disconnected", now)

    def worker_lost(self, tier: Tier, now: float) -> None:
        """Send what the lost worker may have had to another one of its tier at once, or finish it here."""
        for frame in self._shipped():
            if frame.itinerary.tier is not tier:
                continue
            self.uplink.abandoned((frame.key, frame.attempt))
            if tier in self.world.profiles() and frame.attempt == 1:
                self._ship(frame, now)
            else:
                self._finish_here(frame, "worker-lost", now)

    def _shipped(self) -> list[Frame]:
        return [frame for frame in self.frames.values() if frame.phase is Phase.SHIPPED]

    def _finish_here(self, frame: Frame, reason: str, now: float) -> None:
        if frame.phase is Phase.SHIPPED:
            frame.waited_seconds += now - frame.shipped_at
        frame.phase = Phase.FINISHING
        frame.give_up_at = float("inf")
        frame.fallback = frame.fallback or reason
        self._orders.appendleft(Run(frame.key, self._rest(frame), FINAL, None, decode=not frame.decoded))

    # ------------------------------------------------------------------------------------------ out

    def _answer(
        self, frame: Frame, said: Classified, left_at: str, tier: Tier, far: Mapping[str, float], now: float
    ) -> None:
        del self.frames[frame.key]
        answer = Answer(
            key=frame.key,
            frame_id=frame.frame_id,
            correlation=frame.correlation,
            camera=frame.camera,
            classified=said,
            exit=left_at,
            tier=tier,
            fallback=frame.fallback if tier is Tier.DEVICE else None,
            plan_id=frame.decision.plan_id,
            captured_at=frame.received_at,
            timing=timing(frame, tier, far, now),
            bytes_sent=frame.bytes_sent,
        )
        undisturbed = answer.fallback is None and frame.attempt <= 1
        self.statistics.answer(answer, frame.decision.expected_seconds(left_at) if undisturbed else None, now)
        if self.planner.exit_rates is not None and any(
            step.exit not in (None, FINAL) for step in frame.itinerary.steps
        ):
            self.planner.exit_rates.add(left_at)
        self._out.append(answer)
        self._out.append(Forget(frame.key))


def _step(frame: Frame) -> Step | None:
    steps = frame.itinerary.steps
    return steps[frame.step] if frame.step < len(steps) else None


def _expected(frame: Frame) -> float:
    return frame.decision.expected_seconds(FINAL)
