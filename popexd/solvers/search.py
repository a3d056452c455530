"""Best first through all choices of exits against all placements, by their bounds; codecs only where it matters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from popexd.plan import Plan, Tier
from popexd.solvers.bounds import Bounds
from popexd.solvers.cut_grid import CodecTable, Column, Index, Pairs, rows
from popexd.solvers.pricing import groups
from popexd.solvers.problem import Problem
from popexd.solvers.selection import Candidates, Constraint, all_met, tolerance

BATCH = 100_000
"""Rows priced at a time."""

MORE_IS_BETTER = ("accuracy", "agreement")


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
        self.pairs = Pairs.of(problem)
        self.codecs = CodecTable.of(problem)
        self.grid = rows(problem, self.pairs, self.codecs)
        self.groups = groups(problem, self.pairs, self.grid)
        self.bounds = [Bounds(group) for group in self.groups]

    @property
    def empty(self) -> bool:
        """Whether there is no plan at all."""
        return len(self.grid.pair) == 0

    def best(self, figure: str, demands: Sequence[Constraint]) -> Found | None:
        """Every plan within a tie of the least `figure` (the most, where more is better) that meets `demands`.

        None where nothing does. Exact: what is left out has a bound above what was found.
        """
        matrices = [bounds.matrix(figure, demands) for bounds in self.bounds]
        offsets = np.cumsum([0, *(matrix.size for matrix in matrices)])
        bound = np.concatenate([matrix.ravel() for matrix in matrices]) if matrices else np.zeros(0)
        waiting = np.isfinite(bound)
        least, kept, count = np.inf, list[Found](), 256
        take = self._first(matrices, offsets, waiting)
        while take.size:
            waiting[take] = False
            for found in self._priced(take, offsets):
                value = self._value(found.table, figure)
                value = np.where(all_met(demands, found.table), value, np.inf)
                least = min(least, float(value.min(initial=np.inf)))
                good = np.flatnonzero(value <= least + tolerance(least)) if np.isfinite(least) else np.zeros(0, np.intp)
                if good.size:
                    kept.append(found.take(good))
            ahead = least + 2 * tolerance(least) if np.isfinite(least) else np.inf
            take = np.flatnonzero(waiting & (bound <= ahead))
            if take.size > count:
                take = take[np.argpartition(bound[take], count)[:count]]
                count *= 8
        if not kept:
            return None
        found = Found.stacked(kept)
        return found.take(np.flatnonzero(self._value(found.table, figure) <= least + tolerance(least)))

    @staticmethod
    def _first(matrices: Sequence[Column], offsets: Index, waiting: Index) -> Index:
        """The best bound of each placement, to begin with."""
        heads = [
            offset + matrix.argmin(axis=0) * matrix.shape[1] + np.arange(matrix.shape[1])
            for offset, matrix in zip(offsets, matrices, strict=False)
        ]
        chosen: Index = np.concatenate(heads).astype(np.intp) if heads else np.zeros(0, dtype=np.intp)
        return chosen[waiting[chosen]]

    @staticmethod
    def _value(table: Candidates, figure: str) -> Column:
        column: Column = getattr(table, figure)
        return -column if figure in MORE_IS_BETTER else column

    def _priced(self, take: Index, offsets: Index) -> Iterator[Found]:
        """Price the given cells of the bounds' matrices with every codec, in batches."""
        owner = np.searchsorted(offsets, take, side="right") - 1
        for index in np.unique(owner):
            group, bounds = self.groups[index], self.bounds[index]
            choice, pair = np.divmod(take[owner == index] - offsets[index], len(group.pairs))
            ends = np.append(bounds.starts, len(group.rows))
            sizes = (ends[1:] - ends[:-1])[pair]
            for start, stop in _batches(sizes):
                part = slice(start, stop)
                total = np.cumsum(sizes[part])
                within = np.arange(total[-1]) - np.repeat(total - sizes[part], sizes[part])
                row = np.repeat(bounds.starts[pair[part]], sizes[part]) + within
                chosen = np.repeat(choice[part], sizes[part])
                table = group.priced(chosen, row)
                yield Found(table, np.full(len(row), index), chosen, group.rows[row])

    def plan(self, found: Found, at: int) -> Plan:
        """Write out one row as a plan."""
        group, row = self.groups[int(found.group[at])], int(found.row[at])
        pair = int(self.grid.pair[row])
        low, mid = (self.pairs.sets[end[pair]] for end in (self.pairs.first, self.pairs.second))
        tiers = {
            name: Tier.DEVICE if low[index] else Tier.EDGE if mid[index] else Tier.CLOUD
            for index, name in enumerate(self.problem.graph.names)
        }
        codecs = {}
        for sender, column in ((Tier.DEVICE, self.grid.codec), (Tier.EDGE, self.grid.second_codec)):
            if column[row] < len(self.codecs.names):
                codecs[sender.label] = self.codecs.names[column[row]]
        return Plan(tiers, group.outcomes.choices(self.problem, int(found.choice[at])), codecs)


def _batches(sizes: Index) -> Iterator[tuple[int, int]]:
    """Part rows of these sizes into runs of about `BATCH`."""
    place = np.cumsum(sizes) // BATCH
    edges = np.flatnonzero(np.diff(place)) + 1
    yield from zip([0, *edges.tolist()], [*edges.tolist(), len(sizes)], strict=True)
