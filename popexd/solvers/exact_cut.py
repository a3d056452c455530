"""The tiers of one scenario as a minimum cut: where the edge relays what the device sends on, or there is no edge."""

from __future__ import annotations

from popexd.plan import Tier
from popexd.profile import INPUT
from popexd.solvers.min_cut import FOREVER, SINK, SOURCE, FlowNetwork
from popexd.solvers.scenario import IMPOSSIBLE, Scenario

UNITS_PER_SECOND = 10**12
"""Capacities are whole picoseconds: rounding hundreds of them stays below the nanosecond that plans differ by."""


def cuttable(scenario: Scenario) -> bool:
    """Whether the scenario's cost is one that a cut can have (submodular).

    Not with a direct link; nor where only the edge pays to decode, or where passing a tensor on costs more if it was
    made on the edge than if it came from the device.
    """
    if scenario.to_cloud[:1] == ("direct",):
        return False
    if Tier.EDGE not in scenario.problem.available or Tier.CLOUD not in scenario.problem.available:
        return True
    return all(
        tensor.to_edge == 0.0 and (point == INPUT or tensor.edge_to_cloud <= tensor.to_cloud)
        for point, tensor in scenario.tensors.items()
    )


def minimum_cut(scenario: Scenario) -> tuple[float, dict[str, Tier]] | None:
    """Return the least seconds of the scenario and the tiers, most layers low; None where nothing is possible.

    Two vertices per layer, as in spec B.3: `low` (on the source's side: the device runs it) and `mid` (device or edge).
    One auxiliary vertex per producer and side, so that a tensor is paid once per hop.
    """
    value, kept = _network(scenario).cut()
    if value >= FOREVER:
        return None
    tiers = {}
    for name in scenario.problem.graph.names:
        on_edge = Tier.EDGE if ("mid", name) in kept else Tier.CLOUD
        tiers[name] = Tier.DEVICE if ("low", name) in kept else on_edge
    return value / UNITS_PER_SECOND + scenario.branch_seconds, tiers


def _network(scenario: Scenario) -> FlowNetwork:
    flow, graph = FlowNetwork(), scenario.problem.graph
    for layer in graph.layers:
        low, mid = ("low", layer.name), ("mid", layer.name)
        seconds = scenario.layer_seconds[layer.name]
        pinned = scenario.pinned.get(layer.name)
        for tier, tail, head in ((Tier.CLOUD, SOURCE, mid), (Tier.EDGE, mid, low), (Tier.DEVICE, low, SINK)):
            flow.arc(tail, head, _units(seconds.get(tier, IMPOSSIBLE) if pinned in (None, tier) else IMPOSSIBLE))
        flow.arc(low, mid, FOREVER)
        for parent in layer.after:
            if parent != INPUT:
                flow.arc(low, ("low", parent), FOREVER)
                flow.arc(mid, ("mid", parent), FOREVER)
    _transfers(scenario, flow)
    _fixed(scenario, flow)
    return flow


def _transfers(scenario: Scenario, flow: FlowNetwork) -> None:
    """Each tensor once per hop; what one made on the device costs more on the second hop, it pays on top."""
    two_tier = Tier.EDGE not in scenario.problem.available
    edge_last = Tier.CLOUD not in scenario.problem.available
    for point, readers in scenario.problem.graph.children.items():
        if not readers:
            continue
        tensor = scenario.tensors[point]
        made_low = SOURCE if point == INPUT else ("low", point)
        made_mid = SOURCE if point == INPUT else ("mid", point)
        beyond = tensor.to_edge if edge_last else tensor.to_cloud if two_tier else 0.0
        first = tensor.leaves_device + beyond
        again = 0.0 if two_tier or edge_last else tensor.to_cloud if point == INPUT else tensor.edge_to_cloud
        extra = 0.0 if two_tier or edge_last or point == INPUT else tensor.to_cloud - tensor.edge_to_cloud
        for tail, seconds, aux, side in (
            (made_low, first, ("sent", point), "low"),
            (made_mid, again, ("passed", point), "mid"),
            (made_low, extra, ("relayed", point), "mid"),
        ):
            if seconds > 0:
                flow.arc(tail, aux, _units(seconds))
                for reader in readers:
                    flow.arc(aux, (side, reader), FOREVER)


def _fixed(scenario: Scenario, flow: FlowNetwork) -> None:
    """What a frame pays once: decoding it, round trips, the answer's way back; and the tier that the mode pins."""
    problem, graph = scenario.problem, scenario.problem.graph
    flow.arc(("begun",), SINK, _units(graph.input_seconds.get(Tier.DEVICE, 0.0)))
    hops = scenario.to_cloud if Tier.CLOUD in problem.available else ("device",)
    last = scenario.outcomes.shares[-1]
    if "device" in problem.network.links:
        flow.arc(SOURCE, ("left device",), _units(scenario.wait("device") + last * scenario.back("device")))
    if "edge" in hops:
        flow.arc(SOURCE, ("left edge",), _units(scenario.wait("edge") + last * scenario.back("edge")))
    for layer in graph.layers:
        flow.arc(("low", layer.name), ("begun",), FOREVER)
        flow.arc(("left device",), ("low", layer.name), FOREVER)
        flow.arc(("left edge",), ("mid", layer.name), FOREVER)
    for sink in graph.sinks if problem.finisher is not None else ():
        if problem.finisher is not Tier.DEVICE:
            flow.arc(("low", sink), SINK, FOREVER)
        if problem.finisher is Tier.CLOUD:
            flow.arc(("mid", sink), SINK, FOREVER)


def _units(seconds: float) -> int:
    return FOREVER if seconds == IMPOSSIBLE else round(seconds * UNITS_PER_SECOND)
