"""What the rows of a layout cost on one graph and network, as columns of numbers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from popexd.network import Link, NetworkState
from popexd.profile import INPUT, LayerGraph
from popexd.solvers.lattice import Sets
from popexd.solvers.layout import Column, Index, Layout

NO_LINK = Link(1.0)
"""Stands in where there is no link: what would cross it has no rows."""


@dataclass(frozen=True)
class CodecTable:
    """Costs by point and codec, [points, codecs + 1]; the last codec is none at all and free.

    `quality` and `agreement` are logarithms.
    """

    bytes: Column
    encode: Column
    decode: Column
    quality: Column
    agreement: Column

    @classmethod
    def of(cls, layout: Layout, graph: LayerGraph) -> CodecTable:
        """Look up what every codec of the layout costs at every point."""
        costs = []
        for point, names in zip((INPUT, *graph.names), layout.shape.codecs, strict=True):
            for name in names:
                cost, quality = graph.codec_cost(point, name), graph.codec_quality(point, name)
                costs.append((cost.bytes, cost.encode_seconds, cost.decode_seconds, quality, cost.agreement))
        found = np.zeros((5, len(layout.shape.codecs), len(layout.names) + 1))
        columns = np.array(costs, dtype=np.float64).reshape(-1, 5).T
        columns[3:] = np.log(np.maximum(columns[3:], 1e-300))
        points, codecs = layout.entries
        found[:, points, codecs] = columns
        return cls(*found)


@dataclass(frozen=True)
class Rows:
    """One row per placement and codecs; seconds of a frame that gets there, by stage.

    `encode`, the links up to `direct_link` and `edge_decode` are paid by frames that leave the device, the others by
    those that no branch answers. `final_back` is the answer's way from the end of the network.
    """

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

    @classmethod
    def of(cls, layout: Layout, graph: LayerGraph, network: NetworkState) -> Rows:
        """Price every row of the layout."""
        return _Pricing(layout, graph, network).rows()

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

    @cached_property
    def sending(self) -> Column:
        """Seconds that the device's links are busy."""
        return self.device_link + self.direct_link

    @cached_property
    def jitter(self) -> bool:
        """Whether any row crosses a link whose time is spread."""
        return bool(self.first_variance.any() or self.second_variance.any())


class _Pricing:
    """What crosses each hop, with which codec, and what that takes."""

    def __init__(self, layout: Layout, graph: LayerGraph, network: NetworkState) -> None:
        self.layout, self.graph = layout, graph
        self.table = CodecTable.of(layout, graph)
        self.link = {hop: network.links.get(hop, NO_LINK) for hop in layout.uses}

    def first(self, sent: Sets, costs: Column) -> Column:
        """Costs of all that is `sent` with the device's codec, by row."""
        found: Column = (sent.astype(np.float64) @ costs)[self.layout.pair, self.layout.codec]
        return found

    def second(self, costs: Column) -> Column:
        """Costs of all that the edge passes on with its own codec, by row."""
        found: Column = (self.layout.passed.astype(np.float64) @ costs)[self.layout.pair, self.layout.second_codec]
        return found

    def loads(self) -> dict[str, Column]:
        """Bytes per hop."""
        layout, size = self.layout, self.table.bytes
        to_cloud = self.first(layout.to_cloud, size)
        straight = "device" in layout.shape.route
        return {
            "device": self.first(layout.shipped if straight else layout.to_edge, size),
            "direct": to_cloud * ("direct" in layout.shape.route),
            "edge": self.second(size) + to_cloud * ("edge" in layout.shape.route),
        }

    def rows(self) -> Rows:
        """Put the columns together."""
        layout, table, loads = self.layout, self.table, self.loads()
        busy = {hop: 8.0 * load / self.link[hop].bits_per_second for hop, load in loads.items()}
        only_cloud = layout.to_cloud & ~layout.to_edge
        return Rows(
            encode=self.first(layout.shipped, table.encode),
            device_link=busy["device"],
            direct_link=busy["direct"],
            edge_decode=self.first(layout.to_edge, table.decode),
            second_encode=self.second(table.encode),
            edge_link=busy["edge"],
            cloud_decode=self.first(layout.to_cloud, table.decode) + self.second(table.decode),
            first_wait=self.met_once(("device", "direct"), "round_trip_seconds"),
            second_wait=self.met_once(("edge",), "round_trip_seconds"),
            first_variance=self.met_once(("device", "direct"), "jitter_seconds", 2),
            second_variance=self.met_once(("edge",), "jitter_seconds", 2),
            final_back=self.final_back(),
            bytes=loads["device"] + loads["direct"],
            packet=np.maximum.reduce(list(loads.values())),
            quality=np.exp(self.first(layout.to_edge, table.quality)),
            second_quality=np.exp(self.first(only_cloud, table.quality) + self.second(table.quality)),
            agreement=np.exp(self.first(layout.shipped, table.agreement) + self.second(table.agreement)),
        )

    def met_once(self, hops: tuple[str, ...], figure: str, power: int = 1) -> Column:
        """What a frame meets once on each of these hops that it crosses."""
        found = np.zeros(len(self.layout.pair))
        for hop in hops:
            found += self.layout.uses[hop] * getattr(self.link[hop], figure) ** power
        return found

    def final_back(self) -> Column:
        """Seconds of the final answer's way: over the direct link if something came by it, else the way it came."""
        layout, uses = self.layout, self.layout.uses
        back = {hop: link.transfer_seconds(self.graph.result_bytes) for hop, link in self.link.items()}
        relayed = uses["device"] * back["device"] + uses["edge"] * back["edge"]
        from_cloud = np.where(uses["direct"], back["direct"], relayed)
        below = np.where(layout.edge_works[layout.pair], back["device"], 0.0)
        found: Column = np.where(layout.into_cloud, from_cloud, below)
        return found
