"""A virtual clock: what is to happen, in order of its instant; equal instants in the order they were planned."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable


class Clock:
    """`at` plans, `run` lets it happen; nothing else moves time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._planned: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, instant: float, action: Callable[[], None]) -> None:
        """Let `action` happen at `instant`, at once if that has passed."""
        heapq.heappush(self._planned, (max(instant, self.now), next(self._order), action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Let `action` happen `seconds` from now."""
        self.at(self.now + seconds, action)

    def run(self, until: float) -> None:
        """Let everything happen that is planned up to `until`."""
        while self._planned and self._planned[0][0] <= until:
            self.now, _, action = heapq.heappop(self._planned)
            action()
        self.now = max(self.now, until)
