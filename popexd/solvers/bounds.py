"""What each placement costs at least, whatever its codecs, for every choice of exits: a matrix to search by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from popexd.plan import Tier
from popexd.solvers.cut_grid import Column
from popexd.solvers.pricing import Group
from popexd.solvers.selection import Constraint

FIGURES = {"p95": "p95_seconds", "throughput": "bottleneck_seconds"}
"""The figure that an objective minimises, where it is not called like it."""


class Bounds:
    """Lower bounds of one group's figures, [choices, placements], for all choices of exits or a run of them."""

    def __init__(self, group: Group, choices: range) -> None:
        self.group, self.problem, self.choices = group, group.problem, choices
        part, outcomes = slice(choices.start, choices.stop), group.outcomes
        self.starts = np.searchsorted(group.local, np.arange(len(group.pairs)))
        self.reach, self.runs, self.shares = outcomes.reach[part], outcomes.runs[part], outcomes.shares[part]
        self.right = None if outcomes.right is None else outcomes.right[part]
        self.evaluated = self.reach[:, :-1] * self.runs

    @property
    def size(self) -> int:
        """Cells of the matrix."""
        return len(self.choices) * len(self.group.pairs)

    def matrix(self, figure: str, demands: Sequence[Constraint]) -> Column:
        """Bounds of `figure` (of its negative, where more is better); infinite where a demand cannot be met."""
        found = self.of(figure) if figure not in ("accuracy", "agreement") else -self.most(figure)
        for demand in demands:
            beyond = (
                demand.bound - self.most(demand.figure) if demand.at_least else self.of(demand.figure) - demand.bound
            )
            found = np.where(beyond > demand.slack + 1e-9 * abs(demand.bound), np.inf, found)
        return found

    def of(self, figure: str) -> Column:
        """The least there can be of a figure."""
        group, power = self.group, self.problem.graph.power
        if figure == "p95_seconds":
            return self.percentile()
        if figure == "packet_bytes":
            return np.broadcast_to(self.least("packet"), (len(self.reach), len(group.pairs)))
        if figure == "bytes":
            return np.outer(self.leaving, self.least("bytes"))
        if figure == "device_seconds":
            return self.stage("device")
        if figure == "device_joules":
            sending = np.outer(self.leaving, np.minimum.reduceat(self.link_seconds, self.starts))
            return power.compute_watts * self.stage("device") + power.transmit_watts * sending
        if figure == "bottleneck_seconds":
            busiest: Column = np.maximum.reduce([self.stage(name) for name in STAGES])
            return busiest
        costs = group.work_all + group.edge_answers
        costs[:, group.on_device] += self.least("first_seconds")
        costs[:, -1] += self.least("second_seconds") + self.least("final_back")
        found: Column = self.reach @ costs.T + (self.evaluated @ group.branch_seconds)[:, None]
        return found

    def most(self, figure: str) -> Column:
        """The most there can be of a figure of which more is better."""
        group, right = self.group, self.right
        if figure == "agreement":
            return np.broadcast_to(self.greatest("agreement"), (len(self.reach), len(group.pairs)))
        assert right is not None
        quality, second = self.greatest("quality"), self.greatest("second_quality")
        device, edge = right[:, : group.on_device].sum(axis=1), right[:, group.on_device : -1].sum(axis=1)
        answered = np.outer(edge, quality) + np.outer(right[:, -1], quality * second)
        found: Column = device[:, None] + answered
        return found

    @property
    def leaving(self) -> Column:
        """Share of frames that leave the device."""
        found: Column = self.reach[:, self.group.on_device]
        return found

    @property
    def link_seconds(self) -> Column:
        """Seconds that the device's links are busy, by row."""
        grid, rows = self.group.grid, self.group.rows
        found: Column = (grid.device_link + grid.direct_link)[rows]
        return found

    def least(self, column: str) -> Column:
        """Of each placement, the least over its codecs."""
        values = getattr(self.group.grid, column)[self.group.rows]
        found: Column = np.minimum.reduceat(values, self.starts)
        return found

    def greatest(self, column: str) -> Column:
        """Of each placement, the greatest over its codecs."""
        values = getattr(self.group.grid, column)[self.group.rows]
        found: Column = np.maximum.reduceat(values, self.starts)
        return found

    def stage(self, name: str) -> Column:
        """Least seconds that one tier or link is busy."""
        group = self.group
        costs = np.zeros((len(group.pairs), len(group.exits) + 1))
        branches = np.zeros(len(group.exits))
        tier = {"device": Tier.DEVICE, "edge": Tier.EDGE, "cloud": Tier.CLOUD}.get(name)
        if tier is not None:
            costs += group.work[tier]
            if tier is not Tier.CLOUD:
                branches = group.branches_on(tier)
        for column, place in STAGES[name]:
            costs[:, group.on_device if place == 0 else -1] += self.least(column)
        found: Column = self.reach @ costs.T + (self.evaluated @ branches)[:, None]
        return found

    def percentile(self) -> Column:
        """Time by which 95 of 100 frames are answered, at least: the way of the exit at which so many have left.

        Under jitter that of 90 of 100: half of the frames of each way take longer than its mean.
        """
        group, size = self.group, (len(self.reach), len(self.group.pairs))
        if "direct" in self.problem.network.links and self.problem.graph.result_bytes:
            return np.zeros(size)  # an answer may come back sooner than those of earlier exits
        jitter = bool(group.grid.first_variance.any() or group.grid.second_variance.any())
        done = np.cumsum(self.shares, axis=1) >= (0.90 if jitter else 0.95) - 1e-12
        place = np.where(done.any(axis=1), done.argmax(axis=1), done.shape[1] - 1)
        # With the last choice, in which no branch runs: the branches' own seconds are added below.
        spent = group.ways(
            np.full(len(group.pairs), len(group.outcomes.runs) - 1, dtype=np.intp),
            group.work_all,
            self.least("first_seconds"),
            self.least("second_seconds"),
            self.least("final_back"),
        )
        branches = np.cumsum(self.runs * group.branch_seconds, axis=1)
        whole = branches[:, -1:] if len(group.exits) else np.zeros((len(branches), 1))
        branches = np.concatenate([branches, whole], axis=1)
        found: Column = spent[:, place].T + branches[np.arange(len(branches)), place][:, None]
        return found


STAGES: dict[str, tuple[tuple[str, int], ...]] = {
    "device": (("encode", 0),),
    "edge": (("edge_decode", 0), ("second_encode", 1)),
    "cloud": (("cloud_decode", 1),),
    "device_link": (("device_link", 0),),
    "direct_link": (("direct_link", 0),),
    "edge_link": (("edge_link", 1),),
}
"""By stage, the columns that keep it busy; 0 where all frames that leave the device pay them, 1 where the last do."""
