"""What becomes of the frames for every choice of which branches run and from which confidence they answer, at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from popexd.plan import ExitChoice
from popexd.profile import Exit
from popexd.solvers.problem import Problem
from popexd.validation import Samples, Validation

Column = NDArray[np.float64]


@dataclass(frozen=True)
class OutcomeGrid:
    """One row per choice; `exits` are those that may run, as frames meet them.

    Attributes:
        exits: m side branches.
        levels: by branch the thresholds it may have, rising; one place further means that it does not run.
        chosen: [choices, m], places in `levels`.
        runs: [choices, m], 1 where the branch runs.
        reach: [choices, m + 1], share of frames that get to each branch, and to the end.
        right: [choices, m + 1], share answered right by each branch and the end; None without a table.
    """

    exits: tuple[Exit, ...]
    levels: tuple[tuple[float, ...], ...]
    chosen: NDArray[np.intp]
    runs: Column
    reach: Column
    right: Column | None

    @classmethod
    def of(cls, problem: Problem, exits: tuple[Exit, ...]) -> OutcomeGrid:
        """Count every choice for branches met in this order."""
        levels = tuple(problem.levels(branch) for branch in exits)
        shape = tuple(len(each) + 1 for each in levels)
        chosen, runs = _settings(shape)
        table = problem.graph.validation
        if table is None:
            answered = runs * np.array([branch.probability for branch in exits])
            reach = np.concatenate([np.ones((len(runs), 1)), np.cumprod(1.0 - answered, axis=1)], axis=1)
            return cls(exits, levels, chosen, runs, reach, None)
        reach, right = _counted(table, exits, levels, shape)
        return cls(exits, levels, chosen, runs, reach, right)

    def among(self, places: Sequence[int]) -> OutcomeGrid:
        """The same where only the branches at `places`, rising, may run."""
        if len(places) == len(self.exits):
            return self
        others = [place for place in range(len(self.exits)) if place not in places]
        rows = np.flatnonzero(~self.runs[:, others].any(axis=1))[:, None]
        kept = np.array(places, dtype=np.intp)
        ends = np.append(kept, len(self.exits))
        return OutcomeGrid(
            tuple(self.exits[place] for place in places),
            tuple(self.levels[place] for place in places),
            self.chosen[rows, kept],
            self.runs[rows, kept],
            self.reach[rows, ends],
            None if self.right is None else self.right[rows, ends],
        )

    @property
    def shares(self) -> Column:
        """Share of frames answered by each branch, and by the end: [choices, m + 1]."""
        left = np.concatenate([self.reach[:, 1:], np.zeros((len(self.reach), 1))], axis=1)
        found: Column = self.reach - left
        return found

    def choices(self, problem: Problem, row: int) -> dict[str, ExitChoice]:
        """The plan's word on every branch for one row."""
        running = {
            branch.name: levels[place]
            for branch, levels, place in zip(self.exits, self.levels, self.chosen[row], strict=True)
            if place < len(levels)
        }
        return problem.exit_choices_at(running)


@lru_cache(maxsize=4)
def _settings(shape: tuple[int, ...]) -> tuple[NDArray[np.intp], Column]:
    """Every way to choose a place per branch, [choices, m], and which of the branches run: not those at the last."""
    chosen = np.indices(shape, dtype=np.intp).reshape(len(shape), math.prod(shape)).T
    return chosen, (chosen < np.array(shape, dtype=np.intp) - 1).astype(np.float64)


@lru_cache(maxsize=16)
def _cells(samples: Samples, levels: tuple[tuple[int, tuple[float, ...]], ...]) -> NDArray[np.intp]:
    """How many of its levels each sample passes at each of these exits' rows, as one number: [samples]."""
    if not levels:
        return np.zeros(len(samples), dtype=np.intp)
    passed = [
        np.searchsorted(np.asarray(each, dtype=samples.confidence.dtype), samples.confidence[row], side="right")
        for row, each in levels
    ]
    return np.asarray(np.ravel_multi_index(passed, [len(each) + 1 for _, each in levels]), dtype=np.intp)


def _counted(
    table: Validation, exits: Sequence[Exit], levels: Sequence[tuple[float, ...]], shape: tuple[int, ...]
) -> tuple[Column, Column]:
    """Count shares on the samples: one histogram of how many levels each sample passes at each branch, then sums.

    With l the place of the threshold, a sample survives a branch iff it passes at most l of its levels.
    """
    mass, rows = table.mass, [table.samples.row[branch.name] for branch in exits]
    cell = _cells(table.samples, tuple(zip(rows, levels, strict=True)))
    size = math.prod(shape)

    # Masses of all, of those that each branch gets right, of those that the end does; by levels passed.
    shares = [mass, *(mass * table.correct[row] for row in (*rows, -1))]
    masses = np.stack([np.bincount(cell, share, minlength=size) for share in shares]).reshape(-1, *shape)
    reach, right = [np.ones(size)], []
    for axis in range(len(exits)):
        rest = tuple(range(axis + 1, len(exits)))
        certain = masses[1 + axis].sum(axis=rest, keepdims=True)
        answered = certain.sum(axis=axis, keepdims=True) - np.cumsum(certain, axis=axis)
        right.append(np.broadcast_to(answered, shape).ravel())
        masses = np.cumsum(masses, axis=axis + 1)  # from here on, of those that this branch leaves over
        kept = masses[0].sum(axis=rest, keepdims=True)
        reach.append(np.broadcast_to(kept, shape).ravel())
    right.append(masses[-1].ravel())
    found = np.stack(reach, axis=1)
    found[found < 1e-15] = 0.0  # what sums leave of nothing
    return found, np.stack(right, axis=1)
