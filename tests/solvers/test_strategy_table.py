"""POPEX's strategy table and backward programme."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product

import pytest

from popexd.errors import Infeasible, InputError
from popexd.network import Link, NetworkState
from popexd.solvers import Problem, solve
from popexd.solvers.shortest_path import shortest_path
from popexd.solvers.strategy_table import StrategyTable
from tests.graphs import random_chain, random_dag, toy, two_branches, uplink
from tests.solvers.tables import tabled

RATES, LEVELS = (1.1e6, 5.85e6, 18.88e6), (0.5, 0.7, 0.9)


def table() -> StrategyTable:
    """Two branches, three levels, three rates: 27 rows."""
    return StrategyTable.swept(Problem(tabled(two_branches(0, 0)), uplink(1)), RATES, LEVELS)


def test_every_combination_is_a_row() -> None:
    """Each is what POPEX finds with these thresholds at this rate."""
    rows = table().rows
    assert len(rows) == 27
    for row in rows[::5]:
        graph = replace(tabled(two_branches(0, 0)), thresholds=dict(row.thresholds))
        found = shortest_path(Problem(graph, NetworkState(Link(row.bits_per_second))))
        assert (found.prediction.seconds, found.plan) == (row.seconds, row.solution.plan)


def test_decisions_equal_brute_force_over_the_table() -> None:
    """Most accurate in time, fastest that is accurate enough."""
    found = table()
    for rate, deadline, accuracy in product(RATES, (0.2, 0.25, 0.3, 0.5), (0.6, 0.7, 0.75)):
        rows = [row for row in found.rows if row.bits_per_second == rate]
        in_time = [row.accuracy for row in rows if row.seconds <= deadline]
        accurate = [row.seconds for row in rows if row.accuracy >= accuracy]
        if in_time:
            assert found.most_accurate(rate, deadline).accuracy == max(in_time)
            assert found.plan(rate, deadline).tiers
        if accurate:
            assert found.fastest(rate, accuracy).seconds == min(accurate)


def test_a_rate_between_takes_the_nearest() -> None:
    """By ratio: 3 Mbit/s is nearer to 5.85 than to 1.1."""
    assert {row.bits_per_second for row in table().at(3e6)} == {5.85e6}


def test_what_is_out_of_reach_is_said() -> None:
    """By how much."""
    with pytest.raises(Infeasible, match=r"deadline_seconds 0.001 s: the best strategy has 0\.\d+ s, 0\.\d+ s over"):
        table().most_accurate(1.1e6, 0.001)
    with pytest.raises(Infeasible, match=r"min_accuracy 0.999: the best strategy has 0\.\d+, 0\.\d+ short"):
        table().fastest(1.1e6, 0.999)
    with pytest.raises(InputError, match="strategy table: the profile of 'toy' knows no accuracies"):
        StrategyTable.swept(Problem(toy(1, 0), uplink(1)), RATES, LEVELS)


@pytest.mark.parametrize(("p2", "p4", "milliseconds"), [(0, 0, 217), (0.1, 0.9, 204.93)])
def test_backward_programme(p2: float, p4: float, milliseconds: float) -> None:
    """Spec A2."""
    found = solve("popex-optional", Problem(two_branches(p2, p4), uplink(2)))

    assert found.prediction.seconds == pytest.approx(milliseconds / 1e3)


@pytest.mark.parametrize("block", range(4))
def test_backward_programme_is_exact_for_independent_branches(block: int) -> None:
    """On two tiers it equals brute force, in any mode."""
    for seed in range(block * 40, block * 40 + 40):
        rng = random.Random(seed)
        graph = random_chain(rng, rng.randint(1, 7), rng.randint(0, 4))
        mode = rng.choice(["auto", "auto", "device", "cloud"])
        problem = Problem(graph, uplink(10 ** rng.uniform(-1, 2)), mode=mode)
        found, least = (solve(name, problem).prediction.seconds for name in ("popex-optional", "brute-force"))
        assert found == pytest.approx(least, abs=1e-9), f"seed {seed}"


def test_backward_programme_takes_chains() -> None:
    """It says who takes the rest."""
    with pytest.raises(InputError, match=r"popex-optional takes chains only .* expected exact or joint"):
        solve("popex-optional", Problem(random_dag(random.Random(2), 6, 0), uplink(1)))
