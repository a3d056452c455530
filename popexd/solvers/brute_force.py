"""The oracle: price every plan there is, by definition."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product

from popexd.errors import InputError
from popexd.latency import predict
from popexd.plan import Plan, Tier
from popexd.profile import INPUT, Exit, LayerGraph
from popexd.solvers.placement import codecs_by_sender
from popexd.solvers.problem import Problem, Solution
from popexd.solvers.selection import Candidates, select

LIMIT = 200_000
"""Plans it is willing to price; about a quarter of a minute."""


def brute_force(problem: Problem) -> Solution:
    """Price every monotone choice of tiers, every subset of the branches that can run (with every threshold, where
    they are swept), and every codec per sender.

    Works on any DAG and three tiers, in time exponential in the layers; it is what other solvers are tested against.

    Raises:
        InputError: there are more than `LIMIT` plans.
        Infeasible: no plan satisfies the constraints.
    """
    count = 0
    for frame in _frames(problem):
        count += frame.count
        if count > LIMIT:
            raise InputError(
                f"solver: brute-force would price more than {LIMIT:,} plans for {len(problem.graph.layers)} layers on "
                f"{len(problem.available)} tiers, expected a smaller model or solver joint"
            )
    priced = [(plan, predict(plan, problem.graph, problem.network)) for plan in every_plan(problem)]
    plan, prediction = priced[select(problem, Candidates.of(priced))]
    return Solution(plan, prediction, "brute-force")


def every_plan(problem: Problem) -> Iterator[Plan]:
    """All plans that the problem's tiers, mode, branches and codecs allow, whatever they cost."""
    for frame in _frames(problem):
        for names in product(*frame.codecs.values()):
            codecs = {sender.label: name for sender, name in zip(frame.codecs, names, strict=True)}
            for size in range(len(frame.branches) + 1):
                for running in combinations(frame.branches, size):
                    for levels in product(*(problem.levels(branch) for branch in running)):
                        thresholds = {branch.name: level for branch, level in zip(running, levels, strict=True)}
                        yield Plan(frame.tiers, problem.exit_choices_at(thresholds), codecs)


@dataclass(frozen=True)
class _Frame:
    """One placement of the layers, the branches that can run in it and their settings, the codecs senders can use."""

    tiers: dict[str, Tier]
    branches: list[Exit]
    codecs: dict[Tier, list[str]]
    settings: int

    @property
    def count(self) -> int:
        """How many plans it makes."""
        return math.prod(len(names) for names in self.codecs.values()) * self.settings


def _frames(problem: Problem) -> Iterator[_Frame]:
    graph = problem.graph
    for tiers in placements(graph, problem.available):
        if problem.finisher is not None and any(tiers[sink] is not problem.finisher for sink in graph.sinks):
            continue
        runnable = [branch for branch in graph.exits if problem.can_run(branch, tiers[branch.after])]
        settings = math.prod(1 + len(problem.levels(branch)) for branch in runnable)
        yield _Frame(tiers, runnable, codecs_by_sender(problem, tiers), settings)


def placements(graph: LayerGraph, tiers: tuple[Tier, ...]) -> Iterator[dict[str, Tier]]:
    """All ways to place the layers such that no tensor flows back down."""

    def place(index: int, chosen: dict[str, Tier]) -> Iterator[dict[str, Tier]]:
        if index == len(graph.layers):
            yield dict(chosen)
            return
        layer = graph.layers[index]
        lowest = max((chosen[parent] for parent in layer.after if parent != INPUT), default=Tier.DEVICE)
        for tier in tiers:
            if tier >= lowest:
                chosen[layer.name] = tier
                yield from place(index + 1, chosen)

    return place(0, {})
