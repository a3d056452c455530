"""Seconds of every vertex of a network on this machine, and how well their sums agree with whole runs."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from popexd.training.vertices import Network

WARM_UP = 2


@dataclass(frozen=True)
class Timing:
    """Median seconds per vertex, and of runs from the input up to some vertices, the whole network included.

    Attributes:
        seconds: by vertex.
        fronts: by the vertex it ends with, seconds of a run that nothing interrupts.
        sums: by the same, the sum of its vertices' seconds.
    """

    network: Network
    seconds: Mapping[str, float]
    fronts: Mapping[str, float]
    sums: Mapping[str, float]

    @property
    def partition_error(self) -> float:
        """Mean distance of the sums from the runs, as a share."""
        return statistics.fmean(abs(self.sums[end] / self.fronts[end] - 1) for end in self.fronts)

    @property
    def whole_error(self) -> float:
        """How far the sum of all vertices is above (or below) a run of the whole network, as a share."""
        end = self.network.vertices[-1].name
        return self.sums[end] / self.fronts[end] - 1


def measure(network: Network, seconds: float = 3.0, fronts: int = 4) -> Timing:
    """Run the network for about `seconds`, half of it vertex by vertex, half in one piece up to several cuts.

    Partitions are measured beside layers because a run of layers is not the sum of its layers (PORTEND, ICPADS 2023).
    """
    image = network.image()
    with torch.inference_mode():
        by_node: dict[str, list[float]] = defaultdict(list)
        stopwatch = _Stopwatch(network.traced, by_node)
        _repeat(lambda: stopwatch.run(image), seconds / 2)
        medians = {name: statistics.median(times[WARM_UP:] or times) for name, times in by_node.items()}
        each = {vertex.name: sum(medians.get(node, 0.0) for node in vertex.nodes) for vertex in network.vertices}
        ends = _ends(network, fronts)
        runs = {end: _front(network, end, image, seconds / 2 / len(ends)) for end in ends}
    order = [vertex.name for vertex in network.vertices]
    needed = {end: _ancestors(network, end) for end in ends}
    sums = {end: sum(each[name] for name in order if name in needed[end]) for end in ends}
    return Timing(network, each, runs, sums)


class _Stopwatch(fx.Interpreter):
    """Notes how long each node takes."""

    def __init__(self, traced: fx.GraphModule, times: dict[str, list[float]]) -> None:
        super().__init__(traced)
        self.times = times

    def run_node(self, n: fx.Node) -> Any:
        """Run one node, timed."""
        started = time.perf_counter()
        found = super().run_node(n)
        self.times[n.name].append(time.perf_counter() - started)
        return found


def _repeat(work: Any, seconds: float) -> list[float]:
    """Do `work` for about so long, at least a few times; return how long each took."""
    times: list[float] = []
    ends = time.perf_counter() + seconds
    while len(times) < WARM_UP + 3 or time.perf_counter() < ends:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return times


def _ends(network: Network, count: int) -> list[str]:
    """Cuts at even distances, and the end."""
    cuts = network.cut_vertices
    chosen = [cuts[len(cuts) * index // count] for index in range(1, count)] if cuts else []
    return list(dict.fromkeys([*chosen, network.vertices[-1].name]))


def _ancestors(network: Network, end: str) -> set[str]:
    parents = {vertex.name: vertex.after for vertex in network.vertices}
    found: set[str] = set()
    queue = [end]
    while queue:
        name = queue.pop()
        if name in parents and name not in found:
            found.add(name)
            queue += parents[name]
    return found


def _front(network: Network, end: str, image: torch.Tensor, seconds: float) -> float:
    """Median seconds of running from the input up to and with a vertex, as one compiled piece."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    last = next(vertex for vertex in network.vertices if vertex.name == end).nodes[-1]
    for node in network.traced.graph.nodes:
        copies[node] = graph.node_copy(node, lambda each: copies[each])
        if node.name == last:
            graph.output(copies[node])
            break
    graph.eliminate_dead_code()
    front = fx.GraphModule(network.traced, graph)
    times = _repeat(lambda: front(image), seconds)
    return statistics.median(times[WARM_UP:])
