"""Neurosurgeon, DADS, Edgent, DDNN: the spec's numbers and each paper's own rules."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from popexd.errors import Infeasible, InputError
from popexd.latency import predict
from popexd.network import Link, NetworkState
from popexd.plan import ExitChoice, Tier
from popexd.power import Power
from popexd.profile import Layer, LayerGraph
from popexd.solvers import Problem, solve
from popexd.solvers.dads import bits_per_second
from popexd.solvers.ddnn import bytes_per_frame
from popexd.solvers.edgent import DynamicEdgent, configuration_map
from tests.graphs import CLOUD, DEVICE, EDGE, cut_plan, label_of, synthetic, toy, two_branches, uplink
from tests.solvers.tables import tabled

THREE = NetworkState(Link(2e6), Link(50e6))


def back_flow() -> LayerGraph:
    """Spec C.2: te = (0, 10, 1), tc = (0, 1, 10), tt = (1, 100, 0), in seconds."""
    layers = (
        Layer("v1", ("input",), {DEVICE: 10, CLOUD: 1}, 12_500_000),
        Layer("v2", ("v1",), {DEVICE: 1, CLOUD: 10}, 0),
    )
    return LayerGraph("back-flow", 125_000, layers)


def test_dads_does_not_flow_back() -> None:
    """The published construction gives 3 with a free way back; no plan takes less than 11."""
    found = solve("dads", Problem(back_flow(), uplink(1)))

    assert found.prediction.seconds == pytest.approx(11)
    assert set(found.plan.tiers.values()) == {DEVICE}


def test_dads_turns_to_heavy_load_when_the_rate_asks_for_it() -> None:
    """Light load minimises time; past 1/Q its busiest stage forces the other cut, and past that the rate must fall."""
    layers = (
        Layer("v1", ("input",), {DEVICE: 1.0, CLOUD: 3.0}, 0),
        Layer("v2", ("v1",), {DEVICE: 1.0, CLOUD: 1.5}, 0),
    )
    problem = Problem(LayerGraph("even", 0, layers), uplink(1))

    assert solve("dads", problem).prediction.bottleneck_seconds == pytest.approx(2)
    assert solve("dads", replace(problem, frames_per_second=0.5)).prediction.bottleneck_seconds == pytest.approx(2)
    busy = solve("dads", replace(problem, frames_per_second=0.6))
    assert busy.prediction.bottleneck_seconds == pytest.approx(1.5)
    with pytest.raises(Infeasible, match=r"busiest stage 1 s: .* lower the rate of 1 frames/s"):
        solve("dads", replace(problem, frames_per_second=1.0))


def test_dads_measures_a_rate_with_two_probes() -> None:
    """30 ms of round trip are in both and do not matter."""
    assert bits_per_second((1_000, 0.031), (101_000, 0.131)) == pytest.approx(8e6)
    assert bits_per_second((101_000, 0.131), (1_000, 0.031)) == pytest.approx(8e6)
    with pytest.raises(ValueError, match="say nothing of a rate"):
        bits_per_second((1_000, 0.05), (2_000, 0.04))


def test_neurosurgeon_at_p_zero_is_popex_without_branches() -> None:
    """Spec A4: no exits: the same cut as POPEX's."""
    for mbps in (0.1, 1.1, 5.5, 18.8, 1000):
        graph = replace(synthetic(10, 0), exits=())
        problem = Problem(graph, uplink(mbps))
        assert solve("neurosurgeon", problem).plan.tiers == solve("shortest-path", problem).plan.tiers


def test_neurosurgeon_saves_energy_where_asked() -> None:
    """A thirsty radio keeps work on the device, a thirsty processor sends it away; the joules are counted."""
    graph = replace(toy(10, 0), exits=())
    thirsty_radio = replace(graph, power=Power(0.1, 100.0))
    thirsty_processor = replace(graph, power=Power(100.0, 0.1))

    def cut(model: LayerGraph) -> str:
        return label_of(solve("neurosurgeon", Problem(model, uplink(8), objective="device_joules")).plan, model)

    assert cut(thirsty_radio) == "output"
    assert cut(thirsty_processor) == "input"
    found = solve("neurosurgeon", Problem(thirsty_processor, uplink(8), objective="device_joules"))
    assert found.prediction.device_joules == pytest.approx(0.1 * 0.1)


def test_other_objectives_are_refused() -> None:
    """Each names what it can."""
    with pytest.raises(InputError, match="neurosurgeon minimises 'seconds' or 'device_joules' only"):
        solve("neurosurgeon", Problem(toy(1, 0), uplink(1), objective="bytes"))
    with pytest.raises(InputError, match="hpa minimises 'seconds' only"):
        solve("hpa", Problem(toy(1, 0), uplink(1), objective="p95"))


def test_edgent_takes_the_largest_exit_in_time() -> None:
    """Every frame leaves at it where thresholds of 0 are allowed; a tighter deadline means an earlier exit."""
    problem = Problem(tabled(two_branches(0.5, 0.5)), uplink(2), thresholds=(0.0,))

    def chosen(deadline: float | None) -> str:
        plan = solve("edgent", replace(problem, deadline_seconds=deadline)).plan
        return ", ".join(name for name, choice in plan.exits.items() if choice.runs) or "final"

    assert chosen(None) == chosen(0.3) == "final"
    assert chosen(0.215) == "b4"
    assert chosen(0.12) == "b2"
    with pytest.raises(Infeasible, match=r"deadline_seconds 0.01 s: .*no exit and cut of Edgent's"):
        chosen(0.01)


def test_edgent_passes_over_larger_exits_only_if_they_are_late() -> None:
    """Its own guarantee: whatever is larger than its choice misses the deadline at every cut."""
    for seed in range(20):
        graph = tabled(two_branches(0, 0), seed=seed)
        problem = Problem(graph, uplink(2), thresholds=(0.0,), deadline_seconds=0.11 + 0.006 * seed)
        chosen = {name for name, choice in solve("edgent", problem).plan.exits.items() if choice.runs}
        larger = {"b2": ({"b4"}, set()), "b4": (set(),), None: ()}[next(iter(chosen), None)]
        for running in larger:
            forced = {name: ExitChoice(name in running, 0.0 if name in running else None) for name in ("b2", "b4")}
            for cut in range(6):
                if running and cut < 4:
                    continue  # the branch runs on the device only
                plan = replace(cut_plan(graph, cut), exits=forced)
                assert predict(plan, graph, problem.network).seconds > problem.deadline_seconds  # type: ignore[operator]


def test_edgent_looks_its_plan_up_only_when_the_link_has_changed() -> None:
    """A flutter is not a change; a step is, once most of the last measurements agree."""
    problem = Problem(synthetic(10, 0.5), uplink(5), deadline_seconds=2.0)
    states = configuration_map(problem, [1e6, 2e6, 5e6, 20e6])
    assert [state.reward > 0 for state in states] == [True] * 4
    dynamic = DynamicEdgent(states)

    for rate in (5e6, 5.2e6, 4.9e6, 30e6, 5.1e6, 4.8e6, 5e6):
        dynamic.measured(rate)
    assert (dynamic.lookups, dynamic.state.bits_per_second) == (1, 5e6)
    for rate in (1e6, 1.1e6, 1e6, 0.9e6, 1e6):
        dynamic.measured(rate)
    assert (dynamic.lookups, dynamic.state.bits_per_second) == (2, 1e6)


def test_the_map_earns_nothing_past_the_deadline() -> None:
    """The reward is 0 where no choice is in time."""
    states = configuration_map(Problem(synthetic(100, 0), uplink(1), deadline_seconds=0.01), [1e6])

    assert states[0].reward == 0


def test_ddnn_is_the_same_whatever_the_links() -> None:
    """Local part up to the first branch, edge up to the last, cloud the rest."""
    graph = two_branches(0.5, 0.5)
    layers = tuple(replace(layer, seconds={**layer.seconds, EDGE: layer.seconds[CLOUD] * 2}) for layer in graph.layers)
    exits = tuple(replace(branch, seconds={**branch.seconds, EDGE: 0.001}) for branch in graph.exits)
    three = replace(graph, layers=layers, exits=exits)
    for network in (THREE, NetworkState(Link(1e3), Link(1e3))):
        plan = solve("ddnn", Problem(three, network)).plan
        assert [plan.tiers[f"v{i}"] for i in range(1, 6)] == [DEVICE, DEVICE, EDGE, EDGE, CLOUD]
        assert plan.runs("b2")
        assert plan.runs("b4")


def test_ddnn_without_an_edge_has_one_exit() -> None:
    """The edge's exit is left out with the edge; without any exit it does not apply."""
    plan = solve("ddnn", Problem(two_branches(0.5, 0.5), uplink(2))).plan
    assert [name for name, choice in plan.exits.items() if choice.runs] == ["b2"]
    with pytest.raises(InputError, match="ddnn needs exits and 'toy' has none"):
        solve("ddnn", Problem(replace(toy(1, 0), exits=()), uplink(1)))


@pytest.mark.parametrize(
    ("share", "bytes_"),
    [(0, 140), (0.0058, 139), (0.0175, 138), (0.0292, 136), (0.2281, 111), (0.6082, 62), (0.8304, 34), (1, 12)],
)
def test_ddnn_bytes(share: float, bytes_: int) -> None:
    """T1: the paper's Table II."""
    assert round(bytes_per_frame(3, 4, 256, share)) == bytes_


def test_plans_agree_on_the_tiers_they_name() -> None:
    """A two-tier plan by hand costs what Neurosurgeon says of the same cut."""
    graph = replace(toy(10, 0), exits=())
    found = solve("neurosurgeon", Problem(graph, uplink(8)))
    cut = sum(tier is Tier.DEVICE for tier in found.plan.tiers.values())

    assert cut_plan(graph, cut).tiers == found.plan.tiers
    assert math.isclose(found.prediction.seconds, 0.043)
