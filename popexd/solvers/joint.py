"""The exact joint planner: branches, thresholds, cuts, codecs and tiers together."""

from __future__ import annotations

from collections.abc import Sequence

from popexd.errors import Infeasible, InputError
from popexd.latency import predict
from popexd.solvers.bounds import FIGURES
from popexd.solvers.exact import exact
from popexd.solvers.lattice import TooWide
from popexd.solvers.problem import Problem, Solution
from popexd.solvers.search import Search
from popexd.solvers.selection import NOTHING, Constraint, complaint, constraints, select

MAX_CHOICES = 100_000
"""Ways to set the branches that it is willing to count: (levels + 1) to the power of the branches."""


def joint(problem: Problem) -> Solution:
    """Choose which branches run, from which confidence, where the graph is cut, the codecs and the tiers, at once.

    The grid: every subset of the branches (with `problem.thresholds`, each with every threshold of that grid and its
    own) x every pair of nested cuts of the graph x a codec for each sender. Shares and accuracy are counted on the
    validation table where there is one. Prices are linear in the shares of frames that get to each branch, so a matrix
    product bounds every choice against every placement from below, whatever the codecs; what is then looked at, best
    bound first, is priced in full. Exact on this grid, for every objective and constraint of `Problem`: it equals brute
    force.

    O(C P m) for C choices of exits, P pairs of cuts and m branches, plus what has to be priced. Where a graph has too
    many cuts to list (dozens of wide blocks on three tiers), `exact` solves it instead.

    Raises:
        InputError: too many branches and thresholds; or a graph too wide, and not just `seconds` to minimise.
        Infeasible: no plan satisfies the constraints; says which fails and by how much, and has the nearest plans.
    """
    choices = 1
    for branch in problem.graph.exits:
        choices *= 1 + len(problem.levels(branch))
    if choices > MAX_CHOICES:
        raise InputError(
            f"solver: joint goes through up to {MAX_CHOICES:,} settings of the exits and here are {choices:,} for "
            f"{len(problem.graph.exits)} exits, expected fewer exits or thresholds"
        )
    try:
        search = Search(problem)
    except TooWide:
        return _beyond(problem)
    demands = constraints(problem)
    found = None if search.empty else search.best(FIGURES.get(problem.objective, problem.objective), demands)
    if found is None:
        raise _infeasible(problem, search, demands)
    plan = search.plan(found, select(problem, found.table))
    return Solution(plan, predict(plan, problem.graph, problem.network), "joint")


def _beyond(problem: Problem) -> Solution:
    """Solve a graph whose cuts are too many to list."""
    if problem.objective != "seconds" or problem.thresholds:
        raise InputError(
            f"solver: {problem.graph.model!r} has too many cuts to list, so joint can minimise 'seconds' only, with "
            "given thresholds; expected that, or two tiers"
        )
    try:
        found = exact(problem)
    except Infeasible as error:
        text = str(error).partition(" (")[0]
        raise Infeasible(
            f"{text} (of the quickest plan; the graph has too many cuts to search under constraints)"
        ) from error
    return Solution(found.plan, found.prediction, "joint")


def _infeasible(problem: Problem, search: Search, demands: Sequence[Constraint]) -> Infeasible:
    """Say which constraint fails and by how much; with the plans that come closest to each while keeping the others."""
    if search.empty:
        return Infeasible(NOTHING)
    nearest: dict[str, Solution] = {}

    def least(constraint: Constraint, others: Sequence[Constraint]) -> float | None:
        found = search.best(constraint.figure, others)
        if found is None:
            return None
        excess = float(constraint.excess(found.table)[0])
        if excess > constraint.slack:
            plan = search.plan(found, 0)
            nearest[constraint.name] = Solution(plan, predict(plan, problem.graph, problem.network), "joint")
        return excess

    text = complaint(demands, least)
    return Infeasible(text, tuple(nearest.values()))
