"""HPA, reconstructed: its counter-example, its layers, its guard, and what a local update touches."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from popexd.cut import crossings
from popexd.network import Link, NetworkState
from popexd.profile import Layer, LayerGraph
from popexd.solvers import NOTES, Problem, solve
from popexd.solvers.hpa import GUARD, Replanner, graph_layers, guarded
from tests.graphs import CLOUD, DEVICE, EDGE, random_dag

THREE = NetworkState(Link(5e6, 0.005), Link(50e6, 0.002))


def greedy_trap() -> Problem:
    """Spec B.2: t = (5, 1, 1), (50, 1, 1); to the edge the input takes 4.5, v1's output 100."""
    layers = (
        Layer("v1", ("input",), {DEVICE: 5, EDGE: 1, CLOUD: 1}, 100e6 / 8),
        Layer("v2", ("v1",), {DEVICE: 50, EDGE: 1, CLOUD: 1}, 0),
    )
    return Problem(LayerGraph("trap", 4.5e6 / 8, layers), NetworkState(Link(1e6), Link(1e6)))


def test_greedy_walks_into_the_trap() -> None:
    """T5: 55 where 6.5 is possible, and it says what it is."""
    found = solve("hpa", greedy_trap())

    assert found.prediction.seconds == pytest.approx(55)
    assert NOTES[found.solver] == "reconstructed from the public abstract and patent"
    assert solve("exact", greedy_trap()).prediction.seconds == pytest.approx(6.5)
    assert solve("joint", greedy_trap()).prediction.seconds == pytest.approx(6.5)


def test_the_guard_steps_in_and_is_named() -> None:
    """The best of the simple plans, under its own name."""
    found = guarded(greedy_trap())

    assert found.prediction.seconds == pytest.approx(6.5)
    assert found.solver == GUARD


def test_graph_layers_are_longest_distances() -> None:
    """A shortcut does not pull its end forward."""
    times = {DEVICE: 1.0}
    layers = (
        Layer("a", ("input",), times, 1),
        Layer("b", ("a",), times, 1),
        Layer("c", ("a",), times, 1),
        Layer("d", ("c",), times, 1),
        Layer("e", ("a", "b", "d"), times, 1),
    )
    assert graph_layers(LayerGraph("shortcut", 1, layers)) == (("a",), ("b", "c"), ("d",), ("e",))


def test_siblings_share_what_one_has_fetched() -> None:
    """Alone neither reader is worth the transfer; once the first is up there, the second follows for nothing."""
    layers = (
        Layer("a", ("input",), {DEVICE: 0.0, EDGE: 9.0, CLOUD: 9.0}, 1e6 / 8),
        Layer("b", ("a",), {DEVICE: 5.0, EDGE: 1.0, CLOUD: 9.0}, 0),
        Layer("c", ("a",), {DEVICE: 1.5, EDGE: 1.0, CLOUD: 9.0}, 0),
    )
    problem = Problem(LayerGraph("siblings", 1e9, layers), NetworkState(Link(1e6), Link(1e6)))

    assert dict(solve("hpa", problem).plan.tiers) == {"a": DEVICE, "b": EDGE, "c": EDGE}


def slower(problem: Problem, name: str, factor: float) -> Problem:
    """One layer slower on the device."""
    layers = tuple(
        replace(layer, seconds={**layer.seconds, DEVICE: layer.seconds[DEVICE] * factor})
        if layer.name == name
        else layer
        for layer in problem.graph.layers
    )
    return replace(problem, graph=replace(problem.graph, layers=layers))


def test_no_change_touches_nothing() -> None:
    """T6: the same figures, or ones within their band: same plan, zero vertices."""
    for seed in range(20):
        problem = Problem(random_dag(random.Random(seed), 8, 0), THREE)
        planner = Replanner(problem)
        before = planner.solution

        assert planner.update(problem) is before
        assert planner.update(slower(problem, "v3", 1.1)) is before
        assert planner.touched == frozenset()


def test_a_local_change_is_mended_locally_and_never_for_the_worse() -> None:
    """T6: the new plan costs no more than the old one would now, and flows upwards."""
    some = 0
    for seed in range(40):
        problem = Problem(random_dag(random.Random(seed), 10, 0), THREE)
        planner = Replanner(problem, gap=10.0)
        old = planner.solution.plan
        changed = slower(problem, "v7", 20)
        found = planner.update(changed)

        crossings(found.plan, changed.graph)
        assert found.prediction.seconds <= _priced(changed, old) + 1e-12
        some += 0 < len(planner.touched) < len(problem.graph.names)
    assert some > 20


def _priced(problem: Problem, plan: object) -> float:
    from popexd.latency import predict
    from popexd.plan import Plan

    assert isinstance(plan, Plan)
    return predict(plan, problem.graph, problem.network).seconds


def test_a_step_of_the_link_looks_at_everything() -> None:
    """T6: a rate outside its band concerns every transfer; the plan is at least as good as the old one re-priced."""
    for seed in range(20):
        problem = Problem(random_dag(random.Random(seed), 8, 0), THREE)
        planner = Replanner(problem)
        old = planner.solution.plan
        there = replace(problem, network=NetworkState(Link(50e6, 0.005), Link(50e6, 0.002)))
        found = planner.update(there)

        assert planner.touched
        assert found.prediction.seconds <= _priced(there, old) + 1e-12


def test_a_bad_local_result_gives_way_to_a_full_one() -> None:
    """Past the gap the whole greedy runs again, so the local result is at most that much worse."""
    for seed in range(40):
        problem = Problem(random_dag(random.Random(seed), 8, 0), THREE)
        planner = Replanner(problem, gap=0.05)
        changed = slower(problem, "v2", 50)

        found = planner.update(changed).prediction.seconds
        assert found <= 1.05 * solve("hpa", changed).prediction.seconds + 1e-12
