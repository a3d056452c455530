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
from popexd.solvers.selection import Candidates, select
from popexd.solvers.strategies import alternatives
from popexd.validation import Validation

_GAIN_SHARE = 0.05
_GAIN_SECONDS = 0.002
"""Another plan takes over when it gains at least this much over the one in force."""

Assemble = Callable[[Mapping[Tier, Any]], LayerGraph]
"""Builds the planner's graph from the profiles of the tiers that are present."""


@dataclass(frozen=True, slots=True)
class Known:
    """What planning depends on besides the model: profiles of the tiers that are there, the uplink, its limit."""

    profiles: Mapping[Tier, Any] = field(default_factory=dict)
    uplink: Link | None = None
    max_packet_bytes: int | None = None


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

    Raises:
        InputError: settings that cannot work with this model.

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
        self._local: Itinerary | None = None
        self._current_graph = self.profiled
        self.infeasible: str | None = None
        self.adopt(settings.updated({"thresholds": settings.thresholds}, self.exits), Known())

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

    def device_seconds(self, layers: Sequence[str], decode: bool, now: float) -> float:
        """Return what the device takes for these layers by what is known now, decoding the frame first or not."""
        scale = self.corrections.scales(now).get(Tier.DEVICE, 1.0)
        opening = self.corrections.decode_seconds(self.profiled, now) if decode else 0.0
        return opening + scale * self.profiled_seconds(Tier.DEVICE, layers)

    def adopt(self, settings: PlannerSettings, known: Known, now: float = 0.0) -> None:
        """Go by these settings from now on.

        Raises:
            InputError: the solver cannot take this model or objective; nothing is changed then.

        """
        before, self.settings = self.settings, settings
        try:
            self._candidates(self.graph(known.profiles, now), known)
        except Infeasible:
            pass
        except InputError:
            self.settings = before
            raise

    def graph(self, profiles: Mapping[Tier, Any], now: float) -> LayerGraph:
        """Return the graph as it is known now: profiles, corrections, live exit shares, thresholds."""
        if profiles != self._assembled_for:
            self.profiled = self._assemble(profiles)
            self._assembled_for = dict(profiles)
        graph = self.corrections.apply(self.profiled, now)
        if self.settings.thresholds:
            graph = replace(graph, thresholds={**graph.thresholds, **self.settings.thresholds})
        if self.exit_rates is not None and graph.validation is not None:
            table = graph.validation
            weighed = Validation(table.exits, table.confidence, table.correct, self.exit_rates.weights(now))
            graph = replace(graph, validation=weighed)
        return graph

    def local(self) -> Itinerary:
        """Return the quickest way that needs nobody else, for frames that must not wait for the uplink."""
        if self._local is None:
            graph = self._current_graph
            wanted = replace(self.settings, objective="seconds")
            problem = _problem(graph, NetworkState(None), wanted, None, frozenset({Tier.DEVICE}))
            try:
                plan = solve(wanted.solver, problem).plan
            except (Infeasible, InputError):
                plan = local_plan(graph)
            self._local = itinerary(plan, graph)
        return self._local

    def consider(
        self, known: Known, reason: str, now: float, urgent: bool = False, forced: bool = False
    ) -> Decision | None:
        """Solve again; return the decision to publish, None if the one in force stands unchanged.

        `urgent` says that something has changed, not merely been measured again: a plan that has become worse by it is
        left at once, without dwell time. `forced` leaves it for any better one.
        """
        started = self._timer()
        graph = self._current_graph = self.graph(known.profiles, now)
        self._local = None
        current = self.decision
        chosen = best = self._best(graph, known)
        if current is not None and current.plan != best.plan and not forced:
            chosen = self._settled(current.plan, best, graph, known, urgent, now)
        if current is not None and current.plan == chosen.plan:
            # What frames are compared with is always today's expectation, told or not.
            self.decision = replace(current, prediction=chosen.prediction)
            if self._told is not None and not self._moved(self._told, chosen.prediction, known.uplink):
                return None
        else:
            self._count += 1
            self._switched_at = self._switched_at if current is None else now
        self.decision = self._told = self._decision(chosen, graph, known, reason, now, self._timer() - started)
        if current is None or current.plan != chosen.plan:
            self._enter(graph, now)
        return self.decision

    def _best(self, graph: LayerGraph, known: Known) -> _Candidate:
        """Return the best plan; where the constraints leave none, what the device can do alone."""
        self.infeasible = None
        for knowing in (known, Known()):
            try:
                candidates = self._candidates(graph, knowing)
            except (Infeasible, InputError) as error:
                self.infeasible = self.infeasible or str(error)
            else:
                return min(candidates, key=lambda item: _objective(self.settings.objective, item.prediction))
        problem = _problem(graph, NetworkState(None), PlannerSettings(), None, frozenset({Tier.DEVICE}))
        plan = local_plan(graph)
        return _Candidate(plan, predict(plan, graph, problem.network), problem)

    def _candidates(self, graph: LayerGraph, known: Known) -> list[_Candidate]:
        """Solve for each tier that can take over; a tier that is pinned but not there leaves the device alone.

        Raises:
            Infeasible: the constraints leave no plan.
            InputError: the solver cannot take the problem.

        """
        mode = self.settings.mode
        remotes = [tier for tier in known.profiles if known.uplink is not None and mode in ("auto", tier.label)]
        found: list[_Candidate] = []
        failed: Infeasible | None = None
        # The two-tier problem contains the device alone.
        for tier in remotes or [Tier.DEVICE]:
            problem = _problem(
                graph,
                _network(known.uplink, tier),
                self.settings,
                known.max_packet_bytes,
                frozenset({Tier.DEVICE, tier}),
                mode=mode if mode == tier.label and tier is not Tier.DEVICE else "auto",
            )
            try:
                solution = solve(self.settings.solver, problem)
            except Infeasible as error:
                failed = error
            else:
                found.append(_Candidate(solution.plan, solution.prediction, problem))
        if not found and failed is not None:
            raise failed
        return found

    def _settled(
        self, plan: Plan, best: _Candidate, graph: LayerGraph, known: Known, urgent: bool, now: float
    ) -> _Candidate:
        """Return the plan in force, at today's price, unless it is out of the question or the best one is worth it."""
        current = self._priced(plan, best, graph, known)
        if current is None:
            return best
        objective = self.settings.objective
        was, gain = _objective(objective, current.prediction), 0.0
        least = _GAIN_SECONDS if objective in ("seconds", "p95", "device_seconds", "throughput") else 0.0
        gain = was - _objective(objective, best.prediction)
        if gain <= max(_GAIN_SHARE * abs(was), least):
            return current
        if now - self._switched_at >= self.settings.dwell_seconds:
            return best
        told = _objective(objective, self._told.prediction) if self._told is not None else was
        worse = was - told > max(_GAIN_SHARE * abs(told), least)
        return best if urgent and worse else current

    def _priced(self, plan: Plan, best: _Candidate, graph: LayerGraph, known: Known) -> _Candidate | None:
        """Price the plan in force on today's figures; None if it can no longer be carried out or is not allowed."""
        above = set(plan.tiers.values()) - {Tier.DEVICE}
        if above - set(known.profiles) or (above and known.uplink is None):
            return None
        pinned = self.settings.mode not in ("auto", Tier.DEVICE.label) and best.tier.label == self.settings.mode
        if (pinned or self.settings.mode == Tier.DEVICE.label) and max(plan.tiers.values()).label != self.settings.mode:
            return None
        tier = max(above, default=Tier.DEVICE)
        network = _network(known.uplink, tier)
        problem = _problem(graph, network, self.settings, known.max_packet_bytes, frozenset({Tier.DEVICE, tier}))
        try:
            priced = _Candidate(plan, predict(plan, graph, network), problem)
            select(problem, Candidates.of([(plan, priced.prediction)]))
        except (PopexdError, ValueError):
            return None
        return priced

    @staticmethod
    def _moved(current: Decision, prediction: Prediction, uplink: Link | None) -> bool:
        """Whether an unchanged plan is worth publishing again: what it takes, or the link, has moved by a fifth."""
        before = current.network.get("device")
        if before is None or uplink is None:
            return (before is None) != (uplink is None)
        pairs = [(current.prediction.seconds, prediction.seconds), (_typical(before), _typical(uplink))]
        return any(abs(a - b) > max(0.2 * min(a, b), 0.001) for a, b in pairs)

    def _enter(self, graph: LayerGraph, now: float) -> None:
        assert self.decision is not None
        plan = self.decision.plan
        self.itinerary = itinerary(plan, graph)
        if self.exit_rates is not None:
            running = [branch.name for branch in graph.exits if plan.runs(branch.name)]
            self.exit_rates.use({name: graph.threshold(name, plan.exits[name]) for name in running}, now)

    def _decision(
        self, chosen: _Candidate, graph: LayerGraph, known: Known, reason: str, now: float, solve_seconds: float
    ) -> Decision:
        return Decision(
            plan_id=f"{self._boot}-{self._count}",
            plan=chosen.plan,
            form=plan_to_json(chosen.plan, graph, chosen.problem.network),
            prediction=chosen.prediction,
            decided_at=now,
            reason=reason,
            solver=self.settings.solver,
            objective=self.settings.objective,
            alternatives=tuple(alternatives(chosen.problem)),
            network={} if known.uplink is None else {"device": known.uplink},
            solve_seconds=solve_seconds,
        )


@dataclass(frozen=True, slots=True)
class _Candidate:
    plan: Plan
    prediction: Prediction
    problem: Problem

    @property
    def tier(self) -> Tier:
        """Where frames end that no branch answers."""
        return max(self.plan.tiers.values())


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


def _typical(link: Link) -> float:
    """Return the seconds of a message of 16 kB, by which links are compared."""
    return link.round_trip_seconds + link.transfer_seconds(16_000)


def _objective(name: str, prediction: Prediction) -> float:
    """Return what the objective makes least of."""
    values = {"p95": prediction.p95_seconds, "throughput": prediction.bottleneck_seconds}
    return float(values[name] if name in values else getattr(prediction, name))
