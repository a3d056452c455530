"""The order in which layers can run."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from popexd.errors import ProfileError


class Vertex(Protocol):
    """A layer, as far as its place goes."""

    @property
    def name(self) -> str:
        """Its own name."""

    @property
    def after(self) -> tuple[str, ...]:
        """The layers it reads; names that are no layer's, such as the input's, count as there from the start."""


V = TypeVar("V", bound=Vertex)


def topological(layers: Sequence[V]) -> tuple[V, ...]:
    """Order by Kahn, always the earliest-given layer that is ready.

    Raises:
        ProfileError: a cycle.
    """
    place = {layer.name: index for index, layer in enumerate(layers)}
    waiting = [sum(parent in place for parent in layer.after) for layer in layers]
    readers: list[list[int]] = [[] for _ in layers]
    for index, layer in enumerate(layers):
        for parent in layer.after:
            if parent in place:
                readers[place[parent]].append(index)
    ready = [index for index, count in enumerate(waiting) if count == 0]
    ordered: list[V] = []
    while ready:
        index = heapq.heappop(ready)
        ordered.append(layers[index])
        for reader in readers[index]:
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, reader)
    if len(ordered) < len(layers):
        index = _on_cycle(layers, {index for index, count in enumerate(waiting) if count > 0}, place)
        raise ProfileError(f"layers[{index}].after: a cycle through {layers[index].name!r}, expected none")
    return tuple(ordered)


def _on_cycle(layers: Sequence[Vertex], stuck: set[int], place: Mapping[str, int]) -> int:
    """A layer on a cycle: from any stuck layer, each has a stuck parent to step to, until one comes again."""
    index, seen = min(stuck), set[int]()
    while index not in seen:
        seen.add(index)
        index = next(place[parent] for parent in layers[index].after if place.get(parent) in stuck)
    return index
