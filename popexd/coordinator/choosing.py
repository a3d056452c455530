"""The best plan on one graph, and what a plan that is already in force costs there today."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from popexd.coordinator.itinerary import local_plan
from popexd.coordinator.settings import PlannerSettings
from popexd.errors import Infeasible, InputError, PopexdError
from popexd.latency import Prediction, predict
from popexd.network import Link, NetworkState
from popexd.plan import Plan, Tier
from popexd.profile import LayerGraph
from popexd.solvers import Problem, solve
from popexd.solvers.selection import Candidates, select

_GAIN_SHARE = 0.05
_GAIN_SECONDS = 0.002
"""Another plan takes over when it gains at least this much over the one in force."""

_TIMED = ("seconds", "p95", "device_seconds", "throughput")


@dataclass(frozen=True, slots=True)
class Known:
    """What planning depends on besides the model: profiles of the tiers that are there, the uplink, its limit."""

    profiles: Mapping[Tier, Any] = field(default_factory=dict)
    uplink: Link | None = None
    max_packet_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plan, what is expected of it, and the problem that it solves."""

    plan: Plan
    prediction: Prediction
    problem: Problem

    @property
    def tier(self) -> Tier:
        """Where frames end that no branch answers."""
        return max(self.plan.tiers.values())

    @property
    def value(self) -> float:
        """What the objective makes least of."""
        return self.prediction.value(self.problem.objective)


def worth(gain: float, was: float, objective: str) -> bool:
    """Whether a gain over what `was` is large enough to change something for."""
    return gain > max(_GAIN_SHARE * abs(was), _GAIN_SECONDS if objective in _TIMED else 0.0)


def best(graph: LayerGraph, known: Known, settings: PlannerSettings) -> tuple[Candidate, str | None]:
    """Return the best plan, and where the constraints leave none, what the device can do alone and why."""
    infeasible: str | None = None
    for knowing in (known, Known()):
        try:
            return min(candidates(graph, knowing, settings), key=lambda item: item.value), infeasible
        except (Infeasible, InputError) as error:
            infeasible = infeasible or str(error)
    problem = _problem(graph, NetworkState(None), PlannerSettings(), None, frozenset({Tier.DEVICE}))
    plan = local_plan(graph)
    return Candidate(plan, predict(plan, graph, problem.network), problem), infeasible


def candidates(graph: LayerGraph, known: Known, settings: PlannerSettings) -> list[Candidate]:
    """Solve for each tier that can take over; a tier that is pinned but not there leaves the device alone.

    Raises:
        Infeasible: the constraints leave no plan.
        InputError: the solver cannot take the problem.

    """
    mode = settings.mode
    remotes = [tier for tier in known.profiles if known.uplink is not None and mode in ("auto", tier.label)]
    found: list[Candidate] = []
    failed: Infeasible | None = None
    # The two-tier problem contains the device alone.
    for tier in remotes or [Tier.DEVICE]:
        problem = _problem(
            graph,
            _network(known.uplink, tier),
            settings,
            known.max_packet_bytes,
            frozenset({Tier.DEVICE, tier}),
            mode=mode if mode == tier.label and tier is not Tier.DEVICE else "auto",
        )
        try:
            solution = solve(settings.solver, problem)
        except Infeasible as error:
            failed = error
        else:
            found.append(Candidate(solution.plan, solution.prediction, problem))
    if not found and failed is not None:
        raise failed
    return found


def must_fit(settings: PlannerSettings, graph: LayerGraph) -> None:
    """See that a model can be planned by these settings, whoever is there and however fast.

    What is checked, started, read again and asked for is all judged here.

    Raises:
        InputError: no such branch, or the solver cannot take this model or objective.

    """
    settings.updated({"thresholds": settings.thresholds}, {branch.name: branch.criterion for branch in graph.exits})
    seconds = dict.fromkeys(Tier, 1.0)
    everywhere = replace(
        graph,
        layers=tuple(replace(layer, seconds=seconds) for layer in graph.layers),
        exits=tuple(replace(branch, seconds=seconds) for branch in graph.exits),
    )
    with contextlib.suppress(Infeasible):
        candidates(everywhere, Known(dict.fromkeys((Tier.EDGE, Tier.CLOUD)), Link(1e7)), settings)


def priced(
    plan: Plan, other: Candidate | None, graph: LayerGraph, known: Known, settings: PlannerSettings
) -> Candidate | None:
    """Return a plan that was chosen before at today's price; None where it is out of the question beside `other`."""
    above = set(plan.tiers.values()) - {Tier.DEVICE}
    if above - set(known.profiles) or (above and known.uplink is None):
        return None
    elsewhere = settings.mode not in ("auto", Tier.DEVICE.label)
    pinned = elsewhere and (other is None or other.tier.label == settings.mode)
    if (pinned or settings.mode == Tier.DEVICE.label) and max(plan.tiers.values()).label != settings.mode:
        return None
    tier = max(above, default=Tier.DEVICE)
    network = _network(known.uplink, tier)
    problem = _problem(graph, network, settings, known.max_packet_bytes, frozenset({Tier.DEVICE, tier}))
    try:
        candidate = Candidate(plan, predict(plan, graph, network), problem)
        select(problem, Candidates.of([(plan, candidate.prediction)]))
    except (PopexdError, ValueError):
        return None
    return candidate


def alone(graph: LayerGraph, settings: PlannerSettings) -> Plan:
    """Return the quickest plan that needs nobody else."""
    try:
        return solve(
            settings.solver, _problem(graph, NetworkState(None), settings, None, frozenset({Tier.DEVICE}))
        ).plan
    except (Infeasible, InputError):
        return local_plan(graph)


def _problem(
    graph: LayerGraph,
    network: NetworkState,
    settings: PlannerSettings,
    max_packet_bytes: int | None,
    tiers: frozenset[Tier],
    mode: str = "auto",
) -> Problem:
    return Problem(
        graph=graph,
        network=network,
        min_accuracy=settings.min_accuracy,
        objective=settings.objective,
        min_agreement=settings.min_agreement,
        max_packet_bytes=max_packet_bytes,
        mode=mode,
        tiers=tiers,
    )


def _network(uplink: Link | None, tier: Tier) -> NetworkState:
    """Return the two-tier network to `tier`; an edge that finishes itself needs no link of its own worth a cost."""
    if tier is Tier.DEVICE:
        return NetworkState(None)
    return NetworkState(uplink, Link(1e15)) if tier is Tier.EDGE else NetworkState(uplink)
