"""Synthetic links, and what an estimator makes of what crosses them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from popexd.estimators import LinkEstimator, LinkSample

PING = 64


@dataclass(frozen=True)
class TrueLink:
    """A link as it is: `jitter` is the usual spread of the round trip, `unsteady` of the rate, as shares."""

    bits_per_second: float
    round_trip: float
    jitter: float = 0.0
    unsteady: float = 0.0

    def crossing(self, chance: random.Random, size: int) -> float:
        """Seconds of one message there and back."""
        late = chance.expovariate(1 / self.jitter) if self.jitter else 0.0
        pace = max(0.6, chance.gauss(1, self.unsteady))
        return self.round_trip * (1 + late) + pace * 8 * size / self.bits_per_second


def any_link(chance: random.Random, jitter: float = 0.1) -> TrueLink:
    """Draw a link from 0.2 to 50 Mbit/s and 2 to 100 ms."""
    return TrueLink(10 ** chance.uniform(5.3, 7.7), 10 ** chance.uniform(-2.7, -1), jitter, jitter / 2)


Sizes = Callable[[random.Random, TrueLink, int], int]


def _bytes_of_a_round_trip(link: TrueLink) -> float:
    return link.bits_per_second * max(link.round_trip, 0.005) / 8


def varied(chance: random.Random, link: TrueLink, _index: int) -> int:
    """Tensors and frames of all sizes, none small, some that take longer than the round trip."""
    return int(max(1_500, _bytes_of_a_round_trip(link) * 10 ** chance.uniform(-0.7, 0.7)))


def small_and_pings(chance: random.Random, link: TrueLink, index: int) -> int:
    """Small tensors of about one size, and a ping between them."""
    return PING if index % 3 == 0 else int(_bytes_of_a_round_trip(link) * chance.uniform(0.4, 0.6)) + 1_500


def probes(_chance: random.Random, link: TrueLink, index: int) -> int:
    """Trains of probes and nothing else."""
    return PING if index % 3 < 2 else int(0.6 * _bytes_of_a_round_trip(link)) + 2_048


KINDS: dict[str, Sizes] = {"varied": varied, "small and pings": small_and_pings, "probes": probes}


class Traffic:
    """Messages over a link, one every `gap` seconds, told to an estimator."""

    def __init__(self, link: TrueLink, sizes: Sizes, chance: random.Random, gap: float = 0.2) -> None:
        self.link = link
        self.estimator = LinkEstimator()
        self.now = 0.0
        self.changes: list[int] = []
        self._drawn_for = link
        self._sizes = sizes
        self._chance = chance
        self._gap = gap
        self._index = 0

    def becomes(self, rate: float = 1.0, round_trip: float = 1.0) -> None:
        """Let the link change by these factors; what is sent over it stays as it was."""
        self.link = replace(
            self.link,
            bits_per_second=rate * self.link.bits_per_second,
            round_trip=round_trip * self.link.round_trip,
        )

    def go_on(self, count: int) -> list[int]:
        """Send `count` messages; return after how many the estimator noticed a change of the link."""
        noticed = []
        for number in range(1, count + 1):
            self.now += self._gap
            size = self._sizes(self._chance, self._drawn_for, self._index)
            self._index += 1
            known = self.estimator.rate(0.5) is not None
            changed = self.estimator.add(LinkSample(size, self.link.crossing(self._chance, size), self.now))
            if changed and known:
                noticed.append(number)
        return noticed

    @property
    def published(self) -> float:
        """Published rate over the true one."""
        link = self.estimator.link()
        assert link is not None
        return link.bits_per_second / self.link.bits_per_second
