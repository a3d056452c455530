"""The world around the frames: the uplink, the workers, and the plan that follows from them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from popexd.coordinator.choosing import Known
from popexd.coordinator.events import (
    Decided,
    Effect,
    Notice,
    ProbeEnded,
    ProbeReturned,
    SendProbe,
    SpeedMeasured,
    UplinkChanged,
    WorkerChanged,
)
from popexd.coordinator.planning import Planner
from popexd.coordinator.settings import PlannerSettings
from popexd.coordinator.trust import Trust
from popexd.coordinator.uplink import News, Uplink
from popexd.plan import Tier

_MOST_MISMATCHED = 64


class World:
    """Who is there, how they are reached, and what is planned with them; orders go to `out`."""

    def __init__(self, planner: Planner, uplink: Uplink, out: list[Effect]) -> None:
        self.planner = planner
        self.uplink = uplink
        self.trust = Trust()
        self.workers: dict[str, tuple[Tier, Any]] = {}
        self._out = out
        self._complained = False
        self._mismatched: dict[str, Mapping[str, Mapping[str, str]]] = {}

    def profiles(self) -> dict[Tier, Any]:
        """Return a profile for every tier that answers and has a worker online for this model."""
        suspects = self.trust.suspects
        found = ((tier, profile) for _, (tier, profile) in sorted(self.workers.items()) if profile is not None)
        return {tier: profile for tier, profile in found if tier not in suspects}

    def usable(self, tier: Tier) -> bool:
        """Whether a message sent to a tier now can be expected to be answered."""
        return self.uplink.usable and tier not in self.trust.suspects

    def crew(self, tier: Tier) -> int:
        """Return how many workers of a tier are there."""
        return sum(of is tier for of, _ in self.workers.values())

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
        self.uplink.estimator.quantile = settings.quantile
        self.consider(reason, now, forced=True)
        if self.planner.infeasible is None and self.infeasible is not None:
            self.notice("plan.infeasible", detail=self.infeasible)

    @property
    def infeasible(self) -> str | None:
        """Why what is asked for is not in force, None where it is: it cannot be kept, or a pinned tier is not there."""
        made, mode = self.planner.decision, self.planner.settings.mode
        if self.planner.infeasible is not None or made is None or mode == "auto":
            return self.planner.infeasible
        if max(made.plan.tiers.values()).label == mode:
            return None
        return f"mode: {mode} is not in force: no worker of that tier is within reach, so the device does it all"

    # ------------------------------------------------------------------------------------------ the uplink

    def uplink_changed(self, event: UplinkChanged, now: float) -> None:
        """Take in that the uplink's broker was reached or lost; presence is told anew after a connect."""
        was = self.uplink.connected
        self.uplink.connection(event.connected, event.max_packet_bytes)
        self.trust.clear()
        if not event.connected:
            self.workers.clear()
        if was != event.connected:
            self.notice("uplink.connected" if event.connected else "uplink.lost", reason=event.reason)
        self.consider("uplink connected" if event.connected else "uplink lost", now, urgent=True)

    def follow(self, news: News, now: float) -> None:
        """Act on what an answer, or its absence, says of the uplink."""
        if news is News.CHANGED:
            link = self.uplink.estimator.link()
            rate, at_least = (None, False) if link is None else (round(link.bits_per_second), link.at_least)
            self.notice("link.changed", bits_per_second=rate, at_least=at_least)
            self.uplink.order_probe(now)
            self.consider("link", now, urgent=True)
        elif news is News.LOST:
            self.outage("no answer", now)
        elif news is News.RESTORED:
            self.notice("uplink.restored")
            self.consider("uplink restored", now, urgent=True)
        elif news is News.ANSWERING:
            self.consider("tier restored", now, urgent=True)

    def answered(self, key: Hashable, tier: Tier, take_in: Callable[[bool], News], now: float) -> News:
        """Take in a tier's answer to a message; return what is to be followed when the answer has been dealt with.

        `take_in` hands it to the uplink; it is told whether the answer's time says anything of the link.
        """
        telling = self._tells_of_the_link(key, tier)
        back = self.trust.heard(tier, now)
        news = take_in(telling and not back)
        if not back:
            return news
        self.notice("tier.restored", tier=tier.label)
        if news is News.RESTORED:
            return news
        if self.profiles().keys() - {tier}:
            self.uplink.order_probe(now)
        else:
            self.uplink.begin_anew(now)  # nobody has told of the link meanwhile
        return News.ANSWERING

    def _tells_of_the_link(self, key: Hashable, tier: Tier) -> bool:
        """Whether an answer's time is the link's: not where one worker of several sat on the message."""
        sent_at = self.uplink.sent_at(key)
        if sent_at is None or sent_at < self.trust.restored_at(tier):
            return False
        return self.crew(tier) < 2 or not self.uplink.held_beyond(key)

    def unanswered(self, key: Hashable, tier: Tier, now: float) -> None:
        """Take in that a message was not answered in time: the tier's fault if it reached the broker, or the link's."""
        sent_at, crossed = self.uplink.sent_at(key), self.uplink.has_crossed(key)
        news = self.uplink.timed_out(key, now)
        self.follow(news, now)
        if crossed and sent_at is not None and self.trust.unanswered(tier, sent_at, self.crew(tier), now):
            self._tier_lost(tier, "no answer", now)
        elif news is News.NONE:
            self.uplink.order_probe(now)

    def nobody_listens(self, tier: Tier, now: float) -> None:
        """Take in that no worker takes messages, whatever the retained presence says; pings tell when one does."""
        if self.crew(tier) and self.trust.lost(tier, now):
            self._tier_lost(tier, "no worker listens", now)

    def _tier_lost(self, tier: Tier, reason: str, now: float) -> None:
        self.notice("tier.lost", tier=tier.label, reason=reason)
        self.uplink.order_probe(now)  # of the tiers that are left none may have told of the link yet
        self.consider("tier lost", now, urgent=True)

    def too_large(self, message_bytes: int, now: float) -> None:
        """Take in that the broker does not take messages of this size, and plan for smaller ones."""
        self.uplink.too_large(message_bytes)
        self.consider("too large", now, urgent=True)

    def outage(self, reason: str, now: float) -> None:
        """Tell that the uplink is out and plan without it."""
        self.notice("uplink.lost", reason=reason)
        self.consider("outage", now, urgent=True)

    # ------------------------------------------------------------------------------------------ probes

    def probes(self, now: float) -> list[SendProbe]:
        """Give up what is overdue; return the probes to send now: to measure the link, and to see who answers."""
        overdue = self.uplink.overdue_probe(now)
        if overdue is not None and (tier := self.trust.asked_tier(overdue)) is not None:
            self.unanswered(("probe", overdue), tier, now)
        found = self.uplink.probes(self._probe_tier(), now)
        if self.uplink.usable:
            found += [self.uplink.ping(tier, now) for tier in self.trust.due(now)]
        for probe in found:
            self.trust.asked(probe.sequence, probe.tier)
        return found

    def _probe_tier(self) -> Tier | None:
        """Return who is to echo what measures the link: the highest tier that answers."""
        present = {tier for tier, _ in self.workers.values()}
        # Where nothing gets through, whoever echoes is a sign of life.
        return max(present - self.trust.suspects if self.uplink.usable else present, default=None)

    @property
    def wakeup_at(self) -> float:
        """When `probes` wants to be asked again, infinity if an event will come first."""
        return min(self.uplink.wakeup_at, self.trust.wakeup_at if self.uplink.usable else float("inf"))

    def probe_ended(self, event: ProbeEnded, now: float) -> None:
        """Take in what became of a probe at the broker: that it got there says that the link is alive."""
        tier, key = self.trust.asked_tier(event.sequence), ("probe", event.sequence)
        if tier is None:
            return
        if event.outcome in ("delivered", "no_subscribers"):
            self.follow(self.uplink.delivered(key, now), now)
        else:
            self.uplink.abandoned(key)
        if event.outcome == "delivered":
            return
        self.uplink.end_probe(event.sequence)
        if event.outcome == "no_subscribers":
            self.nobody_listens(tier, now)

    def probe_returned(self, event: ProbeReturned, now: float) -> None:
        """Take in a probe's echo; plan anew when all that was to be probed is known."""
        tier = self.trust.echoed(event.sequence)
        if tier is None:
            return

        def take_in(telling: bool) -> News:
            return self.uplink.probe_returned(event.sequence, event.far_seconds, now, telling)

        news = self.answered(("probe", event.sequence), tier, take_in, now)
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
                self._relieve(event.tier)
                self.notice("worker.lost", worker=event.worker, tier=event.tier.label)
                self.consider("worker lost", now, urgent=True)
            return
        profile = event.profile if event.profile is not None or known is None else known[1]
        self.workers[event.worker] = (event.tier, profile)
        if known is not None:
            self._relieve(known[0])
        else:
            self.notice("worker.found", worker=event.worker, tier=event.tier.label)
            self.uplink.order_probe(now)
            self.trust.hurry(event.tier, now)
        if known is None or known[1] != profile:
            self.consider("worker found", now, urgent=True)

    def _relieve(self, tier: Tier) -> None:
        """Suspect nobody of a tier that a worker has left, if it was the last one."""
        if not self.crew(tier):
            self.trust.forget(tier)

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
