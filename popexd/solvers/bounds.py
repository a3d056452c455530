"""What each placement costs at least, whatever its codecs, for every choice of exits: a matrix to search by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from popexd.plan import Tier
from popexd.solvers.layout import Column
from popexd.solvers.outcome_grid import OutcomeGrid
from popexd.solvers.pricing import Spans
from popexd.solvers.selection import Constraint

FIGURES = {"p95": "p95_seconds", "throughput": "bottleneck_seconds"}
"""The figure that an objective minimises, where it is not called like it."""


class Bounds:
    """Lower bounds of the figures of some runs of rows, [choices, runs], for all choices of exits or some of them."""

    def __init__(self, spans: Spans, outcomes: OutcomeGrid, choices: range) -> None:
        self.spans, self.group, self.choices = spans, spans.group, choices
        part = slice(choices.start, choices.stop)
        self.reach, self.runs, self.shares = outcomes.reach[part], outcomes.runs[part], outcomes.shares[part]
        self.right = None if outcomes.right is None else outcomes.right[part]
        self.evaluated = self.reach[:, :-1] * self.runs

    @property
    def shape(self) -> tuple[int, int]:
        """The matrix's."""
        return len(self.choices), len(self.spans)

    @property
    def size(self) -> int:
        """Cells of the matrix."""
        return len(self.choices) * len(self.spans)

    def matrix(self, figure: str, demands: Sequence[Constraint]) -> Column:
        """Bounds of `figure` (of its negative, where more is better); infinite where a demand or branch forbids it."""
        found = self.of(figure) if figure not in ("accuracy", "agreement") else -self.most(figure)
        for demand in demands:
            beyond = (
                demand.bound - self.most(demand.figure) if demand.at_least else self.of(demand.figure) - demand.bound
            )
            found = np.where(beyond > demand.slack + 1e-9 * abs(demand.bound), np.inf, found)
        barred = self.group.kind.barred
        return found if barred is None else np.where(self.runs @ barred[self.spans.place].T > 0, np.inf, found)

    def of(self, figure: str) -> Column:
        """The least there can be of a figure."""
        group, spans, power = self.group, self.spans, self.group.graph.power
        if figure == "p95_seconds":
            return self.percentile()
        if figure == "packet_bytes":
            return np.broadcast_to(spans.least("packet"), self.shape)
        if figure == "bytes":
            return np.outer(self.leaving, spans.least("bytes"))
        if figure == "device_seconds":
            return self.stage("device")
        if figure == "device_joules":
            sending = np.outer(self.leaving, spans.least("sending"))
            return power.compute_watts * self.stage("device") + power.transmit_watts * sending
        if figure == "bottleneck_seconds":
            busiest: Column = np.maximum.reduce([self.stage(name) for name in STAGES])
            return busiest
        found: Column = self.reach @ spans.seconds + (self.evaluated @ group.branch_seconds)[:, None]
        return found

    def most(self, figure: str) -> Column:
        """The most there can be of a figure of which more is better."""
        group, right = self.group, self.right
        if figure == "agreement":
            return np.broadcast_to(self.spans.greatest("agreement"), self.shape)
        assert right is not None
        quality, second = self.spans.greatest("quality"), self.spans.greatest("second_quality")
        device, edge = right[:, : group.on_device].sum(axis=1), right[:, group.on_device : -1].sum(axis=1)
        answered = np.outer(edge, quality) + np.outer(right[:, -1], quality * second)
        found: Column = device[:, None] + answered
        return found

    @property
    def leaving(self) -> Column:
        """Share of frames that leave the device."""
        found: Column = self.reach[:, self.group.on_device]
        return found

    def stage(self, name: str) -> Column:
        """Least seconds that one tier or link is busy."""
        group, spans = self.group, self.spans
        costs = np.zeros((len(spans), self.reach.shape[1]))
        branches = np.zeros(len(group.branch_seconds))
        tier = {"device": Tier.DEVICE, "edge": Tier.EDGE, "cloud": Tier.CLOUD}.get(name)
        if tier is not None:
            costs += group.work[tier][spans.place]
            if tier is not Tier.CLOUD:
                branches = group.branches_on(tier)
        for column, place in STAGES[name]:
            costs[:, group.on_device if place == 0 else -1] += spans.least(column)
        found: Column = self.reach @ costs.T + (self.evaluated @ branches)[:, None]
        return found

    def percentile(self) -> Column:
        """Time by which 95 of 100 frames are answered, at least: the way of the exit at which so many have left.

        Under jitter that of 90 of 100: half of the frames of each way take longer than its mean.
        """
        group, spans = self.group, self.spans
        if "direct" in group.network.links and group.graph.result_bytes:
            return np.zeros(self.shape)  # an answer may come back sooner than those of earlier exits
        done = np.cumsum(self.shares, axis=1) >= (0.90 if group.grid.jitter else 0.95) - 1e-12
        place = np.where(done.any(axis=1), done.argmax(axis=1), done.shape[1] - 1)
        spent = group.ways(
            np.zeros((1, self.runs.shape[1])),  # the branches' own seconds are added below
            group.work_all[spans.place],
            spans.least("first_seconds"),
            spans.least("second_seconds"),
            spans.least("final_back"),
        )
        branches = np.cumsum(self.runs * group.branch_seconds, axis=1)
        whole = branches[:, -1:] if branches.shape[1] else np.zeros((len(branches), 1))
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
