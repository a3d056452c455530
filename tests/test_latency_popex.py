"""The cost model on a chain and two tiers: POPEX's closed form and the numbers derived from it."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popexd.latency import predict
from popexd.network import Link
from popexd.plan import ExitChoice
from popexd.profile import LayerGraph
from tests.graphs import (
    CLOUD,
    DEVICE,
    cost_ms,
    cut_plan,
    random_chain,
    synthetic,
    toy,
    two_branches,
    uplink,
)

RUN, SKIP = ExitChoice(True), ExitChoice(False)


@pytest.mark.parametrize(
    ("gamma", "p", "costs"),
    [
        (10, 0, (106, 65, 70, 48, 65)),
        (10, 0.5, (106, 65, 42.5, 31.5, 40)),
        (10, 0.8, (106, 65, 26, 21.6, 25)),
        (10, 1, (106, 65, 15, 15, 15)),
        (50, 0.4, (106, 105, 108, 142.8, 225)),
        (50, 0.5, (106, 105, 102.5, 131.5, 200)),
        (100, 1, (106, 155, 150, 150, 150)),
    ],
)
def test_toy(gamma: float, p: float, costs: tuple[float, ...]) -> None:
    """Spec A: every cut of the toy at 8 Mbit/s."""
    labels = ("input", "v1 skip", "v1 run", "v2", "output")

    assert [cost_ms(toy(gamma, p), uplink(8), label) for label in labels] == pytest.approx(costs, rel=1e-12)


def test_toy_about_its_switch() -> None:
    """Spec A: gamma 60 at p = .70 and .71; at p* = 39/55 both cuts cost the same."""
    assert cost_ms(toy(60, 0.70), uplink(8), "v1 skip") == pytest.approx(115)
    assert cost_ms(toy(60, 0.70), uplink(8), "v1 run") == pytest.approx(106.5)
    assert cost_ms(toy(60, 0.71), uplink(8), "v1 run") == pytest.approx(105.95)
    assert cost_ms(toy(60, 39 / 55), uplink(8), "v1 run") == pytest.approx(106, abs=1e-9)
    assert cost_ms(toy(50, 5 / 11), uplink(8), "v1 run") == pytest.approx(105, abs=1e-9)


TWO_BRANCH_LABELS = ("input", "v1", "v2 run", "v2 skip", "v3", "v4 run", "v4 skip", "output")


@pytest.mark.parametrize(
    ("p2", "p4", "costs"),
    [
        (0.5, 0.5, (611, 369, 231, 346, 199.5, 165.25, 166.5, 166)),
        (0.8, 0.5, (611, 369, 157.2, 346, 144.6, 130.9, 131.4, 131.2)),
        (0.2, 0.9, (611, 369, 304.8, 346, 254.4, 194.16, 201.6, 194.4)),
        (0, 0, (611, 369, 354, 346, 291, 231, 225, 234)),
        (1, 0, (611, 369, 108, 346, 108, 108, 108, 108)),
    ],
)
def test_two_branches(p2: float, p4: float, costs: tuple[float, ...]) -> None:
    """Spec A2: every cut of the five-layer chain with two branches at 2 Mbit/s."""
    graph = two_branches(p2, p4)

    assert [cost_ms(graph, uplink(2), label) for label in TWO_BRANCH_LABELS] == pytest.approx(costs, rel=1e-12)


def test_synthetic_cuts() -> None:
    """Spec B: E(s) of every cut at p = .8, gamma 10, 1.1 Mbit/s."""
    expected = {
        "input": 4452.8964,
        "v1 run": 370.5819,
        "v1 skip": 1485.6695,
        "v2": 302.9526,
        "v3": 504.2707,
        "v4": 390.9416,
        "v5": 202.8684,
        "v6": 209.0793,
        "v7": 236.0793,
        "output": 221.248,
    }

    assert {label: cost_ms(synthetic(10, 0.8), uplink(1.1), label) for label in expected} == pytest.approx(
        expected, abs=5e-5
    )


@pytest.mark.parametrize(
    ("size", "mbps", "seconds"),
    [
        (602_112, 1.1, 4.378996),
        (602_112, 5.5, 0.875799),
        (602_112, 5.85, 0.823401),
        (602_112, 18.8, 0.256218),
        (602_112, 18.88, 0.255132),
        (12_288, 1.1, 0.089367),
        (12_288, 5.5, 0.017873),
        (12_288, 5.85, 0.016804),
        (12_288, 18.8, 0.005229),
        (12_288, 18.88, 0.005207),
    ],
)
def test_transfer_times(size: int, mbps: float, seconds: float) -> None:
    """Spec B: bytes over 10^6-bit megabits."""
    assert Link(mbps * 1e6).transfer_seconds(size) == pytest.approx(seconds, abs=5e-7)


def closed_form(graph: LayerGraph, mbps: float, cut: int, running: set[str]) -> float:
    """Spec 1.4, written out: the branches `running` are on the device."""
    survivors, seconds = 1.0, 0.0
    for index, layer in enumerate(graph.layers[:cut], start=1):
        seconds += survivors * layer.seconds[DEVICE]
        for branch in graph.branches.get(layer.name, ()):
            if branch.name in running:
                seconds += survivors * branch.seconds[DEVICE]
                survivors *= 1 - branch.probability
        assert index
    if cut < len(graph.layers):
        size = graph.output_bytes("input" if cut == 0 else graph.names[cut - 1])
        rest = sum(layer.seconds[CLOUD] for layer in graph.layers[cut:])
        seconds += survivors * (8 * size / (1e6 * mbps) + rest)
    return seconds


def random_cut(seed: int) -> tuple[LayerGraph, float, int, list[str]]:
    """A random chain, rate, cut and set of running branches."""
    rng = random.Random(seed)
    graph = random_chain(rng, rng.randint(1, 12), rng.randint(0, 4))
    cut = rng.randint(0, len(graph.layers))
    before = [branch.name for branch in graph.exits if graph.names.index(branch.after) < cut]
    return graph, 10 ** rng.uniform(-1, 2), cut, [name for name in before if rng.random() < 0.7]


@given(st.integers(0, 10**9))
def test_two_tiers_are_the_closed_form(seed: int) -> None:
    """Spec 1.4 on random chains, to rounding."""
    graph, mbps, cut, running = random_cut(seed)
    found = predict(cut_plan(graph, cut, running), graph, uplink(mbps))

    assert found.seconds == pytest.approx(closed_form(graph, mbps, cut, set(running)), rel=1e-12)


@given(st.integers(0, 10**9))
def test_the_mean_over_exits_is_the_mean_over_layers(seed: int) -> None:
    """Spec A4: weighing layers with survivors (E_S) equals weighing whole ways with exits (p_Y)."""
    graph, mbps, cut, running = random_cut(seed)
    found = predict(cut_plan(graph, cut, running), graph, uplink(mbps))

    way, by_exit = 0.0, 0.0
    for layer in graph.layers[:cut]:
        way += layer.seconds[DEVICE]
        for branch in graph.branches.get(layer.name, ()):
            if branch.name in running:
                way += branch.seconds[DEVICE]
                by_exit += found.exit_probabilities[branch.name] * way
    if cut < len(graph.layers):
        size = graph.output_bytes("input" if cut == 0 else graph.names[cut - 1])
        way += 8 * size / (1e6 * mbps) + sum(layer.seconds[CLOUD] for layer in graph.layers[cut:])

    assert found.seconds == pytest.approx(by_exit + found.exit_probabilities["final"] * way, rel=1e-12, abs=1e-15)
    assert sum(found.exit_probabilities.values()) == pytest.approx(1)


@given(st.integers(0, 10**9))
def test_costs_are_affine_and_never_rise_with_a_probability(seed: int) -> None:
    """Spec A4: in each p_k, so that the best of them is concave, piecewise linear and never rises."""
    graph, mbps, cut, running = random_cut(seed)
    if not graph.exits:
        return
    name = random.Random(seed).choice([branch.name for branch in graph.exits])
    plan = cut_plan(graph, cut, running)

    costs = [predict(plan, graph.with_probabilities({name: p}), uplink(mbps)).seconds for p in (0.0, 0.25, 0.5, 1.0)]

    assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(costs))
    assert costs[1] == pytest.approx((costs[0] + costs[2]) / 2, rel=1e-9)
    assert costs[2] == pytest.approx((costs[0] + costs[3]) / 2, rel=1e-9)


@given(st.integers(0, 10**9), st.floats(0, 1))
def test_all_in_the_cloud_costs_the_same_whatever_the_branches(seed: int, p: float) -> None:
    """Spec A4: no branch runs there (the published graph discounts the cloud by them)."""
    rng = random.Random(seed)
    graph = random_chain(rng, rng.randint(1, 12), rng.randint(0, 4))
    changed = graph.with_probabilities({branch.name: p for branch in graph.exits})

    assert cost_ms(changed, uplink(2), "input") == cost_ms(graph, uplink(2), "input")
