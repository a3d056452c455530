"""All solvers on the same random problems, against brute force by definition."""

from __future__ import annotations

import random
from functools import cache

import pytest

from popexd.cut import crossings
from popexd.errors import Infeasible, InputError
from popexd.latency import predict
from popexd.network import Link, NetworkState
from popexd.plan import Tier
from popexd.profile import INPUT, LayerGraph
from popexd.solvers import NAMES, Problem, Solution, solve
from popexd.solvers.hpa import guarded
from popexd.solvers.placement import prefixes, two_tier
from tests.graphs import CLOUD, DEVICE, EDGE, random_chain, random_dag, random_network

PROBLEMS = 240
HEURISTICS = tuple(name for name in NAMES if name not in {"brute-force", "exact", "joint"})


@cache
def problem(seed: int) -> Problem:
    """A chain or DAG over two or three tiers, links of all kinds, exits; half with codecs and a validation table."""
    rng = random.Random(seed)
    tiers = rng.choice([(DEVICE, CLOUD), (DEVICE, EDGE), tuple(Tier), tuple(Tier), tuple(Tier)])
    make = rng.choice([random_chain, random_dag, random_dag])
    graph = make(rng, rng.randint(1, 6), rng.randint(0, 2), tiers, rich=rng.random() < 0.5)
    deadline = rng.choice([None, None, None, 0.05])
    return Problem(
        graph, random_network(rng), deadline_seconds=deadline, max_packet_bytes=rng.choice([None, None, 2e4])
    )


@cache
def answer(name: str, seed: int) -> Solution | None:
    """What a solver finds; None where it cannot take the problem or finds nothing that is allowed."""
    try:
        return solve(name, problem(seed))
    except (InputError, Infeasible):
        return None


def nanoseconds(solution: Solution | None) -> int | None:
    """Expected time in whole nanoseconds."""
    return None if solution is None else round(solution.prediction.seconds * 1e9)


@pytest.mark.parametrize("block", range(8))
def test_joint_equals_brute_force(block: int) -> None:
    """The same time to the nanosecond, chains and DAGs, with the constraints."""
    for seed in range(block * PROBLEMS // 8, (block + 1) * PROBLEMS // 8):
        assert nanoseconds(answer("joint", seed)) == nanoseconds(answer("brute-force", seed)), f"seed {seed}"


@pytest.mark.parametrize("block", range(8))
def test_exact_equals_brute_force(block: int) -> None:
    """Likewise where nothing is constrained; a constraint it checks, and then is right or says that it did not look."""
    for seed in range(block * PROBLEMS // 8, (block + 1) * PROBLEMS // 8):
        found, least = nanoseconds(answer("exact", seed)), nanoseconds(answer("brute-force", seed))
        if problem(seed).max_packet_bytes is None or found is not None:
            assert found == least, f"seed {seed}"


@pytest.mark.parametrize("name", HEURISTICS)
def test_no_heuristic_beats_brute_force(name: str) -> None:
    """Nor does any plan flow back, cost other than what the cost model says, or break a constraint."""
    taken = 0
    for seed in range(PROBLEMS):
        found = answer(name, seed)
        if found is None:
            continue
        taken += 1
        least, asked = nanoseconds(answer("brute-force", seed)), problem(seed)
        assert least is not None
        assert least <= (nanoseconds(found) or 0), f"seed {seed}"
        crossings(found.plan, asked.graph)
        assert predict(found.plan, asked.graph, asked.network).seconds == found.prediction.seconds
        assert asked.deadline_seconds is None or found.prediction.seconds <= asked.deadline_seconds * (1 + 1e-9)
    assert taken > PROBLEMS / 8


def test_neurosurgeon_is_the_best_prefix() -> None:
    """Its own guarantee: no cut of the topological order, without exits, is better."""
    for seed in range(PROBLEMS):
        found, asked = answer("neurosurgeon", seed), problem(seed)
        if found is None or asked.graph.codecs:
            continue
        for remote in asked.available[1:]:
            for local in prefixes(asked.graph):
                plan = type(found.plan)(two_tier(asked.graph, local, remote))
                expected = predict(plan, asked.graph, asked.network)
                if asked.max_packet_bytes is None or expected.packet_bytes <= asked.max_packet_bytes:
                    assert found.prediction.seconds <= expected.seconds + 1e-9, f"seed {seed}"


@pytest.mark.parametrize("block", range(4))
def test_light_load_dads_is_the_best_of_two_tiers(block: int) -> None:
    """T3: the cut of light load equals brute force over device and cloud, without exits, on 400 DAGs."""
    for seed in range(block * 100, block * 100 + 100):
        rng = random.Random(seed)
        graph = random_dag(rng, rng.randint(1, 8), 0, (DEVICE, CLOUD))
        asked = Problem(graph, NetworkState(Link(10 ** rng.uniform(5, 8), rng.choice([0.0, 0.01]))))

        assert nanoseconds(solve("dads", asked)) == nanoseconds(solve("brute-force", asked)), f"seed {seed}"


@pytest.mark.parametrize("block", range(4))
def test_heavy_load_dads_is_within_three_times(block: int) -> None:
    """T18: its busiest stage is at most three times the least there is."""
    ratios = []
    for seed in range(block * 50, block * 50 + 50):
        rng = random.Random(seed)
        graph = random_dag(rng, rng.randint(2, 7), 0, (DEVICE, CLOUD))
        asked = Problem(graph, NetworkState(Link(10 ** rng.uniform(5, 8))), objective="throughput")
        found, least = (solve(name, asked).prediction.bottleneck_seconds for name in ("dads-heavy", "brute-force"))
        ratios.append(found / least)

    assert max(ratios) <= 3
    assert sum(ratios) / len(ratios) < 1.2


def test_the_guard_is_never_behind_what_it_guards_with() -> None:
    """T5: at most HPA, every single tier, DADS and Neurosurgeon; and never better than exact."""
    for seed in range(0, PROBLEMS, 2):
        asked = problem(seed)
        try:
            found = guarded(asked).prediction.seconds
        except Infeasible:
            continue
        rivals = [answer(name, seed) for name in ("hpa", "dads", "neurosurgeon")]
        assert all(found <= rival.prediction.seconds + 1e-9 for rival in rivals if rival is not None)
        least = answer("brute-force", seed)
        assert least is not None
        assert least.prediction.seconds <= found + 1e-9


def test_a_graph_reads_its_input_once() -> None:
    """Two layers that read the frame: a cut pays it once, in every solver."""
    graph = random_dag(random.Random(3), 2, 0)
    wide = LayerGraph("wide", 1e6, tuple(type(each)(each.name, (INPUT,), each.seconds, 10) for each in graph.layers))
    asked = Problem(wide, NetworkState(Link(1e9), Link(1e9)))

    assert len({nanoseconds(solve(name, asked)) for name in ("exact", "brute-force")}) == 1
