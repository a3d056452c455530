"""From where the layers run to a whole plan: what most published methods leave open is settled here, for all alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations, product

from popexd.cut import crossings
from popexd.errors import Infeasible, InputError
from popexd.latency import Prediction, predict
from popexd.plan import Plan, Tier
from popexd.profile import Exit, LayerGraph
from popexd.solvers.offers import allowed_costs
from popexd.solvers.problem import Problem, Solution
from popexd.solvers.selection import Candidates, select

Placement = Mapping[str, Tier]


def remotes(problem: Problem) -> list[Tier]:
    """The tiers above the device, one of which a two-tier method works with."""
    return [tier for tier in problem.available if tier is not Tier.DEVICE]


def codecs_by_sender(problem: Problem, tiers: Placement) -> dict[Tier, list[str]]:
    """By sender, the codecs that every tensor it sends can be encoded with."""
    found: dict[Tier, list[str]] = {}
    for crossing in crossings(Plan(tiers), problem.graph):
        able = problem.codec_names(crossing.point)
        found[crossing.source] = [name for name in found.get(crossing.source, list(able)) if name in able]
    return found


def plans(problem: Problem, tiers: Placement, running: Iterable[Exit] = ()) -> Iterator[Plan]:
    """`tiers` with each codec that its senders may use; none where the mode forbids it."""
    if problem.finisher is not None and any(tiers[sink] is not problem.finisher for sink in problem.graph.sinks):
        return
    choices = problem.exit_choices(running)
    codecs = codecs_by_sender(problem, tiers)
    for names in product(*codecs.values()):
        yield Plan(tiers, choices, {sender.label: name for sender, name in zip(codecs, names, strict=True)})


def best(problem: Problem, plans: Iterable[Plan], solver: str, hint: str = "") -> Solution:
    """Price `plans` and return the one that wins.

    Raises:
        Infeasible: none satisfies the constraints, which `solver` does not search under.
    """
    priced: list[tuple[Plan, Prediction]] = [(plan, predict(plan, problem.graph, problem.network)) for plan in plans]
    try:
        plan, prediction = priced[select(problem, Candidates.of(priced))]
    except Infeasible as error:
        raise Infeasible(f"{error} ({hint or f'{solver} does not search under constraints, joint does'})") from error
    return Solution(plan, prediction, solver)


def two_tier(graph: LayerGraph, on_device: Iterable[str], remote: Tier) -> dict[str, Tier]:
    """Place the layers of `on_device` there and the others on `remote`."""
    local = set(on_device)
    return {name: Tier.DEVICE if name in local else remote for name in graph.names}


def runnable(problem: Problem, tiers: Placement) -> list[Exit]:
    """The side branches that can run where their layers are."""
    return [branch for branch in problem.graph.exits if problem.can_run(branch, tiers[branch.after])]


def subsets(branches: Sequence[Exit], at_most: int = 6) -> Iterator[tuple[Exit, ...]]:
    """Every subset of `branches`; beyond `at_most` of them, none or all."""
    sizes = range(len(branches) + 1) if len(branches) <= at_most else (0, len(branches))
    for size in sizes:
        yield from combinations(branches, size)


def needs_objective(problem: Problem, solver: str, *able: str) -> None:
    """Refuse an objective that a published method does not have.

    Raises:
        InputError: the objective is not one of `able`.
    """
    if problem.objective not in able:
        names = " or ".join(repr(name) for name in able)
        raise InputError(f"objective: {problem.objective!r}, but {solver} minimises {names} only, expected joint")


def hop_seconds(problem: Problem, source: Tier, destination: Tier, point: str) -> float:
    """Seconds from encoding the output of `point` on one tier to having it on another, with the quickest codec allowed.

    Without round trips, which a frame pays once and not per tensor; infinite where there is no way.
    """
    route = problem.network.route(source, destination)
    if route is None:
        return float("inf")
    links = [problem.network.links[hop] for hop in route]
    costs = allowed_costs(problem, point).values()
    return min(
        (
            cost.encode_seconds + cost.decode_seconds + sum(link.transfer_seconds(cost.bytes) for link in links)
            for cost in costs
        ),
        default=float("inf"),
    )


def round_trips(problem: Problem, source: Tier, destination: Tier) -> float:
    """Seconds of the round trips on the way from one tier to another, and of the answer's way back."""
    links = [problem.network.links[hop] for hop in problem.network.route(source, destination) or ()]
    return sum(link.round_trip_seconds + link.transfer_seconds(problem.graph.result_bytes) for link in links)


def prefixes(graph: LayerGraph) -> Iterator[tuple[str, ...]]:
    """The layers before each cut of the topological order, from none to all."""
    for end in range(len(graph.names) + 1):
        yield graph.names[:end]


def parents(graph: LayerGraph) -> Iterator[tuple[str, str]]:
    """Every edge of the graph, `input`'s included."""
    for layer in graph.layers:
        for parent in layer.after:
            yield parent, layer.name
