"""The brain: events in, effects out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from popexd.coordinator import events as ev
from popexd.coordinator.flow import Flow
from popexd.coordinator.planning import Assemble, Planner
from popexd.coordinator.requests import carry_out
from popexd.coordinator.settings import PlannerSettings
from popexd.coordinator.statistics import Statistics
from popexd.coordinator.uplink import Uplink
from popexd.coordinator.world import World
from popexd.errors import InputError


@dataclass(frozen=True, slots=True)
class Settings:
    """What the brain is configured with."""

    planner: PlannerSettings = field(default_factory=PlannerSettings)
    probe_interval_seconds: float = 30.0
    probe_daily_bytes: int = 50_000_000
    metrics_window_seconds: float = 60.0


class Coordinator:
    """`handle(event, now)` returns what to do; `next_wakeup()` when to send a `Wakeup` if nothing else happens.

    A taken frame is owed exactly one answer. It runs on the device step by step, leaves at the first exit that is
    sure, or is shipped at the cut; and whatever happens to the shipment, the device can finish from what it kept.

    Arguments:
        assemble: builds the planner's graph from the profiles of the tiers that are present.
        settings: the configuration.
        boot: a token of this start, part of every plan id.
        timer: only read to report how long a solve took.

    """

    def __init__(
        self,
        assemble: Assemble,
        settings: Settings | None = None,
        boot: str = "p",
        timer: Callable[[], float] = lambda: 0.0,
    ) -> None:
        chosen = settings or Settings()
        self._out: list[ev.Effect] = []
        planner = Planner(assemble, chosen.planner, boot, timer)
        uplink = Uplink(chosen.probe_interval_seconds, chosen.probe_daily_bytes, chosen.planner.quantile)
        self.statistics = Statistics(chosen.metrics_window_seconds)
        self.world = World(planner, uplink, self._out)
        self.flow = Flow(self.world, self.statistics, self._out)
        self._drained = False
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            ev.FrameReceived: self.flow.received,
            ev.FramesSkipped: self.flow.skipped,
            ev.InputRejected: self.flow.input_rejected,
            ev.RunDone: self.flow.run_done,
            ev.RunFailed: self.flow.run_failed,
            ev.ShipmentEnded: self.flow.offload.ended,
            ev.Replied: self.flow.offload.replied,
            ev.ReplyRejected: self._reply_rejected,
            ev.UplinkChanged: self._uplink_changed,
            ev.WorkerChanged: self._worker_changed,
            ev.ProbeReturned: self.world.probe_returned,
            ev.ProbeEnded: self.world.probe_ended,
            ev.SpeedMeasured: self.world.speed_measured,
            ev.RequestReceived: self._request_received,
            ev.RequestRejected: self._request_rejected,
            ev.Reconfigured: self._reconfigured,
            ev.Due: self._due,
            ev.Wakeup: lambda _event, _now: None,
            ev.Drain: lambda _event, _now: self.flow.drain(),
        }

    def start(self, now: float) -> list[ev.Effect]:
        """Return the first effects: from here on a plan is in force, even with nobody else there."""
        self.world.consider("start", now, urgent=True)
        return self._flush(now)

    def handle(self, event: ev.Event, now: float) -> list[ev.Effect]:
        """Take in an event at instant `now`, which never goes back; return what to do, in order."""
        self._handlers[type(event)](event, now)
        return self._flush(now)

    def next_wakeup(self) -> float:
        """When a `Wakeup` is due if nothing happens before; infinity if never."""
        return min(self.flow.wakeup_at, self.world.wakeup_at)

    def _flush(self, now: float) -> list[ev.Effect]:
        self.flow.offload.give_up(now)
        self.flow.pump(now)
        self._out.extend(self.world.probes(now))
        if self.flow.draining and not self.flow.frames and not self._drained:
            self._drained = True
            self._out.append(ev.Drained())
        effects = list(self._out)
        self._out.clear()
        return effects

    def _uplink_changed(self, event: ev.UplinkChanged, now: float) -> None:
        self.world.uplink_changed(event, now)
        if not event.connected:
            self.flow.offload.disconnected(now)

    def _worker_changed(self, event: ev.WorkerChanged, now: float) -> None:
        known = event.worker in self.world.workers
        self.world.worker_changed(event, now)
        if known and not event.online:
            self.flow.offload.worker_lost(event.tier, now)

    def _due(self, event: ev.Due, now: float) -> None:
        if event.what == "probe":
            self.world.uplink.due(now)
        elif event.what == "replan":
            self.world.consider("schedule", now)
        else:
            self._out.extend(self.flow.watch.notices())
            self._out.append(ev.Report(self.figures(now)))

    def figures(self, now: float) -> dict[str, Any]:
        """Return what the metrics topic shows; links as `popexd.network.Link`."""
        decision = self.world.planner.decision
        return {
            **self.statistics.snapshot(now),
            "probe_bytes": self.world.uplink.budget.spent,
            "network": {"device": self.world.uplink.link},
            "plan_id": decision.plan_id if decision is not None else None,
            "drift": self.flow.watch.figures(),
        }

    def _reconfigured(self, event: ev.Reconfigured, now: float) -> None:
        chosen: Settings = event.settings
        self.world.uplink.configure(chosen.probe_interval_seconds, chosen.probe_daily_bytes)
        self.statistics.window_seconds = chosen.metrics_window_seconds
        before = self.world.planner.settings
        try:
            self.world.adopt(chosen.planner, "configuration", now)
        except InputError as error:
            self.world.notice("settings.rejected", source="configuration", detail=str(error))
            return
        changed = before.changes(chosen.planner)
        if changed:
            self.world.notice("settings.changed", source="configuration", changed=changed)

    def _reply_rejected(self, event: ev.ReplyRejected, _now: float) -> None:
        self.statistics.replies_rejected[event.reason] += 1

    def _request_received(self, event: ev.RequestReceived, now: float) -> None:
        reply = carry_out(self, event, now)
        if reply is not None:
            self._out.append(reply)

    def _request_rejected(self, event: ev.RequestRejected, _now: float) -> None:
        self.statistics.requests_rejected[event.reason] += 1
        if event.transaction is not None:
            text = f"{event.reason}: {event.detail}" if event.detail else event.reason
            self._out.append(ev.Respond(event.verb, event.transaction, error=text))
