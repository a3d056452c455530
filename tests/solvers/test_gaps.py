"""The benchmark's suite: the exact solvers agree on it, nobody is ahead of them, and every solver has a row."""

from __future__ import annotations

from benchmarks.solvers import gaps, large, suite
from popexd.network import Link, NetworkState
from popexd.solvers import NAMES, Problem, solve
from popexd.solvers.problem import THRESHOLDS


def test_gaps_are_measured_from_the_optimum() -> None:
    """The joint planner is at it on every problem; the others are at it or behind."""
    found = {gap.solver: gap for gap in gaps(suite(40))}

    assert set(found) == {*NAMES, "hpa-guard"} - {"exact", "brute-force"}
    assert found["joint"].solved == 40
    assert abs(found["joint"].worst) < 1e-9
    assert all(gap.mean >= -1e-9 for gap in found.values())
    assert found["hpa-guard"].mean <= found["hpa"].mean


def test_the_large_problem_is_solved_with_swept_thresholds() -> None:
    """5 exits x 30 cuts x 6 codecs x 3 tiers: no worse than with given thresholds, and as accurate as asked."""
    network = NetworkState(Link(5e6, 0.03), Link(50e6, 0.01))
    given = solve("joint", Problem(large(500), network, min_accuracy=0.7)).prediction
    swept = solve("joint", Problem(large(500), network, min_accuracy=0.7, thresholds=THRESHOLDS)).prediction

    assert swept.seconds <= given.seconds + 1e-9
    assert (swept.accuracy or 0) >= 0.7 - 1e-9
