"""Edgent: the largest exit that meets the deadline, at its best cut; and a map from link rates to such choices."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from popexd.errors import Infeasible
from popexd.latency import predict
from popexd.network import NetworkState
from popexd.plan import Plan, Tier
from popexd.profile import Exit
from popexd.solvers.placement import best, needs_objective, plans, prefixes, remotes, two_tier
from popexd.solvers.problem import Problem, Solution

REMEMBERED = 5
"""Measurements that a change of the link's rate is judged by."""


def edgent(problem: Problem) -> Solution:
    """Take the exits from the largest (the network's end) to the smallest; the first whose best cut meets the deadline.

    One exit is in use at a time. The paper runs the front part on the server and returns the tail to the device; frames
    start on the device here and answers are wanted there either way, so the front part runs on the device. In the
    paper every frame leaves at the chosen exit; here it does where the sweep of thresholds allows 0, else those frames
    that the branch is not sure of go on to the end. Cuts are all N + 1 (the paper's formula drops one layer at p = N).

    O(M N (N + a)) for M exits, N layers and a edges.

    Raises:
        InputError: an objective other than `seconds`.
        Infeasible: no exit meets the deadline (the paper's NULL), or a constraint is broken.

    References:
        [1] E. Li, Z. Zhou, X. Chen: Edge Intelligence: On-Demand Deep Learning Model Co-Inference with Device-Edge
            Synergy. MECOMM 2018, algorithm 1. https://arxiv.org/abs/1806.07840
    """
    needs_objective(problem, "edgent", "seconds")
    searched: list[Plan] = []
    for branch in (None, *reversed(problem.graph.exits)):
        searched += list(_cuts(problem, branch))
        try:
            return best(problem, _cuts(problem, branch), "edgent")
        except Infeasible:
            continue
    return best(problem, searched, "edgent", "no exit and cut of Edgent's meets the constraints")


def _cuts(problem: Problem, branch: Exit | None) -> Iterator[Plan]:
    """Every cut with just `branch` in use, or with none."""
    for remote in remotes(problem) or [Tier.DEVICE]:
        for local in prefixes(problem.graph) if Tier.DEVICE in problem.available else [()]:
            tiers = two_tier(problem.graph, local, remote)
            running = () if branch is None else (branch,)
            if branch is not None and not problem.can_run(branch, tiers[branch.after]):
                continue
            for plan in plans(problem, tiers, running):
                yield plan if branch is None else _forced(problem, plan, branch)


def _forced(problem: Problem, plan: Plan, branch: Exit) -> Plan:
    """Let every frame leave at `branch`, where the problem's grid of thresholds has 0."""
    if 0.0 not in problem.levels(branch):
        return plan
    return replace(plan, exits={**plan.exits, branch.name: replace(plan.exits[branch.name], threshold=0.0)})


@dataclass(frozen=True)
class State:
    """One entry of the configuration map: a link rate, the best choice for it, and its reward."""

    bits_per_second: float
    solution: Solution
    reward: float


def configuration_map(problem: Problem, rates: Sequence[float]) -> tuple[State, ...]:
    """Choose for each rate of the uplink the exit and cut with the greatest reward, before they are needed.

    The reward is exp(accuracy) + throughput where the deadline is met, else 0; without a validation table accuracy
    counts as the share of the network's depth that the exit has behind it.

    References:
        [1] E. Li et al.: Edge AI: On-Demand Accelerating Deep Neural Network Inference via Edge Computing. IEEE TWC
            2020. https://arxiv.org/abs/1910.05316
    """
    assert problem.network.uplink is not None
    return tuple(_state(problem, rate) for rate in sorted(rates))


def _state(problem: Problem, rate: float) -> State:
    uplink = replace(problem.network.uplink, bits_per_second=rate)  # type: ignore[type-var]
    network = NetworkState(uplink, problem.network.edge_uplink, problem.network.direct)
    there = replace(problem, network=network)
    found: list[State] = []
    for branch in (None, *there.graph.exits):
        depth = 1.0 if branch is None else (there.graph.names.index(branch.after) + 1) / len(there.graph.names)
        for plan in _cuts(there, branch):
            expected = predict(plan, there.graph, network)
            late = there.deadline_seconds is not None and expected.seconds > there.deadline_seconds
            worth = math.exp(depth if expected.accuracy is None else expected.accuracy)
            reward = 0.0 if late else worth + 1.0 / max(expected.seconds, 1e-9)
            found.append(State(rate, Solution(plan, expected, "edgent"), reward))
    return max(found, key=lambda state: (state.reward, -state.solution.prediction.seconds))


class DynamicEdgent:
    """Looks a plan up in the configuration map, and only anew when the link's rate has changed for good.

    A change is where the median of the last measurements lies outside the scatter of those before: the map is not
    consulted for every flutter. (The paper: Bayesian change points; a median needs no prior.)
    """

    def __init__(self, states: Sequence[State], tolerance: float = 0.25) -> None:
        self.states = tuple(states)
        self.tolerance = tolerance
        self.recent: deque[float] = deque(maxlen=REMEMBERED)
        self.level: float | None = None
        self.lookups = 0
        self.state = self.states[0]

    def measured(self, bits_per_second: float) -> Solution:
        """Take a measurement of the rate; return the plan in force."""
        self.recent.append(bits_per_second)
        middle = sorted(self.recent)[len(self.recent) // 2]
        full = len(self.recent) == REMEMBERED
        changed = self.level is not None and abs(math.log(middle / self.level)) > math.log1p(self.tolerance)
        if self.level is None or (full and changed):
            self.level = middle
            self.lookups += 1
            self.state = min(self.states, key=lambda state: abs(math.log(state.bits_per_second / middle)))
        return self.state.solution
