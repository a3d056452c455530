"""A link with a rate, a delay and faults; messages cross it one after the other."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from popexd.simulation.clock import Clock


@dataclass
class Faults:
    """Shares of messages that are lost, come twice, or are held up; and how long at most."""

    lost: float = 0.0
    twice: float = 0.0
    held: float = 0.0
    held_seconds: float = 0.5


class SimulatedLink:
    """One direction: `8 bytes / rate` of serialisation, then `delay_seconds` and up to `jitter_seconds` more.

    While `cut` nothing moves, and what was under way comes late: that is what a stalled TCP connection does. `drop`
    loses what is under way, as a broken connection does.
    """

    def __init__(
        self,
        clock: Clock,
        chance: random.Random,
        bits_per_second: float,
        delay_seconds: float,
        jitter_seconds: float = 0.0,
    ) -> None:
        self.bits_per_second = bits_per_second
        self.delay_seconds = delay_seconds
        self.jitter_seconds = jitter_seconds
        self.faults = Faults()
        self.cut = False
        self._clock = clock
        self._chance = chance
        self._free_at = 0.0
        self._last_arrival = 0.0
        self._stalled: list[tuple[int, Callable[[], None], bool]] = []
        self._era = 0

    def send(self, size_bytes: int, arrive: Callable[[], None]) -> None:
        """Carry a message; `arrive` happens when and if it gets there."""
        self._send(size_bytes, arrive, reliable=False)

    def send_in_order(self, size_bytes: int, arrive: Callable[[], None]) -> None:
        """Carry a message that only a broken connection can lose, and nothing can overtake or double."""
        self._send(size_bytes, arrive, reliable=True)

    def _send(self, size_bytes: int, arrive: Callable[[], None], reliable: bool) -> None:
        if self.cut:
            self._stalled.append((size_bytes, arrive, reliable))
            return
        chance, faults = self._chance, Faults() if reliable else self.faults
        self._free_at = max(self._free_at, self._clock.now) + 8.0 * size_bytes / self.bits_per_second
        if faults.lost and chance.random() < faults.lost:
            return
        jitter = self.jitter_seconds * chance.random() if self.jitter_seconds else 0.0
        self._last_arrival = max(self._last_arrival, self._free_at + self.delay_seconds + jitter)
        for _ in range(2 if faults.twice and chance.random() < faults.twice else 1):
            held = chance.uniform(0, faults.held_seconds) if faults.held and chance.random() < faults.held else 0.0
            self._clock.at(self._last_arrival + held, self._arrival(size_bytes, arrive, reliable))

    def _arrival(self, size_bytes: int, arrive: Callable[[], None], reliable: bool) -> Callable[[], None]:
        era = self._era

        def happen() -> None:
            if era != self._era:
                return
            if self.cut:
                self._stalled.append((size_bytes, arrive, reliable))
            else:
                arrive()

        return happen

    def restore(self) -> None:
        """End a cut; what was held up goes on its way."""
        self.cut = False
        stalled, self._stalled = self._stalled, []
        for size_bytes, arrive, reliable in stalled:
            self._send(size_bytes, arrive, reliable)

    def drop(self) -> None:
        """Lose everything that is under way."""
        self._era += 1
        self._stalled.clear()
        self._free_at = self._last_arrival = self._clock.now
