"""The world around the frames: the uplink, the workers, and the plan that follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from popexd.coordinator.choosing import Known
from popexd.coordinator.events import (
    Decided,
    Effect,
    Notice,
    ProbeReturned,
    SpeedMeasured,
    UplinkChanged,
    WorkerChanged,
)
from popexd.coordinator.planning import Planner
from popexd.coordinator.settings import PlannerSettings
from popexd.coordinator.uplink import News, Uplink
from popexd.plan import Tier

_MOST_MISMATCHED = 64


class World:
    """Who is there, how they are reached, and what is planned with them; orders go to `out`."""

    def __init__(self, planner: Planner, uplink: Uplink, out: list[Effect]) -> None:
        self.planner = planner
        self.uplink = uplink
        self.workers: dict[str, tuple[Tier, Any]] = {}
        self._out = out
        self._complained = False
        self._mismatched: dict[str, Mapping[str, Mapping[str, str]]] = {}

    def profiles(self) -> dict[Tier, Any]:
        """Return a profile for every tier that has a worker online for this model."""
        return {tier: profile for _, (tier, profile) in sorted(self.workers.items()) if profile is not None}

    def probe_tier(self) -> Tier | None:
        """Return the tier whose workers are to answer probes: the highest that is there."""
        return max((tier for tier, _ in self.workers.values()), default=None)

    def notice(self, event: str, **fields: Any) -> None:
        """Order an event to be published."""
        self._out.append(Notice(event, fields))

    def known(self) -> Known:
        """Return what planning depends on."""
        return Known(self.profiles(), self.uplink.link, self.uplink.max_packet_bytes)

    def consider(self, reason: str, now: float, urgent: bool = False, forced: bool = False) -> None:
        """Solve again and, if that changes anything worth telling, put the new decision in force."""
        before = self.planner.decision
        decision = self.planner.consider(self.known(), reason, now, urgent, forced)
        if self.planner.infeasible is not None and not self._complained:
            self.notice("plan.infeasible", detail=self.planner.infeasible)
        self._complained = self.planner.infeasible is not None
        self.uplink.eager = self._better_could_pay()
        if decision is None:
            return
        self._out.append(Decided(decision))
        if before is not None and before.plan_id != decision.plan_id:
            self.notice("plan.changed", plan_id=decision.plan_id, cut=decision.cut, reason=reason)

    def _better_could_pay(self) -> bool:
        """Whether every frame stays on the device though with a better link it might not."""
        made, link, settings = self.planner.decision, self.uplink.link, self.planner.settings
        if made is None or link is None or not self.profiles() or settings.mode == "device":
            return False
        if any(tier is not Tier.DEVICE for plan in made.plans.values() for tier in plan.tiers.values()):
            return False
        if settings.objective == "bytes":
            return False
        # No rate is quicker than the round trip.
        return settings.objective not in ("seconds", "p95") or made.prediction.p95_seconds > link.round_trip_seconds

    def adopt(self, settings: PlannerSettings, reason: str, now: float) -> None:
        """Plan by these settings from now on.

        Raises:
            InputError: they cannot work with this model; nothing is changed then.

        """
        self.planner.adopt(settings)
        self.consider(reason, now, forced=True)

    # ------------------------------------------------------------------------------------------ the uplink

    def uplink_changed(self, event: UplinkChanged, now: float) -> None:
        """Take in that the uplink's broker was reached or lost; presence is told anew after a connect."""
        was = self.uplink.connected
        self.uplink.connection(event.connected, event.max_packet_bytes)
        if not event.connected:
            self.workers.clear()
        if was != event.connected:
            self.notice("uplink.connected" if event.connected else "uplink.lost", reason=event.reason)
        self.consider("uplink connected" if event.connected else "uplink lost", now, urgent=True)

    def follow(self, news: News, now: float) -> None:
        """Act on what an answer, or its absence, says of the uplink."""
        if news is News.CHANGED:
            rate = self.uplink.estimator.rate(self.uplink.estimator.quantile)
            self.notice("link.changed", bits_per_second=None if rate is None else round(rate))
            self.uplink.order_probe(now)
            self.consider("link", now, urgent=True)
        elif news is News.LOST:
            self.outage("no answer", now)
        elif news is News.RESTORED:
            self.notice("uplink.restored")
            self.consider("uplink restored", now, urgent=True)

    def nobody_listens(self, now: float) -> None:
        """Take in that no worker takes messages, whatever the retained presence says; probing tells when one does."""
        if self.uplink.usable:
            self.uplink.lost(now)
            self.outage("no worker listens", now)

    def too_large(self, message_bytes: int, now: float) -> None:
        """Take in that the broker does not take messages of this size, and plan for smaller ones."""
        self.uplink.too_large(message_bytes)
        self.consider("too large", now, urgent=True)

    def outage(self, reason: str, now: float) -> None:
        """Tell that the uplink is out and plan without it."""
        self.notice("uplink.lost", reason=reason)
        self.consider("outage", now, urgent=True)

    def probe_returned(self, event: ProbeReturned, now: float) -> None:
        """Take in a probe's echo; plan anew when all that was to be probed is known."""
        news = self.uplink.probe_returned(event.sequence, event.far_seconds, now)
        self.follow(news, now)
        if news is News.NONE and not self.uplink.probing:
            self.consider("probe", now)

    def speed_measured(self, event: SpeedMeasured, now: float) -> None:
        """Take in an outside speed test."""
        self.uplink.estimator.add_speedtest(event.bits_per_second, now)
        self.consider("speedtest", now)

    # ------------------------------------------------------------------------------------------ the workers

    def worker_changed(self, event: WorkerChanged, now: float) -> None:
        """Take in a worker's presence or profile."""
        known = self.workers.get(event.worker)
        self._tell_mismatch(event)
        if not event.online:
            if self.workers.pop(event.worker, None) is not None:
                self.notice("worker.lost", worker=event.worker, tier=event.tier.label)
                self.consider("worker lost", now, urgent=True)
            return
        profile = event.profile if event.profile is not None or known is None else known[1]
        self.workers[event.worker] = (event.tier, profile)
        if known is None:
            self.notice("worker.found", worker=event.worker, tier=event.tier.label)
            self.uplink.order_probe(now)
        if known is None or known[1] != profile:
            self.consider("worker found", now, urgent=True)

    def _tell_mismatch(self, event: WorkerChanged) -> None:
        """Tell once of a worker that serves other models than ours, and again when what it serves has changed."""
        if event.online:
            self._mismatched.pop(event.worker, None)
        elif event.instead is not None and self._mismatched.get(event.worker) != event.instead:
            if len(self._mismatched) >= _MOST_MISMATCHED:
                self._mismatched.pop(next(iter(self._mismatched)))
            self._mismatched[event.worker] = event.instead
            self.notice("worker.mismatched", worker=event.worker, tier=event.tier.label, **event.instead)

    def unfit(self, worker: str, now: float) -> None:
        """Take in that a worker does not hold our model after all."""
        known = self.workers.get(worker)
        if known is not None and known[1] is not None:
            self.workers[worker] = (known[0], None)
            self.consider("worker unfit", now, urgent=True)
