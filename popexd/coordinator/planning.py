"""Which plan is in force, and when another takes its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from popexd.coordinator.corrections import Corrections
from popexd.coordinator.events import Decision
from popexd.coordinator.itinerary import Itinerary, itinerary, local_plan
from popexd.cut import plan_to_json
from popexd.errors import Infeasible, InputError, PopexdError
from popexd.estimators import ExitRates
from popexd.latency import Prediction, predict
from popexd.network import Link, NetworkState
from popexd.plan import Plan, Tier
from popexd.profile import LayerGraph
from popexd.solvers import MODES, NAMES, OBJECTIVES, Problem, solve
from popexd.solvers.strategies import alternatives
from popexd.validation import Validation

_GAIN_SHARE = 0.05
_GAIN_SECONDS = 0.002
"""Another plan takes over when it gains at least this much over the one in force."""

Assemble = Callable[[Mapping[Tier, Any]], LayerGraph]
"""Builds the planner's graph from the profiles of the tiers that are present."""


@dataclass(frozen=True, slots=True)
class PlannerSettings:
    """The `[planner]` part of the configuration; `request/set` changes it while running."""

    mode: str = "auto"
    solver: str = "joint"
    objective: str = "seconds"
    min_accuracy: float | None = None
    min_agreement: float = 0.98
    deadline_seconds: float = 2.0
    dwell_seconds: float = 2.0
    thresholds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _one_of("mode", self.mode, MODES)
        _one_of("solver", self.solver, NAMES)
        _one_of("objective", self.objective, OBJECTIVES)
        if self.min_accuracy is not None:
            _number("min_accuracy", self.min_accuracy, 0, 1)
        _number("min_agreement", self.min_agreement, 0, 1)
        _number("deadline_seconds", self.deadline_seconds, 0.05, 3600)
        _number("dwell_seconds", self.dwell_seconds, 0, 3600)
        if not isinstance(self.thresholds, Mapping):
            raise InputError(f"thresholds: {self.thresholds!r}, expected a table of exit = confidence")
        for name, value in self.thresholds.items():
            _number(f"thresholds.{name}", value, 0, 1.01)

    def updated(self, fields: Mapping[str, Any], exits: tuple[str, ...]) -> PlannerSettings:
        """Return the settings with `fields` over them.

        Raises:
            InputError: an unknown key, exit or value; nothing is changed then.

        """
        known = ("mode", "solver", "objective", "min_accuracy", "min_agreement", "deadline_seconds", "dwell_seconds")
        for key in fields:
            if key not in (*known, "thresholds"):
                raise InputError(f"{key}: not a setting, expected one of {', '.join((*known, 'thresholds'))}")
        thresholds = fields.get("thresholds", {})
        if not isinstance(thresholds, Mapping):
            raise InputError(f"thresholds: {thresholds!r}, expected a table of exit = confidence")
        for name in thresholds:
            _one_of("thresholds", name, exits)
        merged = {**self.thresholds, **thresholds}
        return replace(self, **{**fields, "thresholds": merged})


def _one_of(key: str, value: object, expected: tuple[str, ...]) -> None:
    if value not in expected:
        raise InputError(f"{key}: {value!r}, expected one of {', '.join(expected)}")


def _number(key: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InputError(f"{key}: {value!r}, expected a number from {low:g} to {high:g}")


class Planner:
    """Solves on what is known now and decides whether to switch.

    `assemble` builds the graph from the workers' profiles; `timer` is only read to report how long a solve took.
    """

    def __init__(self, assemble: Assemble, settings: PlannerSettings, boot: str, timer: Callable[[], float]) -> None:
        self.settings = settings
        self.corrections = Corrections()
        self.profiled = assemble({})
        table = self.profiled.validation
        self.exit_rates = ExitRates(table.exits, table.confidence) if table is not None else None
        self._assemble = assemble
        self._assembled_for: Mapping[Tier, Any] = {}
        self._boot = boot
        self._timer = timer
        self._count = 0
        self._switched_at = float("-inf")
        self.decision: Decision | None = None
        self._told: Decision | None = None
        self.itinerary: Itinerary = itinerary(local_plan(self.profiled), self.profiled)
        self.infeasible: str | None = None

    @property
    def exits(self) -> tuple[str, ...]:
        """The names of the model's side branches."""
        return tuple(branch.name for branch in self.profiled.exits)

    def profiled_seconds(self, tier: Tier, layers: Sequence[str], exits: Sequence[str] = ()) -> float:
        """Return the profile's seconds on `tier` for these layers and side branches, without corrections."""
        by_name = self.profiled.by_name
        branches = {branch.name: branch for branch in self.profiled.exits}
        return sum(by_name[name].seconds.get(tier, 0.0) for name in layers) + sum(
            branches[name].seconds.get(tier, 0.0) for name in exits
        )

    def graph(self, profiles: Mapping[Tier, Any], now: float) -> LayerGraph:
        """Return the graph as it is known now: profiles, corrections, live exit shares, thresholds."""
        if profiles != self._assembled_for:
            self.profiled = self._assemble(profiles)
            self._assembled_for = dict(profiles)
        graph = self.corrections.apply(self.profiled)
        if self.settings.thresholds:
            graph = replace(graph, thresholds={**graph.thresholds, **self.settings.thresholds})
        if self.exit_rates is not None and graph.validation is not None:
            table = graph.validation
            weighed = Validation(table.exits, table.confidence, table.correct, self.exit_rates.weights(now))
            graph = replace(graph, validation=weighed)
        return graph

    def consider(
        self,
        profiles: Mapping[Tier, Any],
        uplink: Link | None,
        max_packet_bytes: int | None,
        reason: str,
        now: float,
        urgent: bool = False,
    ) -> Decision | None:
        """Solve again; return the decision to publish, None if the one in force stands unchanged.

        `urgent` says that something has changed (not merely been measured again): no dwell time then.
        """
        started = self._timer()
        graph = self.graph(profiles, now)
        best = self._best(graph, profiles, uplink, max_packet_bytes)
        current = self.decision
        if current is not None and current.plan != best.plan and not urgent:
            priced = self._price(current.plan, graph, best.network, profiles)
            if priced is not None and not self._worth(priced, best.prediction, now):
                self.decision = replace(current, prediction=priced)
                return None
        if current is not None and current.plan == best.plan:
            # What frames are compared with is always today's expectation, told or not.
            self.decision = replace(current, prediction=best.prediction)
            if self._told is not None and not self._moved(self._told, best.prediction, uplink):
                return None
        else:
            self._count += 1
            self._switched_at = now
        self.decision = self._told = self._decision(best, graph, reason, now, self._timer() - started)
        if current is None or current.plan != best.plan:
            self._enter(graph, now)
        return self.decision

    def _best(
        self, graph: LayerGraph, profiles: Mapping[Tier, Any], uplink: Link | None, max_packet_bytes: int | None
    ) -> _Candidate:
        """Solve for each tier that can take over; with none, the device alone."""
        mode = self.settings.mode
        candidates: list[_Candidate] = []
        self.infeasible = None
        remotes = [tier for tier in profiles if uplink is not None and mode in ("auto", tier.label)]
        for tier in [*remotes, Tier.DEVICE] if mode == "auto" or not remotes else remotes:
            network = _network(uplink, tier)
            problem = Problem(
                graph=graph,
                network=network,
                min_accuracy=self.settings.min_accuracy,
                objective=self.settings.objective,
                min_agreement=self.settings.min_agreement,
                max_packet_bytes=max_packet_bytes,
                mode=mode if tier is not Tier.DEVICE and mode == tier.label else "auto",
                tiers=frozenset({Tier.DEVICE, tier}),
            )
            try:
                solution = solve(self.settings.solver, problem)
            except Infeasible as error:
                self.infeasible = str(error)
                continue
            candidates.append(_Candidate(solution.plan, solution.prediction, network, problem))
            if mode == "auto" and tier is not Tier.DEVICE and len(remotes) == 1:
                break  # the two-tier problem contains the device alone
        if candidates:
            return min(candidates, key=lambda item: _objective(self.settings.objective, item.prediction))
        plan = local_plan(graph)
        network = NetworkState(None)
        problem = Problem(graph=graph, network=network, tiers=frozenset({Tier.DEVICE}))
        return _Candidate(plan, predict(plan, graph, network), network, problem)

    def _price(
        self, plan: Plan, graph: LayerGraph, network: NetworkState, profiles: Mapping[Tier, Any]
    ) -> Prediction | None:
        """Price the plan in force on today's figures; None if it can no longer be carried out or is not allowed."""
        used = set(plan.tiers.values()) - {Tier.DEVICE}
        if used - set(profiles) or (used and network.uplink is None):
            return None
        if self.settings.mode != "auto" and max(plan.tiers.values()).label != self.settings.mode:
            return None
        try:
            return predict(plan, graph, network)
        except (PopexdError, ValueError):
            return None

    def _worth(self, current: Prediction, new: Prediction, now: float) -> bool:
        if now - self._switched_at < self.settings.dwell_seconds:
            return False
        was = _objective(self.settings.objective, current)
        gain = was - _objective(self.settings.objective, new)
        least = _GAIN_SECONDS if self.settings.objective in ("seconds", "p95", "device_seconds") else 0.0
        return gain > max(_GAIN_SHARE * abs(was), least)

    @staticmethod
    def _moved(current: Decision, prediction: Prediction, uplink: Link | None) -> bool:
        """Whether an unchanged plan is worth publishing again: what it takes, or the link, has moved by a fifth."""
        before = current.network.get("device")
        if before is None or uplink is None:
            return before is not uplink
        pairs = [(current.prediction.seconds, prediction.seconds), (_typical(before), _typical(uplink))]
        return any(abs(a - b) > max(0.2 * min(a, b), 0.001) for a, b in pairs)

    def _enter(self, graph: LayerGraph, now: float) -> None:
        assert self.decision is not None
        plan = self.decision.plan
        self.itinerary = itinerary(plan, graph)
        if self.exit_rates is not None:
            running = [branch.name for branch in graph.exits if plan.runs(branch.name)]
            self.exit_rates.use({name: graph.threshold(name, plan.exits[name]) for name in running}, now)

    def _decision(self, best: _Candidate, graph: LayerGraph, reason: str, now: float, solve_seconds: float) -> Decision:
        return Decision(
            plan_id=f"{self._boot}-{self._count}",
            plan=best.plan,
            form=plan_to_json(best.plan, graph, best.network),
            prediction=best.prediction,
            decided_at=now,
            reason=reason,
            solver=self.settings.solver,
            objective=self.settings.objective,
            alternatives=tuple(alternatives(best.problem)),
            network={"device": best.network.uplink} if best.network.uplink is not None else {},
            solve_seconds=solve_seconds,
        )


@dataclass(frozen=True, slots=True)
class _Candidate:
    plan: Plan
    prediction: Prediction
    network: NetworkState
    problem: Problem


def _network(uplink: Link | None, tier: Tier) -> NetworkState:
    """Return the two-tier network to `tier`; an edge that finishes itself needs no link of its own worth a cost."""
    if tier is Tier.DEVICE:
        return NetworkState(None)
    return NetworkState(uplink, Link(1e15)) if tier is Tier.EDGE else NetworkState(uplink)


def _typical(link: Link) -> float:
    """Return the seconds of a message of 16 kB, by which links are compared."""
    return link.round_trip_seconds + link.transfer_seconds(16_000)


def _objective(name: str, prediction: Prediction) -> float:
    """Return what the objective makes least of."""
    values = {"p95": prediction.p95_seconds, "throughput": prediction.bottleneck_seconds}
    return float(values[name] if name in values else getattr(prediction, name))
