"""Which plans are in force, and when others take their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from popexd.coordinator.choosing import Candidate, Known, alone, best, must_fit, priced, worth
from popexd.coordinator.corrections import Corrections
from popexd.coordinator.decision import Choice, Decision
from popexd.coordinator.itinerary import Ways, itinerary, local_plan
from popexd.coordinator.qualities import ANY, Qualities
from popexd.coordinator.settings import PlannerSettings
from popexd.criteria import Criterion
from popexd.cut import plan_to_json
from popexd.latency import Prediction, mixture
from popexd.network import Link
from popexd.plan import Plan, Tier
from popexd.profile import LayerGraph
from popexd.solvers.strategies import alternatives

Assemble = Callable[[Mapping[Tier, Any]], LayerGraph]
"""Builds the planner's graph from the profiles of the tiers that are present."""

_AS_GOOD = 1e-6
"""What an accuracy asked for may be missed by where it is all that the network has."""


@dataclass(slots=True)
class _Slot:
    """What is in force for the frames of one image-quality class, and at what price it was told."""

    plan: Plan
    told: float


class Planner:
    """Solves on what is known now, for each image-quality class, and decides whether to switch.

    `assemble` builds the graph from the workers' profiles; `timer` is only read to report how long a solve took.

    Raises:
        InputError: settings that cannot work with this model.

    """

    def __init__(self, assemble: Assemble, settings: PlannerSettings, boot: str, timer: Callable[[], float]) -> None:
        self.settings = settings
        self.corrections = Corrections()
        self.profiled = assemble({})
        self.qualities = Qualities(self.profiled)
        self._assemble = assemble
        self._assembled_for: Mapping[Tier, Any] = {}
        self._boot = boot
        self._timer = timer
        self._count = 0
        self._slots: dict[str | None, _Slot] = {}
        self._switched_at = float("-inf")
        self._turn = 0
        self.decision: Decision | None = None
        self._told: Decision | None = None
        self._graphs: dict[str | None, LayerGraph] = {ANY: self.profiled}
        self.ways = Ways(itinerary(local_plan(self.profiled), self.profiled))
        self._local: Ways | None = None
        self.infeasible: str | None = None
        self.adopt(settings)

    @property
    def exits(self) -> dict[str, Criterion]:
        """The model's side branches and what each goes by."""
        return {branch.name: branch.criterion for branch in self.profiled.exits}

    @property
    def looks(self) -> bool:
        """Whether frames are decoded to see of which image-quality class they are, and then go by its plan."""
        return self.decision is not None and bool(self.decision.by_quality)

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

    def adopt(self, settings: PlannerSettings) -> None:
        """Go by these settings from now on.

        Raises:
            InputError: they cannot work with this model; nothing is changed then.

        """
        must_fit(settings, self.profiled)
        self.settings = settings

    def graph(self, profiles: Mapping[Tier, Any], now: float) -> LayerGraph:
        """Return the graph as frames of any class find it now: profiles, corrections, live exit shares, thresholds."""
        return self._by_quality(profiles, now)[ANY]

    def _by_quality(self, profiles: Mapping[Tier, Any], now: float) -> dict[str | None, LayerGraph]:
        if profiles != self._assembled_for:
            self.profiled = self._assemble(profiles)
            self._assembled_for = dict(profiles)
        graph = self.corrections.apply(self.profiled, now)
        if self.settings.thresholds:
            own = {
                branch.name: branch.criterion.bound(self.settings.thresholds[branch.name])
                for branch in graph.exits
                if branch.name in self.settings.thresholds
            }
            by_quality = {name: {**bounds, **own} for name, bounds in graph.quality_thresholds.items()}
            graph = replace(graph, thresholds={**graph.thresholds, **own}, quality_thresholds=by_quality)
        return self.qualities.graphs(graph, self.looks, now)

    def local(self) -> Ways:
        """Return the quickest ways that need nobody else, for frames that must not wait for the uplink."""
        if self._local is None:
            wanted = replace(self.settings, objective="seconds")
            self._local = self._ways({name: alone(graph, wanted) for name, graph in self._graphs.items()})
        return self._local

    def consider(
        self, known: Known, reason: str, now: float, urgent: bool = False, forced: bool = False
    ) -> Decision | None:
        """Solve again; return the decision to publish, None if the one in force stands unchanged.

        `urgent` says that something has changed, not merely been measured again: a plan that has become worse by it is
        left at once, without dwell time. `forced` leaves it for any better one, and tells what is in force in any case:
        somebody asked, or the settings that it goes by are others now.
        """
        started = self._timer()
        self._graphs = self._by_quality(known.profiles, now)
        self._local, self.infeasible = None, None
        chosen = self._all_chosen(known, urgent, forced, now)
        found = self._decision(chosen, known, reason, now, self._looks(chosen, urgent, forced, now))
        found = replace(found, solve_seconds=self._timer() - started)
        current = self.decision
        if current is not None and current.plans == found.plans:
            # What frames are compared with is always today's expectation, told or not.
            self.decision = replace(
                current, prediction=found.prediction, by_quality=found.by_quality, shares=found.shares
            )
            moved = self._told is None or self._moved(self._told, found.prediction, known.uplink)
            if not moved and not forced:
                return None
        else:
            self._count += 1
            self._switched_at = self._switched_at if current is None else now
        self.decision = self._told = replace(found, plan_id=f"{self._boot}-{self._count}")
        for name, candidate in chosen.items():
            self._slots[name].told = candidate.value
        if current is None or current.plans != found.plans:
            self._enter(now)
        return self.decision

    def _all_chosen(self, known: Known, urgent: bool, forced: bool, now: float) -> dict[str | None, Candidate]:
        """Choose for every class. Where nothing has changed, but was measured again, one class at a time is solved.

        A solve takes its time from the frames. What a class's frames slowly teach can wait for its turn; whatever
        moves the plan of any frame is a reason to solve for all.
        """
        before = self._slots[ANY].plan if ANY in self._slots else None
        chosen: dict[str | None, Candidate] = {ANY: self._chosen(ANY, known, urgent, forced, now)}
        everything = urgent or forced or chosen[ANY].plan != before
        self._turn += 1
        names = [name for name in self._graphs if name is not ANY]
        for index, name in enumerate(names):
            stands = not everything and index != self._turn % len(names)
            chosen[name] = self._chosen(name, known, urgent, forced, now, stands)
        return chosen

    def _chosen(
        self, name: str | None, known: Known, urgent: bool, forced: bool, now: float, stands: bool = False
    ) -> Candidate:
        """Return the plan for a class's frames: the best, unless the one in force `stands` or is nearly as good."""
        graph = self._graphs[name]
        settings = self._settings_for(name, graph)
        if stands and name in self._slots:
            current = priced(self._slots[name].plan, None, graph, known, settings)
            if current is not None:
                return current
        found, why = best(graph, known, settings)
        self.infeasible = self.infeasible or (why if name is ANY or why is None else f"{name}: {why}")
        slot = self._slots.get(name)
        if slot is None:
            self._slots[name] = _Slot(found.plan, found.value)
            return found
        if slot.plan != found.plan and not forced:
            found = self._settled(slot, found, graph, known, settings, urgent, now)
        slot.plan = found.plan
        return found

    def _dwells(self, now: float) -> bool:
        """Whether what is in force was put in force a moment ago."""
        return now - self._switched_at < self.settings.dwell_seconds

    def _settings_for(self, name: str | None, graph: LayerGraph) -> PlannerSettings:
        """Ask of a class's frames no more accuracy than the whole network has for them."""
        asked, table = self.settings.min_accuracy, graph.validation
        if name is ANY or asked is None or table is None:
            return self.settings
        right = table.outcomes(()).correct
        reachable = right[-1] - _AS_GOOD if right else asked
        return replace(self.settings, min_accuracy=max(0.0, min(asked, reachable)))

    def _settled(
        self,
        slot: _Slot,
        found: Candidate,
        graph: LayerGraph,
        known: Known,
        settings: PlannerSettings,
        urgent: bool,
        now: float,
    ) -> Candidate:
        """Return the plan in force, at today's price, unless it is out of the question or the best one is worth it."""
        current = priced(slot.plan, found, graph, known, settings)
        if current is None:
            return found
        if not worth(current.value - found.value, current.value, settings.objective):
            return current
        if not self._dwells(now):
            return found
        return found if urgent and worth(current.value - slot.told, slot.told, settings.objective) else current

    def _looks(self, chosen: Mapping[str | None, Candidate], urgent: bool, forced: bool, now: float) -> bool:
        """Whether a plan per class, for which every frame is decoded first, is to be in force and not one for all."""
        if len(chosen) == 1 or (not urgent and not forced and self.decision is not None and self._dwells(now)):
            return self.looks
        if itinerary(chosen[ANY].plan, self._graphs[ANY]).needs_decoding:
            return True  # it costs nothing then
        objective, blind = self.settings.objective, chosen[ANY].value
        loss = mixture(list(self._looked(chosen, now).values())).value(objective) - blind
        return not worth(loss, blind, objective) if self.looks and not forced else loss <= 0

    def _looked(self, chosen: Mapping[str | None, Candidate], now: float) -> dict[str, tuple[float, Prediction]]:
        """Return share and expectation by class, decoding included."""
        opening = self.corrections.decode_seconds(self.profiled, now)
        joules = self.profiled.power.joules(opening, 0.0)
        shares = self.qualities.shares(now)
        return {name: (share, chosen[name].prediction.later(opening, joules)) for name, share in shares.items()}

    def _decision(
        self, chosen: Mapping[str | None, Candidate], known: Known, reason: str, now: float, looks: bool
    ) -> Decision:
        whole = chosen[ANY]
        looked = self._looked(chosen, now) if looks else {}
        told = self._choice(ANY, whole, mixture(list(looked.values())) if looked else whole.prediction)
        return Decision(
            plan=told.plan,
            form=told.form,
            prediction=told.prediction,
            plan_id="",
            decided_at=now,
            reason=reason,
            solver=self.settings.solver,
            objective=self.settings.objective,
            alternatives=tuple(alternatives(whole.problem)),
            network={} if known.uplink is None else {"device": known.uplink},
            solve_seconds=0.0,
            by_quality={name: self._choice(name, chosen[name], expected) for name, (_, expected) in looked.items()},
            shares={name: share for name, (share, _) in looked.items()},
        )

    def _choice(self, name: str | None, candidate: Candidate, prediction: Prediction) -> Choice:
        form = plan_to_json(candidate.plan, self._graphs[name], candidate.problem.network)
        return Choice(candidate.plan, form, prediction)

    @staticmethod
    def _moved(current: Decision, prediction: Prediction, uplink: Link | None) -> bool:
        """Whether an unchanged plan is worth publishing again: what it takes, the link or its exits have moved.

        That is by a fifth; of the exits, a fifth of all frames that leave elsewhere.
        """
        before, told = current.network.get("device"), current.prediction
        if (before is None) != (uplink is None):
            return True
        pairs = [(told.seconds, prediction.seconds)]
        if before is not None and uplink is not None:
            pairs.append((_typical(before), _typical(uplink)))
        if any(abs(a - b) > max(0.2 * min(a, b), 0.001) for a, b in pairs):
            return True
        shares = prediction.exit_probabilities
        return any(abs(share - shares.get(name, 0.0)) > 0.2 for name, share in told.exit_probabilities.items())

    def _enter(self, now: float) -> None:
        """Send frames the ways of the plans in force, and count their exits from here on."""
        assert self.decision is not None
        for name, plan in self.decision.plans.items():
            graph = self._graphs[name]
            asked = [branch.name for branch in graph.exits if plan.runs(branch.name)]
            self.qualities.use(name, {branch: graph.threshold(branch, plan.exits[branch]) for branch in asked}, now)
        self.ways = self._ways(self.decision.plans)

    def _ways(self, plans: Mapping[str | None, Plan]) -> Ways:
        return Ways(
            itinerary(plans[ANY], self._graphs[ANY]),
            {name: itinerary(plan, self._graphs[name]) for name, plan in plans.items() if name is not ANY},
        )


def _typical(link: Link) -> float:
    """Return the seconds of a message of 16 kB, by which links are compared."""
    return link.round_trip_seconds + link.transfer_seconds(16_000)
