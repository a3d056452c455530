"""Neurosurgeon: one cut in the order of the layers, for the least time or the least energy."""

from __future__ import annotations

from popexd.plan import Tier
from popexd.solvers.placement import best, needs_objective, plans, prefixes, remotes, two_tier
from popexd.solvers.problem import Problem, Solution


def neurosurgeon(problem: Problem) -> Solution:
    """Try every cut j = 0..N of the topological order and take the best, without side branches.

    Latency: argmin_j sum_(i<=j) TM_i + TU_j + sum_(i>j) TC_i; energy (objective `device_joules`): argmin_j
    sum_(i<=j) TM_i PM_i + TU_j PU. Costs are those of the cost model, so round trips and codecs count too; the server's
    load is in the profile's cloud times. On a DAG the order is the graph's topological one, as DADS ran it; a cut may
    then send several tensors. Works between the device and the better of edge and cloud.

    O(N (N + a)) for N layers and a edges.

    Raises:
        InputError: an objective other than `seconds` and `device_joules`.
        Infeasible: no tier can be reached, or the best cut breaks a constraint.

    References:
        [1] Y. Kang et al.: Neurosurgeon: Collaborative Intelligence Between the Cloud and Mobile Edge. ASPLOS 2017.
    """
    needs_objective(problem, "neurosurgeon", "seconds", "device_joules")
    cuts = [
        two_tier(problem.graph, local, remote)
        for remote in remotes(problem) or [Tier.DEVICE]
        for local in (prefixes(problem.graph) if Tier.DEVICE in problem.available else [()])
    ]
    return best(problem, (plan for tiers in cuts for plan in plans(problem, tiers)), "neurosurgeon")
