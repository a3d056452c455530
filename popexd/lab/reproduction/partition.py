"""The seed paper's setting for figures 3 and 4: one branch, a device gamma times slower, one link, float32 tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from popexd.errors import ProfileError
from popexd.latency import predict
from popexd.network import Link, NetworkState
from popexd.plan import Plan, Tier
from popexd.profile import CodecCost, LayerGraph
from popexd.solvers.brute_force import every_plan
from popexd.solvers.problem import Problem
from popexd.solvers.selection import TIE
from popexd.solvers.shortest_path import shortest_path

SYNTHETIC = Path(__file__).with_name("synthetic-b-alexnet.json")
"""B-AlexNet's sizes with times invented such that the facts published of figures 3 and 4 hold."""

LINKS: Mapping[str, Mapping[str, float]] = {
    "popex": {"3G": 1.1, "4G": 5.5, "Wi-Fi": 18.8},
    "dads": {"3G": 1.1, "4G": 5.85, "Wi-Fi": 18.88},
}
"""Mbit/s of the uplinks: as the seed paper rounds them, and as DADS (INFOCOM 2019), Table I, has them."""

GAMMAS = (10.0, 100.0)
"""How many times slower the device is, figure 3."""

LEAST_AGREEMENT = 0.98
"""Of the answers, that a codec must leave as they were to be used."""

TOLERANCE_SECONDS = 1e-9
"""How much more a frame may take before it counts as more; far below what anyone can measure."""


@dataclass(frozen=True)
class Decision:
    """Where the solver cuts: `seconds` expected, how many layers stay on the device, and the cut in words."""

    seconds: float
    layers: int
    cut: str
    branch_runs: bool

    @property
    def point(self) -> str:
        """The cut without what is said of the branch and the codec."""
        return self.cut.partition(" ")[0]

    @property
    def rank(self) -> int:
        """How much of the network is on the device, a branch at the cut included."""
        return 2 * self.layers + self.branch_runs


def as_in_paper(graph: LayerGraph, *, codecs: bool = False) -> LayerGraph:
    """Leave of a profile what the paper's model has: the chain, its first branch, times of the cloud, raw sizes.

    With `codecs` what the daemon has besides stays: codecs that keep the answers, decoding the frame, the answer's way.

    Raises:
        ProfileError: the graph is no chain, has no branch, or no times for the cloud.
    """
    if not graph.is_chain:
        raise ProfileError("layers: a graph that branches, expected a chain as in the paper")
    if not graph.exits:
        raise ProfileError("exits: none, expected at least one side branch")
    first = graph.exits[0]
    if not all(Tier.CLOUD in seconds for seconds in (first.seconds, *(layer.seconds for layer in graph.layers))):
        raise ProfileError("layers: no seconds of the cloud, expected them for every layer and the first branch")
    return replace(
        graph,
        layers=tuple(replace(layer, seconds={Tier.CLOUD: layer.seconds[Tier.CLOUD]}) for layer in graph.layers),
        exits=(replace(first, seconds={Tier.CLOUD: first.seconds[Tier.CLOUD]}),),
        codecs=_faithful(graph) if codecs else {},
        input_seconds=graph.input_seconds if codecs else {},
        result_bytes=graph.result_bytes if codecs else 0.0,
        validation=None,
        thresholds={},
    )


def question(graph: LayerGraph, gamma: float, probability: float, mbps: float) -> Problem:
    """Ask for the least expected time on a device `gamma` times slower, over `mbps`, at this exit probability.

    Encoding and decoding frames on the device, where the graph has them, become slower alike.
    """
    there = graph.with_gamma(gamma).with_probabilities({graph.exits[0].name: probability})
    there = replace(
        there,
        codecs={
            point: {name: replace(cost, encode_seconds=gamma * cost.encode_seconds) for name, cost in table.items()}
            for point, table in there.codecs.items()
        },
        input_seconds={tier: (gamma if tier is Tier.DEVICE else 1) * s for tier, s in there.input_seconds.items()},
    )
    return Problem(there, NetworkState(Link(mbps * 1e6)))


def decide(problem: Problem, at_cut: str = "either") -> Decision:
    """Cut by POPEX's shortest path; the time is the cost model's."""
    solution = shortest_path(problem, at_cut)
    return _decision(problem, solution.plan, solution.prediction.seconds)


def least_of_all(problem: Problem, at_cut: str = "either") -> float:
    """Price every plan that POPEX may choose, one by one, and return the least expected seconds."""
    return min(
        predict(plan, problem.graph, problem.network).seconds
        for plan in every_plan(problem)
        if _popex_may_choose(problem, plan, at_cut)
    )


def agrees(problem: Problem, found: Decision, at_cut: str = "either") -> bool:
    """Whether the shortest path is the least of all plans, but for the tie-breakers on its way."""
    slack = TIE * (len(problem.graph.layers) + 2)
    return abs(found.seconds - least_of_all(problem, at_cut)) <= slack


def flat_until(graph: LayerGraph, gamma: float, mbps: float, at_cut: str = "either") -> float:
    """Find the exit probability up to which the expected time stays that of p = 0; 1 if it always does.

    Seconds over p are concave and never rise, so that after the flat part they only fall.
    """
    start = decide(question(graph, gamma, 0.0, mbps), at_cut).seconds

    def falls(probability: float) -> bool:
        return start - decide(question(graph, gamma, probability, mbps), at_cut).seconds > TOLERANCE_SECONDS

    if not falls(1.0):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(34):
        middle = (low + high) / 2
        low, high = (low, middle) if falls(middle) else (middle, high)
    return low if low > 1e-6 else 0.0


def stretches(
    graph: LayerGraph, probability: float, mbps: float, gammas: tuple[int, int], at_cut: str = "either"
) -> list[tuple[int, Decision]]:
    """List the cuts over whole gammas: from which gamma on which is chosen.

    A plan's time is affine in gamma. The least of such lines is concave, so a plan that is best at both ends of an
    interval is best all over it, and only intervals whose ends differ are looked into.
    """
    known: dict[int, Decision] = {}

    def at(gamma: int) -> Decision:
        if gamma not in known:
            known[gamma] = decide(question(graph, float(gamma), probability, mbps), at_cut)
        return known[gamma]

    intervals = [gammas]
    while intervals:
        low, high = intervals.pop()
        if at(low).cut != at(high).cut and high - low > 1:
            middle = (low + high) // 2
            intervals += [(low, middle), (middle, high)]
    found: list[tuple[int, Decision]] = []
    for gamma in sorted(known):
        if not found or known[gamma].cut != found[-1][1].cut:
            found.append((gamma, known[gamma]))
    return found


def _faithful(graph: LayerGraph) -> dict[str, dict[str, CodecCost]]:
    """The codecs of every point that keep the answers; `f32` always does."""
    return {
        point: {name: cost for name, cost in table.items() if name == "f32" or cost.agreement >= LEAST_AGREEMENT}
        for point, table in graph.codecs.items()
    }


def _decision(problem: Problem, plan: Plan, seconds: float) -> Decision:
    names = problem.graph.names
    layers = sum(plan.tiers[name] is Tier.DEVICE for name in names)
    branch = problem.graph.exits[0]
    here = 0 < layers < len(names) and names[layers - 1] == branch.after
    words = [{0: "input", len(names): "output"}.get(layers, names[layers - 1])]
    running = plan.runs(branch.name)
    if here:
        words.append("run" if running else "skip")
    if problem.graph.codecs and layers < len(names):
        words.append(plan.codec(Tier.DEVICE))
    return Decision(seconds, layers, " ".join(words), running)


def _popex_may_choose(problem: Problem, plan: Plan, at_cut: str) -> bool:
    """Branches before the cut run; one at the cut as `at_cut` says."""
    names = problem.graph.names
    layers = sum(plan.tiers[name] is Tier.DEVICE for name in names)
    for branch in problem.graph.exits:
        place = names.index(branch.after) + 1
        if place < layers and not plan.runs(branch.name):
            return False
        if place == layers and at_cut != "either" and plan.runs(branch.name) != (at_cut == "run"):
            return False
    return True
