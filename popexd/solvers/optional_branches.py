"""POPEX's backward programme: the cut, and which branches before it are worth their time."""

from __future__ import annotations

from popexd.errors import InputError
from popexd.plan import Plan, Tier
from popexd.profile import INPUT, Exit
from popexd.solvers.offers import Offer, offers
from popexd.solvers.placement import best, needs_objective, remotes, two_tier
from popexd.solvers.problem import Problem, Solution


def optional_branches(problem: Problem) -> Solution:
    """Go back from the last layer, deciding at each branch whether to run it and at each layer whether to ship.

    V_N = t_N; V_i = t_i + min(W_i, t_bi + (1 - p_i) W_i) with W_i = min(send_i, V_(i+1)); the answer: min(send_0, V_1).
    Exact for a chain on the device and the better of the tiers above it, where branches are independent; with a
    validation table p_i is that of all branches running, and the plan found is priced with the table.

    O(N + m) for N layers and m branches.

    Raises:
        InputError: the graph is not a chain, or the objective is not `seconds`.
        Infeasible: no tier can be reached, or the plan found breaks a constraint.

    References:
        [1] Spec 1.5, after R. G. Pacheco, R. S. Couto, ISCC 2020. https://arxiv.org/abs/2005.04099
    """
    if not problem.graph.is_chain:
        raise InputError("solver: popex-optional takes chains only and this graph branches, expected exact or joint")
    needs_objective(problem, "popex-optional", "seconds")
    above: list[Tier | None] = [*remotes(problem)]
    found = [plan for remote in above or [None] if (plan := _Backward(problem, remote).plan()) is not None]
    return best(problem, found, "popex-optional")


class _Backward:
    """The programme between the device and one tier above it."""

    def __init__(self, problem: Problem, remote: Tier | None) -> None:
        self.problem, self.graph, self.remote = problem, problem.graph, remote
        self.offers: dict[str, Offer] = {} if remote is None else offers(problem, remote)
        self.shares = self._shares()

    def _shares(self) -> dict[str, float]:
        """P[answers | evaluated] of each branch, all running."""
        running = self.graph.exits
        if self.graph.validation is None:
            return {branch.name: branch.probability for branch in running}
        found = self.graph.outcomes(running, self.problem.exit_choices(running))
        pairs = zip(running, found.reach, found.shares, strict=False)
        return {branch.name: share / reach if reach > 0 else 0.0 for branch, reach, share in pairs}

    def send(self, point: str) -> float:
        offer = self.offers.get(point)
        return float("inf") if offer is None else offer.seconds

    def plan(self) -> Plan | None:
        """The best plan; None where no frame could be answered."""
        finisher = self.problem.finisher
        ends_here = finisher in (None, Tier.DEVICE)
        after, cut = (0.0, len(self.graph.layers)) if ends_here else (float("inf"), -1)
        running: tuple[Exit, ...] = ()
        last = len(self.graph.layers)
        for index in range(last if Tier.DEVICE in self.problem.available else 0, 0, -1):
            layer = self.graph.layers[index - 1]
            if index < last and self.send(layer.name) < after:
                after, cut, running = self.send(layer.name), index, ()
            for branch in reversed(self.graph.branches.get(layer.name, ())):
                if not self.problem.can_run(branch, Tier.DEVICE):
                    continue
                tried = branch.seconds[Tier.DEVICE] + (1 - self.shares[branch.name]) * after
                if tried < after:
                    after, running = tried, (branch, *running)
            after += layer.seconds[Tier.DEVICE]
        after += self.graph.input_seconds.get(Tier.DEVICE, 0.0)
        if Tier.DEVICE not in self.problem.available or self.send(INPUT) < after:
            after, cut, running = self.send(INPUT), 0, ()
        if after == float("inf"):
            return None
        return self._cut(cut, running)

    def _cut(self, cut: int, running: tuple[Exit, ...]) -> Plan:
        names, choices = self.graph.names, self.problem.exit_choices(running)
        if cut == len(names) or self.remote is None:
            return Plan(dict.fromkeys(names, Tier.DEVICE), choices)
        codec = self.offers[names[cut - 1] if cut else INPUT].codec
        return Plan(two_tier(self.graph, names[:cut], self.remote), choices, {Tier.DEVICE.label: codec})
