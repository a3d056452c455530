"""Minimum s-t cuts in whole numbers by Dinic's algorithm; of all minimum cuts the one that leaves the source most."""

from __future__ import annotations

from collections.abc import Hashable

FOREVER = 1 << 62
"""A capacity that no cut of finite cost contains."""

SOURCE: Hashable = ("source",)
SINK: Hashable = ("sink",)


class FlowNetwork:
    """A directed graph with whole-number capacities between a source and a sink.

    Whole numbers, because with floats the residual graph keeps crumbs and the sides come out wrong although the value
    is right (12 of 400 random graphs, spec B.3).
    """

    def __init__(self) -> None:
        self._index: dict[Hashable, int] = {}
        self._arcs: list[list[int]] = []
        self._head: list[int] = []
        self._left: list[int] = []
        self.source = self.node(SOURCE)
        self.sink = self.node(SINK)

    def node(self, name: Hashable) -> int:
        """Number of the node called `name`, made if need be."""
        if name not in self._index:
            self._index[name] = len(self._arcs)
            self._arcs.append([])
        return self._index[name]

    def arc(self, tail: Hashable, head: Hashable, capacity: int) -> None:
        """Add an arc; one that carries nothing is left out."""
        if capacity <= 0:
            return
        first, last = self.node(tail), self.node(head)
        self._arcs[first].append(len(self._head))
        self._arcs[last].append(len(self._head) + 1)
        self._head += [last, first]
        self._left += [capacity, 0]

    def cut(self) -> tuple[int, set[Hashable]]:
        """Return the value of the minimum cut, and all nodes but those that can still reach the sink.

        O(n^2 a) for n nodes and a arcs at worst; each of Dinic's phases lengthens the shortest path left.
        """
        value = 0
        while (levels := self._levels())[self.source] > 0:
            at = [0] * len(self._arcs)
            while pushed := self._augment(levels, at):
                value += pushed
        return value, {name for name, number in self._index.items() if levels[number] < 0}

    def _levels(self) -> list[int]:
        """Hops to the sink in what is left; -1 where there is no way."""
        arcs, head, left = self._arcs, self._head, self._left
        levels = [-1] * len(arcs)
        levels[self.sink] = 0
        queue = [self.sink]
        for node in queue:
            following = levels[node] + 1
            for arc in arcs[node]:
                if left[arc ^ 1] and levels[head[arc]] < 0:
                    levels[head[arc]] = following
                    queue.append(head[arc])
        return levels

    def _augment(self, levels: list[int], at: list[int]) -> int:
        """Push along one path down the levels; 0 where there is none left."""
        arcs, head, left, sink = self._arcs, self._head, self._left, self.sink
        path: list[int] = []
        node = self.source
        while node != sink:
            mine, place = arcs[node], at[node]
            while place < len(mine):
                arc = mine[place]
                if left[arc] and levels[head[arc]] == levels[node] - 1:
                    break
                place += 1
            at[node] = place
            if place < len(mine):
                path.append(mine[place])
                node = head[mine[place]]
            elif path:
                node = head[path.pop() ^ 1]
                at[node] += 1
            else:
                return 0
        pushed = min(left[arc] for arc in path)
        for arc in path:
            left[arc] -= pushed
            left[arc ^ 1] += pushed
        return pushed
