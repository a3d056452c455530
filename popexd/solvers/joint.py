"""The exact joint planner for chains: branches, cuts, codecs and tiers together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from popexd.errors import Infeasible, InputError
from popexd.latency import predict
from popexd.plan import Plan, Tier
from popexd.profile import Exit
from popexd.solvers.chain_grid import Grid, Rows
from popexd.solvers.problem import Problem, Solution
from popexd.solvers.selection import Candidates, Column, select
from popexd.validation import Outcomes

MAX_BRANCHES = 12
"""Subsets of branches are enumerated, so the work doubles with each."""


def joint(problem: Problem) -> Solution:
    """Choose which branches run, where the chain is cut, the codec of each crossing and the tiers, all at once.

    Prices the whole grid (every subset of the branches x up to two cuts x a codec per crossing) in closed form, a
    column of numbers at a time instead of plan by plan. Exit shares and accuracy are counted on the validation table
    where there is one. So it is exact for chains on up to three tiers: it equals brute force under every objective and
    constraint of `Problem`. Thresholds are taken as given.

    O(2^m C) for m branches and C combinations of cuts and codecs.

    Raises:
        InputError: the graph is not a chain, or has more than `MAX_BRANCHES` branches.
        Infeasible: no plan satisfies the constraints; says which fails and by how much.
    """
    graph = problem.graph
    if not graph.is_chain:
        raise InputError(
            "solver: joint takes chains only (any exits and codecs, up to three tiers) and this graph branches, "
            "expected brute-force"
        )
    if len(graph.exits) > MAX_BRANCHES:
        raise InputError(f"solver: joint takes up to {MAX_BRANCHES} exits and this model has {len(graph.exits)}")
    grid = Grid.of(problem)
    blocks = [_Block.priced(problem, grid, running) for running in _subsets(problem)]
    table = Candidates.stacked(block.table for block in blocks)
    plan = _plan(problem, grid, blocks, select(problem, table))
    return Solution(plan, predict(plan, graph, problem.network), "joint")


def _subsets(problem: Problem) -> Iterator[tuple[Exit, ...]]:
    """Every set of branches that could run on some tier, none first."""
    able = [
        branch for branch in problem.graph.exits if any(problem.can_run(branch, tier) for tier in problem.available)
    ]
    for count in range(len(able) + 1):
        yield from combinations(able, count)


def _plan(problem: Problem, grid: Grid, blocks: list[_Block], row: int) -> Plan:
    """The plan of one row of the stacked table."""
    for block in blocks:
        if row < len(block.table):
            return grid.plan(problem, int(block.kept[row]), problem.exit_choices(block.running))
        row -= len(block.table)
    raise Infeasible("no plan is possible")


@dataclass(frozen=True)
class _Block:
    """All rows of the grid that a set of running branches allows, priced."""

    running: tuple[Exit, ...]
    kept: NDArray[np.intp]
    table: Candidates

    @classmethod
    def priced(cls, problem: Problem, grid: Grid, running: tuple[Exit, ...]) -> _Block:
        kept = np.flatnonzero(_allowed(problem, grid.rows, grid, running))
        outcomes = problem.graph.outcomes(running, problem.exit_choices(running))
        return cls(running, kept, _Pricing(problem, grid, grid.rows.take(kept), running, outcomes).table())


def _allowed(problem: Problem, rows: Rows, grid: Grid, running: tuple[Exit, ...]) -> NDArray[np.bool_]:
    """Rows in which every running branch is on a tier that can run it."""
    fits = np.ones(len(rows.first), dtype=bool)
    for branch in running:
        place = grid.place[branch.after]
        on_device = (place <= rows.first) & problem.can_run(branch, Tier.DEVICE)
        on_edge = (place > rows.first) & (place <= rows.second) & problem.can_run(branch, Tier.EDGE)
        fits &= on_device | on_edge
    return fits


def total(stages: Mapping[str, Column]) -> Column:
    """Seconds over all stages."""
    seconds: Column = np.add.reduce(list(stages.values()))
    return seconds


class _Pricing:
    """The closed form, for one set of running branches and many rows of cuts and codecs."""

    def __init__(self, problem: Problem, grid: Grid, rows: Rows, running: tuple[Exit, ...], outcomes: Outcomes) -> None:
        self.problem, self.grid, self.rows, self.running, self.outcomes = problem, grid, rows, running, outcomes
        self.places = [grid.place[branch.after] for branch in running]

    def table(self) -> Candidates:
        rows, outcomes = self.rows, self.outcomes
        stages, waits = self.spent(outcomes.reach)
        seconds = total(stages) + waits + self.answers_back()
        left_device = self.after(outcomes.reach)[rows.first]
        return Candidates(
            seconds=seconds,
            p95_seconds=self.percentile(0.95) if self.problem.objective == "p95" else seconds,
            device_seconds=stages["device"],
            device_joules=self.problem.graph.power.compute_watts * stages["device"]
            + self.problem.graph.power.transmit_watts * (stages["device_link"] + stages["direct_link"]),
            bytes=left_device * rows.bytes,
            packet_bytes=rows.packet,
            bottleneck_seconds=np.maximum.reduce(list(stages.values())),
            accuracy=self.accuracy(),
            agreement=rows.agreement * rows.second_agreement,
            device_layers=rows.first.astype(np.float64),
            edge_layers=(rows.second - rows.first).astype(np.float64),
            branches=np.full(len(seconds), float(len(self.running))),
        )

    def after(self, reach: tuple[float, ...]) -> Column:
        """Share of frames left after each layer and its branches; entry 0 is the input."""
        left = np.ones(self.grid.layers + 1)
        for place, share in zip(self.places, reach[1:], strict=True):
            left[place:] = share
        return left

    def work(self, reach: tuple[float, ...], tier: Tier) -> Column:
        """Mean seconds of layers 1..i and the branches after them on `tier`, by i."""
        entering = self.after(reach)[:-1]
        spent = np.concatenate([[0.0], np.cumsum(entering * self.grid.seconds[tier])])
        for place, branch, share in zip(self.places, self.running, reach, strict=False):
            spent[place:] += share * branch.seconds.get(tier, 0.0)
        return spent

    def spent(self, reach: tuple[float, ...]) -> tuple[dict[str, Column], Column]:
        """Mean seconds per stage, and of waiting for round trips, when the share `reach` gets to each branch."""
        rows, grid = self.rows, self.grid
        left = self.after(reach)
        first, second = left[rows.first], left[rows.second]
        device, edge, cloud = (self.work(reach, tier) for tier in Tier)
        stages = {
            "device": rows.input_seconds + device[rows.first] + first * rows.encode,
            "edge": edge[rows.second] - edge[rows.first] + first * rows.edge_decode + second * rows.second_encode,
            "cloud": second * rows.cloud_decode + cloud[grid.layers] - cloud[rows.second],
            "device_link": first * rows.device_link,
            "direct_link": first * rows.direct_link,
            "edge_link": second * rows.edge_link,
        }
        return stages, first * rows.first_wait + second * rows.second_wait

    def answers_back(self) -> Column:
        """Mean seconds of sending the answers back: from branches on the edge, and from the end of the network."""
        rows, shares = self.rows, self.outcomes.shares
        back = shares[-1] * rows.final_back
        for place, share in zip(self.places, shares, strict=False):
            back = back + np.where(place > rows.first, share * self.grid.edge_back, 0.0)
        return back

    def accuracy(self) -> Column:
        """Share of right answers, less what the codecs cost those answered above them."""
        rows, correct = self.rows, self.outcomes.correct
        if correct is None:
            return np.full(len(rows.first), np.nan)
        right = correct[-1] * rows.quality * rows.second_quality
        for place, share in zip(self.places, correct, strict=False):
            right = right + share * np.where(place > rows.first, rows.quality, 1.0)
        return right

    def percentile(self, share: float) -> Column:
        """Time by which `share` of the frames are answered: that of the exit at which so many have left."""
        rows = self.rows
        answered = np.cumsum(self.outcomes.shares)
        exit_index = int(np.searchsorted(answered, share - 1e-12))
        everyone = (1.0,) * (len(self.running) + 1)
        if exit_index >= len(self.running):
            stages, waits = self.spent(everyone)
            return total(stages) + waits + rows.final_back
        here = _Pricing(self.problem, self.grid, rows, self.running[: exit_index + 1], self.outcomes)
        place = self.places[exit_index]
        device, edge = (here.work(everyone[: exit_index + 2], tier) for tier in (Tier.DEVICE, Tier.EDGE))
        on_device = rows.input_seconds + device[place]
        shipped = rows.input_seconds + device[rows.first] + rows.encode + rows.device_link + rows.first_wait
        on_edge = shipped + rows.edge_decode + edge[place] - edge[rows.first] + self.grid.edge_back
        answered_by: Column = np.where(place <= rows.first, on_device, on_edge)
        return answered_by
