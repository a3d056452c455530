"""The one cost model: what a plan is expected to take, on a graph, over a network.

A frame is worked on serially: the device runs its layers in topological order and sends what must cross, then the edge,
then the cloud. A side branch runs right after its layer, on the device or the edge; a frame that it answers costs
nothing further. So every cost is weighed with the share of frames that get that far. On two tiers and a chain this is
POPEX's closed form (Pacheco & Couto, ISCC 2020, arXiv 2005.04099):

    E[T] = sum_(i<=s) S_i t_i + sum_(k run) S_k t_bk + S (8 a_s / B + C_(s+1))

What crosses is paid once per tensor and hop, however many layers read it; a frame pays one round trip per hop it
crosses. What the edge only relays keeps its encoding. A tensor for the cloud leaves the device when the device is done,
also over a direct link. The answer's own bytes go back the way the frame came, at the same rates.

Where links jitter, the time of a way that crosses them is spread about its mean by a logistic law, whose tails are
longer than the normal law's as those of queues are, and whose variance is the sum of theirs; the 95th percentile is
that of the mixture over the exits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popexd.cut import Crossing, crossings
from popexd.network import NetworkState
from popexd.plan import Plan, Tier
from popexd.profile import LayerGraph
from popexd.validation import FINAL, Outcomes


@dataclass(frozen=True)
class Prediction:
    """What to expect of a plan, per frame.

    Attributes:
        seconds: mean time from the frame to its answer.
        p95_seconds: time within which 95 of 100 frames are answered, over which exit they take and the links' jitter.
        device_seconds: mean time the device works.
        device_joules: mean energy of the device's work and sending, above idle.
        bytes: mean number leaving the device.
        bytes_by_hop: mean number per hop (`device`, `edge`, `direct`) on the way up, hops in use only.
        packet_bytes: size of the largest single message, when a frame does cross.
        accuracy: share of right answers; None where the profile has no validation table.
        agreement: share of offloaded frames whose answer the codecs leave as it was.
        exit_probabilities: share of frames answered by each running branch, and by `final`.
        stages: mean seconds that each tier (`device`, `edge`, `cloud`) and link (`device_link`, `edge_link`,
            `direct_link`) is busy; one over the largest is the highest rate of frames.
        path_seconds: time of a frame that leaves at each running branch, and at `final`.
    """

    seconds: float
    p95_seconds: float
    device_seconds: float
    device_joules: float
    bytes: float
    bytes_by_hop: Mapping[str, float]
    packet_bytes: float
    accuracy: float | None
    agreement: float
    exit_probabilities: Mapping[str, float]
    stages: Mapping[str, float]
    path_seconds: Mapping[str, float]

    def value(self, objective: str) -> float:
        """What an objective makes least of."""
        figures = {"p95": self.p95_seconds, "throughput": self.bottleneck_seconds}
        return float(figures[objective] if objective in figures else getattr(self, objective))

    @property
    def bottleneck_seconds(self) -> float:
        """The busiest stage's seconds per frame."""
        return max(self.stages.values(), default=0.0)

    def later(self, device_seconds: float, joules: float = 0.0) -> Prediction:
        """Return the same for frames on which the device spends so much more before anything else."""
        return replace(
            self,
            seconds=self.seconds + device_seconds,
            p95_seconds=self.p95_seconds + device_seconds,
            device_seconds=self.device_seconds + device_seconds,
            device_joules=self.device_joules + joules,
            stages={**self.stages, "device": self.stages.get("device", 0.0) + device_seconds},
            path_seconds={name: seconds + device_seconds for name, seconds in self.path_seconds.items()},
        )


def mixture(parts: Sequence[tuple[float, Prediction]]) -> Prediction:
    """What to expect where frames are of several kinds, each with its share and its own plan; shares add up to 1.

    The time within which 95 of 100 are answered, and the largest message, are those of the worst kind.
    """

    def mean(of: Callable[[Prediction], float]) -> float:
        return sum(share * of(each) for share, each in parts)

    def means(of: Callable[[Prediction], Mapping[str, float]]) -> dict[str, float]:
        names = dict.fromkeys(name for _, each in parts for name in of(each))
        return {name: mean(lambda each, name=name: of(each).get(name, 0.0)) for name in names}  # type: ignore[misc]

    shares = means(lambda each: each.exit_probabilities)
    spent = means(lambda each: {name: each.exit_probabilities[name] * s for name, s in each.path_seconds.items()})
    known = [each.accuracy for _, each in parts]
    return Prediction(
        seconds=mean(lambda each: each.seconds),
        p95_seconds=max(each.p95_seconds for _, each in parts),
        device_seconds=mean(lambda each: each.device_seconds),
        device_joules=mean(lambda each: each.device_joules),
        bytes=mean(lambda each: each.bytes),
        bytes_by_hop=means(lambda each: each.bytes_by_hop),
        packet_bytes=max(each.packet_bytes for _, each in parts),
        accuracy=None if None in known else mean(lambda each: each.accuracy or 0.0),
        agreement=mean(lambda each: each.agreement),
        exit_probabilities=shares,
        stages=means(lambda each: each.stages),
        path_seconds={name: spent[name] / share for name, share in shares.items() if share > 0},
    )


def predict(plan: Plan, graph: LayerGraph, network: NetworkState) -> Prediction:
    """Price `plan`.

    Raises:
        ValueError: the plan leaves out a layer, flows back down, runs a branch in the cloud, uses a tier without
            times, a codec that is not there, or a link that is not there.
    """
    return _Walk(plan, graph, network).prediction()


def percentile(times: Iterable[tuple[float, float]], share: float) -> float:
    """Return the smallest time by which `share` of all is done, from (time, share) pairs."""
    done, last = 0.0, 0.0
    for seconds, part in sorted(times):
        if part <= 0:
            continue
        done, last = done + part, seconds
        if done >= share - 1e-12:
            break
    return last


def spread_percentile(means: ArrayLike, shares: ArrayLike, deviations: ArrayLike, share: float) -> NDArray[np.float64]:
    """Return the time by which `share` of all is done, where each way's time is spread by a logistic law.

    All are [ways, ...] and broadcast; a deviation of zero is a step. By bisection, to the last bits.
    """
    mean, weight, deviation = np.broadcast_arrays(
        *(np.asarray(each, dtype=np.float64) for each in (means, shares, deviations))
    )
    reach = 12.0 * deviation.max(axis=0)
    low, high = mean.min(axis=0) - reach, mean.max(axis=0) + reach
    steepness = math.pi / (2.0 * math.sqrt(3.0)) / np.where(deviation > 0, deviation, 1.0)
    for _ in range(70):
        middle = (low + high) / 2
        spread = 0.5 + 0.5 * np.tanh((middle - mean) * steepness)
        done = (weight * np.where(deviation > 0, spread, middle >= mean)).sum(axis=0) >= share - 1e-12
        low, high = np.where(done, low, middle), np.where(done, middle, high)
    return np.asarray(high)


class _Walk:
    """One frame's way through the tiers: its own clock, and the mean over all frames beside it."""

    def __init__(self, plan: Plan, graph: LayerGraph, network: NetworkState) -> None:
        self.plan, self.graph, self.network, self.links = plan, graph, network, network.links
        self.crossings = crossings(plan, graph)
        running = graph.evaluation_order(plan)
        self.outcomes: Outcomes = graph.outcomes(running, plan.exits)
        self.names = [*(branch.name for branch in running), FINAL]
        self.met = 0  # branches met so far
        self.clock = 0.0  # of a frame that no branch has answered yet
        self.mean = 0.0
        self.busy: dict[str, float] = {}
        self.sent: dict[str, float] = {}
        self.packet = 0.0
        self.quality = self.agreement = 1.0
        self.answered: list[tuple[float, float]] = []
        self.deviations: list[float] = []
        self.variance = 0.0  # of the clock
        self.right = 0.0

    @property
    def alive(self) -> float:
        """Share of frames that get here."""
        return self.outcomes.reach[self.met]

    def prediction(self) -> Prediction:
        for tier in Tier:
            self.receive(tier)
            self.work(tier)
            self.send(tier)
        self.answer(max(self.plan.tiers[sink] for sink in self.graph.sinks))
        return Prediction(
            seconds=self.mean,
            p95_seconds=self.percentile(0.95),
            device_seconds=self.busy.get("device", 0.0),
            device_joules=self.graph.power.joules(
                self.busy.get("device", 0.0), self.busy.get("device_link", 0.0) + self.busy.get("direct_link", 0.0)
            ),
            bytes=self.sent.get("device", 0.0) + self.sent.get("direct", 0.0),
            bytes_by_hop=self.sent,
            packet_bytes=self.packet,
            accuracy=None if self.outcomes.correct is None else self.right,
            agreement=self.agreement,
            exit_probabilities=dict(zip(self.names, self.outcomes.shares, strict=True)),
            stages=self.busy,
            path_seconds=dict(zip(self.names, (seconds for seconds, _ in self.answered), strict=True)),
        )

    def percentile(self, share: float) -> float:
        """Time by which `share` of the frames are answered."""
        if not any(self.deviations):
            return percentile(self.answered, share)
        times, shares = zip(*self.answered, strict=True)
        return float(spread_percentile(times, shares, self.deviations, share))

    def spend(self, seconds: float, stage: str | None) -> None:
        """Let the frames that get here take `seconds`, keeping `stage` busy."""
        self.clock += seconds
        self.mean += self.alive * seconds
        if stage is not None:
            self.busy[stage] = self.busy.get(stage, 0.0) + self.alive * seconds

    def work(self, tier: Tier) -> None:
        """Run the tier's layers, and the branches after them."""
        layers = [layer for layer in self.graph.layers if self.plan.tiers[layer.name] is tier]
        if layers and tier is Tier.DEVICE:
            self.spend(self.graph.input_seconds.get(tier, 0.0), tier.label)
        for layer in layers:
            self.spend(_time(layer.seconds, tier, layer.name), tier.label)
            for branch in self.graph.branches.get(layer.name, ()):
                if not self.plan.runs(branch.name):
                    continue
                if tier is Tier.CLOUD:
                    raise ValueError(f"exit {branch.name!r} would run in the cloud, expected device or edge")
                self.spend(_time(branch.seconds, tier, branch.name), tier.label)
                self.answer(tier)
                self.met += 1

    def send(self, source: Tier) -> None:
        """Encode what this tier made for tiers above, and ship what leaves it, its own and relayed."""
        loads: dict[str, float] = {}
        for crossing in self.crossings:
            cost = self.graph.codec_cost(crossing.point, self.plan.codec(crossing.source))
            if crossing.source is source:
                self.spend(cost.encode_seconds, source.label)
            for hop in self.hops(crossing):
                if source is (Tier.EDGE if hop == "edge" else Tier.DEVICE):
                    loads[hop] = loads.get(hop, 0.0) + cost.bytes
        for hop, size in loads.items():
            link = self.links[hop]
            self.spend(link.transfer_seconds(size), f"{hop}_link")
            self.spend(link.round_trip_seconds, None)
            self.variance += link.jitter_seconds**2
            self.sent[hop] = self.alive * size
            self.packet = max(self.packet, size)

    def receive(self, tier: Tier) -> None:
        """Decode what was sent to this tier; from here on answers are as good as the codecs leave them."""
        for crossing in self.crossings:
            if tier not in crossing.destinations:
                continue
            codec = self.plan.codec(crossing.source)
            cost = self.graph.codec_cost(crossing.point, codec)
            self.spend(cost.decode_seconds, tier.label)
            if tier is crossing.destinations[0]:
                self.quality *= self.graph.codec_quality(crossing.point, codec)
                self.agreement *= cost.agreement

    def answer(self, tier: Tier) -> None:
        """Answer a frame on `tier`: by the branch at hand, or by the end of the network."""
        share = self.outcomes.shares[self.met]
        back = sum(self.links[hop].transfer_seconds(self.graph.result_bytes) for hop in self.way_back(tier))
        self.answered.append((self.clock + back, share))
        self.deviations.append(math.sqrt(self.variance))
        self.mean += share * back
        if self.outcomes.correct is not None:
            self.right += self.quality * self.outcomes.correct[self.met]

    def way_back(self, tier: Tier) -> tuple[str, ...]:
        """The hops that an answer takes from `tier`: those the frame came by."""
        if tier is Tier.CLOUD:
            return ("direct",) if "direct" in self.sent else tuple(self.sent)
        return ("device",) if tier is Tier.EDGE else ()

    def hops(self, crossing: Crossing) -> set[str]:
        used: set[str] = set()
        for destination in crossing.destinations:
            route = self.network.route(crossing.source, destination)
            if route is None:
                raise ValueError(f"no link leads from the {crossing.source.label} to the {destination.label}")
            used.update(route)
        return used


def _time(seconds: Mapping[Tier, float], tier: Tier, name: str) -> float:
    value = seconds.get(tier, math.nan)
    if math.isnan(value):
        raise ValueError(f"{name!r} has no time on the {tier.label}")
    return value
