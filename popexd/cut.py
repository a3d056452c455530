"""What a plan sends from tier to tier, and the plan's form in files and messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from popexd.network import NetworkState
from popexd.plan import Plan, Tier
from popexd.profile import INPUT, Exit, LayerGraph

OUTPUT = "output"
"""The cut after which nothing is left to do elsewhere: the device runs everything."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """One tensor that leaves the tier that made it: the output of `point`, a layer or `input`."""

    point: str
    source: Tier
    destinations: tuple[Tier, ...]


def crossings(plan: Plan, graph: LayerGraph) -> tuple[Crossing, ...]:
    """List the tensors that leave their tier, in layer order, each once however many layers read it.

    Raises:
        ValueError: a layer has no tier, or data would flow back down.
    """
    found = []
    for point in (INPUT, *graph.names):
        source = Tier.DEVICE if point == INPUT else _tier(plan, point)
        above: set[Tier] = set()
        for reader in graph.children[point]:
            tier = _tier(plan, reader)
            if tier < source:
                raise ValueError(f"{reader!r} on the {tier.label} reads {point!r} on the {source.label}: no way back")
            if tier > source:
                above.add(tier)
        if above:
            found.append(Crossing(point, source, tuple(sorted(above))))
    return tuple(found)


def _tier(plan: Plan, layer: str) -> Tier:
    try:
        return plan.tiers[layer]
    except KeyError:
        raise ValueError(f"the plan says nothing of layer {layer!r}") from None


def points_by_hop(plan: Plan, graph: LayerGraph, network: NetworkState | None = None) -> dict[str, list[str]]:
    """The tensors on each hop that the plan uses, in layer order.

    Without a `network` the device is taken to reach the cloud straight, unless the plan uses the edge.

    Raises:
        ValueError: the network has no way for one of them.
    """
    used: dict[str, list[str]] = {}
    for crossing in crossings(plan, graph):
        for destination in crossing.destinations:
            hops = _route(plan, crossing.source, destination, network)
            for hop in hops:
                points = used.setdefault(hop, [])
                if crossing.point not in points:
                    points.append(crossing.point)
    return used


def _route(plan: Plan, source: Tier, destination: Tier, network: NetworkState | None) -> tuple[str, ...]:
    if network is None:
        relayed = source is Tier.DEVICE and destination is Tier.CLOUD and Tier.EDGE in plan.tiers.values()
        return ("device", "edge") if relayed else (source.label,)
    hops = network.route(source, destination)
    if hops is None:
        raise ValueError(f"no link leads from the {source.label} to the {destination.label}")
    return hops


def cut_of(plan: Plan, graph: LayerGraph) -> str | list[str]:
    """Where the model is cut: `input`, `output`, the layer whose output leaves the device, or a list of several."""
    leaving = [crossing.point for crossing in crossings(plan, graph) if crossing.source is Tier.DEVICE]
    if not leaving:
        return OUTPUT
    return leaving[0] if len(leaving) == 1 else leaving


def plan_to_json(plan: Plan, graph: LayerGraph, network: NetworkState | None = None) -> dict[str, Any]:
    """The plan as in decision messages and the answers of `popexd plan`: cut, cuts, tiers, exits, codec, codecs."""
    points = points_by_hop(plan, graph, network)
    leaving = crossings(plan, graph)
    senders = {crossing.source for crossing in leaving}
    return {
        "cut": cut_of(plan, graph),
        "cuts": {"device": [c.point for c in leaving if c.source is Tier.DEVICE], "edge": points.get("edge", [])},
        "tiers": {name: plan.tiers[name].label for name in graph.names},
        "exits": {
            branch.name: {"runs": plan.runs(branch.name), "threshold": _threshold(plan, branch)} | _criterion(branch)
            for branch in graph.exits
        },
        "codec": plan.codec(Tier.DEVICE) if Tier.DEVICE in senders else None,
        "codecs": {tier.label: plan.codec(tier) for tier in sorted(senders)},
    }


def _threshold(plan: Plan, branch: Exit) -> float | None:
    bound = plan.exits[branch.name].threshold if plan.runs(branch.name) else None
    return None if bound is None else branch.criterion.threshold(bound)


def _criterion(branch: Exit) -> dict[str, str]:
    """Say what a threshold is of, where it is not a confidence."""
    return {} if branch.criterion.name == "confidence" else {"criterion": branch.criterion.name}
