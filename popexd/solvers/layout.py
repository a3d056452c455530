"""Which placements, codecs and exits a problem offers, whatever they cost: the same for one replan after the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from popexd.plan import Tier
from popexd.profile import INPUT
from popexd.solvers.lattice import Sets, TooWide, lower_sets, nested_pairs
from popexd.solvers.problem import Problem

Column = NDArray[np.float64]
Index = NDArray[np.intp]

MAX_CUTS = 20_000
MAX_CELLS = 25_000_000
"""Pairs of cuts times tensors that it is willing to hold in memory."""


@dataclass(frozen=True)
class Shape:
    """All that a layout depends on. Points are what can be shipped: the input, then the layers' outputs.

    Attributes:
        reads: by layer, the points that it reads.
        hosts: by branch, the layer that it is after.
        able: by branch, whether it can run on each tier.
        codecs: by point, the codecs that may ship it.
        tiers: those that may run layers.
        finisher: the only one that may answer frames, if pinned.
        route: the hops from the device to the cloud.
    """

    reads: tuple[tuple[int, ...], ...]
    hosts: tuple[int, ...]
    able: tuple[tuple[bool, ...], ...]
    codecs: tuple[tuple[str, ...], ...]
    tiers: tuple[Tier, ...]
    finisher: Tier | None
    route: tuple[str, ...]

    @classmethod
    def of(cls, problem: Problem) -> Shape:
        """Read it off a problem."""
        graph = problem.graph
        place = {name: index for index, name in enumerate((INPUT, *graph.names))}
        return cls(
            reads=tuple(tuple(place[parent] for parent in layer.after) for layer in graph.layers),
            hosts=tuple(place[branch.after] - 1 for branch in graph.exits),
            able=tuple(tuple(problem.can_run(branch, tier) for tier in Tier) for branch in graph.exits),
            codecs=tuple(problem.codec_names(point) for point in place),
            tiers=problem.available,
            finisher=problem.finisher,
            route=problem.network.route(Tier.DEVICE, Tier.CLOUD) or (),
        )


@dataclass(frozen=True)
class Kind:
    """Placements in which frames meet the branches in one order.

    Attributes:
        device: the branches that are met on the device, as places among the graph's.
        edge: those on the edge.
        barred: [pairs, m], which of these branches cannot run after all; None where all can.
        pairs: the placements, as rows of the layout's.
        rows: the layout's rows of these placements, placements in order.
        local: of each row, its placement's place among `pairs`.
        inside: by tier, [pairs, layers], which layers are there.
        after: by tier, how many of the branches a frame has met before each layer.
    """

    device: tuple[int, ...]
    edge: tuple[int, ...]
    barred: Sets | None
    pairs: Index
    rows: Index
    local: Index
    inside: dict[Tier, Sets]
    after: dict[Tier, Index]

    @property
    def exits(self) -> tuple[int, ...]:
        """The branches in the order in which frames meet them."""
        return (*self.device, *self.edge)


class Layout:
    """One pair of cuts per placement of the layers, one row per placement and codecs.

    Attributes:
        low, mid: [pairs, layers], those on the device, and those there or on the edge.
        to_edge, to_cloud, passed: [pairs, points], the tensors that go from the device to the edge, from the device to
            the cloud, from the edge to the cloud; `shipped` the first two.
        edge_works: [pairs], whether the edge runs any layer.
        names: the codecs; one further column everywhere stands for none at all.
        entries: which (point, codec) there are, as two columns.
        pair, codec, second_codec: by row, its placement, and the codecs of the device and the edge.
        kinds: the placements by which branches can run where.

    Raises:
        TooWide: more than are worth listing.
    """

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        parents = [[point - 1 for point in points if point] for points in shape.reads]
        sets = lower_sets(parents, MAX_CUTS)
        first, second = self._allowed(sets)
        if len(first) * (len(shape.reads) + 1) > MAX_CELLS:
            raise TooWide
        self.low, self.mid = sets[first], sets[second]
        self.edge_works = first != second
        readers = sets.astype(np.float32) @ self._reads.T  # of each point, how many are within the set
        below = np.concatenate([np.ones((len(sets), 1), dtype=bool), sets], axis=1)
        leaves = below & (readers < self._reads.sum(axis=1))
        made, out = below[first], leaves[second]
        self.to_edge: Sets = made & (readers[second] > readers[first])
        self.to_cloud: Sets = out & made
        self.passed: Sets = out & ~made
        self.shipped: Sets = self.to_edge | self.to_cloud
        self.names = tuple(dict.fromkeys(name for names in shape.codecs for name in names))
        column = {name: index for index, name in enumerate(self.names)}
        self.entries = (
            np.array([row for row, names in enumerate(shape.codecs) for _ in names], dtype=np.intp),
            np.array([column[name] for names in shape.codecs for name in names], dtype=np.intp),
        )
        codecs, edge_codecs = self._usable(self.shipped), self._usable(self.passed)
        self.pair, self.codec, self.second_codec = np.nonzero(codecs[:, :, None] & edge_codecs[:, None, :])
        self.kinds = self._kinds()

    @cached_property
    def _reads(self) -> NDArray[np.float32]:
        found = np.zeros((len(self.shape.reads) + 1, len(self.shape.reads)), dtype=np.float32)
        for layer, points in enumerate(self.shape.reads):
            found[list(points), layer] = 1
        return found

    def _allowed(self, sets: Sets) -> tuple[Index, Index]:
        """The pairs (first, second): none above where there is no tier, all ends where the mode pins them."""
        tiers, finisher = self.shape.tiers, self.shape.finisher
        empty: Sets = np.asarray(~sets.any(axis=1))
        full: Sets = np.asarray(sets.all(axis=1))
        if Tier.EDGE in tiers:
            first, second = nested_pairs(sets, MAX_CELLS // (len(self.shape.reads) + 1))
        else:
            first = second = np.arange(len(sets))
        kept = np.ones(len(first), dtype=bool)
        if Tier.DEVICE not in tiers:
            kept &= empty[first]
        if Tier.CLOUD not in tiers:
            kept &= full[second]
        if finisher is not None:
            ends = sets[:, ~self._reads[1:].any(axis=1)]
            low, mid = ends[first], ends[second]
            on = {Tier.DEVICE: low, Tier.EDGE: mid & ~low, Tier.CLOUD: ~mid}[finisher]
            kept &= on.all(axis=1)
        rows = np.flatnonzero(kept)
        return first[rows], second[rows]

    def _usable(self, sent: Sets) -> Sets:
        """Which codecs can encode all that is `sent`, [pairs, codecs + 1]; none exactly where nothing is."""
        unable = np.ones((sent.shape[1], len(self.names) + 1), dtype=np.float32)
        unable[self.entries] = 0
        some: Sets = np.asarray(sent.any(axis=1))
        found: Sets = some[:, None] & ~(sent.astype(np.float32) @ unable > 0)
        found[:, -1] = ~some
        return found

    @cached_property
    def uses(self) -> dict[str, Sets]:
        """By hop, which rows send something over it."""
        out, up, onwards = (
            np.asarray(sent.any(axis=1))[self.pair] for sent in (self.to_edge, self.to_cloud, self.passed)
        )
        route = self.shape.route
        return {
            "device": out | (up & ("device" in route)),
            "direct": up & ("direct" in route),
            "edge": onwards | (up & ("edge" in route)),
        }

    @cached_property
    def into_cloud(self) -> Sets:
        """Which rows send anything to the cloud."""
        return np.asarray((self.to_cloud | self.passed).any(axis=1))[self.pair]

    def _kinds(self) -> tuple[Kind, ...]:
        hosts, able = list(self.shape.hosts), np.array(self.shape.able, dtype=bool).reshape(-1, len(Tier))
        tier = np.where(self.low[:, hosts], Tier.DEVICE, np.where(self.mid[:, hosts], Tier.EDGE, Tier.CLOUD))
        runs: Sets = able[np.arange(len(hosts)), tier.astype(np.intp)]
        # Without the edge the order is the graph's, whatever is barred; with it, each set of branches has its own.
        code = np.where(runs, tier, int(Tier.CLOUD)) if Tier.EDGE in self.shape.tiers else np.zeros_like(tier)
        if hosts:
            codes, kind_of = np.unique(code, axis=0, return_inverse=True)
        else:
            codes, kind_of = code[:1], np.zeros(len(code), np.intp)
        starts = np.searchsorted(self.pair, np.arange(len(self.low) + 1))
        sizes = np.diff(starts)
        found = []
        for index, tiers in enumerate(codes):
            chosen = np.flatnonzero((kind_of.reshape(-1) == index) & (sizes > 0))
            if chosen.size:
                local = np.repeat(np.arange(len(chosen)), sizes[chosen])
                begins = np.cumsum(sizes[chosen]) - sizes[chosen]
                rows = np.arange(len(local)) + (starts[chosen] - begins)[local]
                found.append(self._kind(tiers, chosen, rows, local, ~runs[chosen]))
        return tuple(found)

    def _kind(self, tiers: NDArray[np.int_], pairs: Index, rows: Index, local: Index, idle: Sets) -> Kind:
        device, edge = (np.flatnonzero(tiers == tier).tolist() for tier in (Tier.DEVICE, Tier.EDGE))
        barred = idle[:, device + edge]
        own = np.arange(len(self.shape.reads))
        hosts = np.array(self.shape.hosts, dtype=np.intp)
        met = [(own[:, None] > hosts[part][None, :]).sum(axis=1) for part in (device, edge)]
        low, mid = self.low[pairs], self.mid[pairs]
        return Kind(
            device=tuple(device),
            edge=tuple(edge),
            barred=barred if barred.any() else None,
            pairs=pairs,
            rows=rows,
            local=local,
            inside={Tier.DEVICE: low, Tier.EDGE: mid & ~low, Tier.CLOUD: ~mid},
            after={
                Tier.DEVICE: met[0],
                Tier.EDGE: len(device) + met[1],
                Tier.CLOUD: np.full(len(own), len(device) + len(edge)),
            },
        )


@lru_cache(maxsize=4)
def layout(shape: Shape) -> Layout:
    """Lay out a shape; a daemon has one per tier that can take over, and one for itself alone.

    Raises:
        TooWide: it has more placements than are worth listing.
    """
    return Layout(shape)
