"""The oracle: price every plan there is, by definition."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, islice, product

from popexd.cut import crossings
from popexd.errors import InputError
from popexd.latency import predict
from popexd.plan import Plan, Tier
from popexd.profile import INPUT, LayerGraph
from popexd.solvers.problem import Problem, Solution
from popexd.solvers.selection import Candidates, select

LIMIT = 200_000
"""Plans it is willing to price; about a quarter of a minute."""


def brute_force(problem: Problem) -> Solution:
    """Price every monotone choice of tiers, every subset of the branches that can run, and every codec per sender.

    Works on any DAG and three tiers, in time exponential in the layers; it is what other solvers are tested against.

    Raises:
        InputError: there are more than `LIMIT` plans.
        Infeasible: no plan satisfies the constraints.
    """
    plans = list(islice(every_plan(problem), LIMIT + 1))
    if len(plans) > LIMIT:
        raise InputError(
            f"solver: brute-force would price more than {LIMIT:,} plans for {len(problem.graph.layers)} layers on "
            f"{len(problem.available)} tiers, expected a smaller model or solver joint"
        )
    priced = [(plan, predict(plan, problem.graph, problem.network)) for plan in plans]
    plan, prediction = priced[select(problem, Candidates.of(priced))]
    return Solution(plan, prediction, "brute-force")


def every_plan(problem: Problem) -> Iterator[Plan]:
    """All plans that the problem's tiers, mode, branches and codecs allow, whatever they cost."""
    graph = problem.graph
    for tiers in placements(graph, problem.available):
        if problem.finisher is not None and any(tiers[sink] is not problem.finisher for sink in graph.sinks):
            continue
        runnable = [branch for branch in graph.exits if problem.can_run(branch, tiers[branch.after])]
        for codecs in _codec_choices(problem, tiers):
            for count in range(len(runnable) + 1):
                for running in combinations(runnable, count):
                    yield Plan(tiers, problem.exit_choices(running), codecs)


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


def _codec_choices(problem: Problem, tiers: dict[str, Tier]) -> Iterator[dict[str, str]]:
    points: dict[Tier, list[str]] = {}
    for crossing in crossings(Plan(tiers), problem.graph):
        points.setdefault(crossing.source, []).append(crossing.point)
    senders = sorted(points)
    choices = []
    for sender in senders:
        first, *others = (problem.codec_names(point) for point in points[sender])
        choices.append([name for name in first if all(name in names for names in others)])
    for names in product(*choices):
        yield {sender.label: name for sender, name in zip(senders, names, strict=True)}
