"""The least expected seconds on any DAG: minimum cuts where they suffice, mixed-integer programmes where not."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count

from popexd.errors import InputError
from popexd.latency import predict
from popexd.plan import Plan, Tier
from popexd.solvers.exact_cut import cuttable, minimum_cut
from popexd.solvers.exact_milp import linear_programme
from popexd.solvers.placement import best, codecs_by_sender, needs_objective, plans
from popexd.solvers.problem import Problem, Solution
from popexd.solvers.scenario import Scenario, scenarios
from popexd.solvers.selection import TIE

MAX_SCENARIOS = 2_000
"""Ways to place the branches that it is willing to go through, each a cut or a programme."""


def exact(problem: Problem) -> Solution:
    """Find the tiers, the branches that run and the codec of each sender with the least expected seconds, on any DAG.

    For every way to leave branches out or run them on the device or the edge (the shares of frames are then settled)
    the tiers are a minimum cut in whole picoseconds, with two vertices per layer; or, where a direct link or decoding
    on the edge makes the cost one that no cut has, a mixed-integer programme. First each tensor may have the codec
    that suits it best; where one tier's tensors then want different ones, the codecs are tried one by one (branch and
    bound), best bound first.

    O(3^m) cuts of 4 n vertices for m branches and n layers.

    Raises:
        InputError: an objective other than `seconds`, or more than `MAX_SCENARIOS` ways to place the branches.
        Infeasible: nothing can be reached, or the plan found breaks a constraint.

    References:
        [1] Spec B.3; for the cut on two tiers: C. Hu et al., INFOCOM 2019 (DADS).
        [2] Q. Huangfu, J. A. J. Hall: Parallelizing the dual revised simplex method. Math. Prog. Comp. 2018 (HiGHS).
    """
    needs_objective(problem, "exact", "seconds")
    return best(problem, _Search(problem).found(), "exact")


@dataclass(order=True)
class _Node:
    """A scenario with codecs settled or not, the least it could take, and the tiers for that."""

    seconds: float
    number: int
    scenario: Scenario = field(compare=False)
    tiers: dict[str, Tier] = field(compare=False)


class _Search:
    """Branch and bound over the codecs of all scenarios together."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.queue: list[_Node] = []
        self.numbers = count()
        self.least = float("inf")
        self.kept: list[tuple[float, Plan]] = []

    def found(self) -> list[Plan]:
        """The plans that take the least, give or take a tie."""
        for number, scenario in enumerate(scenarios(self.problem)):
            if number >= MAX_SCENARIOS:
                raise InputError(
                    f"solver: exact takes up to {MAX_SCENARIOS:,} ways to place exits, expected fewer exits"
                )
            self.consider(scenario)
        while self.queue and self.queue[0].seconds <= self.least + TIE:
            for scenario in self.settled_further(heapq.heappop(self.queue)):
                self.consider(scenario)
        return [plan for seconds, plan in self.kept if seconds <= self.least + 2 * TIE]

    def consider(self, scenario: Scenario) -> None:
        """Solve with the codecs as far as they are settled; price the plans it leads to; queue it."""
        solved = minimum_cut(scenario) if cuttable(scenario) else linear_programme(scenario)
        if solved is None or solved[0] > self.least + TIE:
            return
        seconds, tiers = solved
        for plan in plans(self.problem, tiers, scenario.running):
            actual = predict(plan, self.problem.graph, self.problem.network).seconds
            self.least = min(self.least, actual)
            self.kept.append((actual, plan))
        heapq.heappush(self.queue, _Node(seconds, next(self.numbers), scenario, tiers))

    def settled_further(self, node: _Node) -> Iterator[Scenario]:
        """The scenarios that settle one more sender's codec; none where what was found cannot be bettered."""
        scenario = node.scenario
        open_senders = {
            sender
            for sender, settled in ((Tier.DEVICE, scenario.device_codec), (Tier.EDGE, scenario.edge_codec))
            if settled is None and sender in codecs_by_sender(self.problem, node.tiers)
        }
        if not open_senders or self.least <= node.seconds + TIE / 2:
            return
        sender = min(open_senders)
        names = {name for point in scenario.tensors for name in self.problem.codec_names(point)}
        for name in sorted(names):
            device = sender is Tier.DEVICE
            yield replace(scenario, device_codec=name) if device else replace(scenario, edge_codec=name)
