"""The exact solver: minimum cuts, programmes, exits; and what it refuses."""

from __future__ import annotations

import random

import pytest

from popexd.errors import Infeasible, InputError
from popexd.network import Link, NetworkState
from popexd.plan import Tier
from popexd.profile import Layer, LayerGraph
from popexd.solvers import Problem, solve
from popexd.solvers.exact_cut import cuttable, minimum_cut
from popexd.solvers.exact_milp import linear_programme
from popexd.solvers.min_cut import FOREVER, SINK, SOURCE, FlowNetwork
from popexd.solvers.scenario import scenarios
from tests.graphs import CLOUD, DEVICE, EDGE, chain, random_dag, toy, two_branches, uplink

RELAYED = NetworkState(Link(5e6, 0.01), Link(50e6, 0.002))


def nanoseconds(problem: Problem, name: str = "exact") -> int:
    """Expected time in whole nanoseconds."""
    return round(solve(name, problem).prediction.seconds * 1e9)


@pytest.mark.parametrize("block", range(4))
def test_relayed_three_tiers_equal_brute_force(block: int) -> None:
    """T4: the two-vertex cut, 300 DAGs."""
    for seed in range(block * 75, block * 75 + 75):
        rng = random.Random(seed)
        graph = random_dag(rng, rng.randint(1, 7), 0)
        network = NetworkState(Link(10 ** rng.uniform(5, 8), rng.uniform(0, 0.02)), Link(10 ** rng.uniform(6, 9)))
        problem = Problem(graph, network)

        assert cuttable(next(scenarios(problem)))
        assert nanoseconds(problem) == nanoseconds(problem, "brute-force"), f"seed {seed}"


@pytest.mark.parametrize("block", range(4))
def test_a_direct_link_equals_brute_force(block: int) -> None:
    """T4: the programme, 120 DAGs."""
    for seed in range(block * 30, block * 30 + 30):
        rng = random.Random(seed)
        graph = random_dag(rng, rng.randint(1, 6), 0)
        links = [Link(10 ** rng.uniform(5, 8), rng.choice([0.0, 0.01])) for _ in range(3)]
        problem = Problem(graph, NetworkState(*links))

        assert not cuttable(next(scenarios(problem)))
        assert nanoseconds(problem) == nanoseconds(problem, "brute-force"), f"seed {seed}"


def test_cut_and_programme_agree() -> None:
    """Where both apply they give the same seconds."""
    for seed in range(30):
        rng = random.Random(seed)
        problem = Problem(random_dag(rng, rng.randint(2, 12), 1), RELAYED)
        for scenario in scenarios(problem):
            cut, programme = minimum_cut(scenario), linear_programme(scenario)
            assert cut is not None
            assert programme is not None
            assert cut[0] == pytest.approx(programme[0], abs=1e-9)


def test_exits_are_included() -> None:
    """Spec A2: no branch is worth its time at (0, 0): 217 ms; at (.1, .9) 204.93 ms."""
    assert nanoseconds(Problem(two_branches(0, 0), uplink(2))) == 217_000_000
    assert nanoseconds(Problem(two_branches(0.1, 0.9), uplink(2))) == 204_930_000
    assert nanoseconds(Problem(toy(10, 0.5), uplink(8))) == 31_500_000


def test_ties_go_low() -> None:
    """All tiers alike: everything on the device, by cut and by programme."""
    times = dict.fromkeys(Tier, 0.01)
    free = LayerGraph("free", 0, (Layer("a", ("input",), times, 0), Layer("b", ("a",), times, 0)))
    for network in (RELAYED, NetworkState(Link(1e9), Link(1e9), Link(1e9))):
        assert set(solve("exact", Problem(free, network)).plan.tiers.values()) == {DEVICE}


def test_a_tensor_with_two_readers_is_paid_once() -> None:
    """DADS Fig. 9: v1 feeds two layers beyond the cut and crosses once."""
    slow, fast = {DEVICE: 0.001, CLOUD: 0.1}, {DEVICE: 1.0, CLOUD: 0.001}
    layers = (
        Layer("v1", ("input",), slow, 100_000),
        Layer("v2", ("v1",), fast, 10),
        Layer("v3", ("v1",), fast, 10),
        Layer("v4", ("v2", "v3"), fast, 10),
    )
    problem = Problem(LayerGraph("fork", 1e9, layers), uplink(8))
    for name in ("exact", "dads", "brute-force"):
        assert nanoseconds(problem, name) == round((0.001 + 0.1 + 0.003) * 1e9)


@pytest.mark.parametrize(("mode", "tier"), [("device", DEVICE), ("edge", EDGE), ("cloud", CLOUD)])
def test_modes_pin_the_end(mode: str, tier: Tier) -> None:
    """Every sink is on the tier asked for."""
    graph = random_dag(random.Random(4), 7, 1)
    found = solve("exact", Problem(graph, RELAYED, mode=mode)).plan

    assert {found.tiers[sink] for sink in graph.sinks} == {tier}


def test_a_broken_constraint_is_named() -> None:
    """It is checked, not searched for; the line says who searches."""
    with pytest.raises(Infeasible, match=r"deadline_seconds 0.02 s: the best plan has 0.0315 s.*joint does"):
        solve("exact", Problem(toy(10, 0.5), uplink(8), deadline_seconds=0.02))


def test_what_it_cannot_do_it_says() -> None:
    """Other objectives; too many exits."""
    with pytest.raises(InputError, match="objective: 'bytes', but exact minimises 'seconds' only, expected joint"):
        solve("exact", Problem(toy(1, 0), uplink(1), objective="bytes"))
    many = chain([1.0] * 13, [10.0] * 13, [(k, 0.1, 0.5) for k in range(1, 13)], 2)
    with pytest.raises(InputError, match="exact takes up to 2,000 ways to place exits"):
        solve("exact", Problem(many, uplink(1)))


def test_minimum_cut_keeps_most_at_the_source() -> None:
    """Of two cuts of value 3 the one further from the source."""
    flow = FlowNetwork()
    flow.arc(SOURCE, "a", 3)
    flow.arc("a", "b", 5)
    flow.arc("b", SINK, 3)
    flow.arc("a", "c", FOREVER)

    assert flow.cut() == (3, {SOURCE, "a", "b", "c"})
