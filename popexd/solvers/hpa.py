"""D3's horizontal partition (HPA), reconstructed: layer by layer of the graph, each vertex where it is cheapest now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from popexd.errors import Infeasible, InputError
from popexd.plan import Plan, Tier
from popexd.profile import INPUT, LayerGraph
from popexd.solvers.dads import dads
from popexd.solvers.neurosurgeon import neurosurgeon
from popexd.solvers.placement import best, hop_seconds, needs_objective, plans
from popexd.solvers.problem import Problem, Solution

NAME = "hpa"
GUARD = "hpa-guard"

Placement = dict[str, Tier]


def hpa(problem: Problem) -> Solution:
    """Choose tiers greedily, graph layer by graph layer.

    The paper's text is not public: this follows its abstract, claim 1 of patent CN112297014B and spec B.2. Graph layers
    are sets of vertices with the same longest distance from the input. Each vertex takes the tier, no lower than its
    parents', with the least own time plus transfers (the lower of equals). Then siblings that read a tensor already
    brought to a tier choose again with that transfer free, until nothing changes. Transfers are paid once per producer
    and destination; no exits. It has no look-ahead and no bound on how bad it can be: spec B.2's chain costs 55
    where 6.5 is possible. `guarded` sets the best of the simple plans beside it.

    O(V + E) per pass.

    Raises:
        InputError: an objective other than `seconds`.
        Infeasible: no tier can be reached, or the plan breaks a constraint.

    References:
        [1] B. Zhang et al.: Dynamic DNN Decomposition for Lossless Synergistic Inference. 2021.
            https://arxiv.org/abs/2101.05952
    """
    needs_objective(problem, "hpa", "seconds")
    tiers = Greedy(problem).placement()
    return best(problem, plans(problem, tiers), NAME)


def guarded(problem: Problem) -> Solution:
    """Return the best of HPA, each tier alone, DADS and Neurosurgeon: what a guard around HPA would choose.

    Raises:
        InputError: an objective other than `seconds`.
        Infeasible: none of them satisfies the constraints.
    """
    needs_objective(problem, "hpa", "seconds")
    found: list[Plan] = list(plans(problem, Greedy(problem).placement()))
    for tier in problem.available:
        found += plans(problem, dict.fromkeys(problem.graph.names, tier))
    for method in (dads, neurosurgeon):
        try:
            found.append(method(problem).plan)
        except (Infeasible, InputError):
            continue
    return best(problem, found, GUARD)


def graph_layers(graph: LayerGraph) -> tuple[tuple[str, ...], ...]:
    """Group the vertices by their longest distance from the input: Z_1, Z_2, ..."""
    depth = {INPUT: 0}
    for layer in graph.layers:
        depth[layer.name] = 1 + max(depth[parent] for parent in layer.after)
    groups: list[list[str]] = [[] for _ in range(max(depth.values()))]
    for name in graph.names:
        groups[depth[name] - 1].append(name)
    return tuple(tuple(group) for group in groups)


class Greedy:
    """The greedy choice, whole or for some vertices only."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.graph = problem, problem.graph
        self.groups = graph_layers(problem.graph)
        self.touched: set[str] = set()
        self._transfers: dict[tuple[Tier, Tier, str], float] = {}

    def placement(self) -> Placement:
        """Place every layer."""
        return self.placed({}, set(self.graph.names))

    def placed(self, before: Mapping[str, Tier], stale: Iterable[str]) -> Placement:
        """Place the `stale` layers anew, and where a tier changes siblings and children; others stay as `before`."""
        tiers, waiting = dict(before), set(stale)
        self.touched = set()
        for group in self.groups:
            now = [name for name in group if name in waiting or tiers.get(name, Tier.DEVICE) < self.lowest(name, tiers)]
            if not now:
                continue
            self.touched.update(now)
            for name in now:
                tiers[name] = self.choice(name, tiers, set())
            self.settle(group, tiers)
            for name in group:
                if tiers.get(name) != before.get(name):
                    waiting.update(self.graph.children[name])
        return tiers

    def settle(self, group: tuple[str, ...], tiers: Placement) -> None:
        """Let siblings choose again, with what others of the group already fetch for free, until nothing changes."""
        for _ in range(len(group) * len(Tier)):
            moved = False
            for name in group:
                if name not in tiers:
                    continue
                there = {
                    (parent, tiers[sibling])
                    for sibling in group
                    if sibling != name and sibling in tiers
                    for parent in self.graph.by_name[sibling].after
                }
                choice = self.choice(name, tiers, there)
                if choice is not tiers[name]:
                    tiers[name] = choice
                    self.touched.add(name)
                    moved = True
            if not moved:
                return

    def lowest(self, name: str, tiers: Mapping[str, Tier]) -> Tier:
        """The lowest tier that the parents leave."""
        return max(tiers.get(parent, Tier.DEVICE) for parent in self.graph.by_name[name].after)

    def choice(self, name: str, tiers: Mapping[str, Tier], there: set[tuple[str, Tier]]) -> Tier:
        """The cheapest tier for one vertex; `there` lists tensors that are on a tier anyway."""
        layer = self.graph.by_name[name]
        lowest = self.lowest(name, tiers)
        able = [tier for tier in self.problem.available if tier >= lowest] or [self.problem.available[-1]]

        def cost(tier: Tier) -> float:
            arriving = sum(
                self.transfer(tiers.get(parent, Tier.DEVICE), tier, parent)
                for parent in layer.after
                if (parent, tier) not in there
            )
            return layer.seconds[tier] + arriving

        return min(able, key=lambda tier: (cost(tier), tier))

    def transfer(self, source: Tier, destination: Tier, point: str) -> float:
        """t_uv^ab = size / rate + round trip, over all hops of the way."""
        if source is destination:
            return 0.0
        key = (source, destination, point)
        if key not in self._transfers:
            hops = self.problem.network.route(source, destination) or ()
            waits = sum(self.problem.network.links[hop].round_trip_seconds for hop in hops)
            self._transfers[key] = hop_seconds(self.problem, source, destination, point) + waits
        return self._transfers[key]


@dataclass
class Replanner:
    """Keeps a plan up to date: only vertices whose times left their band, or all if a rate did, are placed anew.

    Each time and rate has a band of +- `tolerance` around where it last was planned with. A change within touches
    nothing. After a local update the plan never costs more than the old one would now; where the full greedy would be
    better by more than `gap`, it takes over.
    """

    problem: Problem
    tolerance: float = 0.2
    gap: float = 0.1
    tiers: Placement = field(init=False)
    solution: Solution = field(init=False)
    touched: frozenset[str] = field(init=False, default=frozenset())

    def __post_init__(self) -> None:
        self.centre = self.problem
        self.tiers = Greedy(self.problem).placement()
        self.solution = best(self.problem, plans(self.problem, self.tiers), NAME)

    def update(self, problem: Problem) -> Solution:
        """Take new times and rates of the same graph; return the plan, `touched` says what was looked at."""
        stale = self.stale(problem)
        self.touched = frozenset()
        if not stale:
            return self.solution
        greedy = Greedy(problem)
        local = greedy.placed(self.tiers, stale)
        self.touched = frozenset(greedy.touched)
        old, new, whole = (
            best(problem, plans(problem, tiers), NAME) for tiers in (self.tiers, local, greedy.placement())
        )
        candidates = [(old, self.tiers), (new, local)]
        kept = min(candidates, key=lambda pair: pair[0].prediction.seconds)
        if kept[0].prediction.seconds > (1 + self.gap) * whole.prediction.seconds:
            kept = (whole, greedy.placement())
            self.touched = frozenset(problem.graph.names)
        self.solution, self.tiers = kept
        self.problem = self.centre = problem
        return self.solution

    def stale(self, problem: Problem) -> set[str]:
        """The vertices with a time, or a way in, outside its band."""
        before = self.centre.network.links
        if any(
            self._left(before[hop].bits_per_second, link.bits_per_second) if hop in before else True
            for hop, link in problem.network.links.items()
        ) or set(before) != set(problem.network.links):
            return set(problem.graph.names)
        found = set()
        for layer in problem.graph.layers:
            old = self.centre.graph.by_name[layer.name].seconds
            if any(self._left(old[tier], seconds) for tier, seconds in layer.seconds.items()):
                found.update({layer.name, *problem.graph.children[layer.name]})
                for parent in layer.after:
                    found.update(problem.graph.children[parent])
        return found

    def _left(self, before: float, now: float) -> bool:
        return abs(now - before) > self.tolerance * before
