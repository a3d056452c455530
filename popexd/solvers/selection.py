"""Which of many priced candidates wins: constraints, then the objective, then ties; one rule for all solvers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from popexd.errors import Infeasible
from popexd.latency import Prediction
from popexd.plan import Plan, Tier
from popexd.solvers.problem import Problem

TIE = 1e-9
"""Costs this close are equal: one nanosecond, as in POPEX's graph."""

Column = NDArray[np.float64]


@dataclass(frozen=True)
class Candidates:
    """A table of priced plans, one row each; the columns are those of `Prediction`, besides how much runs where."""

    seconds: Column
    p95_seconds: Column
    device_seconds: Column
    device_joules: Column
    bytes: Column
    packet_bytes: Column
    bottleneck_seconds: Column
    accuracy: Column
    agreement: Column
    device_layers: Column
    edge_layers: Column
    branches: Column

    def __len__(self) -> int:
        return len(self.seconds)

    @classmethod
    def of(cls, priced: Iterable[tuple[Plan, Prediction]]) -> Candidates:
        """Collect predictions as a table."""
        rows = [
            (
                prediction.seconds,
                prediction.p95_seconds,
                prediction.device_seconds,
                prediction.device_joules,
                prediction.bytes,
                prediction.packet_bytes,
                prediction.bottleneck_seconds,
                np.nan if prediction.accuracy is None else prediction.accuracy,
                prediction.agreement,
                sum(tier is Tier.DEVICE for tier in plan.tiers.values()),
                sum(tier is Tier.EDGE for tier in plan.tiers.values()),
                sum(choice.runs for choice in plan.exits.values()),
            )
            for plan, prediction in priced
        ]
        return cls(*np.array(rows, dtype=np.float64).reshape(-1, len(fields(cls))).T)

    @classmethod
    def stacked(cls, tables: Iterable[Candidates]) -> Candidates:
        """One table of all rows, in order."""
        parts = list(tables)
        return cls(*(np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(cls)))

    def objective(self, name: str) -> Column:
        """The column to minimise."""
        columns = {"p95": self.p95_seconds, "throughput": self.bottleneck_seconds}
        column: Column = columns[name] if name in columns else getattr(self, name)
        return column


def select(problem: Problem, table: Candidates) -> int:
    """Return the row that wins.

    Among those that satisfy the constraints the least objective wins; of equals (within `TIE`) the one with more layers
    on the device, then on the edge, then with fewer bytes, less time, more accuracy, fewer branches, the first.

    Raises:
        Infeasible: no row satisfies the constraints; says which fails and by how much.
    """
    rows = np.flatnonzero(_all_met(_constraints(problem, table), len(table)))
    if rows.size == 0:
        raise Infeasible(explain(problem, table))
    ranking = [
        table.objective(problem.objective),
        -table.device_layers,
        -table.edge_layers,
        table.bytes,
        table.seconds,
        np.nan_to_num(-table.accuracy),
        table.branches,
    ]
    for column in ranking:
        if rows.size == 1:
            break
        values = column[rows]
        least = values.min()
        rows = rows[values <= least + TIE + 1e-12 * abs(least)]
    return int(rows[0])


@dataclass(frozen=True)
class _Constraint:
    """One column that must reach, or not exceed, a bound."""

    name: str
    column: Column
    bound: float
    at_least: bool
    unit: str = ""

    @property
    def excess(self) -> Column:
        """By how much each row fails; zero or less where it holds."""
        difference: Column = self.bound - self.column if self.at_least else self.column - self.bound
        return difference

    @property
    def met(self) -> NDArray[np.bool_]:
        holds: NDArray[np.bool_] = self.excess <= 1e-12 * max(1.0, abs(self.bound))
        return holds

    def miss(self, rows: NDArray[np.bool_] | slice = slice(None)) -> str:
        """How close the best of `rows` comes."""
        best = float(np.nanmin(self.excess[rows]))
        reached = self.bound - best if self.at_least else self.bound + best
        side = "short" if self.at_least else "over"
        return (
            f"{self.name} {self.bound:g}{self.unit}: the best plan has {reached:.6g}{self.unit}, "
            f"{best:.3g}{self.unit} {side}"
        )


def _constraints(problem: Problem, table: Candidates) -> list[_Constraint]:
    latency = table.p95_seconds if problem.objective == "p95" else table.seconds
    found = []
    if problem.min_accuracy is not None:
        found.append(_Constraint("min_accuracy", table.accuracy, problem.min_accuracy, at_least=True))
    if problem.deadline_seconds is not None:
        found.append(_Constraint("deadline_seconds", latency, problem.deadline_seconds, at_least=False, unit=" s"))
    if problem.max_packet_bytes is not None:
        limit = problem.max_packet_bytes
        found.append(_Constraint("max_packet_bytes", table.packet_bytes, limit, at_least=False, unit=" bytes"))
    if problem.frames_per_second:
        limit = 1.0 / problem.frames_per_second
        found.append(_Constraint("busiest stage", table.bottleneck_seconds, limit, at_least=False, unit=" s"))
    if problem.min_agreement > 0:
        found.append(_Constraint("min_agreement", table.agreement, problem.min_agreement, at_least=True))
    return found


def _all_met(constraints: Iterable[_Constraint], count: int) -> NDArray[np.bool_]:
    rows = np.ones(count, dtype=bool)
    for constraint in constraints:
        rows &= constraint.met
    return rows


def explain(problem: Problem, table: Candidates) -> str:
    """Say which constraint no candidate satisfies, and by how much; or how close they come to all together."""
    if len(table) == 0:
        return "no plan is possible: no allowed codec fits any cut, and the device cannot run all layers"
    constraints = _constraints(problem, table)
    alone = [constraint for constraint in constraints if not constraint.met.any()]
    if alone:
        return "; ".join(constraint.miss() for constraint in alone)
    texts = []
    for constraint in constraints:
        rest = _all_met((other for other in constraints if other is not constraint), len(table))
        if rest.any():
            texts.append(constraint.miss(rest))
    return "the constraints hold one by one but not together: " + " or ".join(texts or ["no two of them do"])
