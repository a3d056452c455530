"""POPEX's decision maker: a table of thresholds against link rates, and the choice of the most accurate row in time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from popexd.errors import Infeasible, InputError
from popexd.network import NetworkState
from popexd.plan import Plan
from popexd.solvers.problem import Problem, Solution
from popexd.solvers.shortest_path import shortest_path


@dataclass(frozen=True)
class Strategy:
    """One row: at this rate and with these thresholds POPEX cuts so, in this time, with this accuracy."""

    bits_per_second: float
    thresholds: Mapping[str, float]
    accuracy: float
    seconds: float
    solution: Solution


@dataclass(frozen=True)
class StrategyTable:
    """All rows, made beforehand; a frame's choice is then only looked up."""

    rows: tuple[Strategy, ...]

    @classmethod
    def swept(cls, problem: Problem, rates: Iterable[float], levels: Sequence[float]) -> StrategyTable:
        """Solve for every rate of the uplink and every combination of thresholds out of `levels`, a level per branch.

        O(R T^m) shortest paths for R rates, T levels and m branches.

        Raises:
            InputError: the profile has no validation table, or no uplink.
        """
        graph, network = problem.graph, problem.network
        if graph.validation is None:
            raise InputError(f"strategy table: the profile of {graph.model!r} knows no accuracies, expected `joint`")
        if network.uplink is None:
            raise InputError("strategy table: no uplink, expected one whose rate can be swept")
        rows = []
        for rate, values in product(sorted(rates), product(levels, repeat=len(graph.exits))):
            thresholds = {branch.name: value for branch, value in zip(graph.exits, values, strict=True)}
            uplink = replace(network.uplink, bits_per_second=rate)
            there = replace(
                problem,
                graph=replace(graph, thresholds={**graph.thresholds, **thresholds}),
                network=NetworkState(uplink, network.edge_uplink, network.direct),
                min_accuracy=None,
                deadline_seconds=None,
            )
            solution = shortest_path(there)
            expected = solution.prediction
            assert expected.accuracy is not None
            rows.append(Strategy(rate, thresholds, expected.accuracy, expected.seconds, solution))
        return cls(tuple(rows))

    def at(self, bits_per_second: float) -> list[Strategy]:
        """The rows of the tabulated rate nearest to this one, by ratio."""
        rates = {row.bits_per_second for row in self.rows}
        nearest = min(rates, key=lambda rate: abs(math.log(rate / bits_per_second)))
        return [row for row in self.rows if row.bits_per_second == nearest]

    def fastest(self, bits_per_second: float, min_accuracy: float = 0.0) -> Strategy:
        """Least expected time with at least this accuracy.

        Raises:
            Infeasible: no row is accurate enough; says by how much.
        """
        rows = self.at(bits_per_second)
        able = [row for row in rows if row.accuracy >= min_accuracy - 1e-12]
        if not able:
            most = max(row.accuracy for row in rows)
            raise Infeasible(
                f"min_accuracy {min_accuracy:g}: the best strategy has {most:.6g}, {min_accuracy - most:.3g} short"
            )
        return min(able, key=lambda row: (row.seconds, -row.accuracy))

    def most_accurate(self, bits_per_second: float, deadline_seconds: float = math.inf) -> Strategy:
        """Greatest expected accuracy within this expected time (POPEX: max E[Acc] subject to E[T] <= t_max).

        Raises:
            Infeasible: no row is fast enough; says by how much.
        """
        rows = self.at(bits_per_second)
        able = [row for row in rows if row.seconds <= deadline_seconds + 1e-12]
        if not able:
            least = min(row.seconds for row in rows)
            over = least - deadline_seconds
            raise Infeasible(
                f"deadline_seconds {deadline_seconds:g} s: the best strategy has {least:.6g} s, {over:.3g} s over"
            )
        return max(able, key=lambda row: (row.accuracy, -row.seconds))

    def plan(self, bits_per_second: float, deadline_seconds: float) -> Plan:
        """The plan of the most accurate strategy in time."""
        return self.most_accurate(bits_per_second, deadline_seconds).solution.plan
