"""With it settled where each side branch runs, what every layer, tensor and hop costs: linear in the tiers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from popexd.network import Link
from popexd.plan import ExitChoice, Tier
from popexd.profile import INPUT, CodecCost, Exit
from popexd.solvers.offers import allowed_costs
from popexd.solvers.problem import Problem
from popexd.validation import Outcomes

IMPOSSIBLE = float("inf")


@dataclass(frozen=True)
class Tensor:
    """Least seconds, over the codecs allowed, of each part of one tensor's way, weighed with the frames that pay it.

    Attributes:
        leaves_device: encoding, and the hop that everything from the device takes.
        to_edge: what only readers on the edge add (decoding).
        to_cloud: what readers in the cloud add (further hops, decoding) to a tensor made on the device.
        edge_to_cloud: all of it, for a tensor made on the edge.
    """

    leaves_device: float
    to_edge: float
    to_cloud: float
    edge_to_cloud: float


@dataclass(frozen=True)
class Scenario:
    """Which branches run on the device and on the edge, and the codec of each sender (None: any that is allowed)."""

    problem: Problem
    on_device: tuple[Exit, ...]
    on_edge: tuple[Exit, ...]
    device_codec: str | None = None
    edge_codec: str | None = None

    @cached_property
    def running(self) -> tuple[Exit, ...]:
        """The branches in the order in which a frame meets them."""
        return (*self.on_device, *self.on_edge)

    @cached_property
    def choices(self) -> dict[str, ExitChoice]:
        """What the plan says of each branch."""
        return self.problem.exit_choices(self.running)

    @cached_property
    def outcomes(self) -> Outcomes:
        """What becomes of a frame."""
        return self.problem.graph.outcomes(self.running, self.choices)

    @cached_property
    def leaving_device(self) -> float:
        """Share of frames that no branch on the device answers."""
        return self.outcomes.reach[len(self.on_device)]

    @property
    def leaving_edge(self) -> float:
        """Share of frames that no branch answers."""
        return self.outcomes.reach[-1]

    @cached_property
    def pinned(self) -> dict[str, Tier]:
        """The layers whose tier the branches settle."""
        device = {branch.after: Tier.DEVICE for branch in self.on_device}
        return {**device, **{branch.after: Tier.EDGE for branch in self.on_edge}}

    @property
    def consistent(self) -> bool:
        """Whether no layer is asked to be on two tiers."""
        return all(self.pinned[branch.after] is Tier.DEVICE for branch in self.on_device)

    @cached_property
    def layer_seconds(self) -> Mapping[str, Mapping[Tier, float]]:
        """What each layer costs on each tier that may run it, weighed with the frames that get there."""
        problem, found = self.problem, {}
        place = {name: index for index, name in enumerate(problem.graph.names)}
        for index, layer in enumerate(problem.graph.layers):
            met = sum(place[branch.after] < index for branch in self.on_device)
            later = len(self.on_device) + sum(place[branch.after] < index for branch in self.on_edge)
            reach = {Tier.DEVICE: met, Tier.EDGE: later, Tier.CLOUD: len(self.running)}
            found[layer.name] = {
                tier: self.outcomes.reach[reach[tier]] * layer.seconds[tier] for tier in problem.available
            }
        return found

    @cached_property
    def branch_seconds(self) -> float:
        """What the branches cost, and their answers' way back from the edge."""
        spent = 0.0
        for index, branch in enumerate(self.running):
            tier = Tier.DEVICE if index < len(self.on_device) else Tier.EDGE
            spent += self.outcomes.reach[index] * branch.seconds[tier]
            if tier is Tier.EDGE:
                spent += self.outcomes.shares[index] * self.back("device")
        return spent

    @cached_property
    def to_cloud(self) -> tuple[str, ...]:
        """The hops from the device to the cloud."""
        return self.problem.network.route(Tier.DEVICE, Tier.CLOUD) or ()

    def link(self, hop: str) -> Link:
        """The link of a hop that is there."""
        return self.problem.network.links[hop]

    def back(self, hop: str) -> float:
        """Seconds that an answer takes over a hop; nothing where there is none."""
        links = self.problem.network.links
        return links[hop].transfer_seconds(self.problem.graph.result_bytes) if hop in links else 0.0

    def wait(self, hop: str) -> float:
        """Mean seconds of the round trip over a hop."""
        share = self.leaving_edge if hop == "edge" else self.leaving_device
        return share * self.link(hop).round_trip_seconds

    def codec_costs(self, point: str, sender: Tier) -> list[CodecCost]:
        """The costs of the codecs that `sender` may use for the output of `point`."""
        wanted = self.device_codec if sender is Tier.DEVICE else self.edge_codec
        return [cost for name, cost in allowed_costs(self.problem, point).items() if wanted in (None, name)]

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        """What shipping each tensor costs."""
        return {point: self._tensor(point) for point, readers in self.problem.graph.children.items() if readers}

    def _tensor(self, point: str) -> Tensor:
        device, edge = self.leaving_device, self.leaving_edge
        straight = self.to_cloud[:1] == ("direct",)
        with_edge = Tier.EDGE in self.problem.available

        def hop(name: str, cost: CodecCost) -> float:
            return self.link(name).transfer_seconds(cost.bytes)

        def leaves(cost: CodecCost) -> float:
            return device * (cost.encode_seconds + (0.0 if straight else hop("device", cost)))

        def to_edge(cost: CodecCost) -> float:
            return device * (cost.decode_seconds + (hop("device", cost) if straight else 0.0))

        def to_cloud(cost: CodecCost) -> float:
            way = device * hop("direct", cost) if straight else 0.0
            return way + edge * (cost.decode_seconds + (hop("edge", cost) if "edge" in self.to_cloud else 0.0))

        def onwards(cost: CodecCost) -> float:
            return edge * (cost.encode_seconds + hop("edge", cost) + cost.decode_seconds)

        sent = self.codec_costs(point, Tier.DEVICE)
        passed = self.codec_costs(point, Tier.EDGE) if with_edge and point != INPUT else []
        above = bool(self.problem.network.links) and self.problem.available != (Tier.DEVICE,)
        cloud = Tier.CLOUD in self.problem.available
        return Tensor(
            leaves_device=min((leaves(cost) for cost in sent), default=IMPOSSIBLE) if above else IMPOSSIBLE,
            to_edge=min((to_edge(cost) for cost in sent), default=IMPOSSIBLE) if with_edge else IMPOSSIBLE,
            to_cloud=min((to_cloud(cost) for cost in sent), default=IMPOSSIBLE) if cloud else IMPOSSIBLE,
            edge_to_cloud=min((onwards(cost) for cost in passed), default=IMPOSSIBLE) if cloud else IMPOSSIBLE,
        )


def scenarios(problem: Problem) -> Iterator[Scenario]:
    """Every way to leave each branch out or run it on the device or the edge, with any codecs."""
    where: list[list[Tier | None]] = [
        [None, *(tier for tier in problem.available if problem.can_run(branch, tier))] for branch in problem.graph.exits
    ]
    for tiers in product(*where):
        chosen = list(zip(problem.graph.exits, tiers, strict=True))
        found = Scenario(
            problem,
            tuple(branch for branch, tier in chosen if tier is Tier.DEVICE),
            tuple(branch for branch, tier in chosen if tier is Tier.EDGE),
        )
        if found.consistent:
            yield found
