"""Partition solvers, one algorithm per file, all behind one signature: `solve(name, problem)`.

>>> from popexd.network import Link, NetworkState
>>> from popexd.plan import Tier
>>> from popexd.profile import Layer, LayerGraph
>>> layer = Layer("v1", ("input",), {Tier.DEVICE: 0.1, Tier.CLOUD: 0.01}, 40)
>>> graph = LayerGraph("one layer", input_bytes=1000, layers=(layer,))
>>> solve("joint", Problem(graph, NetworkState(Link(8e6)))).prediction.seconds
0.011
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from popexd.errors import InputError
from popexd.solvers.problem import MODES, OBJECTIVES, Problem, Solution

__all__ = ["MODES", "NAMES", "NOTES", "OBJECTIVES", "Problem", "Solution", "solve", "solver"]

_FUNCTIONS = {
    "brute-force": "popexd.solvers.brute_force:brute_force",
    "dads": "popexd.solvers.dads:dads",
    "dads-heavy": "popexd.solvers.dads:dads_heavy",
    "ddnn": "popexd.solvers.ddnn:ddnn",
    "edgent": "popexd.solvers.edgent:edgent",
    "exact": "popexd.solvers.exact:exact",
    "hpa": "popexd.solvers.hpa:hpa",
    "joint": "popexd.solvers.joint:joint",
    "neurosurgeon": "popexd.solvers.neurosurgeon:neurosurgeon",
    "popex-optional": "popexd.solvers.optional_branches:optional_branches",
    "shortest-path": "popexd.solvers.shortest_path:shortest_path",
}

NAMES = tuple(sorted(_FUNCTIONS))
"""The solvers there are."""

NOTES = {
    "hpa": "reconstructed from the public abstract and patent",
    "hpa-guard": "the best of hpa, each tier alone, dads and neurosurgeon",
}
"""What has to be said with a solver's answer."""


def solver(name: str) -> Callable[[Problem], Solution]:
    """Import and return the solver called `name`.

    Raises:
        InputError: there is no such solver.
    """
    if name not in _FUNCTIONS:
        raise InputError(f"solver: {name!r}, expected one of: {', '.join(NAMES)}")
    module, function = _FUNCTIONS[name].split(":")
    found: Callable[[Problem], Solution] = getattr(import_module(module), function)
    return found


def solve(name: str, problem: Problem) -> Solution:
    """Solve `problem` with the solver called `name`.

    Raises:
        InputError: there is no such solver, or it cannot take this problem (it says which can).
        Infeasible: no plan satisfies the constraints.
    """
    return solver(name)(problem)
