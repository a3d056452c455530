"""DDNN: the network laid over device, edge and cloud once and for all, with an exit at the end of each part."""

from __future__ import annotations

from popexd.errors import InputError
from popexd.plan import Tier
from popexd.profile import LayerGraph
from popexd.solvers.placement import best, needs_objective, plans
from popexd.solvers.problem import Problem, Solution


def ddnn(problem: Problem) -> Solution:
    """Run the network up to the first branch on the device, up to the last on the edge, and the rest in the cloud.

    The mapping does not depend on the links. Each part ends with an exit: the local one after the first branch's layer,
    the edge's after the last branch's. With one branch, or without an edge, the edge's part is empty. Only the codec is
    chosen by cost.

    O(n) for n layers.

    Raises:
        InputError: the model has no exits, or the objective is not `seconds`.
        Infeasible: a tier that the mapping needs cannot be reached, or a constraint is broken.

    References:
        [1] S. Teerapittayanon, B. McDanel, H. T. Kung: Distributed Deep Neural Networks over the Cloud, the Edge and
            End Devices. ICDCS 2017. https://arxiv.org/abs/1709.01921
    """
    needs_objective(problem, "ddnn", "seconds")
    graph = problem.graph
    if not graph.exits:
        raise InputError(f"solver: ddnn needs exits and {graph.model!r} has none, expected exact or joint")
    local, last = graph.exits[0], graph.exits[-1]
    tiers = dict.fromkeys(graph.names, problem.available[-1])
    if Tier.EDGE in problem.available and last is not local:
        tiers.update(dict.fromkeys(_before(graph, last.after), Tier.EDGE))
    if Tier.DEVICE in problem.available:
        tiers.update(dict.fromkeys(_before(graph, local.after), Tier.DEVICE))
    ends = {branch.name: branch for branch in (local, last)}.values()
    running = [branch for branch in ends if problem.can_run(branch, tiers[branch.after])]
    return best(problem, plans(problem, tiers, running), "ddnn")


def _before(graph: LayerGraph, layer: str) -> set[str]:
    """The layers that `layer` needs, itself included."""
    found: set[str] = set()
    queue = [layer]
    while queue:
        name = queue.pop()
        if name in graph.by_name and name not in found:
            found.add(name)
            queue += graph.by_name[name].after
    return found


def bytes_per_frame(classes: int, filters: int, filter_bits: int, answered_locally: float) -> float:
    """Bytes that each device sends in the paper's net: c = 4 |C| + (1 - l) f o / 8 (scores; binary features).

    >>> [round(bytes_per_frame(3, 4, 256, share)) for share in (0, 0.2281, 0.6082, 1)]
    [140, 111, 62, 12]
    """
    return 4.0 * classes + (1.0 - answered_locally) * filters * filter_bits / 8.0
