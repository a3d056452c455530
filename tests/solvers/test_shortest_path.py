"""POPEX's shortest path: the spec's numbers, and brute force over POPEX's own choices."""

from __future__ import annotations

import random
from itertools import pairwise

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from popexd.errors import Infeasible, InputError
from popexd.network import Link, NetworkState
from popexd.plan import Tier
from popexd.profile import LayerGraph
from popexd.solvers import Problem, Solution
from popexd.solvers.shortest_path import SOURCE, TARGET, partition_graph, shortest_path
from tests.graphs import (
    CLOUD,
    EDGE,
    chain,
    cost_ms,
    label_of,
    random_chain,
    random_dag,
    synthetic,
    toy,
    two_branches,
    uplink,
)


def solved(graph: LayerGraph, mbps: float, at_cut: str = "either") -> Solution:
    """Solve over one link."""
    return shortest_path(Problem(graph, uplink(mbps)), at_cut)


def best(graph: LayerGraph, mbps: float, at_cut: str = "either") -> str:
    """Name the cut found."""
    return label_of(solved(graph, mbps, at_cut).plan, graph)


def best_ms(graph: LayerGraph, mbps: float) -> float:
    """Expected milliseconds of the cut found."""
    return 1e3 * solved(graph, mbps).prediction.seconds


@pytest.mark.parametrize(
    ("gamma", "p", "label", "milliseconds"),
    [
        (10, 0, "v2", 48),
        (10, 0.5, "v2", 31.5),
        (10, 0.8, "v2", 21.6),
        (10, 1, "output", 15),
        (50, 0.4, "v1 skip", 105),
        (50, 0.5, "v1 run", 102.5),
        (60, 0.70, "input", 106),
        (60, 0.71, "v1 run", 105.95),
        (100, 1, "input", 106),
    ],
)
def test_toy(gamma: float, p: float, label: str, milliseconds: float) -> None:
    """Spec A: the best cut of the toy at 8 Mbit/s; at p = 1 the tie goes to the device."""
    graph = toy(gamma, p)

    assert (best(graph, 8), best_ms(graph, 8)) == (label, pytest.approx(milliseconds, rel=1e-12))


def test_toy_switches_where_derived() -> None:
    """Spec A: skip to run at p = 5/11 (gamma 50), input to run at p* = 39/55 (gamma 60)."""
    assert [best(toy(50, p), 8) for p in (5 / 11 - 1e-6, 5 / 11 + 1e-6)] == ["v1 skip", "v1 run"]
    assert [best(toy(60, p), 8) for p in (39 / 55 - 1e-6, 39 / 55 + 1e-6)] == ["input", "v1 run"]


@pytest.mark.parametrize(
    ("gamma", "p", "milliseconds"), [(10, 0.5, 31.500002), (60, 0, 106.000004), (10, 1, 15.000000)]
)
def test_path_length_is_the_cost_and_a_nanosecond_per_remote_edge(gamma: float, p: float, milliseconds: float) -> None:
    """Spec A: Dijkstra's length with the tie-breaker, input to output."""
    paths = partition_graph(Problem(toy(gamma, p), uplink(8)), CLOUD)

    assert 1e3 * nx.dijkstra_path_length(paths, SOURCE, TARGET) == pytest.approx(milliseconds, abs=1e-10)


@pytest.mark.parametrize(("layers", "branches"), [(3, [1]), (5, [2, 4]), (12, []), (21, [2, 5, 7])])
def test_the_graph_has_the_published_shape(layers: int, branches: list[int]) -> None:
    """2 + 2N + (N-1) + m vertices and 4N + m edges (toy: 11 and 13); a branch at the cut adds one edge."""
    graph = chain([1.0] * layers, [100.0] * layers, [(after, 0.1, 0.5) for after in branches], 10)
    published, extended = (partition_graph(Problem(graph, uplink(8)), CLOUD, at_cut) for at_cut in ("skip", "either"))

    m = len(branches)
    assert (len(published), published.size()) == (2 + 2 * layers + (layers - 1) + m, 4 * layers + m)
    assert (len(extended), extended.size()) == (len(published), 4 * layers + 2 * m)


def test_an_unknown_treatment_of_the_cut_is_refused() -> None:
    """A programmer's error."""
    with pytest.raises(ValueError, match="at_cut is 'maybe'"):
        partition_graph(Problem(toy(1, 0), uplink(1)), CLOUD, "maybe")


@pytest.mark.parametrize(
    ("p2", "p4", "label", "milliseconds"),
    [
        (0.5, 0.5, "v4 run", 165.25),
        (0.8, 0.5, "v4 run", 130.9),
        (0.2, 0.9, "v4 run", 194.16),
        (0, 0, "v4 skip", 225),
        (1, 0, "output", 108),
    ],
)
def test_two_branches(p2: float, p4: float, label: str, milliseconds: float) -> None:
    """Spec A2: the best cut of five layers with two branches at 2 Mbit/s."""
    graph = two_branches(p2, p4)

    assert (best(graph, 2), best_ms(graph, 2)) == (label, pytest.approx(milliseconds, rel=1e-12))


P_GRID = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)


@pytest.mark.parametrize(
    ("gamma", "mbps", "milliseconds"),
    [
        (10, 1.1, (672.1018, 613.4476, 525.4664, 378.8309, 232.1955, 144.2142, 85.56)),
        (10, 5.5, (399.8571, 384.1884, 334.417, 251.4647, 168.5123, 118.7409, 85.56)),
        (10, 18.8, (207.8185, 207.8185, 196.0039, 159.1892, 122.3746, 100.2858, 85.56)),
        (100, 1.1, (2030.7095, 2030.7095, 1924.4321, 1568.1547, 1211.8774, 998.1109, 855.6)),
        (100, 5.5, (944.8971, 944.8971, 944.8971, 944.8971, 940.4243, 889.5297, 855.6)),
        (100, 18.8, (330.1179,) * 7),
    ],
)
def test_synthetic_curves(gamma: float, mbps: float, milliseconds: tuple[float, ...]) -> None:
    """Spec B: T*(p) of the synthetic B-AlexNet."""
    assert [best_ms(synthetic(gamma, p), mbps) for p in P_GRID] == pytest.approx(milliseconds, abs=6e-5)


def test_synthetic_facts() -> None:
    """Spec B: 87.27 % less time at p = 1 than at 0 (cut v5); flat until p* = .736817399 at gamma 100."""
    never, always = (best_ms(synthetic(10, p), 1.1) for p in (0, 1))

    assert best(synthetic(10, 0), 1.1) == "v5"
    assert best(synthetic(10, 1), 1.1) == "output"
    assert 100 * (1 - always / never) == pytest.approx(87.2698, abs=5e-5)
    assert [best(synthetic(100, 0.736817399 + d), 5.5) for d in (-1e-8, 1e-8)] == ["v1 skip", "v1 run"]
    assert best(synthetic(10, 0), 5.5) == "v1 skip"
    assert best(synthetic(10, 0.1), 5.5) == "v2"


@pytest.mark.parametrize(
    ("p", "mbps", "at_cut", "switches"),
    [
        (
            0.8,
            1.1,
            "either",
            {2: "output", 7: "v6", 9: "v5", 36: "v2", 51: "v1 run", 457: "v1 skip", 500: "input"},
        ),
        (0.8, 5.5, "either", {104: "input"}),
        (0.8, 18.8, "either", {36: "input"}),
        (0, 1.1, "either", {500: "input"}),
        (0, 5.5, "either", {101: "input"}),
        (0, 18.8, "either", {31: "input"}),
        (1, 1.1, "either", {2: "output", 521: "input"}),
        (1, 5.5, "either", {2: "output", 111: "input"}),
        (1, 18.8, "either", {2: "output", 39: "input"}),
        (0.8, 1.1, "skip", {500: "input"}),
        (0.8, 5.5, "skip", {101: "input"}),
        (0.8, 18.8, "skip", {31: "input"}),
        (0.8, 1.1, "run", {488: "input"}),
        (0.8, 5.5, "run", {104: "input"}),
        (0.8, 18.8, "run", {36: "input"}),
    ],
)
def test_synthetic_switch_points(p: float, mbps: float, at_cut: str, switches: dict[int, str]) -> None:
    """Spec B: from which gamma on which cut is best; one less, and it is the one before."""
    for gamma, label in switches.items():
        assert best(synthetic(gamma, p), mbps, at_cut) == label
        assert gamma == 2 or best(synthetic(gamma - 1, p), mbps, at_cut) != label
    for (_, label), (gamma, _) in pairwise(switches.items()):
        assert best(synthetic(gamma - 1, p), mbps, at_cut) == label


def test_the_last_layer_is_not_overcharged() -> None:
    """Spec O: gamma 1, 0.08 Mbit/s: all on the device in 6.5 ms; a misspelt weight made that 1003.5 ms."""
    assert (best(toy(1, 0), 0.08), best_ms(toy(1, 0), 0.08)) == ("output", pytest.approx(6.5))


def popex_cuts(graph: LayerGraph) -> list[str]:
    """Every cut that POPEX can choose."""
    cuts = ["input"]
    for name in graph.names[:-1]:
        cuts += [f"{name} run", f"{name} skip"]
    return [*cuts, "output"]


@given(st.integers(0, 10**9))
def test_equals_brute_force_over_popex_choices(seed: int) -> None:
    """Every branch before the cut runs, at the cut either way: Dijkstra finds the least of all those."""
    rng = random.Random(seed)
    graph = random_chain(rng, rng.randint(1, 14), rng.randint(0, 4))
    network = uplink(10 ** rng.uniform(-1, 2))

    found = shortest_path(Problem(graph, network)).prediction.seconds

    least = min(cost_ms(graph, network, label) for label in popex_cuts(graph)) / 1e3
    if len({branch.after for branch in graph.exits}) == len(graph.exits):
        assert found == pytest.approx(least, rel=1e-9, abs=1e-9 * (len(graph.layers) + 1))
    else:  # several branches after one layer: some of them may run, the rest not
        assert found <= least + 1e-9 * (len(graph.layers) + 1)


@given(st.integers(0, 10**9))
def test_more_rate_never_hurts_and_a_slower_device_never_helps(seed: int) -> None:
    """Spec A4: T* does not rise with the rate, nor fall with gamma."""
    rng = random.Random(seed)
    layers = rng.randint(1, 12)
    times = [rng.uniform(0.1, 10) for _ in range(layers)]
    sizes = [rng.uniform(10, 1e5) for _ in range(layers)]
    branches = [(rng.randrange(1, layers), rng.uniform(0, 3), rng.random())] if layers > 1 else []

    by_rate = [best_ms(chain(times, sizes, branches, 20), mbps) for mbps in (0.1, 1, 10, 100)]
    by_gamma = [best_ms(chain(times, sizes, branches, gamma), 5) for gamma in (1, 3, 30, 300)]

    assert all(after <= before * (1 + 1e-9) for before, after in pairwise(by_rate))
    assert all(after >= before * (1 - 1e-9) for before, after in pairwise(by_gamma))


@given(st.integers(0, 10**9))
def test_extreme_links(seed: int) -> None:
    """Spec A4: without exits, an endless rate sends the input and none keeps all; gamma 1 too keeps all."""
    rng = random.Random(seed)
    layers = rng.randint(1, 15)
    times = [rng.uniform(0.1, 10) for _ in range(layers)]
    sizes = [rng.uniform(10, 1e5) for _ in range(layers)]

    assert best(chain(times, sizes, gamma=rng.uniform(1.01, 100)), 1e15) == "input"
    assert best(chain(times, sizes, gamma=100), 1e-9) == "output"
    assert best(chain(times, sizes, gamma=1), 10 ** rng.uniform(-3, 3)) == "output"


@given(st.integers(0, 10**9))
def test_a_branch_that_always_answers(seed: int) -> None:
    """Spec A4: p = 1 after v1 costs t_1 + t_b wherever one cuts, so all stays; unless the input goes up faster."""
    rng = random.Random(seed)
    times = [rng.uniform(0.1, 10) for _ in range(rng.randint(2, 12))]
    sizes = [rng.uniform(10, 1e6) for _ in times]
    graph = chain(times, sizes, [(1, 2.0, 1)], 10)

    all_away = cost_ms(graph, uplink(5), "input")
    early = 10 * (times[0] + 2)
    skip = cost_ms(graph, uplink(5), "v1 skip")
    assert best_ms(graph, 5) == pytest.approx(min(all_away, early, skip))
    if early < min(all_away, skip) - 1e-6:
        assert best(graph, 5) == "output"


@given(st.integers(0, 10**9))
def test_without_exits_it_is_neurosurgeon(seed: int) -> None:
    """Spec A4: p = 0 and a branch that takes no time leave the plain chain's cut."""
    rng = random.Random(seed)
    times = [rng.uniform(0.1, 10) for _ in range(rng.randint(2, 12))]
    sizes = [rng.uniform(10, 1e5) for _ in times]

    free = best(chain(times, sizes, [(1, 0, 0)], 10), 3)

    assert free.split(" ", maxsplit=1)[0] == best(chain(times, sizes, gamma=10), 3)


def test_long_chains_work() -> None:
    """Spec 2.2: ten layers and more; 40 layers, a branch after each third, cut after v17."""
    sizes = [1e6] * 40
    sizes[17] = 10.0
    graph = chain([1.0] * 40, sizes, [(k, 0.1, 0.01) for k in range(3, 40, 3)], 2)

    assert best(graph, 8) == "v17"


def test_the_better_of_edge_and_cloud_takes_over() -> None:
    """With both reachable, both are tried; a tie goes to the edge."""
    graph = random_chain(random.Random(3), 5, 0, tuple(Tier))
    fast_edge = NetworkState(Link(1e9), Link(1e4))
    slow_edge = NetworkState(Link(1e9), Link(1e9))

    assert max(shortest_path(Problem(graph, fast_edge)).plan.tiers.values()) is EDGE
    assert max(shortest_path(Problem(graph, slow_edge)).plan.tiers.values()) is CLOUD


def test_the_quickest_codec_of_each_cut_is_used() -> None:
    """With codecs it is still the least of all cuts, each with any codec it has."""
    for seed in range(30):
        graph = random_chain(random.Random(seed), 6, 2, rich=True)
        problem = Problem(graph, uplink(2, 10))
        found = shortest_path(problem)
        for codec in ("f32", "q8", "q4+zstd"):
            only = Problem(graph, uplink(2, 10), codecs=frozenset({codec}))
            assert found.prediction.seconds <= shortest_path(only).prediction.seconds + 1e-8


def test_what_it_cannot_do_it_says() -> None:
    """DAGs and other objectives belong to other solvers; constraints are checked, not searched."""
    with pytest.raises(InputError, match="shortest-path takes chains only"):
        shortest_path(Problem(random_dag(random.Random(1), 6, 0), uplink(8)))
    with pytest.raises(InputError, match="minimises 'seconds' only"):
        shortest_path(Problem(toy(10, 0), uplink(8), objective="bytes"))
    with pytest.raises(Infeasible, match=r"deadline_seconds 0.04 s: the best plan has 0.048 s, 0.008 s over"):
        shortest_path(Problem(toy(10, 0), uplink(8), deadline_seconds=0.04))


def test_modes_pin_the_tier_that_answers() -> None:
    """`device` keeps all there; `cloud` runs no branch and ends in the cloud."""
    local = shortest_path(Problem(toy(100, 0.9), uplink(1000), mode="device"))
    away = shortest_path(Problem(toy(1, 0.9), uplink(0.1), mode="cloud"))

    assert label_of(local.plan, toy(100, 0.9)) == "output"
    assert local.plan.runs("b1")
    assert away.plan.tiers["v3"] is CLOUD
    assert not away.plan.runs("b1")


def test_without_a_link_all_stays() -> None:
    """An outage leaves the device."""
    assert label_of(shortest_path(Problem(toy(100, 0), NetworkState(None))).plan, toy(100, 0)) == "output"
