"""The cost model in columns: any choice of exits against any placement and codecs, in closed form."""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np

from popexd.latency import spread_percentile
from popexd.network import NetworkState
from popexd.plan import Tier
from popexd.profile import LayerGraph
from popexd.solvers.cut_grid import Rows
from popexd.solvers.layout import Column, Index, Kind, Layout, Shape, layout
from popexd.solvers.outcome_grid import OutcomeGrid
from popexd.solvers.problem import Problem
from popexd.solvers.selection import Candidates


class Group:
    """What the placements of one kind cost, whatever frames are like and whichever branches run.

    Shares of frames come as columns: 0 for all, k for those that the first k branches left over. What a placement costs
    is then linear in them: `work[tier][pair, k]` are the seconds of its layers on a tier that such frames pay.

    Attributes:
        work: by tier, [pairs, m + 1] seconds.
        branch_seconds: [m], of each branch where it runs.
        edge_back: seconds of an answer from the edge to the device.
        layers: by tier, [pairs], how many run there.
        grid: the rows of all placements; `kind.rows` are these placements'.
    """

    def __init__(self, kind: Kind, grid: Rows, graph: LayerGraph, network: NetworkState) -> None:
        self.kind, self.grid, self.graph, self.network = kind, grid, graph, network
        self.on_device = len(kind.device)
        own = np.arange(len(graph.layers))
        self.work: dict[Tier, Column] = {}
        for tier, members in kind.inside.items():
            seconds = np.zeros((len(own), len(kind.exits) + 1))
            seconds[own, kind.after[tier]] = [layer.seconds.get(tier, 0.0) for layer in graph.layers]
            self.work[tier] = members.astype(np.float64) @ seconds
        opening = graph.input_seconds.get(Tier.DEVICE, 0.0)
        self.work[Tier.DEVICE][:, 0] += kind.inside[Tier.DEVICE].any(axis=1) * opening
        self.layers = {tier: members.sum(axis=1).astype(np.float64) for tier, members in kind.inside.items()}
        where = [(place, Tier.DEVICE) for place in kind.device] + [(place, Tier.EDGE) for place in kind.edge]
        self.branch_seconds = np.array([graph.exits[place].seconds.get(tier, 0.0) for place, tier in where])
        uplink = network.links.get("device")
        self.edge_back = 0.0 if uplink is None else uplink.transfer_seconds(graph.result_bytes)

    @cached_property
    def work_all(self) -> Column:
        """Seconds of the layers on all tiers."""
        found: Column = np.add.reduce(list(self.work.values()))
        return found

    def branches_on(self, tier: Tier) -> Column:
        """Seconds of the branches on one tier, none elsewhere."""
        found = self.branch_seconds.copy()
        found[self.on_device :] *= tier is Tier.EDGE
        found[: self.on_device] *= tier is Tier.DEVICE
        return found

    @cached_property
    def edge_answers(self) -> Column:
        """What sending answers back from branches on the edge costs, per share that gets to each branch or the end."""
        found = np.zeros(len(self.branch_seconds) + 1)
        found[self.on_device : -1] += self.edge_back
        found[self.on_device + 1 :] -= self.edge_back
        return found

    @cached_property
    def by_row(self) -> Spans:
        """Every row by itself."""
        return Spans(self, np.arange(len(self.kind.rows)))

    @cached_property
    def by_placement(self) -> Spans:
        """All rows of a placement together."""
        return Spans(self, np.searchsorted(self.kind.local, np.arange(len(self.kind.pairs))))

    def priced(self, outcomes: OutcomeGrid, choice: Index, row: Index, p95: bool) -> Candidates:
        """Price choices of exits and rows of the group (`rows` counted from 0), pairwise; `p95` if that is wanted."""
        at, pair = self.grid.take(self.kind.rows[row]), self.kind.local[row]
        reach, runs = outcomes.reach[choice], outcomes.runs[choice]
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
        power = self.graph.power
        sending = stages["device_link"] + stages["direct_link"]
        return Candidates(
            seconds=seconds,
            p95_seconds=self.percentile(outcomes, choice, at, pair, 0.95) if p95 else seconds,
            device_seconds=stages["device"],
            device_joules=power.compute_watts * stages["device"] + power.transmit_watts * sending,
            bytes=first * at.bytes,
            packet_bytes=at.packet,
            bottleneck_seconds=np.maximum.reduce(list(stages.values())),
            accuracy=self.accuracy(outcomes, choice, at),
            agreement=at.agreement,
            device_layers=self.layers[Tier.DEVICE][pair],
            edge_layers=self.layers[Tier.EDGE][pair],
            branches=runs.sum(axis=1),
        )

    def accuracy(self, outcomes: OutcomeGrid, choice: Index, at: Rows) -> Column:
        """Share of right answers, less what the codecs cost those answered above them."""
        if outcomes.right is None:
            return np.full(len(choice), np.nan)
        mine = outcomes.right[choice]
        edge = mine[:, self.on_device : -1].sum(axis=1)
        found: Column = mine[:, : self.on_device].sum(axis=1) + at.quality * (edge + at.second_quality * mine[:, -1])
        return found

    def ways(self, runs: Column, work: Column, first: Column, second: Column, final_back: Column) -> Column:
        """Seconds of a frame that is answered by each branch, and by the end: [rows, m + 1].

        `runs` are the branches that run, [rows, m]; `work` is of the rows' placements; `first` and `second` are paid on
        leaving the device and the edge.
        """
        spent = np.cumsum(work, axis=1)
        spent[:, self.on_device :] += first[:, None]
        spent[:, -1] += second + final_back
        spent[:, self.on_device : -1] += self.edge_back
        branches = np.cumsum(runs * self.branch_seconds, axis=1)
        spent[:, :-1] += branches
        if branches.shape[1]:
            spent[:, -1] += branches[:, -1]
        return spent

    def percentile(self, outcomes: OutcomeGrid, choice: Index, at: Rows, pair: Index, share: float) -> Column:
        """Time by which `share` of the frames are answered."""
        runs, shares = outcomes.runs[choice], outcomes.shares[choice]
        times = self.ways(runs, self.work_all[pair], at.first_seconds, at.second_seconds, at.final_back)
        if at.jitter:
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


class Spans:
    """A group's rows in runs that are bounded together: a placement with all its codecs, or each row by itself.

    Attributes:
        starts: the first row of each run, counted within the group.
        place: its placement, as a row of the group's `work`.
    """

    def __init__(self, group: Group, starts: Index) -> None:
        self.group, self.starts, self.place = group, starts, group.kind.local[starts]

    def __len__(self) -> int:
        return len(self.starts)

    def least(self, column: str) -> Column:
        """Of each run, the least of a column of the grid."""
        found: Column = np.minimum.reduceat(getattr(self.group.grid, column)[self.group.kind.rows], self.starts)
        return found

    def greatest(self, column: str) -> Column:
        """Of each run, the greatest of a column of the grid."""
        found: Column = np.maximum.reduceat(getattr(self.group.grid, column)[self.group.kind.rows], self.starts)
        return found

    @cached_property
    def seconds(self) -> Column:
        """All seconds but the branches', at least, by the share that pays them: [m + 1, runs]."""
        costs = (self.group.work_all + self.group.edge_answers)[self.place]
        costs[:, self.group.on_device] += self.least("first_seconds")
        costs[:, -1] += self.least("second_seconds") + self.least("final_back")
        found: Column = costs.T
        return found


class Ground:
    """What every placement with every codec costs on one graph and network, whatever frames are like."""

    def __init__(self, layout: Layout, graph: LayerGraph, network: NetworkState) -> None:
        self.layout = layout
        self.grid = Rows.of(layout, graph, network)
        self.groups = [Group(kind, self.grid, graph, network) for kind in layout.kinds]

    @classmethod
    def of(cls, problem: Problem) -> Ground:
        """Price a problem's layout, or take what was priced for another image-quality class.

        Raises:
            TooWide: the graph has too many cuts to list.
        """
        graph = problem.graph
        # What a codec costs in accuracy is told against the validation table where the profile itself does not say.
        told = all("f32" in costs and costs["f32"].accuracy is not None for costs in graph.codecs.values())
        costly = graph.base if told else graph
        return _ground(Problem(costly, problem.network, codecs=problem.codecs, tiers=problem.tiers, mode=problem.mode))


@lru_cache(maxsize=2)
def _ground(problem: Problem) -> Ground:
    """Graphs are told apart by identity, so that none is taken for another; two, as there may be edge and cloud."""
    return Ground(layout(Shape.of(problem)), problem.graph, problem.network)
