"""What messages that crossed a link tell about it."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from popexd.network import Link

_SMALL_BYTES = 1024
"""A message up to this size tells the round trip and nothing of the rate."""
_TELLING_BYTES = 32_768
"""A message from this size on tells of the rate whatever the round trip: on a link this fast it matters no more."""

_FACTOR = 1.6
_SLOWER_SECONDS, _FASTER_SECONDS = 0.002, 0.001
_SLOWER_SPREADS, _FASTER_SPREADS = 3.5, 2.0
"""A sample contradicts the estimate when it is off by the factor, by the seconds and by so many times the usual spread.

Nothing crosses a link sooner than it can, but anything may hold a message up: so being faster is the better evidence.
"""
_EVIDENCE = 3.0
"""Contradictions in a row, each counted by how strong it is and as two at most, that make a change of the link."""
_FEWEST = 4
"""So many larger messages tell round trip and rate apart where no small one does; fewer contradict nothing."""

_UNANSWERED = "unanswered"


@dataclass(frozen=True, slots=True)
class LinkSample:
    """One message there and back: its bytes, and the seconds it took less the far side's own time."""

    bytes: int
    seconds: float
    at: float
    source: str = "passive"


@dataclass(frozen=True, slots=True)
class _Fit:
    """What the samples add up to; `rates` are (bits per second, weight), ascending."""

    round_trip: float
    rates: Sequence[tuple[float, float]]

    def rate(self, quantile: float) -> float:
        return _quantile(self.rates, quantile)


class LinkEstimator:
    """Robust estimate of one hop from messages that crossed it.

    The model is ``seconds = round trip + 8 bytes / rate``. Messages that are small, or small for this link, give the
    round trip (median); the others the rate: a byte-weighted quantile over the samples since the last change. Planning
    on a low quantile keeps a plan good in the slower part of what the link does. `rate_told_at` and
    `round_trip_told_at` are when the last message told of them; a message of `telling_bytes` always does.
    """

    def __init__(self, quantile: float = 0.25, window_seconds: float = 120.0, capacity: int = 32) -> None:
        self.quantile = quantile
        self.window_seconds = window_seconds
        self._small: deque[LinkSample] = deque(maxlen=9)
        self._large: deque[LinkSample] = deque(maxlen=capacity)
        self._doubts = (_Doubt(), _Doubt())  # of the round trip, of the rate
        self._deviations: deque[float] = deque(maxlen=48)
        self._old_round_trip: float | None = None
        self.telling_bytes = _TELLING_BYTES
        self.rate_told_at = float("-inf")
        self.round_trip_told_at = float("-inf")
        self._speedtest: LinkSample | None = None
        self._last: LinkSample | None = None
        self._known: _Fit | None = None

    def reset(self) -> None:
        """Forget everything, as after an outage: what comes back may be another link."""
        telling_bytes = self.telling_bytes
        self.__init__(self.quantile, self.window_seconds, self._large.maxlen or 32)  # type: ignore[misc]
        self.telling_bytes = telling_bytes

    # ------------------------------------------------------------------------------------------ what is known

    @property
    def round_trip_seconds(self) -> float:
        """Seconds that even the smallest message takes."""
        if self._large:
            return self._fit().round_trip
        return statistics.median(sample.seconds for sample in self._small) if self._small else 0.0

    def rate(self, quantile: float) -> float | None:
        """Return a quantile of the rate, bits per second; None before a message that tells."""
        if self._large:
            return self._fit().rate(quantile)
        return self._speedtest.bytes * 8.0 / self._speedtest.seconds if self._speedtest else None

    @property
    def in_doubt(self) -> bool:
        """Whether the last message contradicts the estimate and a probe would settle it."""
        return any(doubt.samples for doubt in self._doubts)

    def link(self) -> Link | None:
        """Return the estimate to plan on; None while nothing is known."""
        rate = self.rate(self.quantile)
        if rate is None or self._last is None:
            return None
        return Link(rate, self.round_trip_seconds, self._last.source, self._last.at)

    def _fit(self) -> _Fit:
        if self._known is None:
            self._known = self._fitted()
        return self._known

    def _fitted(self) -> _Fit:
        round_trip = statistics.median(s.seconds for s in self._small) if self._small else self._intercept()
        fit = _Fit(round_trip, self._rates(round_trip))
        if self._small:
            # A few kilobytes are a little transfer too, but never most of it: else the rate were what is wrong.
            bits = fit.rate(0.5)
            round_trip = statistics.median(max(s.seconds - 8.0 * s.bytes / bits, 0.5 * s.seconds) for s in self._small)
            fit = _Fit(round_trip, self._rates(round_trip))
        return fit

    def _intercept(self) -> float:
        """The round trip without small messages: what larger ones have in common, else what it was before."""
        recent = list(self._large)[-16:]
        least = min(sample.seconds for sample in recent)
        pairs = [(one, other) for index, one in enumerate(recent) for other in recent[:index]]
        slopes = [
            ((one.seconds - other.seconds) / (one.bytes - other.bytes), float(abs(one.bytes - other.bytes)))
            for one, other in pairs
            if abs(one.bytes - other.bytes) > 0.3 * min(one.bytes, other.bytes)
        ]
        if len(slopes) < 3:
            return 0.3 * least if self._old_round_trip is None else min(0.6 * least, self._old_round_trip)
        slope = max(0.0, _quantile(sorted(slopes), 0.5))  # Theil-Sen; pairs far apart count for more
        return min(0.9 * least, max(0.0, statistics.median(s.seconds - slope * s.bytes for s in recent)))

    def _rates(self, round_trip: float) -> list[tuple[float, float]]:
        telling = [s for s in self._large if s.seconds - round_trip >= 0.2 * round_trip] or list(self._large)
        newest = telling[-1].at
        return sorted(
            (
                8.0 * sample.bytes / _transfer(sample, round_trip),
                sample.bytes * 2.0 ** ((sample.at - newest) / (0.25 * self.window_seconds)),
            )
            for sample in telling
        )

    @property
    def _spread(self) -> float:
        """How far messages usually are from what is expected of them, as a share of it."""
        count = len(self._deviations)
        if count < 3:
            return 0.12 if self._small else 0.4  # a line through a few large ones fits them whatever the link is like
        ordered = sorted(self._deviations)
        # In units of a normal distribution's; its tail may be longer.
        usual = max(1.48 * ordered[count // 2], ordered[int(0.9 * count)] / 1.64)
        return min(0.4, max(usual, 0.04 if count >= 8 else 0.1))

    # ------------------------------------------------------------------------------------------ taking in

    def add(self, sample: LinkSample) -> bool:
        """Take a sample in; tell whether it completes the evidence that the link has changed."""
        if not (math.isfinite(sample.seconds) and sample.seconds > 0 and sample.bytes > 0):
            return False
        self._last = sample
        self._forget_old(sample.at)
        if sample.bytes <= _SMALL_BYTES:
            self.round_trip_told_at = sample.at
        elif self._tells(sample, self.rate(0.5) if self._large else None):
            self.rate_told_at = sample.at
        if self._large and all(known.source == _UNANSWERED for known in self._large):
            self._large.clear()  # a bound, which is worth nothing beside a measurement
        if not self._large and sample.bytes > _SMALL_BYTES:
            if not self._tells(sample, None):
                return False
            self._keep(sample, self._large)
            return True
        if not self._large or (not self._small and sample.bytes <= _SMALL_BYTES):
            self._keep(sample, self._small)
            return False
        if not self._small and len(self._large) < _FEWEST:
            self._keep(sample, self._large)
            return False
        return self._judge(sample)

    def add_unanswered(self, sample: LinkSample) -> bool:
        """Take in that a message was not answered within `sample.seconds`: the rate is at most what that allows."""
        if not self._large or sample.bytes <= _SMALL_BYTES or self._contradiction(sample) <= 0:
            return False
        return self._judge(replace(sample, source=_UNANSWERED))

    def add_speedtest(self, bits_per_second: float, now: float) -> None:
        """Take in an outside measurement; it only counts until the product's own path has been measured."""
        self._speedtest = LinkSample(max(1, int(bits_per_second / 8)), 1.0, now, "speedtest")
        if not self._large:
            self._last = self._speedtest

    def _keep(self, sample: LinkSample, where: deque[LinkSample]) -> None:
        where.append(sample)
        self._known = None

    def _forget_old(self, now: float) -> None:
        for samples in (self._small, self._large):
            while len(samples) > 3 and now - samples[0].at > self.window_seconds:
                samples.popleft()
                self._known = None

    def _tells(self, sample: LinkSample, rate: float | None) -> bool:
        """Whether enough of the sample's time is transfer to tell the rate."""
        round_trip = self.round_trip_seconds
        expected = 0.0 if rate is None else round_trip + 8.0 * sample.bytes / rate
        least = max(0.0005, 0.25 * round_trip)
        return max(sample.seconds, expected) - round_trip >= least or sample.bytes >= self.telling_bytes

    def _contradiction(self, sample: LinkSample) -> float:
        """How strongly a sample contradicts the estimate: 0 within the usual, beyond 1 (slower) or -1 (faster)."""
        fit = self._fit()
        expected = self._expected(sample)
        difference = sample.seconds - expected
        if sample.bytes > _SMALL_BYTES:
            ratio = _transfer(sample, fit.round_trip) * fit.rate(0.5) / (8.0 * sample.bytes)
        else:
            ratio = sample.seconds / expected
        if difference > 0:
            tolerance = max(_SLOWER_SECONDS, _SLOWER_SPREADS * self._spread * expected)
        else:
            tolerance = max(_FASTER_SECONDS, _FASTER_SPREADS * self._spread * expected)
        usual = 1 / _FACTOR <= ratio <= _FACTOR or abs(difference) < tolerance
        return 0.0 if usual else difference / tolerance

    def _expected(self, sample: LinkSample) -> float:
        fit = self._fit()
        transfer = 8.0 * sample.bytes / fit.rate(0.5)
        return fit.round_trip + (min(transfer, fit.round_trip) if sample.bytes <= _SMALL_BYTES else transfer)

    def _deviation(self, sample: LinkSample) -> float:
        return abs(sample.seconds / self._expected(sample) - 1.0)

    def _judge(self, sample: LinkSample) -> bool:
        """Keep a sample that is as usual; let one that is not count as evidence, beside those of its own kind.

        A small message says nothing of the rate, and a large one little of the round trip: neither acquits the other.
        """
        large = sample.bytes > _SMALL_BYTES
        doubt = self._doubts[large]
        contradiction = self._contradiction(sample)
        if contradiction * doubt.evidence <= 0:
            self._deviations.extend(self._deviation(held_up) for held_up in doubt.samples)
            doubt.clear()
        if contradiction == 0:
            self._deviations.append(self._deviation(sample))
            tells = large and self._tells(sample, self._fit().rate(0.5))
            self._keep(sample, self._large if tells else self._small)
            return False
        doubt.samples.append(sample)
        doubt.evidence += min(2.0, max(-2.0, contradiction))
        if len(doubt.samples) < 2 or abs(doubt.evidence) < _EVIDENCE:
            return False
        self._begin_anew(large)
        return True

    def _begin_anew(self, rate_changed: bool) -> None:
        """Start from the samples that contradicted all before them."""
        before = self.round_trip_seconds
        small, large = (list(doubt.samples) for doubt in self._doubts)
        if not rate_changed:
            # Only the round trip is known to have changed: what was learnt of the rate stands.
            by = statistics.median(sample.seconds for sample in small) - before
            large = [replace(sample, seconds=max(1e-4, sample.seconds + by)) for sample in self._large]
        self._old_round_trip = before if self._small else self._old_round_trip
        self._small = deque(small, self._small.maxlen)
        self._large = deque(large, self._large.maxlen)
        self._known = None
        for doubt in self._doubts[: 2 if rate_changed else 1]:
            doubt.clear()


@dataclass(slots=True)
class _Doubt:
    """Samples in a row that contradict the estimate the same way, and how strongly they do together."""

    samples: list[LinkSample] = field(default_factory=list)
    evidence: float = 0.0

    def clear(self) -> None:
        self.samples.clear()
        self.evidence = 0.0


def _quantile(ascending: Sequence[tuple[float, float]], share: float) -> float:
    """Return the weighted quantile of ascending (value, weight) pairs."""
    goal = share * sum(weight for _, weight in ascending)
    for value, weight in ascending:
        goal -= weight
        if goal <= 0:
            return value
    return ascending[-1][0]


def _transfer(sample: LinkSample, round_trip: float) -> float:
    """Return what of a sample's time is transfer, never quite nothing."""
    return max(sample.seconds - round_trip, 0.0002, 0.05 * sample.seconds)
