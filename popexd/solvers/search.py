"""Best first through all choices of exits against all placements, by their bounds; codecs only where it matters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from popexd.plan import Plan, Tier
from popexd.solvers.bounds import Bounds
from popexd.solvers.layout import Column, Index
from popexd.solvers.outcome_grid import OutcomeGrid
from popexd.solvers.pricing import Ground, Group
from popexd.solvers.problem import Problem
from popexd.solvers.selection import Candidates, Constraint, all_met, tolerance

BATCH = 100_000
"""Rows priced at a time."""

CELLS = 6_000_000
"""Bounds held at a time."""

FEW = 10_000
"""Up to so many plans of a group, each is bounded by itself; beyond, all codecs of a placement together."""

FIRST = 64
"""Cells priced in the first round, then eight times as many each round."""

MORE_IS_BETTER = ("accuracy", "agreement")


Piece = tuple[int, Bounds]
"""A group's number, and the bounds of some of its choices."""


def _ahead(least: float) -> float:
    """Up to which bound one has to look on."""
    return least + 2 * tolerance(least) if np.isfinite(least) else np.inf


@dataclass(frozen=True)
class Found:
    """Priced plans, and which they are: row by row a group, its choice of exits, its row of the grid."""

    table: Candidates
    group: Index
    choice: Index
    row: Index

    def take(self, kept: Index) -> Found:
        """The rows `kept`."""
        table = Candidates(*(getattr(self.table, column.name)[kept] for column in fields(Candidates)))
        return Found(table, self.group[kept], self.choice[kept], self.row[kept])

    @classmethod
    def stacked(cls, parts: Sequence[Found]) -> Found:
        """All rows, in the order of the problem's own listing."""
        joined = cls(
            Candidates.stacked(part.table for part in parts),
            *(np.concatenate([getattr(part, name) for part in parts]) for name in ("group", "choice", "row")),
        )
        return joined.take(np.lexsort((joined.row, joined.choice, joined.group)))


class Search:
    """All plans of a problem, implicitly.

    Raises:
        TooWide: the graph has too many cuts to list.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.ground = Ground.of(problem)
        whole = OutcomeGrid.of(problem, problem.graph.exits)
        self.outcomes = [self._outcomes(whole, group) for group in self.ground.groups]
        self.pieces = [
            (index, Bounds(spans, outcomes, range(start, min(start + step, total))))
            for index, (group, outcomes) in enumerate(zip(self.ground.groups, self.outcomes, strict=True))
            for total in [len(outcomes.runs)]
            for spans in [group.by_row if total * len(group.kind.rows) <= FEW else group.by_placement]
            for step in [max(1, CELLS // len(spans))]
            for start in range(0, total, step)
        ]

    def _outcomes(self, whole: OutcomeGrid, group: Group) -> OutcomeGrid:
        """What becomes of the frames, in the order in which they meet this group's branches."""
        places = group.kind.exits
        if list(places) == sorted(places):
            return whole.among(places)
        return OutcomeGrid.of(self.problem, tuple(self.problem.graph.exits[place] for place in places))

    @property
    def empty(self) -> bool:
        """Whether there is no plan at all."""
        return not self.ground.groups

    def best(self, figure: str, demands: Sequence[Constraint]) -> Found | None:
        """Every plan within a tie of the least `figure` (the most, where more is better) that meets `demands`.

        None where nothing does. Exact: what is left out has a bound above what was found.
        """
        kept: list[Found] = []
        least, start = np.inf, 0
        while start < len(self.pieces):
            # As many matrices at a time as fit; mostly all of them.
            stop, cells = start + 1, self.pieces[start][1].size
            while stop < len(self.pieces) and cells + self.pieces[stop][1].size <= CELLS:
                cells += self.pieces[stop][1].size
                stop += 1
            least = self._searched(self.pieces[start:stop], figure, demands, least, kept)
            start = stop
        if not kept:
            return None
        found = Found.stacked(kept)
        return found.take(np.flatnonzero(self._value(found.table, figure) <= least + tolerance(least)))

    def _searched(
        self, pieces: Sequence[Piece], figure: str, demands: Sequence[Constraint], least: float, kept: list[Found]
    ) -> float:
        """Go through some pieces, keep what is good and return the least value so far."""
        matrices = [bounds.matrix(figure, demands) for _, bounds in pieces]
        offsets = np.cumsum([0, *(matrix.size for matrix in matrices)])
        bound = np.concatenate([matrix.ravel() for matrix in matrices])
        waiting = np.isfinite(bound)
        count, ahead = FIRST, _ahead(float(bound.min(initial=np.inf)))
        while True:
            take = np.flatnonzero(waiting & (bound <= min(ahead, _ahead(least))))
            if not take.size:
                return least
            if take.size > count:
                take = take[np.argpartition(bound[take], count)[:count]]
                count *= 8
            waiting[take] = False
            for found in self._priced(pieces, take, offsets):
                value = self._value(found.table, figure)
                value = np.where(all_met(demands, found.table), value, np.inf)
                least = min(least, float(value.min(initial=np.inf)))
                good = np.flatnonzero(np.isfinite(value) & (value <= _ahead(least)))
                if good.size:
                    kept.append(found.take(good))
            ahead = np.inf

    @staticmethod
    def _value(table: Candidates, figure: str) -> Column:
        column: Column = getattr(table, figure)
        return -column if figure in MORE_IS_BETTER else column

    def _priced(self, pieces: Sequence[Piece], take: Index, offsets: Index) -> Iterator[Found]:
        """Price the given cells of the bounds' matrices with every codec, in batches."""
        owner = np.searchsorted(offsets, take, side="right") - 1
        for number in np.unique(owner):
            index, bounds = pieces[number]
            group, starts = bounds.group, bounds.spans.starts
            choice, span = np.divmod(take[owner == number] - offsets[number], len(starts))
            sizes = np.append(starts[1:], len(group.kind.rows))[span] - starts[span]
            for start, stop in _batches(sizes):
                part = slice(start, stop)
                total = np.cumsum(sizes[part])
                within = np.arange(total[-1]) - np.repeat(total - sizes[part], sizes[part])
                row = np.repeat(starts[span[part]], sizes[part]) + within
                chosen = np.repeat(choice[part] + bounds.choices.start, sizes[part])
                table = group.priced(self.outcomes[index], chosen, row, self.problem.objective == "p95")
                yield Found(table, np.full(len(row), index), chosen, group.kind.rows[row])

    def plan(self, found: Found, at: int) -> Plan:
        """Write out one row as a plan."""
        layout, row = self.ground.layout, int(found.row[at])
        low, mid = layout.low[layout.pair[row]], layout.mid[layout.pair[row]]
        tiers = {
            name: Tier.DEVICE if low[index] else Tier.EDGE if mid[index] else Tier.CLOUD
            for index, name in enumerate(self.problem.graph.names)
        }
        codecs = {}
        for sender, column in ((Tier.DEVICE, layout.codec), (Tier.EDGE, layout.second_codec)):
            if column[row] < len(layout.names):
                codecs[sender.label] = layout.names[column[row]]
        outcomes = self.outcomes[int(found.group[at])]
        return Plan(tiers, outcomes.choices(self.problem, int(found.choice[at])), codecs)


def _batches(sizes: Index) -> Iterator[tuple[int, int]]:
    """Part rows of these sizes into runs of about `BATCH`."""
    place = np.cumsum(sizes) // BATCH
    edges = np.flatnonzero(np.diff(place)) + 1
    yield from zip([0, *edges.tolist()], [*edges.tolist(), len(sizes)], strict=True)
