"""What messages that crossed a link tell about it."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from popexd.estimators.spread import Hiccups, Jitter, Spread
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
_ALLOWANCE, _ALARM, _SUSPICION = 0.75, 5.0, 1.0
"""Cumulated evidence (Page's CUSUM, in usual spreads): what each sample may be off for free, what makes a change, and
what makes another probe worth its bytes. Two samples that are far off suffice, or many that are off a little."""
_STRONGEST, _MOST_EVIDENCE = 4.0, 16
_PER_HICCUP, _MOST_MORE = 30.0, 6.5
"""How much more evidence it takes that a link is slower where messages are held up now and then, as a busy machine does
and two in a row then are by chance: a third sample where every twentieth was, and no more than four."""

_FEWEST = 4
"""So many larger messages tell round trip and rate apart where no small one does; fewer contradict nothing."""

_LOWEST_SHARE = 0.6
"""The published rate is a low one, but no lower than this share of the median: below, it is noise that speaks."""

_TOLD_SECONDS = 0.0005
"""Less than this beside the round trip is the machine's time and not the link's, even for the largest message: then the
link is published as at least so fast."""

_SAME_SECONDS = 1.0
"""Small messages that crossed so shortly before a change of the rate showed belong to what came after."""

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

    The model is ``seconds = round trip + 8 bytes / rate``. Small messages give the round trip (median); those that take
    long enough to tell give the rate: a weighted quantile over the samples since the last change. Planning on a low
    quantile keeps a plan good in the slower part of what the link does. How far messages are off what was expected of
    them is the link's jitter. `rate_told_at` and `round_trip_told_at` are when the last message told of them; one of
    `telling_bytes` always does.
    """

    def __init__(self, quantile: float = 0.25, window_seconds: float = 120.0, capacity: int = 32) -> None:
        self.quantile = quantile
        self.window_seconds = window_seconds
        self.telling_bytes = _TELLING_BYTES
        self._capacity = capacity
        self.reset()

    def reset(self) -> None:
        """Forget everything, as after an outage: what comes back may be another link."""
        self.rate_told_at = self.round_trip_told_at = float("-inf")
        self._small: deque[LinkSample] = deque(maxlen=17)
        self._large: deque[LinkSample] = deque(maxlen=self._capacity)
        self._doubts = (_Doubt(), _Doubt())  # of the round trip, of the rate
        self._early, self._late = Spread(), Spread()
        self._jitter = Jitter(self.window_seconds)
        self._hiccups = Hiccups(self.window_seconds)
        self._old_round_trip: float | None = None
        self._speedtest: LinkSample | None = None
        self._last: LinkSample | None = None
        self._known: _Fit | None = None

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
        return any(doubt.withheld for doubt in self._doubts)

    @property
    def suspicious(self) -> bool:
        """Whether the last messages together are off, though none of them by much."""
        return any(max(doubt.slower, doubt.faster) >= _SUSPICION for doubt in self._doubts)

    @property
    def noise_seconds(self) -> float:
        """How much longer or shorter than expected a message usually takes, apart from its transfer."""
        return self._early.of_small() * self.round_trip_seconds

    def link(self) -> Link | None:
        """Return the estimate to plan on; None while nothing is known."""
        rate, middle = self.rate(self.quantile), self.rate(0.5)
        if rate is None or middle is None or self._last is None:
            return None
        rate = max(rate, _LOWEST_SHARE * middle)
        most = 8.0 * max(sample.bytes for sample in self._large) / _TOLD_SECONDS if self._large else rate
        jitter = self._jitter.seconds
        return Link(min(rate, most), self.round_trip_seconds, self._last.source, self._last.at, jitter, rate > most)

    def _fit(self) -> _Fit:
        if self._known is None:
            self._known = self._fitted()
        return self._known

    def _fitted(self) -> _Fit:
        round_trip = statistics.median(s.seconds for s in self._small) if self._small else self._intercept()
        fit = _Fit(round_trip, self._rates(round_trip))
        if self._small:
            # Small ones are a little transfer too, but never most of it: else the rate were what is wrong.
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
        """The rates that the messages show; the more of a message's time is transfer, the more its rate counts."""
        newest = self._large[-1].at
        shown = [(8.0 * sample.bytes / _transfer(sample, round_trip), sample) for sample in self._large]
        about = _quantile(sorted((rate, float(sample.bytes)) for rate, sample in shown), 0.5)
        weighed = []
        for rate, sample in shown:
            transfer = 8.0 * sample.bytes / about
            recent = 2.0 ** ((sample.at - newest) / (0.25 * self.window_seconds))
            weighed.append((rate, recent * (transfer / (transfer + round_trip)) ** 2))
        return sorted(weighed)

    # ------------------------------------------------------------------------------------------ taking in

    def add(self, sample: LinkSample) -> bool:
        """Take a sample in; tell whether it completes the evidence that the link has changed."""
        if not (math.isfinite(sample.seconds) and sample.seconds > 0 and sample.bytes > 0):
            return False
        self._last = sample
        self._forget_old(sample.at)
        if sample.bytes <= _SMALL_BYTES:
            self.round_trip_told_at = sample.at
        elif self._tells(sample):
            self.rate_told_at = sample.at
        if self._large and all(known.source == _UNANSWERED for known in self._large):
            self._large.clear()  # a bound, which is worth nothing beside a measurement
        if not self._large and sample.bytes > _SMALL_BYTES:
            if not self._tells(sample):
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
        if not self._large or sample.bytes <= _SMALL_BYTES or self._contradiction(sample)[0] < _FASTER_SPREADS:
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

    def _tells(self, sample: LinkSample) -> bool:
        """Whether enough of a message's time is transfer to tell the rate.

        As far as it can be known, that goes by its size: to go by its time would keep the slow ones and bend the rate.
        """
        round_trip = self.round_trip_seconds
        transfer = 8.0 * sample.bytes / self._fit().rate(0.5) if self._large else sample.seconds - round_trip
        least = max(0.0005, 0.2 * round_trip, 2.5 * self.noise_seconds if self._large else 0.0)
        return transfer >= least or sample.bytes >= self.telling_bytes

    def _contradiction(self, sample: LinkSample) -> tuple[float, bool]:
        """How far a sample is off, in usual spreads (slower is positive), and whether that is beyond the usual."""
        fit = self._fit()
        expected = self._expected(sample)
        difference = sample.seconds - expected
        if sample.bytes > _SMALL_BYTES:
            ratio = _transfer(sample, fit.round_trip) * fit.rate(0.5) / (8.0 * sample.bytes)
        else:
            ratio = sample.seconds / expected
        usual = self._usual(sample, self._late if difference > 0 else self._early)
        if difference > 0:
            off = difference * _FASTER_SPREADS / _SLOWER_SPREADS / max(_SLOWER_SECONDS / 2, usual)
        else:
            off = difference / max(_FASTER_SECONDS / 2, usual)
        beyond = not 1 / _FACTOR <= ratio <= _FACTOR and abs(off) >= _FASTER_SPREADS
        return max(-_STRONGEST, min(_STRONGEST, off)), beyond

    def _usual(self, sample: LinkSample, spread: Spread) -> float:
        """How many seconds such a message is usually off."""
        expected = self._expected(sample)
        if sample.bytes <= _SMALL_BYTES:
            return spread.of_small() * expected
        round_trip = self._fit().round_trip
        return spread.of_large(round_trip, expected - round_trip)

    def _expected(self, sample: LinkSample) -> float:
        fit = self._fit()
        transfer = 8.0 * sample.bytes / fit.rate(0.5)
        return fit.round_trip + (min(transfer, fit.round_trip) if sample.bytes <= _SMALL_BYTES else transfer)

    def _judge(self, sample: LinkSample) -> bool:
        """Keep a sample that is as usual, withhold one that is not, and let both count as evidence of their kind.

        A small message says nothing of the rate, and a large one little of the round trip: neither acquits the other.
        """
        large = sample.bytes > _SMALL_BYTES
        doubt = self._doubts[large]
        off, beyond = self._contradiction(sample)
        evidence = doubt.add(sample, off, beyond, _ALARM + min(_MOST_MORE, _PER_HICCUP * self._hiccups.share))
        if sample.source != _UNANSWERED:
            self._hiccups.add(sample.at, beyond and off > 0)
        expected, round_trip = self._expected(sample), self._fit().round_trip
        # What may be a change is not yet noise; noise that has grown is believed by and by. And as messages are held up
        # by anything, but never come too soon, the late ones say nothing of how surprising an early one is.
        parts, off_seconds = (round_trip, expected - round_trip), abs(sample.seconds - expected)
        if sample.source != _UNANSWERED:
            self._jitter.add(sample.at, large, sample.seconds - expected)
        early, late = self._usual(sample, self._early), self._usual(sample, self._late)
        self._early.add(large, early if beyond else min(off_seconds, _FASTER_SPREADS * early), *parts)
        self._late.add(large, min(off_seconds, _SLOWER_SPREADS * late), *parts)
        if not beyond and not large:
            self._keep(sample, self._small)
        elif not beyond and (not self._small or self._tells(sample)):
            self._keep(sample, self._large)
        if evidence is None:
            return False
        if not self._amounts_to_something(evidence):
            doubt.clear()
            return False
        self._begin_anew(evidence, large)
        return True

    def _amounts_to_something(self, evidence: Sequence[LinkSample]) -> bool:
        """Whether the samples, taken together, are off by a factor that matters."""
        now = sum(sample.seconds for sample in evidence)
        expected = sum(self._expected(sample) for sample in evidence)
        if evidence[0].bytes > _SMALL_BYTES:
            taken_off = self.round_trip_seconds * len(evidence)
            now, expected = max(now - taken_off, 0.05 * now), max(expected - taken_off, 0.05 * expected)
        return not 1 / _FACTOR <= now / expected <= _FACTOR

    def _begin_anew(self, evidence: Sequence[LinkSample], rate_changed: bool) -> None:
        """Start from the samples that contradicted all before them."""
        before = self.round_trip_seconds
        self._jitter.forget_since(evidence[0].at)
        self._hiccups.forget_since(evidence[0].at)
        self._old_round_trip = before if self._small else self._old_round_trip
        if rate_changed:
            self._large = deque(evidence, self._large.maxlen)
            since = evidence[0].at - _SAME_SECONDS
            known = [sample for sample in self._small if sample.at >= since]
            self._small = deque(sorted([*known, *self._doubts[False].withheld], key=_instant), self._small.maxlen)
        else:
            # Only the round trip is known to have changed: what was learnt of the rate stands.
            by = statistics.median(sample.seconds for sample in evidence) - before
            large = (replace(sample, seconds=max(1e-4, sample.seconds + by)) for sample in self._large)
            self._large = deque(large, self._large.maxlen)
            self._small = deque(evidence, self._small.maxlen)
        self._known = None
        for doubt in self._doubts[: 2 if rate_changed else 1]:
            doubt.clear()


class _Doubt:
    """Evidence against the estimate, cumulated either way, and the samples that make it up."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.slower = self.faster = 0.0
        self.withheld: list[LinkSample] = []
        self._slow: deque[LinkSample] = deque(maxlen=_MOST_EVIDENCE)
        self._fast: deque[LinkSample] = deque(maxlen=_MOST_EVIDENCE)

    def add(self, sample: LinkSample, off: float, beyond: bool, alarm: float) -> list[LinkSample] | None:
        """Take in how far a sample is off; return the samples that make a change together, None as long as none do."""
        self.withheld = [*self.withheld[-7:], sample] if beyond else []
        self.slower = max(0.0, self.slower + off - _ALLOWANCE)
        self.faster = max(0.0, self.faster - off - _ALLOWANCE)
        # Nothing is held up and so too fast: what shows that the link is faster needs no more than ever.
        for evidence, samples, enough in ((self.slower, self._slow, alarm), (self.faster, self._fast, _ALARM)):
            if evidence <= 0:
                samples.clear()
                continue
            samples.append(sample)
            if evidence >= enough and len(samples) >= 2:
                return list(samples)
        return None


def _instant(sample: LinkSample) -> float:
    return sample.at


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
