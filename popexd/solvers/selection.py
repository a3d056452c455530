"""Which of many priced candidates wins: constraints, then the objective, then ties; one rule for all solvers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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


@dataclass(frozen=True)
class Constraint:
    """One figure of a plan that must reach, or not exceed, a bound.

    `figure` is the name of a column of `Candidates`.
    """

    name: str
    figure: str
    bound: float
    at_least: bool
    unit: str = ""

    def excess(self, table: Candidates) -> Column:
        """By how much each row fails; zero or less where it holds."""
        column: Column = getattr(table, self.figure)
        return self.bound - column if self.at_least else column - self.bound

    @property
    def slack(self) -> float:
        """What is forgiven as rounding."""
        return 1e-12 * max(1.0, abs(self.bound))

    def met(self, table: Candidates) -> NDArray[np.bool_]:
        """Which rows satisfy it."""
        holds: NDArray[np.bool_] = self.excess(table) <= self.slack
        return holds

    def miss(self, excess: float) -> str:
        """Say by how much a plan fails."""
        reached = self.bound - excess if self.at_least else self.bound + excess
        side = "short" if self.at_least else "over"
        return (
            f"{self.name} {self.bound:g}{self.unit}: the best plan has {reached:.6g}{self.unit}, "
            f"{excess:.3g}{self.unit} {side}"
        )


def constraints(problem: Problem) -> list[Constraint]:
    """List what the problem demands."""
    latency = "p95_seconds" if problem.objective == "p95" else "seconds"
    found = []
    if problem.min_accuracy is not None:
        found.append(Constraint("min_accuracy", "accuracy", problem.min_accuracy, at_least=True))
    if problem.deadline_seconds is not None:
        found.append(Constraint("deadline_seconds", latency, problem.deadline_seconds, at_least=False, unit=" s"))
    if problem.max_packet_bytes is not None:
        limit = problem.max_packet_bytes
        found.append(Constraint("max_packet_bytes", "packet_bytes", limit, at_least=False, unit=" bytes"))
    if problem.frames_per_second:
        limit = 1.0 / problem.frames_per_second
        found.append(Constraint("busiest stage", "bottleneck_seconds", limit, at_least=False, unit=" s"))
    if problem.min_agreement > 0:
        found.append(Constraint("min_agreement", "agreement", problem.min_agreement, at_least=True))
    return found


def tolerance(value: float) -> float:
    """How far above `value` a cost may be and still be equal to it."""
    return TIE + 1e-12 * abs(value)


def select(problem: Problem, table: Candidates) -> int:
    """Return the row that wins.

    Among those that satisfy the constraints the least objective wins; of equals (within `TIE`) the one with more layers
    on the device, then on the edge, then with fewer bytes, less time, more accuracy, fewer branches, the first.

    Raises:
        Infeasible: no row satisfies the constraints; says which fails and by how much.
    """
    rows = np.flatnonzero(all_met(constraints(problem), table))
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
        rows = rows[values <= least + tolerance(least)]
    return int(rows[0])


def all_met(demands: Iterable[Constraint], table: Candidates) -> NDArray[np.bool_]:
    """Which rows satisfy all of `demands`."""
    rows = np.ones(len(table), dtype=bool)
    for constraint in demands:
        rows &= constraint.met(table)
    return rows


NOTHING = "no plan is possible: no allowed codec fits any cut, and the device cannot run all layers"


def explain(problem: Problem, table: Candidates) -> str:
    """Say which constraint no candidate satisfies, and by how much; or how close they come to all together."""
    if len(table) == 0:
        return NOTHING

    def least(constraint: Constraint, others: Iterable[Constraint]) -> float | None:
        rows = all_met(others, table)
        return float(np.nanmin(constraint.excess(table)[rows])) if rows.any() else None

    return complaint(constraints(problem), least)


def complaint(demands: Sequence[Constraint], least: Callable[[Constraint, Sequence[Constraint]], float | None]) -> str:
    """Say what cannot be met; `least` finds the least excess over one bound where the others given are kept."""
    alone = []
    for constraint in demands:
        excess = least(constraint, ())
        if excess is not None and excess > constraint.slack:
            alone.append(constraint.miss(excess))
    if alone:
        return "; ".join(alone)
    texts = []
    for constraint in demands:
        excess = least(constraint, [other for other in demands if other is not constraint])
        if excess is not None:
            texts.append(constraint.miss(excess))
    return "the constraints hold one by one but not together: " + " or ".join(texts or ["no two of them do"])
