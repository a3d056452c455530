"""Frames at a worker: shipped while the device can still rescue them, asked for again once, or taken back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from popexd.coordinator.events import Classified, Effect, Notice, Replied, Ship, ShipmentEnded
from popexd.coordinator.frames import Frame, Phase, Waiting
from popexd.coordinator.lessons import learn_there
from popexd.coordinator.statistics import Statistics
from popexd.coordinator.world import World
from popexd.plan import Tier
from popexd.validation import FINAL

_MOST_SHIPPED = 8
_PATIENCE_FACTOR = 3.0
_PATIENCE_SECONDS = 0.1
_RESCUE_FACTOR = 1.5
_RESCUE_SECONDS = 0.05
_SOON_SECONDS = 0.001
_AHEAD_SHARE = 0.25
"""The next frame is begun when so much of its expected time is left until the link is free."""

Answered = Callable[[Frame, Classified, str, Tier, Mapping[str, float], float], None]


@dataclass(frozen=True, slots=True)
class Room:
    """Whether one more frame may go the planned way; else whether the device should take it, and when to ask again."""

    ready: bool
    overdue: bool = False
    again_at: float = float("inf")


class Offload:
    """The shipped ones of `frames`; `finish_here` and `answered` are what becomes of them."""

    def __init__(
        self,
        world: World,
        statistics: Statistics,
        frames: Mapping[int, Frame],
        out: list[Effect],
        finish_here: Callable[[Frame, str, float], None],
        answered: Answered,
    ) -> None:
        self.world = world
        self.planner = world.planner
        self.uplink = world.uplink
        self.statistics = statistics
        self.frames = frames
        self._out = out
        self._finish_here = finish_here
        self._answered = answered

    @property
    def shipped(self) -> list[Frame]:
        """The frames that are with a worker, or the network; first shipped first."""
        return [frame for frame in self.frames.values() if frame.phase is Phase.SHIPPED]

    # ------------------------------------------------------------------------------------------ out

    def room(self, waiting: Waiting, now: float) -> Room:
        """Tell whether one more frame may go the planned way: those that are out must be served first, and be safe."""
        itinerary, decision, shipped = self.planner.ways.farthest, self.planner.decision, self.shipped
        if not shipped or decision is None:
            return Room(True)
        if not itinerary.route:
            return Room(self._can_wait(shipped, now))
        overdue_at = min(frame.overdue_at for frame in shipped)
        overdue = overdue_at <= now
        gap = self.uplink.probing and self.uplink.usable  # a probe wants to cross alone
        # A frame that waits for the link had better wait in the inbox, where a newer one may take its place.
        excess = self.uplink.backlog_seconds(now) - _AHEAD_SHARE * decision.expected_seconds(FINAL)
        few = len(shipped) < (2 if overdue else _MOST_SHIPPED)
        if few and not gap and excess <= 0 and self._safe(shipped, waiting, now):
            return Room(True)
        if overdue:
            return Room(False, overdue=self._can_wait(shipped, now))
        return Room(False, again_at=min(overdue_at, now + max(excess, _SOON_SECONDS)) if excess > 0 else overdue_at)

    def _safe(self, shipped: list[Frame], waiting: Waiting, now: float) -> bool:
        """Whether the device could still rescue every frame in time with one more shipped; if it ever can."""
        ways, deadline = self.planner.ways, self.planner.settings.deadline_seconds
        segments = tuple(name for stage in ways.farthest.route for name in stage.segments)
        rescue = self._rescue_seconds(segments, not ways.needs_decoding, now)
        owed = [*((frame.deadline_at, frame.rescue_seconds) for frame in shipped), (waiting.at + deadline, rescue)]
        latest = self._latest_starts(owed)
        in_time = all(at >= frame.overdue_at for at, frame in zip(latest, shipped, strict=False))
        return rescue > deadline or (in_time and latest[-1] >= now)

    def _can_wait(self, shipped: list[Frame], now: float) -> bool:
        """Whether the shipped ones could be rescued in time after a whole frame on the device; if they ever can."""
        alone = self.planner.device_seconds(self.planner.profiled.names, True, now)
        latest = self._latest_starts([(frame.deadline_at, frame.rescue_seconds) for frame in shipped])
        return alone > self.planner.settings.deadline_seconds or min(latest) >= now + alone

    def _rescue_seconds(self, segments: tuple[str, ...], decode: bool, now: float) -> float:
        return _RESCUE_FACTOR * self.planner.device_seconds(segments, decode, now)

    @staticmethod
    def _latest_starts(owed: list[tuple[float, float]]) -> list[float]:
        """When the device must begin each of these (deadline, seconds) at the latest, one after the other."""
        latest = [0.0] * len(owed)
        limit = float("inf")
        for index in sorted(range(len(owed)), key=lambda one: -owed[one][0]):
            deadline, seconds = owed[index]
            limit = min(limit, deadline - _RESCUE_SECONDS) - seconds
            latest[index] = limit
        return latest

    def ship(self, frame: Frame, now: float) -> None:
        """Send a frame's encoded tensors to a worker, or have it finished here where that cannot be."""
        tier = frame.itinerary.tier
        assert tier is not None
        why = self._unshippable(frame, tier)
        if why is not None:
            self._finish_here(frame, why, now)
            return
        if frame.attempt > 0:
            frame.waited_seconds += now - frame.shipped_at
        frame.phase = Phase.SHIPPED
        frame.attempt += 1
        frame.shipped_at = now
        frame.bytes_sent += frame.shipment_bytes
        self.statistics.bytes_sent += frame.shipment_bytes
        expected = _PATIENCE_FACTOR * frame.expected_seconds + _PATIENCE_SECONDS
        frame.patient_until = now + expected + self.uplink.backlog_seconds(now)
        frame.rescue_seconds = self.rescue_seconds(frame, now)
        self.uplink.sent((frame.key, frame.attempt), frame.shipment_bytes, now)
        left = max(0.001, frame.deadline_at - now)
        route, plan_id = frame.itinerary.route, frame.decision.plan_id
        self._out.append(Ship(frame.key, frame.attempt, tier, route, plan_id, left, frame.quality))

    def rest(self, frame: Frame) -> tuple[str, ...]:
        """Return the segments that a frame still needs."""
        return tuple(name for name in self.planner.profiled.names if name not in frame.done)

    def rescue_seconds(self, frame: Frame, now: float) -> float:
        """Return what the device is sure to need at most to finish a frame."""
        return self._rescue_seconds(self.rest(frame), not frame.decoded, now)

    def _unshippable(self, frame: Frame, tier: Tier) -> str | None:
        if not self.uplink.connected:
            return "disconnected"
        if self.uplink.suspect:
            return "no-answer"
        if tier in self.world.trust.suspects:
            return "no-answer"
        if tier not in self.world.profiles():
            return "no-worker"
        limit = self.uplink.max_packet_bytes
        return "too-large" if limit is not None and frame.shipment_bytes > limit else None

    # ------------------------------------------------------------------------------------------ back

    def ended(self, event: ShipmentEnded, now: float) -> None:
        """Take in what became of a shipment at the broker; finish here what it did not take."""
        key = (event.key, event.attempt)
        frame = self.frames.get(event.key)
        if event.outcome in ("delivered", "no_subscribers"):
            self.world.follow(self.uplink.delivered(key, now), now)
        if event.outcome == "delivered":
            return
        self.uplink.abandoned(key)
        if frame is None:
            return
        if event.outcome == "no_subscribers" and frame.itinerary.tier is not None:
            self.world.nobody_listens(frame.itinerary.tier, now)
        if event.outcome == "too_large":
            self.world.too_large(frame.shipment_bytes, now)
        if frame.phase is Phase.SHIPPED and frame.attempt == event.attempt:
            self._failed(frame, event.outcome.replace("_", "-"), now)

    def _failed(self, frame: Frame, reason: str, now: float) -> None:
        self._out.append(Notice("offload.failed", {"camera": frame.camera, "reason": reason}))
        self._finish_here(frame, reason, now)

    def replied(self, event: Replied, now: float) -> None:
        """Answer with what a worker says, unless the frame has its answer already."""
        frame = self.frames.get(event.key)
        why = None if frame is None else _disbelieved(event, frame)
        if why is not None:
            self.statistics.replies_rejected[why] += 1
            return
        key, far_seconds = (event.key, event.attempt), sum(event.seconds.values())
        tier = event.tier if frame is None else frame.itinerary.tier or event.tier
        news = self.world.answered(
            key, tier, lambda telling: self.uplink.returned(key, far_seconds, now, telling=telling), now
        )
        if frame is not None:
            if event.classified is not None and event.exit not in (FINAL, *self.planner.exits):
                self.statistics.replies_rejected["exit"] += 1
                self._refused(frame, replace(event, error="exit"), now)
            elif event.classified is not None:
                learn_there(self.planner, frame, event, now)
                self._answered(frame, event.classified, event.exit, event.tier, event.seconds, now)
            else:
                self._refused(frame, event, now)
        self.world.follow(news, now)

    def _refused(self, frame: Frame, event: Replied, now: float) -> None:
        fields = {"camera": frame.camera, "reason": event.error, "worker": event.worker}
        self._out.append(Notice("offload.failed", fields))
        if event.error == "fingerprint":
            self.world.unfit(event.worker, now)
        if frame.phase is Phase.SHIPPED and event.attempt == frame.attempt:
            self._finish_here(frame, "worker-error", now)

    # ------------------------------------------------------------------------------------------ when nothing comes

    @property
    def wakeup_at(self) -> float:
        """When the next frame is to be given up."""
        return min((at for at, _ in self._giving_up()), default=float("inf"))

    def _giving_up(self) -> list[tuple[float, Frame]]:
        """When to give each shipped frame up: in time for the device to keep the deadline.

        Where it could not even if it began soon, only patience counts: else a slow device would never offload.
        """
        if not (shipped := self.shipped):
            return []
        found = []
        for at, frame in zip(self._latest(shipped), shipped, strict=True):
            by_itself = frame.deadline_at - _RESCUE_SECONDS - frame.rescue_seconds
            found.append((min(frame.patient_until, at if by_itself >= frame.overdue_at else frame.overdue_at), frame))
        return found

    def _latest(self, shipped: list[Frame]) -> list[float]:
        """When the device must begin each of these at the latest, busy as it is with those it finishes already."""
        finishing = [frame for frame in self.frames.values() if frame.phase is Phase.FINISHING]
        owed = [(frame.deadline_at, frame.rescue_seconds) for frame in (*shipped, *finishing)]
        return self._latest_starts(owed)[: len(shipped)]

    def give_up(self, now: float) -> None:
        """Retry once where the link is proven alive, else finish here; for every frame whose time has come."""
        # One after the other: what the device has to finish makes the time shorter for the rest.
        while frame := next((frame for at, frame in self._giving_up() if at <= now), None):
            key, tier = (frame.key, frame.attempt), frame.itinerary.tier
            assert tier is not None
            self.world.unanswered(key, tier, now)
            if frame.attempt == 1 and self._heeded(key, tier, frame) and self._worth_a_retry(frame, now):
                self._out.append(Notice("offload.retried", {"camera": frame.camera}))
                self.ship(frame, now)
            else:
                self._failed(frame, "timeout", now)

    def _heeded(self, key: tuple[int, int], tier: Tier, frame: Frame) -> bool:
        """Whether somebody may answer another message: one worker has answered, or it was not the only one's turn."""
        others = self.world.crew(tier) > 1 and self.uplink.has_crossed(key)
        return others or self.world.trust.heard_at(tier) > frame.shipped_at

    def _worth_a_retry(self, frame: Frame, now: float) -> bool:
        """Whether the message rather was lost than is still on its way, and there is time for another."""
        steady = self.uplink.changed_at <= frame.shipped_at and not self.uplink.estimator.in_doubt
        return steady and self._in_time_again(frame, now)

    def _in_time_again(self, frame: Frame, now: float) -> bool:
        """Whether a frame sent once more now can be answered while the device could still rescue it."""
        needed = frame.overdue_at - frame.shipped_at + self.uplink.backlog_seconds(now)
        tier = frame.itinerary.tier
        usable = tier is not None and self.world.usable(tier)
        return usable and now + needed <= frame.deadline_at - _RESCUE_SECONDS - frame.rescue_seconds

    def disconnected(self, now: float) -> None:
        """Finish here whatever was with the network when the connection broke."""
        for frame in self.shipped:
            self._finish_here(frame, "disconnected", now)

    def worker_lost(self, tier: Tier, now: float) -> None:
        """Send what the lost worker may have had to another one of its tier at once, or finish it here."""
        for frame in self.shipped:
            if frame.itinerary.tier is not tier:
                continue
            # The worker is to blame, so a link in doubt is no reason against.
            if tier in self.world.profiles() and frame.attempt == 1 and self._in_time_again(frame, now):
                self.ship(frame, now)
            else:
                self._finish_here(frame, "worker-lost", now)


def _disbelieved(event: Replied, frame: Frame) -> str | None:
    """Return why an answer is not one to what was shipped, None if it is: an earlier attempt held the same tensors."""
    if not 1 <= event.attempt <= frame.attempt:
        return "attempt"
    if event.plan_id != frame.decision.plan_id:
        return "plan"
    return None if event.tier in [stage.tier for stage in frame.itinerary.route] else "tier"
