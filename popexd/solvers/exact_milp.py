"""The tiers of one scenario as a mixed-integer linear programme: for any links, solved by scipy's HiGHS."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from popexd.plan import Tier
from popexd.profile import INPUT
from popexd.solvers.scenario import IMPOSSIBLE, Scenario

UNITS_PER_SECOND = 1e6
"""The programme counts in microseconds: HiGHS's tolerances are then far below a nanosecond."""

TIE = 1e-6
"""Microseconds that a layer costs per tier upwards, so that of equal plans the one with most layers low wins."""

Term = Mapping[Hashable, float]


def linear_programme(scenario: Scenario) -> tuple[float, dict[str, Tier]] | None:
    """Return the least seconds of the scenario and the tiers; None where nothing is possible.

    Per layer two binaries, `low` (the device runs it) and `mid` (device or edge); per producer, what it sends where.
    """
    programme = _Programme(scenario)
    programme.layers()
    programme.tensors()
    programme.hops()
    programme.answers()
    return programme.solved()


class _Programme:
    """Variables, costs and rows, put together piece by piece."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario, self.graph = scenario, scenario.problem.graph
        self.index: dict[Hashable, int] = {}
        self.cost: list[float] = []
        self.upper: list[float] = []
        self.lower: list[float] = []
        self.whole: list[int] = []
        self.rows: list[tuple[Term, float]] = []
        self.constant = 0.0
        for side in ("low", "mid"):
            self.variable((side, INPUT), lower=1.0)

    def variable(self, name: Hashable, cost: float = 0.0, *, whole: bool = False, lower: float = 0.0) -> Hashable:
        """A variable from `lower` to 1; one whose cost is infinite stays at 0."""
        self.index[name] = len(self.cost)
        self.cost.append(0.0 if cost == IMPOSSIBLE else cost * UNITS_PER_SECOND)
        self.lower.append(lower)
        self.upper.append(0.0 if cost == IMPOSSIBLE else 1.0)
        self.whole.append(int(whole))
        return name

    def at_least(self, term: Term, bound: float) -> None:
        """Demand that `term` is no less than `bound`."""
        self.rows.append((term, bound))

    def spend(self, name: Hashable, seconds: float) -> None:
        """Add to what a variable costs."""
        self.cost[self.index[name]] += seconds * UNITS_PER_SECOND

    def layers(self) -> None:
        """Where each layer runs: cloud + (edge - cloud) mid + (device - edge) low."""
        finisher = self.scenario.problem.finisher
        for layer in self.graph.layers:
            low, mid = ("low", layer.name), ("mid", layer.name)
            self.variable(low, whole=True)
            self.variable(mid, whole=True)
            self.at_least({mid: 1, low: -1}, 0)
            pinned = self.scenario.pinned.get(layer.name)
            if layer.name in self.graph.sinks and finisher is not None:
                pinned = finisher if pinned in (None, finisher) else pinned
            seconds = self.scenario.layer_seconds[layer.name]
            able = {tier: value for tier, value in seconds.items() if pinned in (None, tier)}
            device, edge, cloud = (able.get(tier, 0.0) for tier in Tier)
            self.constant += cloud
            self.spend(low, device - edge - TIE / UNITS_PER_SECOND)
            self.spend(mid, edge - cloud - TIE / UNITS_PER_SECOND)
            self._only(low, mid, set(able))
            for parent in layer.after:
                self.at_least({("low", parent): 1, low: -1}, 0)
                self.at_least({("mid", parent): 1, mid: -1}, 0)

    def _only(self, low: Hashable, mid: Hashable, able: set[Tier]) -> None:
        if Tier.DEVICE not in able:
            self.upper[self.index[low]] = 0.0
        if Tier.CLOUD not in able:
            self.lower[self.index[mid]] = 1.0
        if Tier.EDGE not in able:
            self.at_least({low: 1, mid: -1}, 0)

    def tensors(self) -> None:
        """What each producer sends: from the device at all, to the edge, to the cloud; from the edge to the cloud."""
        for point, costs in self.scenario.tensors.items():
            low, mid = ("low", point), ("mid", point)
            leaves = self.variable(("leaves", point), costs.leaves_device)
            to_edge = self.variable(("to edge", point), costs.to_edge)
            to_cloud = self.variable(("to cloud", point), costs.to_cloud)
            passed = self.variable(("passed", point), costs.edge_to_cloud)
            for reader in self.graph.children[point]:
                lower, middle = ("low", reader), ("mid", reader)
                self.at_least({leaves: 1, low: -1, lower: 1}, 0)
                self.at_least({to_edge: 1, low: -1, lower: 1, middle: -1}, -1)
                self.at_least({to_cloud: 1, low: -1, middle: 1}, 0)
                self.at_least({passed: 1, mid: -1, low: 1, middle: 1}, 0)
                # Implied by the others in whole numbers; without them the relaxation crosses for less than its share.
                self.at_least({to_edge: 1, to_cloud: 1, low: -1, lower: 1}, 0)
                self.at_least({to_cloud: 1, passed: 1, mid: -1, middle: 1}, 0)

    def hops(self) -> None:
        """Round trips, once per hop; decoding of the frame, if the device runs a layer."""
        scenario, links = self.scenario, self.scenario.problem.network.links
        route = scenario.to_cloud
        for hop in ("device", "edge", "direct"):
            used = self.variable(hop, scenario.wait(hop) if hop in links else IMPOSSIBLE)
            for point in scenario.tensors:
                if hop == "device":
                    self.at_least({used: 1, ("leaves" if hop in route else "to edge", point): -1}, 0)
                if hop == "edge":
                    self.at_least({used: 1, ("passed", point): -1}, 0)
                if hop in route:
                    self.at_least({used: 1, ("to cloud", point): -1}, 0)
        begun = self.variable("begun", self.graph.input_seconds.get(Tier.DEVICE, 0.0))
        for name in self.graph.names:
            self.at_least({begun: 1, ("low", name): -1}, 0)

    def answers(self) -> None:
        """The final answer's way back: over the direct link if the frame came by it, else the way it came."""
        scenario = self.scenario
        last, direct = scenario.outcomes.shares[-1], scenario.to_cloud[:1] == ("direct",)
        device, edge, own = (last * scenario.back(hop) for hop in ("device", "edge", "direct"))
        if not direct:
            self.spend("device", device)
            self.spend("edge", edge)
            return
        if device + edge + own == 0:
            return
        self.whole[self.index["direct"]] = 1
        # That link must not be said to be used only because its way back is the quicker one.
        for point in scenario.tensors:
            readers, to_cloud = self.graph.children[point], ("to cloud", point)
            self.at_least({("low", point): 1, to_cloud: -1}, 0)
            self.at_least({**{("mid", name): -1 for name in readers}, to_cloud: -1}, -len(readers))
        self.at_least({**{("to cloud", point): 1 for point in scenario.tensors}, "direct": -1}, 0)
        scale = max(device + edge, own)
        self.variable("back", scale)
        self.at_least({"back": scale, "direct": -own}, 0)
        self.at_least({"back": scale, "device": -device, "edge": -edge, "direct": device + edge}, 0)

    def solved(self) -> tuple[float, dict[str, Tier]] | None:
        """Run HiGHS."""
        import numpy as np
        from scipy import sparse
        from scipy.optimize import Bounds, LinearConstraint, milp

        entries = [
            (row, self.index[name], value) for row, (term, _) in enumerate(self.rows) for name, value in term.items()
        ]
        numbers, columns, values = zip(*entries, strict=True)
        matrix = sparse.csr_matrix((values, (numbers, columns)), shape=(len(self.rows), len(self.cost)))
        bounds = np.array([bound for _, bound in self.rows])
        # The relaxation's corner is mostly whole already, and far quicker to find than a proof that it is.
        for whole in (np.zeros(len(self.whole)), np.array(self.whole)):
            found: Any = milp(
                np.array(self.cost),
                integrality=whole,
                bounds=Bounds(self.lower, self.upper),
                constraints=LinearConstraint(matrix, bounds, np.inf),
                options={"mip_rel_gap": 0.0},
            )
            if found.x is None:
                return None
            fractions = np.abs(found.x - np.round(found.x))[np.array(self.whole, dtype=bool)]
            if fractions.max(initial=0.0) < 1e-7:
                break
        low, mid = (
            {name: found.x[self.index[(side, name)]] > 0.5 for name in self.graph.names} for side in ("low", "mid")
        )
        tiers = {
            name: Tier.DEVICE if low[name] else Tier.EDGE if mid[name] else Tier.CLOUD for name in self.graph.names
        }
        preference = TIE * sum(low.values()) + TIE * sum(mid.values())
        seconds = (found.fun + preference) / UNITS_PER_SECOND + self.constant + self.scenario.branch_seconds
        return seconds, tiers
