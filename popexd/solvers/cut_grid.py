"""All ways to cut a graph over up to three tiers with a codec per sender, as columns of numbers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from popexd.network import Link
from popexd.plan import Tier
from popexd.profile import INPUT
from popexd.solvers.lattice import Sets, TooWide, lower_sets, nested_pairs
from popexd.solvers.problem import Problem

Column = NDArray[np.float64]
Index = NDArray[np.intp]

MAX_CUTS = 20_000
MAX_CELLS = 25_000_000
"""Pairs of cuts times tensors that it is willing to hold in memory."""

NO_LINK = Link(1.0)
"""Stands in where there is no link: what would cross it has no rows."""


@dataclass(frozen=True)
class Pairs:
    """One row per placement of the layers: those in `sets[first]` on the device, up to `sets[second]` on the edge.

    Attributes:
        to_edge, to_cloud, passed: [pairs, points], the tensors that go from the device to the edge, from the device to
            the cloud, from the edge to the cloud. Points are the input and the layers.
    """

    sets: Sets
    first: Index
    second: Index
    to_edge: Sets
    to_cloud: Sets
    passed: Sets

    @classmethod
    def of(cls, problem: Problem) -> Pairs:
        """List the placements that the tiers at hand and the mode allow.

        Raises:
            TooWide: more than are worth listing.
        """
        graph = problem.graph
        sets = lower_sets(graph, MAX_CUTS)
        first, second = _allowed(problem, sets)
        points = (INPUT, *graph.names)
        if len(first) * len(points) > MAX_CELLS:
            raise TooWide
        place = {name: index for index, name in enumerate(graph.names)}
        reads = np.zeros((len(points), len(graph.names)), dtype=np.float32)
        for row, point in enumerate(points):
            reads[row, [place[reader] for reader in graph.children[point]]] = 1
        below = np.concatenate([np.ones((len(sets), 1), dtype=bool), sets], axis=1)
        readers = sets.astype(np.float32) @ reads.T  # of each point, how many are within the set
        leaves = below & (readers < reads.sum(axis=1))
        made, out = below[first], leaves[second]
        return cls(
            sets=sets,
            first=first,
            second=second,
            to_edge=made & (readers[second] > readers[first]),
            to_cloud=out & made,
            passed=out & ~made,
        )


def _allowed(problem: Problem, sets: Sets) -> tuple[Index, Index]:
    """The pairs (first, second): none above where there is no tier, all ends where the mode pins them."""
    graph, tiers, finisher = problem.graph, problem.available, problem.finisher
    empty: Sets = np.asarray(~sets.any(axis=1))
    full: Sets = np.asarray(sets.all(axis=1))
    if Tier.EDGE in tiers:
        first, second = nested_pairs(sets, MAX_CELLS // (len(graph.names) + 1))
    else:
        first = second = np.arange(len(sets))
    kept = np.ones(len(first), dtype=bool)
    if Tier.DEVICE not in tiers:
        kept &= empty[first]
    if Tier.CLOUD not in tiers:
        kept &= full[second]
    if finisher is not None:
        ends = sets[:, [graph.names.index(sink) for sink in graph.sinks]]
        low, mid = ends[first], ends[second]
        on = {Tier.DEVICE: low, Tier.EDGE: mid & ~low, Tier.CLOUD: ~mid}[finisher]
        kept &= on.all(axis=1)
    rows = np.flatnonzero(kept)
    return first[rows], second[rows]


@dataclass(frozen=True)
class CodecTable:
    """Costs by point and codec, [points, codecs + 1]; the last codec is none at all and free."""

    names: tuple[str, ...]
    able: Sets
    bytes: Column
    encode: Column
    decode: Column
    quality: Column
    agreement: Column

    @classmethod
    def of(cls, problem: Problem) -> CodecTable:
        """Look up what every allowed codec costs at every point; quality and agreement as logarithms."""
        graph = problem.graph
        points = (INPUT, *graph.names)
        names = tuple(dict.fromkeys(name for point in points for name in problem.codec_names(point)))
        column = {name: index for index, name in enumerate(names)}
        shape = (len(points), len(names) + 1)
        table = cls(names, np.zeros(shape, dtype=bool), *(np.zeros(shape) for _ in range(5)))
        for row, point in enumerate(points):
            for name in problem.codec_names(point):
                cost, at = graph.codec_cost(point, name), (row, column[name])
                table.able[at] = True
                table.bytes[at] = cost.bytes
                table.encode[at] = cost.encode_seconds
                table.decode[at] = cost.decode_seconds
                table.quality[at] = np.log(max(graph.codec_quality(point, name), 1e-300))
                table.agreement[at] = np.log(max(cost.agreement, 1e-300))
        return table

    def usable(self, sent: Sets) -> Sets:
        """Which codecs can encode all that is `sent`, [pairs, codecs + 1]; none exactly where nothing is."""
        blocked = sent.astype(np.float32) @ (~self.able).astype(np.float32) > 0
        some: Sets = np.asarray(sent.any(axis=1))
        found: Sets = some[:, None] & ~blocked
        found[:, -1] = ~some
        return found


@dataclass(frozen=True)
class Rows:
    """One row per placement and codecs; seconds of a frame that gets there, by stage.

    `device` and the links up to `direct_link` and `edge_decode` are paid by frames that leave the device, the others by
    those that no branch answers. `final_back` is the answer's way from the end of the network.
    """

    pair: Index
    codec: Index
    second_codec: Index
    encode: Column
    device_link: Column
    direct_link: Column
    edge_decode: Column
    second_encode: Column
    edge_link: Column
    cloud_decode: Column
    first_wait: Column
    second_wait: Column
    first_variance: Column
    second_variance: Column
    final_back: Column
    bytes: Column
    packet: Column
    quality: Column
    second_quality: Column
    agreement: Column

    def take(self, kept: Index) -> Rows:
        """The rows `kept`."""
        return Rows(*(getattr(self, column.name)[kept] for column in fields(self)))

    @cached_property
    def first_seconds(self) -> Column:
        """All that a frame pays from leaving the device on, before the edge works."""
        return self.encode + self.device_link + self.direct_link + self.edge_decode + self.first_wait

    @cached_property
    def second_seconds(self) -> Column:
        """All that it pays from leaving the edge on, before the cloud works."""
        return self.second_encode + self.edge_link + self.cloud_decode + self.second_wait


def rows(problem: Problem, pairs: Pairs, table: CodecTable) -> Rows:
    """Lay out every pair with every codec that its senders can use, in pairs' order."""
    return _Layout(problem, pairs, table).rows()


class _Layout:
    """What the rows are made of: which hops each uses, what crosses them, with which codec."""

    def __init__(self, problem: Problem, pairs: Pairs, table: CodecTable) -> None:
        self.problem, self.pairs, self.table = problem, pairs, table
        self.shipped = pairs.to_edge | pairs.to_cloud
        first, second = table.usable(self.shipped), table.usable(pairs.passed)
        self.pair, self.codec, self.second_codec = np.nonzero(first[:, :, None] & second[:, None, :])
        route = problem.network.route(Tier.DEVICE, Tier.CLOUD) or ()
        self.direct, self.relays = "direct" in route, "edge" in route
        self.straight = "device" in route
        out, self.up, self.onwards = (
            np.asarray(sent.any(axis=1))[self.pair] for sent in (pairs.to_edge, pairs.to_cloud, pairs.passed)
        )
        self.uses: dict[str, Sets] = {
            "device": out | (self.up & self.straight),
            "direct": self.up & self.direct,
            "edge": self.onwards | (self.up & self.relays),
        }
        self.link = {hop: problem.network.links.get(hop, NO_LINK) for hop in self.uses}

    def first(self, sent: Sets, costs: Column) -> Column:
        """Costs of all that is `sent` with the device's codec, by row."""
        found: Column = (sent.astype(np.float64) @ costs)[self.pair, self.codec]
        return found

    def second(self, costs: Column) -> Column:
        """Costs of all that the edge passes on with its own codec, by row."""
        found: Column = (self.pairs.passed.astype(np.float64) @ costs)[self.pair, self.second_codec]
        return found

    def loads(self) -> dict[str, Column]:
        """Bytes per hop."""
        to_edge, to_cloud = (self.first(sent, self.table.bytes) for sent in (self.pairs.to_edge, self.pairs.to_cloud))
        return {
            "device": self.first(self.shipped, self.table.bytes) if self.straight else to_edge,
            "direct": to_cloud * self.direct,
            "edge": self.second(self.table.bytes) + to_cloud * self.relays,
        }

    def rows(self) -> Rows:
        """Put the columns together."""
        pairs, table = self.pairs, self.table
        only_cloud = pairs.to_cloud & ~pairs.to_edge
        loads = self.loads()
        busy = {hop: 8.0 * load / self.link[hop].bits_per_second for hop, load in loads.items()}
        return Rows(
            pair=self.pair,
            codec=self.codec,
            second_codec=self.second_codec,
            encode=self.first(self.shipped, table.encode),
            device_link=busy["device"],
            direct_link=busy["direct"],
            edge_decode=self.first(pairs.to_edge, table.decode),
            second_encode=self.second(table.encode),
            edge_link=busy["edge"],
            cloud_decode=self.first(pairs.to_cloud, table.decode) + self.second(table.decode),
            first_wait=self.met_once(("device", "direct"), "round_trip_seconds"),
            second_wait=self.met_once(("edge",), "round_trip_seconds"),
            first_variance=self.met_once(("device", "direct"), "jitter_seconds", 2),
            second_variance=self.met_once(("edge",), "jitter_seconds", 2),
            final_back=self.final_back(),
            bytes=loads["device"] + loads["direct"],
            packet=np.maximum.reduce(list(loads.values())),
            quality=np.exp(self.first(pairs.to_edge, table.quality)),
            second_quality=np.exp(self.first(only_cloud, table.quality) + self.second(table.quality)),
            agreement=np.exp(self.first(self.shipped, table.agreement) + self.second(table.agreement)),
        )

    def met_once(self, hops: tuple[str, ...], figure: str, power: int = 1) -> Column:
        """What a frame meets once on each of these hops that it crosses."""
        found = np.zeros(len(self.pair))
        for hop in hops:
            found += self.uses[hop] * getattr(self.link[hop], figure) ** power
        return found

    def final_back(self) -> Column:
        """Seconds of the final answer's way: over the direct link if something came by it, else the way it came."""
        size = self.problem.graph.result_bytes
        back = {hop: link.transfer_seconds(size) for hop, link in self.link.items()}
        relayed = self.uses["device"] * back["device"] + self.uses["edge"] * back["edge"]
        from_cloud = np.where(self.uses["direct"], back["direct"], relayed)
        on_edge = (self.pairs.second != self.pairs.first)[self.pair]
        below = np.where(on_edge, back["device"], 0.0)
        found: Column = np.where(self.up | self.onwards, from_cloud, below)
        return found
