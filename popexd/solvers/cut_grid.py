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
    shipped = pairs.to_edge | pairs.to_cloud
    first, second = table.usable(shipped), table.usable(pairs.passed)
    pair, codec, second_codec = np.nonzero(first[:, :, None] & second[:, None, :])
    network, links = problem.network, problem.network.links
    route = network.route(Tier.DEVICE, Tier.CLOUD) or ()

    def summed(sent: Sets, costs: Column, chosen: Index) -> Column:
        """Costs of all that is sent, with the codec chosen in each row."""
        found: Column = (sent.astype(np.float64) @ costs)[pair, chosen]
        return found

    out, up, onwards = (np.asarray(sent.any(axis=1))[pair] for sent in (pairs.to_edge, pairs.to_cloud, pairs.passed))
    size = summed(shipped, table.bytes, codec)
    to_edge, to_cloud = (summed(sent, table.bytes, codec) for sent in (pairs.to_edge, pairs.to_cloud))
    passed = summed(pairs.passed, table.bytes, second_codec)
    none = np.zeros(len(pair))
    by_device = size if "device" in route else to_edge
    by_direct = to_cloud if "direct" in route else none
    by_edge = passed + (to_cloud if "edge" in route else none)
    uses = {
        "device": (out | up) if "device" in route else out,
        "direct": up if "direct" in route else np.zeros(len(pair), dtype=bool),
        "edge": onwards | (up if "edge" in route else False),
    }
    link = {hop: links.get(hop, NO_LINK) for hop in uses}
    only_cloud = pairs.to_cloud & ~pairs.to_edge
    return Rows(
        pair=pair,
        codec=codec,
        second_codec=second_codec,
        encode=summed(shipped, table.encode, codec),
        device_link=8.0 * by_device / link["device"].bits_per_second,
        direct_link=8.0 * by_direct / link["direct"].bits_per_second,
        edge_decode=summed(pairs.to_edge, table.decode, codec),
        second_encode=summed(pairs.passed, table.encode, second_codec),
        edge_link=8.0 * by_edge / link["edge"].bits_per_second,
        cloud_decode=summed(pairs.to_cloud, table.decode, codec) + summed(pairs.passed, table.decode, second_codec),
        first_wait=_per_hop(uses, link, ("device", "direct"), "round_trip_seconds"),
        second_wait=_per_hop(uses, link, ("edge",), "round_trip_seconds"),
        first_variance=_per_hop(uses, link, ("device", "direct"), "jitter_seconds", 2),
        second_variance=_per_hop(uses, link, ("edge",), "jitter_seconds", 2),
        final_back=_answers_back(problem, uses, link, (pairs.second != pairs.first)[pair], up | onwards),
        bytes=by_device + by_direct,
        packet=np.maximum(np.maximum(by_device, by_direct), by_edge),
        quality=np.exp(summed(pairs.to_edge, table.quality, codec)),
        second_quality=np.exp(
            summed(only_cloud, table.quality, codec) + summed(pairs.passed, table.quality, second_codec)
        ),
        agreement=np.exp(summed(shipped, table.agreement, codec) + summed(pairs.passed, table.agreement, second_codec)),
    )


def _per_hop(
    uses: dict[str, Sets], link: dict[str, Link], hops: tuple[str, ...], figure: str, power: int = 1
) -> Column:
    """What a frame meets once on each of these hops that it crosses."""
    found = np.zeros(len(next(iter(uses.values()))))
    for hop in hops:
        found += uses[hop] * getattr(link[hop], figure) ** power
    return found


def _answers_back(
    problem: Problem, uses: dict[str, Sets], link: dict[str, Link], on_edge: Sets, in_cloud: Sets
) -> Column:
    """Seconds of the final answer's way: over the direct link if something came by it, else the way it came."""
    back = {hop: each.transfer_seconds(problem.graph.result_bytes) for hop, each in link.items()}
    relayed = uses["device"] * back["device"] + uses["edge"] * back["edge"]
    from_cloud = np.where(uses["direct"], back["direct"], relayed)
    found: Column = np.where(in_cloud, from_cloud, np.where(on_edge, back["device"], 0.0))
    return found
