"""Seconds of every vertex of a network on this machine, and how well their sums agree with whole runs."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from popexd.training.vertices import Network

WARM_UP = 2
LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Timing:
    """Seconds per vertex, and of runs from the input up to some vertices, the whole network included.

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


def measure(network: Network, seconds: float = 3.0, fronts: int = 4, threads: int = 0) -> Timing:
    """Run the network for about `seconds`, in turns vertex by vertex and in one piece up to several cuts.

    `threads` 0 leaves their number to torch; with one, the thread's own time counts, so other programs do not.

    Partitions are measured beside layers because a run of layers is not the sum of its layers (PORTEND, ICPADS 2023).
    """
    if threads:
        torch.set_num_threads(threads)
    image = network.image()
    ends = _ends(network, fronts)
    pieces = {end: _front(network, end) for end in ends}
    by_node: dict[str, list[float]] = defaultdict(list)
    by_end: dict[str, list[float]] = defaultdict(list)
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    stopwatch = _Stopwatch(network.traced, by_node, clock)
    until, rounds = time.perf_counter() + seconds, 0
    with torch.inference_mode():
        # Taking turns, so that a machine that is busy with other things slows all alike.
        while rounds < WARM_UP + LEAST_ROUNDS or time.perf_counter() < until:
            stopwatch.run(image)
            for end, piece in pieces.items():
                started = clock()
                piece(image)
                by_end[end].append(clock() - started)
            rounds += 1
    nodes = {name: _undisturbed(times) for name, times in by_node.items()}
    runs = {end: _undisturbed(times) for end, times in by_end.items()}
    each = {vertex.name: sum(nodes.get(node, 0.0) for node in vertex.nodes) for vertex in network.vertices}
    order = [vertex.name for vertex in network.vertices]
    needed = {end: _ancestors(network, end) for end in ends}
    sums = {end: sum(each[name] for name in order if name in needed[end]) for end in ends}
    return Timing(network, each, runs, sums)


class _Stopwatch(fx.Interpreter):
    """Notes how long each node takes."""

    def __init__(self, traced: fx.GraphModule, times: dict[str, list[float]], clock: Callable[[], float]) -> None:
        super().__init__(traced)
        self.times = times
        self.clock = clock

    def run_node(self, n: fx.Node) -> Any:
        """Run one node, timed."""
        started = self.clock()
        found = super().run_node(n)
        self.times[n.name].append(self.clock() - started)
        return found


def _undisturbed(times: list[float]) -> float:
    """The lower quartile: what it takes while nothing else runs, even if something does at times."""
    kept = sorted(times[WARM_UP:])
    return kept[len(kept) // 4]


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


def _front(network: Network, end: str) -> fx.GraphModule:
    """Everything from the input up to and with a vertex, as one piece."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    last = next(vertex for vertex in network.vertices if vertex.name == end).nodes[-1]
    for node in network.traced.graph.nodes:
        copies[node] = graph.node_copy(node, lambda each: copies[each])
        if node.name == last:
            graph.output(copies[node])
            break
    front = fx.GraphModule(network.traced, graph)
    front.graph.eliminate_dead_code()
    front.recompile()
    return front
