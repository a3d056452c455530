"""What anyone allowed may ask of the agent: probe, replan, set, status."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from popexd.coordinator.events import RequestReceived, Respond
from popexd.errors import InputError

if TYPE_CHECKING:
    from popexd.coordinator.brain import Coordinator

_LONGEST_ERROR = 500


def carry_out(brain: Coordinator, request: RequestReceived, now: float) -> Respond | None:
    """Carry out a request; return the response, None where no transaction asks for one."""
    try:
        data = _data(brain, request, now)
    except InputError as error:
        brain.statistics.requests_rejected["value"] += 1
        detail = str(error)[:_LONGEST_ERROR]
        asked = {"transaction": request.transaction, "asked_by": request.asked_by}
        brain.world.notice("request.rejected", verb=request.verb, reason="value", detail=detail, **asked)
        return _respond(request, error=detail)
    return _respond(request, data=data)


def _respond(request: RequestReceived, data: dict[str, Any] | None = None, error: str | None = None) -> Respond | None:
    if request.transaction is None:
        return None
    return Respond(request.verb, request.transaction, data, error)


def _data(brain: Coordinator, request: RequestReceived, now: float) -> dict[str, Any]:
    world = brain.world
    planner = world.planner
    if request.verb == "probe":
        world.uplink.due(now, force=True)
        return {"ordered": world.uplink.usable, "workers": sorted(world.workers)}
    if request.verb == "replan":
        world.consider("request", now, forced=True)
        assert planner.decision is not None
        return {"plan_id": planner.decision.plan_id, "cut": planner.decision.cut}
    if request.verb == "set":
        before = planner.settings
        world.adopt(before.updated(request.fields, planner.exits), "set", now)
        changed = before.changes(planner.settings)
        if changed:
            asked = {"transaction": request.transaction, "asked_by": request.asked_by}
            world.notice("settings.changed", **request.fields, changed=changed, **asked)
        return {**asdict(planner.settings), "infeasible": world.infeasible}
    decision = planner.decision
    return {
        "settings": asdict(planner.settings),
        "plan_id": decision.plan_id if decision is not None else None,
        "cut": decision.cut if decision is not None else None,
        "infeasible": world.infeasible,
        "uplink": {
            "connected": world.uplink.connected,
            "usable": world.uplink.usable,
            "suspect": sorted(tier.label for tier in world.trust.suspects),
        },
        "workers": {name: tier.label for name, (tier, _) in sorted(world.workers.items())},
        "frames": brain.statistics.snapshot(now)["frames"],
    }
