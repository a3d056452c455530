"""The oracle itself, against small cases counted by hand."""

from __future__ import annotations

import random

import pytest

from popexd.cut import crossings
from popexd.errors import InputError
from popexd.network import Link, NetworkState
from popexd.plan import Tier
from popexd.profile import Layer, LayerGraph
from popexd.solvers import NAMES, Problem, solve
from popexd.solvers.brute_force import every_plan, placements
from tests.graphs import CLOUD, DEVICE, EDGE, chain, random_chain, random_dag, toy, uplink

THREE = NetworkState(Link(8e6), Link(80e6))


def test_placements_of_a_chain() -> None:
    """Two tiers: N + 1; three tiers: (N + 1)(N + 2) / 2."""
    graph = random_chain(random.Random(0), 6, 0, tuple(Tier))

    assert len(list(placements(graph, (DEVICE, CLOUD)))) == 7
    assert len(list(placements(graph, tuple(Tier)))) == 28


def test_every_plan_is_monotone_and_different() -> None:
    """No tensor flows back, and none comes twice."""
    plans = list(every_plan(Problem(random_dag(random.Random(5), 5, 2), THREE)))

    for plan in plans:
        crossings(plan, random_dag(random.Random(5), 5, 2))
    keys = [(tuple(p.tiers.items()), tuple(p.exits.items()), tuple(p.codecs.items())) for p in plans]
    assert len(set(keys)) == len(keys) > 20


def test_plans_of_the_toy_are_counted() -> None:
    """Cuts 0..3, the branch may run from cut 1 on: 1 + 3 x 2."""
    assert len(list(every_plan(Problem(toy(10, 0.5), uplink(8))))) == 7


def test_codecs_multiply_the_plans() -> None:
    """Three codecs at each of three cuts, none at the output."""
    graph = random_chain(random.Random(1), 3, 0, rich=True)
    codecs = sum(len(graph.codec_names(point)) for point in ("input", "v1", "v2"))

    assert len(list(every_plan(Problem(graph, uplink(8))))) == codecs + 1


def test_a_diamond_is_cut_where_one_tensor_leaves() -> None:
    """Cutting through both arms would send two tensors; before or after them only one."""
    slow = {DEVICE: 0.100, EDGE: 0.1, CLOUD: 0.001}
    layers = (
        Layer("a", ("input",), slow, 1_000),
        Layer("b", ("a",), slow, 50_000),
        Layer("c", ("a",), slow, 50_000),
        Layer("d", ("b", "c"), slow, 10),
    )

    found = solve("brute-force", Problem(LayerGraph("diamond", 1_000_000, layers), uplink(8)))

    assert found.plan.tiers == {"a": DEVICE, "b": CLOUD, "c": CLOUD, "d": CLOUD}
    assert found.prediction.seconds == pytest.approx(0.100 + 0.001 + 0.003)


def test_too_large_a_problem_is_refused_plainly() -> None:
    """Better than waiting for ever."""
    graph = chain([1.0] * 40, [10.0] * 40, [(k, 0.1, 0.5) for k in range(1, 30)], 2)

    with pytest.raises(InputError, match="brute-force would price more than 200,000 plans for 40 layers on 2 tiers"):
        solve("brute-force", Problem(graph, uplink(1)))


def test_an_unknown_solver_lists_those_there_are() -> None:
    """One line for a typing error."""
    with pytest.raises(InputError, match=f"solver: 'magic', expected one of: {', '.join(NAMES)}"):
        solve("magic", Problem(toy(1, 0), uplink(1)))


def test_ties_go_to_lower_tiers_then_fewer_bytes() -> None:
    """All tiers alike and links that cost nothing: all stays on the device."""
    times = dict.fromkeys(Tier, 0.01)
    free = LayerGraph("free", 0, (Layer("a", ("input",), times, 0), Layer("b", ("a",), times, 0)))

    assert set(solve("brute-force", Problem(free, THREE)).plan.tiers.values()) == {DEVICE}
    pinned = solve("brute-force", Problem(free, THREE, mode="cloud")).plan.tiers
    assert pinned == {"a": DEVICE, "b": CLOUD}
