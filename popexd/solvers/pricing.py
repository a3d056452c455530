"""The cost model in columns: any choice of exits against any placement and codecs, in closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from popexd.latency import spread_percentile
from popexd.plan import Tier
from popexd.profile import Exit
from popexd.solvers.cut_grid import Column, Index, Pairs, Rows
from popexd.solvers.outcome_grid import OutcomeGrid
from popexd.solvers.problem import Problem
from popexd.solvers.selection import Candidates

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Group:
    """The placements in which the same branches can run on the same tiers, so that frames meet them in one order.

    Shares of frames come as columns: 0 for all, k for those that the first k branches left over. What a placement costs
    is then linear in them: `work[tier][pair, k]` are the seconds of its layers on a tier that such frames pay.

    Attributes:
        on_device: how many of them are on the device.
        pairs: the placements, as rows of the problem's.
        rows: the grid's rows of these placements, placements in order.
        outcomes: what becomes of the frames, by choice of exits.
        work: by tier, [pairs, m + 1] seconds.
        branch_seconds: of each branch where it runs.
    """

    problem: Problem
    outcomes: OutcomeGrid
    on_device: int
    pairs: Index
    rows: Index
    local: Index
    work: dict[Tier, Column]
    branch_seconds: Column
    edge_back: float
    grid: Rows
    layers: dict[Tier, Column]

    @cached_property
    def work_all(self) -> Column:
        """Seconds of the layers on all tiers."""
        found: Column = np.add.reduce(list(self.work.values()))
        return found

    @property
    def exits(self) -> tuple[Exit, ...]:
        """The branches that can run, in the order in which frames meet them."""
        return self.outcomes.exits

    def branches_on(self, tier: Tier) -> Column:
        """Seconds of the branches on one tier, none elsewhere."""
        found = self.branch_seconds.copy()
        found[self.on_device :] *= tier is Tier.EDGE
        found[: self.on_device] *= tier is Tier.DEVICE
        return found

    @cached_property
    def edge_answers(self) -> Column:
        """What sending answers back from branches on the edge costs, per share that gets to each branch or the end."""
        found = np.zeros(len(self.exits) + 1)
        found[self.on_device : -1] += self.edge_back
        found[self.on_device + 1 :] -= self.edge_back
        return found

    def priced(self, choice: Index, row: Index) -> Candidates:
        """Price choices of exits and rows of the group (`rows` counted from 0), pairwise."""
        at, pair = self.grid.take(self.rows[row]), self.local[row]
        reach, runs = self.outcomes.reach[choice], self.outcomes.runs[choice]
        first, last = reach[:, self.on_device], reach[:, -1]
        evaluated = reach[:, :-1] * runs
        work = {tier: (reach * seconds[pair]).sum(axis=1) for tier, seconds in self.work.items()}
        stages = {
            "device": work[Tier.DEVICE] + evaluated @ self.branches_on(Tier.DEVICE) + first * at.encode,
            "edge": work[Tier.EDGE]
            + evaluated @ self.branches_on(Tier.EDGE)
            + first * at.edge_decode
            + last * at.second_encode,
            "cloud": work[Tier.CLOUD] + last * at.cloud_decode,
            "device_link": first * at.device_link,
            "direct_link": first * at.direct_link,
            "edge_link": last * at.edge_link,
        }
        waits = first * at.first_wait + last * at.second_wait
        seconds = np.add.reduce(list(stages.values())) + waits + reach @ self.edge_answers + last * at.final_back
        power = self.problem.graph.power
        sending = stages["device_link"] + stages["direct_link"]
        return Candidates(
            seconds=seconds,
            p95_seconds=self.percentile(choice, at, pair, 0.95) if self.problem.objective == "p95" else seconds,
            device_seconds=stages["device"],
            device_joules=power.compute_watts * stages["device"] + power.transmit_watts * sending,
            bytes=first * at.bytes,
            packet_bytes=at.packet,
            bottleneck_seconds=np.maximum.reduce(list(stages.values())),
            accuracy=self.accuracy(choice, at),
            agreement=at.agreement,
            device_layers=self.layers[Tier.DEVICE][pair],
            edge_layers=self.layers[Tier.EDGE][pair],
            branches=runs.sum(axis=1),
        )

    def accuracy(self, choice: Index, at: Rows) -> Column:
        """Share of right answers, less what the codecs cost those answered above them."""
        right = self.outcomes.right
        if right is None:
            return np.full(len(choice), np.nan)
        mine = right[choice]
        edge = mine[:, self.on_device : -1].sum(axis=1)
        found: Column = mine[:, : self.on_device].sum(axis=1) + at.quality * (edge + at.second_quality * mine[:, -1])
        return found

    def ways(self, choice: Index, work: Column, first: Column, second: Column, final_back: Column) -> Column:
        """Seconds of a frame that is answered by each branch, and by the end: [rows, m + 1].

        `work` is of the rows' placements; `first` and `second` are paid on leaving the device and the edge.
        """
        spent = np.cumsum(work, axis=1)
        spent[:, self.on_device :] += first[:, None]
        spent[:, -1] += second + final_back
        spent[:, self.on_device : -1] += self.edge_back
        branches = np.cumsum(self.outcomes.runs[choice] * self.branch_seconds, axis=1)
        spent[:, :-1] += branches
        if len(self.exits):
            spent[:, -1] += branches[:, -1]
        return spent

    def percentile(self, choice: Index, at: Rows, pair: Index, share: float) -> Column:
        """Time by which `share` of the frames are answered."""
        times = self.ways(choice, self.work_all[pair], at.first_seconds, at.second_seconds, at.final_back)
        shares = self.outcomes.shares[choice]
        if at.first_variance.any() or at.second_variance.any():
            variance = np.zeros_like(times)
            variance[:, self.on_device :] += at.first_variance[:, None]
            variance[:, -1] += at.second_variance
            mixed = spread_percentile(times.T, shares.T, np.sqrt(variance).T, share)
            plain = self._stepped(times, shares, share)
            return np.where(variance.any(axis=1), mixed, plain)
        return self._stepped(times, shares, share)

    @staticmethod
    def _stepped(times: Column, shares: Column, share: float) -> Column:
        order = np.argsort(times, axis=1, kind="stable")
        done = np.cumsum(np.take_along_axis(shares, order, axis=1), axis=1) >= share - 1e-12
        place = np.where(done.any(axis=1), done.argmax(axis=1), times.shape[1] - 1)
        found: Column = np.take_along_axis(times, np.take_along_axis(order, place[:, None], axis=1), axis=1)[:, 0]
        return found


def groups(problem: Problem, pairs: Pairs, grid: Rows) -> list[Group]:
    """Part the placements by which branches can run where."""
    graph = problem.graph
    hosts = [graph.names.index(branch.after) for branch in graph.exits]
    low, mid = pairs.sets[pairs.first][:, hosts], pairs.sets[pairs.second][:, hosts]
    able = np.array([[problem.can_run(branch, tier) for tier in Tier] for branch in graph.exits]).reshape(-1, 3)
    tier = np.where(low, Tier.DEVICE, np.where(mid, Tier.EDGE, Tier.CLOUD)).astype(np.intp)
    runs = able[np.arange(len(hosts)), tier] if hosts else np.zeros(tier.shape, dtype=bool)
    code = np.where(runs, tier, int(Tier.CLOUD))
    kinds, kind_of = np.unique(code, axis=0, return_inverse=True) if hosts else (code[:1], np.zeros(len(code), np.intp))
    kind_of = np.asarray(kind_of).reshape(-1)
    starts = np.searchsorted(grid.pair, np.arange(len(pairs.first) + 1))
    counted: dict[tuple[str, ...], OutcomeGrid] = {}

    def outcomes(exits: tuple[Exit, ...]) -> OutcomeGrid:
        names = tuple(branch.name for branch in exits)
        if names not in counted:
            counted[names] = OutcomeGrid.of(problem, exits)
        return counted[names]

    found = []
    for index, kind in enumerate(kinds):
        chosen = np.flatnonzero((kind_of == index) & (starts[1:] > starts[:-1]))
        if not chosen.size:
            continue
        spans = [(starts[each], starts[each + 1]) for each in chosen]
        sizes = np.array([stop - start for start, stop in spans], dtype=np.intp)
        rows = np.repeat(starts[chosen] - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes) + np.arange(sizes.sum())
        found.append(
            _group(problem, pairs, grid, kind, chosen, rows, np.repeat(np.arange(len(chosen)), sizes), outcomes)
        )
    return found


def _group(
    problem: Problem,
    pairs: Pairs,
    grid: Rows,
    kind: Index,
    chosen: Index,
    rows: Index,
    local: Index,
    outcomes: Callable[[tuple[Exit, ...]], OutcomeGrid],
) -> Group:
    graph = problem.graph
    device = [branch for branch, tier in zip(graph.exits, kind, strict=True) if tier == Tier.DEVICE]
    edge = [branch for branch, tier in zip(graph.exits, kind, strict=True) if tier == Tier.EDGE]
    place = {name: index for index, name in enumerate(graph.names)}
    own = np.arange(len(graph.names))
    met = [np.array([place[branch.after] for branch in part], dtype=np.intp) for part in (device, edge)]
    earlier = [(own[:, None] > hosts[None, :]).sum(axis=1) for hosts in met]
    slots = len(device) + len(edge) + 1
    after = {
        Tier.DEVICE: earlier[0],
        Tier.EDGE: len(device) + earlier[1],
        Tier.CLOUD: np.full(len(own), slots - 1),
    }
    low, mid = pairs.sets[pairs.first[chosen]], pairs.sets[pairs.second[chosen]]
    inside = {Tier.DEVICE: low, Tier.EDGE: mid & ~low, Tier.CLOUD: ~mid}
    work = {}
    for tier, members in inside.items():
        seconds = np.zeros((len(own), slots))
        seconds[own, after[tier]] = [layer.seconds.get(tier, 0.0) for layer in graph.layers]
        work[tier] = members.astype(np.float64) @ seconds
    work[Tier.DEVICE][:, 0] += low.any(axis=1) * graph.input_seconds.get(Tier.DEVICE, 0.0)
    where = [(branch, Tier.DEVICE) for branch in device] + [(branch, Tier.EDGE) for branch in edge]
    uplink = problem.network.links.get("device")
    return Group(
        problem=problem,
        outcomes=outcomes((*device, *edge)),
        on_device=len(device),
        pairs=chosen,
        rows=rows,
        local=local,
        work=work,
        branch_seconds=np.array([branch.seconds[tier] for branch, tier in where]),
        edge_back=0.0 if uplink is None else uplink.transfer_seconds(graph.result_bytes),
        grid=grid,
        layers={tier: members.sum(axis=1).astype(np.float64) for tier, members in inside.items()},
    )
