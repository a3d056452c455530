"""A plan turned into the steps that a frame takes."""

from __future__ import annotations

from dataclasses import dataclass

from popexd.plan import Plan, Tier
from popexd.profile import LayerGraph
from popexd.protocol.tensors import Stage
from popexd.validation import FINAL


@dataclass(frozen=True, slots=True)
class Step:
    """Run these segments, then ask this exit; the answer stands from `threshold` on (None: whatever it says)."""

    segments: tuple[str, ...]
    exit: str | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Itinerary:
    """The steps on the device, then what is shipped: codec of what leaves, and the route still ahead.

    An empty route means that the device finishes; its last step then asks `final`.
    """

    steps: tuple[Step, ...]
    codec: str | None
    route: tuple[Stage, ...]

    @property
    def thresholds(self) -> dict[str, float]:
        """Return every side branch on the way, wherever it runs, and from which confidence it answers."""
        here = {step.exit: step.threshold for step in self.steps if step.exit is not None}
        everywhere = [here, *(stage.exits for stage in self.route)]
        return {name: value for exits in everywhere for name, value in exits.items() if value is not None}

    @property
    def tier(self) -> Tier | None:
        """Who takes the shipment; None when nothing leaves the device."""
        return self.route[0].tier if self.route else None

    @property
    def needs_decoding(self) -> bool:
        """Whether the device must decode the frame: not when the camera's own bytes are sent on."""
        return bool(self.steps) or self.codec != "camera"


def itinerary(plan: Plan, graph: LayerGraph) -> Itinerary:
    """Return the steps that `plan` means for one frame on `graph`."""
    branches = {branch.after: branch for branch in graph.exits if plan.runs(branch.name)}
    steps: list[Step] = []
    pending: list[str] = []
    for layer in graph.layers:
        if plan.tiers[layer.name] is not Tier.DEVICE:
            continue
        pending.append(layer.name)
        branch = branches.get(layer.name)
        if branch is not None:
            threshold = graph.threshold(branch.name, plan.exits[branch.name])
            steps.append(Step(tuple(pending), branch.name, threshold))
            pending.clear()
    route = tuple(_stage(tier, plan, graph) for tier in (Tier.EDGE, Tier.CLOUD) if tier in plan.tiers.values())
    if not route:
        steps.append(Step(tuple(pending), FINAL))
    elif pending:
        steps.append(Step(tuple(pending)))
    return Itinerary(tuple(steps), plan.codec(Tier.DEVICE) if route else None, route)


def _stage(tier: Tier, plan: Plan, graph: LayerGraph) -> Stage:
    segments = tuple(layer.name for layer in graph.layers if plan.tiers[layer.name] is tier)
    exits = {
        branch.name: graph.threshold(branch.name, plan.exits[branch.name])
        for branch in graph.exits
        if branch.after in segments and plan.runs(branch.name)
    }
    return Stage(tier, segments, plan.codecs.get(tier.label), exits)


def local_plan(graph: LayerGraph) -> Plan:
    """Return the plan that needs nobody else: every layer on the device, no branch."""
    return Plan({layer.name: Tier.DEVICE for layer in graph.layers})
