"""A plan turned into the steps that a frame takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

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
class Order:
    """What the device does in one go: run segments, ask an exit, encode what leaves; maybe nothing but decode."""

    segments: tuple[str, ...] = ()
    exit: str | None = None
    codec: str | None = None


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
    def opening(self) -> Order:
        """Return the first order. Where no exit is asked, the encoding comes along and saves a turn."""
        return self.order(0)

    def order(self, index: int) -> Order:
        """Return what step `index` comes to; after the last step, what is left is to encode what leaves."""
        if index >= len(self.steps):
            return Order(codec=self.codec)
        step = self.steps[index]
        return Order(step.segments, step.exit, self.codec if step.exit is None else None)

    @property
    def tier(self) -> Tier | None:
        """Who takes the shipment; None when nothing leaves the device."""
        return self.route[0].tier if self.route else None

    @property
    def needs_decoding(self) -> bool:
        """Whether the device must decode the frame: not when the camera's own bytes are sent on."""
        return bool(self.steps) or self.codec != "camera"


@dataclass(frozen=True)
class Ways:
    """The way of a frame by its image-quality class, which shows when it is decoded; `usual` if it is not known."""

    usual: Itinerary
    by_quality: Mapping[str, Itinerary] = field(default_factory=dict)

    def of(self, quality: str | None) -> Itinerary:
        """Return the way of frames of a class."""
        return self.usual if quality is None else self.by_quality.get(quality, self.usual)

    @cached_property
    def opening(self) -> Order:
        """What every frame begins with: what all ways have in common, so that no turn is lost by looking first."""
        firsts = {way.opening for way in (self.usual, *self.by_quality.values())}
        return firsts.pop() if len(firsts) == 1 else Order()

    @property
    def looks(self) -> bool:
        """Whether a frame's class decides on its way."""
        return bool(self.by_quality)

    @property
    def needs_decoding(self) -> bool:
        """Whether the device decodes every frame."""
        return self.looks or self.usual.needs_decoding

    @cached_property
    def farthest(self) -> Itinerary:
        """The way that leaves most to others, by which one is careful."""
        return max([self.usual] if not self.by_quality else self.by_quality.values(), key=_left_to_others)


def _left_to_others(way: Itinerary) -> int:
    return sum(len(stage.segments) for stage in way.route)


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
        if plan.runs(branch.name) and plan.tiers[branch.after] is tier
    }
    return Stage(tier, segments, plan.codecs.get(tier.label), exits)


def local_plan(graph: LayerGraph) -> Plan:
    """Return the plan that needs nobody else: every layer on the device, no branch."""
    return Plan({layer.name: Tier.DEVICE for layer in graph.layers})
