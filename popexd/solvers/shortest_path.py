"""POPEX: the partition of an early-exit chain as a shortest path."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx

from popexd.errors import Infeasible, InputError
from popexd.latency import predict
from popexd.plan import Plan, Tier
from popexd.profile import INPUT, Exit
from popexd.solvers.offers import offers
from popexd.solvers.problem import Problem, Solution
from popexd.solvers.selection import TIE, Candidates, select

AT_CUT = ("either", "skip", "run")
"""What becomes of a branch right at the cut: the better of both, never evaluated, always evaluated."""

Node = tuple[str, str]
SOURCE: Node = ("input", "")
TARGET: Node = ("output", "")


def shortest_path(problem: Problem, at_cut: str = "either") -> Solution:
    """Cut a chain between the device and one tier above it where the expected time is least, by Dijkstra.

    Every branch before the cut runs, on the device; none does above it. Of edge and cloud the better one is the tier
    above, and every cut uses the quickest codec allowed. Ties go to the device. The time reported is that of
    `latency.predict`, not the path's length, which the tie-breaker makes longer. Only expected seconds are minimised;
    accuracy and deadline are checked on the result, not searched for.

    O((N + m) log(N + m)) for N layers and m branches.

    Raises:
        InputError: the graph is not a chain, or the objective is not `seconds`.
        Infeasible: no tier can be reached, or the plan found breaks a constraint.

    References:
        [1] R. G. Pacheco, R. S. Couto: Inference Time Optimization Using BranchyNet Partitioning. ISCC 2020.
            https://arxiv.org/abs/2005.04099
    """
    if not problem.graph.is_chain:
        raise InputError("solver: shortest-path takes chains only and this graph branches, expected exact or joint")
    if problem.objective != "seconds":
        raise InputError(
            f"objective: {problem.objective!r}, but shortest-path minimises 'seconds' only, expected joint"
        )
    plans = [plan for remote in _remotes(problem) if (plan := _cut(problem, remote, at_cut)) is not None]
    priced = [(plan, predict(plan, problem.graph, problem.network)) for plan in plans]
    try:
        plan, prediction = priced[select(problem, Candidates.of(priced))]
    except Infeasible as error:
        raise Infeasible(f"{error} (shortest-path does not search under constraints, joint does)") from error
    return Solution(plan, prediction, "shortest-path")


def partition_graph(problem: Problem, remote: Tier | None, at_cut: str = "either") -> nx.DiGraph:
    """Build the paper's graph G'_BDNN between the device and `remote`, with its weights put right.

    The vertices are the published ones: `input`, `output`, each layer on the device and on the remote tier, an
    auxiliary vertex after each layer of the device but the last, and the branches. Unlike in the authors' code, a
    branch weighs with the share of frames that reach it; all that is done remotely is paid on the edge that ships, and
    so weighs with the share of frames *shipped* (their chain discounts it by branches that never ran); every remote
    edge weighs one tie-breaker; and a branch at the cut may be evaluated before shipping.
    """
    if at_cut not in AT_CUT:
        raise ValueError(f"at_cut is {at_cut!r}, expected one of: {', '.join(AT_CUT)}")
    return _Builder(problem, remote, at_cut).build()


class _Builder:
    """Puts the partition graph together, from the input to the output."""

    def __init__(self, problem: Problem, remote: Tier | None, at_cut: str) -> None:
        self.problem, self.graph, self.remote, self.at_cut = problem, problem.graph, remote, at_cut
        self.paths = nx.DiGraph()
        running = device_branches(problem)
        self.reach = self.graph.outcomes(running, problem.exit_choices(running)).reach
        self.running = {branch.name for branch in running}
        self.offers = {} if remote is None else offers(problem, remote)

    def build(self) -> nx.DiGraph:
        names = self.graph.names
        if self.remote is not None:
            for name, following in pairwise(names):
                self.paths.add_edge(("remote", name), ("remote", following), weight=TIE)
            self.paths.add_edge(("remote", names[-1]), TARGET, weight=TIE)
            self.ship(SOURCE, INPUT, names[0], 0.0, 1.0)
        if Tier.DEVICE in self.problem.available:
            self.device()
        return self.paths

    def device(self) -> None:
        layers, met = self.graph.layers, 0
        first = self.graph.input_seconds.get(Tier.DEVICE, 0.0)
        self.paths.add_edge(SOURCE, ("device", layers[0].name), weight=first)
        for layer, following in pairwise(layers):
            node: Node = ("cut", layer.name)
            self.paths.add_edge(("device", layer.name), node, weight=self.reach[met] * layer.seconds[Tier.DEVICE])
            branches = [b for b in self.graph.branches.get(layer.name, ()) if b.name in self.running]
            if self.at_cut != "run" or not branches:
                self.ship(node, layer.name, following.name, 0.0, self.reach[met])
            spent = 0.0
            for branch in branches:
                self.paths.add_edge(node, ("branch", branch.name), weight=spent)
                node, spent = ("branch", branch.name), self.reach[met] * branch.seconds[Tier.DEVICE]
                met += 1
                if self.at_cut != "skip":
                    self.ship(node, layer.name, following.name, spent, self.reach[met])
            self.paths.add_edge(node, ("device", following.name), weight=spent)
        if self.problem.finisher in (None, Tier.DEVICE):
            last = layers[-1]
            self.paths.add_edge(("device", last.name), TARGET, weight=self.reach[met] * last.seconds[Tier.DEVICE])

    def ship(self, node: Node, point: str, following: str, spent: float, left: float) -> None:
        """Let the share `left` of frames go from `node` to the remote layer `following`."""
        if point in self.offers:
            self.paths.add_edge(node, ("remote", following), weight=spent + left * self.offers[point].seconds + TIE)


def device_branches(problem: Problem) -> list[Exit]:
    """The branches that can run on the device, in order."""
    return [branch for branch in problem.graph.exits if problem.can_run(branch, Tier.DEVICE)]


def _remotes(problem: Problem) -> list[Tier | None]:
    """The tiers that may follow the device; None for none."""
    above: list[Tier | None] = [tier for tier in problem.available if tier is not Tier.DEVICE]
    if problem.finisher is not None:
        return [None if problem.finisher is Tier.DEVICE else problem.finisher]
    return above or [None]


def _cut(problem: Problem, remote: Tier | None, at_cut: str) -> Plan | None:
    """The plan of the shortest path; None where there is no path."""
    paths = partition_graph(problem, remote, at_cut)
    try:
        path = nx.dijkstra_path(paths, SOURCE, TARGET)
    except (nx.NetworkXNoPath, nx.NodeNotFound):
        return None
    local = {name for kind, name in path if kind == "device"}
    met = {name for kind, name in path if kind == "branch"}
    choices = problem.exit_choices(branch for branch in problem.graph.exits if branch.name in met)
    tiers = {name: Tier.DEVICE if name in local else remote or Tier.DEVICE for name in problem.graph.names}
    if len(local) == len(tiers) or remote is None:
        return Plan(tiers, choices)
    point = problem.graph.names[len(local) - 1] if local else INPUT
    return Plan(tiers, choices, {Tier.DEVICE.label: offers(problem, remote)[point].codec})
