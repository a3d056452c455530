"""DADS: two tiers of a DAG by minimum cuts, for light load (time) and heavy load (frame rate)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from popexd.errors import Infeasible
from popexd.plan import Tier
from popexd.profile import INPUT
from popexd.solvers.min_cut import FOREVER, SINK, SOURCE, FlowNetwork
from popexd.solvers.placement import best, hop_seconds, needs_objective, plans, remotes, round_trips, two_tier
from popexd.solvers.problem import Problem, Solution

UNITS_PER_SECOND = 10**12
"""Capacities are whole picoseconds: a thousandth of the nanosecond in which plans are compared."""

Placement = dict[str, Tier]


@dataclass(frozen=True)
class Weights:
    """Scales of the three sorts of capacities: the device's times, the transfers, the remote tier's times."""

    device: float = 1.0
    transfer: float = 1.0
    remote: float = 1.0


def dads(problem: Problem) -> Solution:
    """Run DADS's controller: the light-load cut, or the heavy-load one where that cannot keep up with the frame rate.

    The rate Q is `problem.frames_per_second`; without it the load is light. If the heavy-load plan cannot keep up
    either, the rate has to come down, and the error says by how much.

    O((m + n) n^2) for n layers and m edges; of heavy load, times the grid.

    Raises:
        InputError: an objective other than `seconds` and `throughput`.
        Infeasible: no tier can be reached, a constraint is broken, or no cut keeps up with Q.

    References:
        [1] C. Hu et al.: Dynamic Adaptive DNN Surgery for Inference Acceleration on the Edge. INFOCOM 2019.
    """
    needs_objective(problem, "dads", "seconds", "throughput")
    light = _light_placements(problem)
    rate = problem.frames_per_second
    candidates = (plan for tiers in light for plan in plans(problem, tiers))
    if not rate:
        return best(problem, candidates, "dads")
    try:
        return best(problem, candidates, "dads")
    except Infeasible:
        heavy = (plan for tiers in _heavy_placements(problem) for plan in plans(problem, tiers))
        return best(problem, heavy, "dads", f"nor does the heavy-load cut keep up: lower the rate of {rate:g} frames/s")


def dads_heavy(problem: Problem) -> Solution:
    """Search the scales of the cut's capacities for the cut whose busiest stage is least: DADS's heavy load.

    The exact problem is NP-hard; the paper proves three times the optimum. The light-load cut is among the candidates.

    Raises:
        InputError: an objective other than `seconds` and `throughput`; it is the busiest stage that counts for both.
        Infeasible: no tier can be reached, or the cut found breaks a constraint.

    References:
        [1] as for `dads`, section on DSH: capacities alpha te, tt, gamma tc.
    """
    needs_objective(problem, "dads-heavy", "seconds", "throughput")
    candidates = (plan for tiers in _heavy_placements(problem) for plan in plans(problem, tiers))
    return best(problem, candidates, "dads-heavy")


def _light_placements(problem: Problem) -> list[Placement]:
    return [_Cut(problem, remote).placement(Weights()) for remote in _above(problem)]


def _above(problem: Problem) -> list[Tier]:
    return remotes(problem) or [Tier.DEVICE]


def _heavy_placements(problem: Problem) -> list[Placement]:
    """The cut with the least busiest stage between the device and each tier above it."""
    return [_Search(_Cut(problem, remote)).best() for remote in _above(problem)]


class _Cut:
    """The graph G' between the device and one tier above it, as a flow network for given scales.

    Layers on the source's side run on the device. An arc per layer and side, and per producer one auxiliary vertex, so
    that a tensor is paid once however many layers read it. Unlike in the paper, where nothing stops the cut from taking
    a tensor back down for nothing, reverse arcs of infinite capacity forbid it (spec C.2: 60 of 400 random graphs were
    under-estimated without them).
    """

    def __init__(self, problem: Problem, remote: Tier) -> None:
        self.problem, self.graph, self.remote = problem, problem.graph, remote
        self.local_only = remote is Tier.DEVICE
        self.remote_only = Tier.DEVICE not in problem.available
        self.tensor = {point: hop_seconds(problem, Tier.DEVICE, remote, point) for point in (INPUT, *self.graph.names)}

    def placement(self, weights: Weights) -> Placement:
        """Cut with these scales."""
        return two_tier(self.graph, self.local(weights), self.remote)

    def local(self, weights: Weights) -> frozenset[str]:
        """The layers that the minimum cut leaves on the device."""
        if self.local_only or self.remote_only:
            return frozenset(self.graph.names if self.local_only else ())
        flow = FlowNetwork()
        for layer in self.graph.layers:
            flow.arc(SOURCE, layer.name, _units(weights.remote * layer.seconds[self.remote]))
            flow.arc(layer.name, SINK, _units(weights.device * layer.seconds[Tier.DEVICE]))
            for parent in layer.after:
                if parent != INPUT:
                    flow.arc(layer.name, parent, FOREVER)
        for point, readers in self.graph.children.items():
            start = SOURCE if point == INPUT else point
            flow.arc(start, ("sent", point), _units(weights.transfer * self.tensor[point]))
            for reader in readers:
                flow.arc(("sent", point), reader, FOREVER)
        self._fixed(flow, weights)
        device_side = flow.cut()[1]
        return frozenset(name for name in self.graph.names if name in device_side)

    def _fixed(self, flow: FlowNetwork, weights: Weights) -> None:
        """What a frame pays once: the round trip if it leaves, the frame's decoding if the device runs a layer."""
        waits = round_trips(self.problem, Tier.DEVICE, self.remote)
        flow.arc(SOURCE, ("left",), _units(weights.transfer * waits))
        first = self.graph.input_seconds.get(Tier.DEVICE, 0.0)
        flow.arc(("begun",), SINK, _units(weights.device * first))
        for layer in self.graph.layers:
            flow.arc(("left",), layer.name, FOREVER)
            flow.arc(layer.name, ("begun",), FOREVER)

    def stages(self, local: Iterable[str]) -> tuple[float, float, float]:
        """Seconds of work on the device, of sending, and of work on the remote tier."""
        here = set(local)
        device = sum(self.graph.by_name[name].seconds[Tier.DEVICE] for name in here)
        device += self.graph.input_seconds.get(Tier.DEVICE, 0.0) if here else 0.0
        beyond = (
            0.0
            if self.local_only
            else sum(layer.seconds[self.remote] for layer in self.graph.layers if layer.name not in here)
        )
        sent = sum(
            self.tensor[point]
            for point, readers in self.graph.children.items()
            if (point == INPUT or point in here) and any(reader not in here for reader in readers)
        )
        return device, sent, beyond


def _units(seconds: float) -> int:
    return FOREVER if seconds == float("inf") else round(seconds * UNITS_PER_SECOND)


def bits_per_second(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Estimate a link's rate from two probes of different size, each as (bytes, seconds): the round trip cancels out.

    Raises:
        ValueError: the larger one was not slower, so that nothing follows.
    """
    (small, quick), (large, slow) = sorted((first, second))
    if not (large > small and slow > quick):
        raise ValueError(f"{large:g} bytes in {slow:g} s against {small:g} in {quick:g} say nothing of a rate")
    return 8.0 * (large - small) / (slow - quick)


class _Search:
    """The grid search over alpha and gamma (beta = 1): first by whole steps, then finer around the best."""

    STEPS = 8
    ROUNDS = 3

    def __init__(self, cut: _Cut) -> None:
        self.cut = cut
        self.known: dict[tuple[float, float], frozenset[str]] = {}

    def best(self) -> Placement:
        """The cut found with the least busiest stage."""
        if self.cut.local_only or self.cut.remote_only:
            return self.cut.placement(Weights())
        low, high = -8.0, 8.0
        alpha = gamma = 0.0
        for _ in range(self.ROUNDS):
            step = (high - low) / self.STEPS
            grid = [low + step * index for index in range(self.STEPS + 1)]
            alpha, gamma = min(
                ((alpha + a, gamma + g) for a in grid for g in grid), key=lambda pair: self.busiest(*pair)
            )
            low, high = -step, step
        found = min(self.known.values(), key=self._stage)
        return two_tier(self.cut.graph, found, self.cut.remote)

    def busiest(self, alpha: float, gamma: float) -> float:
        """The busiest stage of the cut with scales 2^alpha and 2^gamma."""
        key = (alpha, gamma)
        if key not in self.known:
            self.known[key] = self.cut.local(Weights(2.0**alpha, 1.0, 2.0**gamma))
        return self._stage(self.known[key])

    def _stage(self, local: frozenset[str]) -> float:
        return max(self.cut.stages(local))
