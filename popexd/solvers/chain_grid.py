"""All ways to cut a chain over up to three tiers with a codec per crossing, as columns of numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from popexd.network import Link
from popexd.plan import ExitChoice, Plan, Tier
from popexd.profile import INPUT
from popexd.solvers.problem import Problem

Column = NDArray[np.float64]
Index = NDArray[np.intp]

NO_LINK = Link(1.0)
"""Stands in where there is no link: what would cross it has no rows."""


@dataclass(frozen=True)
class Rows:
    """One row per choice of cuts and codecs.

    Layers 1..first run on the device, first+1..second on the edge, the rest in the cloud. Seconds are those of a frame
    that gets there: `device_link`, `direct_link` and `edge_link` of what is shipped, `first_wait` and `second_wait` of
    the round trips, `final_back` of an answer from the end of the network.
    """

    first: Index
    second: Index
    codec: Index
    second_codec: Index
    input_seconds: Column
    encode: Column
    edge_decode: Column
    second_encode: Column
    cloud_decode: Column
    device_link: Column
    direct_link: Column
    edge_link: Column
    first_wait: Column
    second_wait: Column
    final_back: Column
    bytes: Column
    packet: Column
    quality: Column
    second_quality: Column
    agreement: Column
    second_agreement: Column

    def take(self, kept: Index) -> Rows:
        """The rows `kept`."""
        return Rows(*(getattr(self, column.name)[kept] for column in fields(self)))


@dataclass(frozen=True)
class Grid:
    """The rows of a problem, and what pricing them needs: `place` counts layers from 1, 0 being the input."""

    rows: Rows
    layers: int
    place: Mapping[str, int]
    seconds: Mapping[Tier, Column]
    edge_back: float
    codecs: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, problem: Problem) -> Grid:
        """Lay out the grid of `problem`."""
        graph = problem.graph
        points = (INPUT, *graph.names)
        codecs = (*(problem.codec_names(point) for point in points[:-1]), ())
        uplink = problem.network.links.get("device", NO_LINK)
        return cls(
            rows=_rows(problem, codecs),
            layers=len(graph.layers),
            place={name: index for index, name in enumerate(points)},
            seconds={tier: np.array([layer.seconds.get(tier, 0.0) for layer in graph.layers]) for tier in Tier},
            edge_back=uplink.transfer_seconds(graph.result_bytes),
            codecs=codecs,
        )

    def plan(self, problem: Problem, row: int, exits: Mapping[str, ExitChoice]) -> Plan:
        """The plan of row `row` with the branches' choices `exits`."""
        first, second = int(self.rows.first[row]), int(self.rows.second[row])
        tiers = {
            name: Tier.DEVICE if index < first else Tier.EDGE if index < second else Tier.CLOUD
            for index, name in enumerate(problem.graph.names)
        }
        codecs = {}
        if first < self.layers:
            codecs[Tier.DEVICE.label] = self.codecs[first][int(self.rows.codec[row])]
        if first < second < self.layers:
            codecs[Tier.EDGE.label] = self.codecs[second][int(self.rows.second_codec[row])]
        return Plan(tiers, exits, codecs)


def _cuts(problem: Problem) -> Iterator[tuple[int, int]]:
    """The pairs (first, second) that the tiers at hand and the mode allow."""
    count, tiers = len(problem.graph.layers), problem.available
    for first in range(count + 1) if Tier.DEVICE in tiers else (0,):
        for second in range(first, count + 1) if Tier.EDGE in tiers else (first,):
            finish = Tier.CLOUD if second < count else Tier.EDGE if first < count else Tier.DEVICE
            if finish in tiers and problem.finisher in (None, finish):
                yield first, second


def _rows(problem: Problem, codecs: tuple[tuple[str, ...], ...]) -> Rows:
    count = len(problem.graph.layers)
    blocks: list[NDArray[np.intp]] = []
    for first, second in _cuts(problem):
        # At the output nothing crosses; the table has one codec there that costs nothing.
        one = np.arange(len(codecs[first]) if first < count else 1)
        two = np.arange(len(codecs[second]) if first < second < count else 1)
        mesh = np.meshgrid(one, two, indexing="ij")
        pair = np.full((2, one.size * two.size), [[first], [second]])
        blocks.append(np.concatenate([pair, [axis.ravel() for axis in mesh]]))
    first, second, codec, second_codec = np.concatenate(blocks, axis=1) if blocks else np.zeros((4, 0), dtype=np.intp)
    return _measured(problem, _CodecTable.of(problem, codecs), first, second, codec, second_codec)


@dataclass(frozen=True)
class _CodecTable:
    """Costs by place and codec; after the last layer, and beyond a place's codecs, nothing is sent and all is free."""

    bytes: Column
    encode: Column
    decode: Column
    quality: Column
    agreement: Column

    @classmethod
    def of(cls, problem: Problem, codecs: tuple[tuple[str, ...], ...]) -> _CodecTable:
        graph = problem.graph
        shape = (len(codecs), max(1, *(len(names) for names in codecs)))
        table = cls(np.zeros(shape), np.zeros(shape), np.zeros(shape), np.ones(shape), np.ones(shape))
        for place, (point, names) in enumerate(zip((INPUT, *graph.names), codecs, strict=True)):
            for column, name in enumerate(names):
                cost = graph.codec_cost(point, name)
                table.bytes[place, column] = cost.bytes
                table.encode[place, column] = cost.encode_seconds
                table.decode[place, column] = cost.decode_seconds
                table.quality[place, column] = graph.codec_quality(point, name)
                table.agreement[place, column] = cost.agreement
        return table


def _measured(
    problem: Problem, table: _CodecTable, first: Index, second: Index, codec: Index, second_codec: Index
) -> Rows:
    """Fill in what each row costs."""
    count, network = len(problem.graph.layers), problem.network
    ships, twice, on_edge = first < count, (first < second) & (second < count), first < second
    straight = ships & ~on_edge  # from the device to the cloud
    direct = straight & (network.direct is not None)
    relayed = straight & ~direct & (network.edge_uplink is not None)
    uses_device, uses_edge = ships & ~direct, twice | relayed
    again = np.where(twice, second, count)
    sent, passed = table.bytes[first, codec], table.bytes[again, second_codec]
    over_edge = np.where(twice, passed, sent)
    uplink, edge_uplink, own = (network.links.get(hop, NO_LINK) for hop in ("device", "edge", "direct"))

    def transfer(link: Link, size: Column, used: NDArray[np.bool_]) -> Column:
        return np.where(used, 8.0 * size / link.bits_per_second, 0.0)

    def waits(link: Link, used: NDArray[np.bool_]) -> Column:
        return np.where(used, link.round_trip_seconds, 0.0)

    answer = np.full(first.shape, problem.graph.result_bytes)
    back = transfer(uplink, answer, uses_device) + transfer(edge_uplink, answer, uses_edge)
    back += transfer(own, answer, direct)
    return Rows(
        first=first,
        second=second,
        codec=codec,
        second_codec=second_codec,
        input_seconds=np.where(first > 0, problem.graph.input_seconds.get(Tier.DEVICE, 0.0), 0.0),
        encode=table.encode[first, codec],
        edge_decode=np.where(on_edge, table.decode[first, codec], 0.0),
        second_encode=table.encode[again, second_codec],
        cloud_decode=table.decode[again, second_codec] + np.where(straight, table.decode[first, codec], 0.0),
        device_link=transfer(uplink, sent, uses_device),
        direct_link=transfer(own, sent, direct),
        edge_link=transfer(edge_uplink, over_edge, uses_edge),
        first_wait=waits(uplink, uses_device) + waits(own, direct),
        second_wait=waits(edge_uplink, uses_edge),
        final_back=back,
        bytes=sent,
        packet=np.maximum(sent, passed),
        quality=table.quality[first, codec],
        second_quality=table.quality[again, second_codec],
        agreement=table.agreement[first, codec],
        second_agreement=table.agreement[again, second_codec],
    )
