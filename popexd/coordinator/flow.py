"""The way of a frame: taken, run step by step, shipped or not, answered exactly once."""

from __future__ import annotations

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
    Run,
    RunDone,
    RunFailed,
    Settled,
)
from popexd.coordinator.frames import Frame, Inbox, Phase, Waiting
from popexd.coordinator.itinerary import Step
from popexd.coordinator.lessons import learn_exit, learn_here
from popexd.coordinator.offload import Offload
from popexd.coordinator.statistics import Statistics
from popexd.coordinator.timing import timing
from popexd.coordinator.watching import Watch
from popexd.coordinator.world import World
from popexd.plan import Tier
from popexd.validation import FINAL


class Flow:
    """Every frame that is waiting or owed an answer; orders go to `out`."""

    def __init__(self, world: World, statistics: Statistics, out: list[Effect]) -> None:
        self.world = world
        self.planner = world.planner
        self.statistics = statistics
        self.inbox = Inbox()
        self.watch = Watch(world.planner.profiled.validation)
        self.frames: dict[int, Frame] = {}
        self.draining = False
        self.offload = Offload(world, statistics, self.frames, out, self._finish_here, self._answer)
        self._orders: list[Run] = []
        self._again_at = float("inf")
        self._running: Run | None = None
        self._last_key = 0
        self._out = out

    # ------------------------------------------------------------------------------------------ in

    def received(self, event: FrameReceived, now: float) -> None:
        """Put a frame into its camera's slot, newest wins."""
        self.statistics.received += 1
        if self.draining:
            self._dropped("shutdown", event)
            return
        dropped = self.inbox.put(event, now)
        if dropped is not None:
            self._dropped(*dropped)

    def skipped(self, event: FramesSkipped, _now: float) -> None:
        """Count frames that were pushed out before they got here."""
        self.statistics.received += event.count
        self.statistics.dropped[event.reason] += event.count
        fields = {"camera": event.camera, "count": event.count, "reason": event.reason}
        self._out.append(Notice("frame.dropped", fields))

    def input_rejected(self, event: InputRejected, _now: float) -> None:
        """Count something that can never be a frame."""
        self.statistics.received += 1
        self.statistics.rejected[event.reason] += 1
        self._out.append(Notice("input.rejected", {"reason": event.reason, "detail": event.detail[:200]}))

    def drain(self) -> None:
        """Take no more frames; those that wait are dropped, those taken are answered."""
        self.draining = True
        for waiting in self.inbox.clear():
            self._dropped("shutdown", waiting.received)

    def _dropped(self, reason: str, received: FrameReceived) -> None:
        self.statistics.dropped[reason] += 1
        fields = {"camera": received.camera, "frame_id": received.frame_id, "reason": reason}
        self._out.append(Notice("frame.dropped", fields))
        self._settled(received.ticket)

    def _settled(self, ticket: object) -> None:
        if ticket is not None:
            self._out.append(Settled(ticket))

    @property
    def wakeup_at(self) -> float:
        """When something is to be done though nothing happens."""
        return min(self.offload.wakeup_at, self._again_at)

    def pump(self, now: float) -> None:
        """Keep the compute thread busy: what was promised comes first, then the frame that waits longest."""
        self._again_at = float("inf")
        if self._running is not None:
            return
        order = self._next_order()
        if order is not None:
            self._order(order)
            return
        waiting = self.inbox.oldest
        if self.draining or waiting is None:
            return
        room = self.offload.room(waiting, now)
        if room.ready or room.overdue:
            self.inbox.take()
            self._take(waiting, None if room.ready else "uplink-busy", now)
        else:
            self._again_at = room.again_at

    def _next_order(self) -> Run | None:
        """Take out the most urgent order: to finish what was planned for elsewhere, the earliest deadline first."""
        self._orders = [order for order in self._orders if order.key in self.frames]
        if not self._orders:
            return None

        def urgency(order: Run) -> tuple[bool, float]:
            frame = self.frames[order.key]
            return frame.phase is not Phase.FINISHING, frame.deadline_at

        order = min(self._orders, key=urgency)
        self._orders.remove(order)
        return order

    def _take(self, waiting: Waiting, busy: str | None, now: float) -> None:
        decision = self.planner.decision
        assert decision is not None
        self._last_key += 1
        frame = Frame(
            key=self._last_key,
            camera=waiting.received.camera,
            frame_id=waiting.received.frame_id,
            correlation=waiting.received.correlation,
            received_at=waiting.at,
            taken_at=now,
            decision=decision,
            ways=self.planner.ways if busy is None else self.planner.local(),
            deadline_at=waiting.at + self.planner.settings.deadline_seconds,
            fallback=busy,
            ticket=waiting.received.ticket,
        )
        self.frames[frame.key] = frame
        self.statistics.taken += 1
        first, decode = frame.ways.opening, frame.ways.needs_decoding
        self._order(Run(frame.key, first.segments, first.exit, first.codec, decode, waiting.received.payload))

    def _order(self, order: Run) -> None:
        self._running = order
        self._out.append(order)

    # ------------------------------------------------------------------------------------------ on the device

    def _next_run(self, frame: Frame) -> Run:
        order = frame.itinerary.order(frame.step)
        decode = frame.itinerary.needs_decoding and not frame.decoded
        return Run(frame.key, order.segments, order.exit, order.codec, decode)

    def _returned(self, key: int) -> tuple[Frame, Run] | None:
        """Take in that the compute thread is idle again; return the frame and its order if it still matters."""
        order = self._running
        if order is None or key != order.key:
            return None
        self._running = None
        return (self.frames[key], order) if key in self.frames else None

    def run_done(self, event: RunDone, now: float) -> None:
        """Go on with a frame after an order was carried out."""
        returned = self._returned(event.key)
        if returned is None:
            return
        frame, order = returned
        frame.quality = event.quality or frame.quality
        if event.decode_seconds > 0:
            self.watch.looked(frame)
        learn_here(self.planner, frame, order, event, now)
        frame.decoded = frame.decoded or event.decode_seconds > 0
        frame.decode_seconds += event.decode_seconds
        frame.device_seconds += event.device_seconds
        frame.encode_seconds += event.encode_seconds
        if frame.phase is Phase.FINISHING:
            assert event.classified is not None
            self._answer(frame, event.classified, FINAL, Tier.DEVICE, {}, now)
        elif not (order.segments or order.exit or order.codec):
            self._orders.append(self._next_run(frame))  # it was only looked at
        else:
            self._step_done(frame, event, now)

    def _step_done(self, frame: Frame, event: RunDone, now: float) -> None:
        step = _step(frame)
        frame.step += 1
        if step is not None:
            frame.done.extend(step.segments)
            said = event.classified
            if said is not None and said.sure(step.threshold):
                self._answer(frame, said, step.exit or FINAL, Tier.DEVICE, {}, now)
                return
            if said is not None and step.exit is not None:
                self.watch.said(frame, step.exit, said, left=False)
                frame.asked.add(step.exit)
        if event.shipment_bytes is not None:
            frame.shipment_bytes = event.shipment_bytes
            self.offload.ship(frame, now)
        else:
            self._orders.append(self._next_run(frame))

    def run_failed(self, event: RunFailed, now: float) -> None:
        """Reject a frame that proves unusable; anything else is tried once more, whole and here."""
        returned = self._returned(event.key)
        if returned is None:
            return
        frame, _ = returned
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
        self._settled(frame.ticket)
        self._out.append(Forget(frame.key))

    def _finish_here(self, frame: Frame, reason: str, now: float) -> None:
        if frame.phase is Phase.SHIPPED:
            frame.waited_seconds += now - frame.shipped_at
        frame.phase = Phase.FINISHING
        frame.rescue_seconds = self.offload.rescue_seconds(frame, now)
        frame.fallback = frame.fallback or reason
        self._orders.append(Run(frame.key, self.offload.rest(frame), FINAL, None, decode=not frame.decoded))

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
            quality=frame.quality,
            ticket=frame.ticket,
        )
        undisturbed = answer.fallback is None and frame.attempt <= 1
        self.statistics.answer(answer, frame.choice.expected_seconds(left_at) if undisturbed else None, now)
        learn_exit(self.planner, frame, left_at, now)
        self.watch.said(frame, left_at, said, left=True)
        self._out.append(answer)
        self._out.append(Forget(frame.key))


def _step(frame: Frame) -> Step | None:
    steps = frame.itinerary.steps
    return steps[frame.step] if frame.step < len(steps) else None
