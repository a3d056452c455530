"""What is learnt while running: the link, the exits, the machine. Pure: fed with samples, `now` is an argument."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from popexd.network import Link

_SMALL_BYTES = 1024
"""A message up to this size tells the round trip; a larger one the rate."""

_CHANGE_FACTOR = 1.6
_CHANGE_SECONDS = 0.002
"""Two samples in a row off by this factor and by so much, the same way, are a change of the link and not noise."""


@dataclass(frozen=True, slots=True)
class LinkSample:
    """One message there and back: its bytes, and the seconds it took less the far side's own time."""

    bytes: int
    seconds: float
    at: float
    source: str = "passive"


class LinkEstimator:
    """Robust estimate of one hop from messages that crossed it.

    The model is ``seconds = round trip + 8 bytes / rate``. Small messages give the round trip (median), larger ones the
    rate: a byte-weighted quantile over the samples since the last change. Planning on a low quantile keeps a plan good
    in the slower part of what the link does.
    """

    def __init__(self, quantile: float = 0.25, window_seconds: float = 120.0, capacity: int = 32) -> None:
        self.quantile = quantile
        self.window_seconds = window_seconds
        self._small: deque[LinkSample] = deque(maxlen=8)
        self._large: deque[LinkSample] = deque(maxlen=capacity)
        self._streak: list[LinkSample] = []
        self._streak_up = False
        self._speedtest: LinkSample | None = None
        self._last: LinkSample | None = None

    def reset(self) -> None:
        """Forget everything, as after an outage: what comes back may be another link."""
        self._small.clear()
        self._large.clear()
        self._streak.clear()
        self._speedtest = None
        self._last = None

    @property
    def round_trip_seconds(self) -> float:
        """Lower quartile of the small messages; without any, what messages of different sizes have in common."""
        if self._small:
            ordered = sorted(sample.seconds for sample in self._small)
            return ordered[len(ordered) // 4]
        if not self._large:
            return 0.0
        return self._intercept()

    def _intercept(self) -> float:
        """Theil-Sen: the median slope through all pairs that differ in size, and the median of what it leaves."""
        recent = list(self._large)[-12:]
        least = min(sample.seconds for sample in recent)
        slopes = [
            (one.seconds - other.seconds) / (one.bytes - other.bytes)
            for index, one in enumerate(recent)
            for other in recent[:index]
            if abs(one.bytes - other.bytes) > 0.3 * min(one.bytes, other.bytes)
        ]
        if len(slopes) < 3:
            return 0.3 * least
        slope = max(0.0, statistics.median(slopes))
        return min(0.9 * least, max(0.0, statistics.median(s.seconds - slope * s.bytes for s in recent)))

    def _rate(self, sample: LinkSample) -> float:
        transfer = max(sample.seconds - self.round_trip_seconds, 0.0002, 0.05 * sample.seconds)
        return 8.0 * sample.bytes / transfer

    def rate(self, quantile: float) -> float | None:
        """Return the byte-weighted quantile of the rates, bits per second; None before the first larger message."""
        if not self._large:
            return self._speedtest.bytes * 8.0 / self._speedtest.seconds if self._speedtest else None
        newest = self._large[-1].at
        pairs = sorted(
            (self._rate(sample), sample.bytes * 2.0 ** ((sample.at - newest) / (0.25 * self.window_seconds)))
            for sample in self._large
        )
        goal = quantile * sum(weight for _, weight in pairs)
        for rate, weight in pairs:
            goal -= weight
            if goal <= 0:
                return rate
        return pairs[-1][0]

    def add(self, sample: LinkSample) -> bool:
        """Take a sample in; tell whether it completes the evidence that the link has changed."""
        if not (math.isfinite(sample.seconds) and sample.seconds > 0 and sample.bytes > 0):
            return False
        self._last = sample
        while self._large and sample.at - self._large[0].at > self.window_seconds:
            self._large.popleft()
        if sample.bytes <= _SMALL_BYTES:
            self._small.append(sample)
            return False
        median = self.rate(0.5) if self._large else None
        if median is None:
            self._large.append(sample)
            return True
        if not self._informative(sample, median):
            return False
        return self._judge(sample, median)

    def add_unanswered(self, sample: LinkSample) -> bool:
        """Take in that a message was not answered within `sample.seconds`: the rate is at most what that allows."""
        median = self.rate(0.5)
        if median is None or sample.bytes <= _SMALL_BYTES or self._rate(sample) * _CHANGE_FACTOR > median:
            return False
        return self._judge(sample, median)

    def add_speedtest(self, bits_per_second: float, now: float) -> None:
        """Take in an outside measurement; it only counts until the product's own path has been measured."""
        self._speedtest = LinkSample(max(1, int(bits_per_second / 8)), 1.0, now, "speedtest")
        if not self._large:
            self._last = self._speedtest

    def _informative(self, sample: LinkSample, median: float) -> bool:
        round_trip = self.round_trip_seconds
        expected = round_trip + 8.0 * sample.bytes / median
        return max(sample.seconds, expected) - round_trip >= max(0.0005, 0.25 * round_trip)

    def _judge(self, sample: LinkSample, median: float) -> bool:
        ratio = self._rate(sample) / median
        expected = self.round_trip_seconds + 8.0 * sample.bytes / median
        if 1 / _CHANGE_FACTOR <= ratio <= _CHANGE_FACTOR or abs(sample.seconds - expected) < _CHANGE_SECONDS:
            self._streak.clear()
            self._large.append(sample)
            return False
        if self._streak and self._streak_up != (ratio > 1):
            self._streak.clear()
        self._streak_up = ratio > 1
        self._streak.append(sample)
        if len(self._streak) < 2:
            return False
        self._large.clear()
        self._large.extend(self._streak)
        self._streak.clear()
        self._small.clear()  # the round trip has changed along with the rate, for all we know
        return True

    @property
    def in_doubt(self) -> bool:
        """Whether the last larger message contradicts the estimate and a probe would settle it."""
        return bool(self._streak)

    def link(self) -> Link | None:
        """Return the estimate to plan on; None while nothing is known."""
        rate = self.rate(self.quantile)
        if rate is None or self._last is None:
            return None
        return Link(rate, self.round_trip_seconds, self._last.source, self._last.at)


class ByteBudget:
    """A byte budget a day as a token bucket: never more than `daily_bytes` in any 24 hours."""

    def __init__(self, daily_bytes: int) -> None:
        self._capacity = daily_bytes / 4
        self._per_second = 0.75 * daily_bytes / 86_400
        self._level = self._capacity
        self._at: float | None = None
        self.spent = 0

    def take(self, amount: int, now: float) -> bool:
        """Take `amount` bytes out of the budget if it holds them."""
        if self._at is not None:
            self._level = min(self._capacity, self._level + max(0.0, now - self._at) * self._per_second)
        self._at = now
        if amount > self._level:
            return False
        self._level -= amount
        self.spent += amount
        return True


class RunningMedian:
    """Median of the last `size` samples, the given default before the first."""

    def __init__(self, size: int = 31, default: float | None = None) -> None:
        self._samples: deque[float] = deque(maxlen=size)
        self._default = default

    def add(self, value: float) -> None:
        """Take a sample in; anything not finite is ignored."""
        if math.isfinite(value):
            self._samples.append(value)

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def value(self) -> float | None:
        """The median, or the default."""
        return statistics.median(self._samples) if self._samples else self._default


class ExitRates:
    """Live exit shares, turned into weights for the per-sample validation table.

    Frames seen live tell how many leave at each enabled exit, not which would have left at another. So the table's
    samples are grouped by where *they* would leave under the exits in force, and each group is weighted to its live
    share (post-stratification). Any other choice of exits is then priced with the weighted table: no independence
    between exits is assumed. Without evidence the weights fade back to the table's own within `memory_seconds`.

    `confidence` is float [exits, samples] in the order of `names`; the last exit, `final`, always answers.
    """

    def __init__(
        self,
        names: Sequence[str],
        confidence: NDArray[np.floating],
        window: int = 200,
        prior_frames: float = 50.0,
        memory_seconds: float = 600.0,
    ) -> None:
        self._names = tuple(names)
        self._confidence = confidence
        self._prior_frames = prior_frames
        self._memory_seconds = memory_seconds
        self._setting: tuple[tuple[str, float], ...] = ()
        self._left: deque[str] = deque(maxlen=window)
        self._base: NDArray[np.float64] = np.ones(confidence.shape[1])
        self._base_at = 0.0

    def use(self, thresholds: Mapping[str, float], now: float) -> None:
        """Say which exits run from now on, and from which confidence they answer."""
        setting = tuple((name, float(thresholds[name])) for name in self._names if name in thresholds)
        if setting != self._setting:
            self._base = self.weights(now)
            self._base_at = now
            self._left.clear()
            self._setting = setting

    def add(self, left_at: str) -> None:
        """Take in that one frame left at this exit; any name but an enabled exit's counts as `final`."""
        self._left.append(left_at)

    def _groups(self) -> Iterable[tuple[str, NDArray[np.bool_]]]:
        remaining = np.ones(self._confidence.shape[1], dtype=bool)
        for name, threshold in self._setting:
            leaves = remaining & (self._confidence[self._names.index(name)] >= threshold)
            remaining &= ~leaves
            yield name, leaves
        yield "final", remaining

    def weights(self, now: float) -> NDArray[np.float64]:
        """Return one weight per validation sample, float [samples], mean 1."""
        fade = 0.5 ** (max(0.0, now - self._base_at) / (self._memory_seconds / 4))
        base: NDArray[np.float64] = 1.0 + (self._base - 1.0) * fade
        if not self._left:
            return base
        weights = base.copy()
        seen = len(self._left)
        enabled = {name for name, _ in self._setting}
        for name, group in self._groups():
            prior = float(base[group].sum()) / len(base)
            if prior <= 0:
                continue
            live = sum((left if left in enabled else "final") == name for left in self._left)
            share = (live + self._prior_frames * prior) / (seen + self._prior_frames)
            weights[group] *= share / prior
        weights *= len(weights) / weights.sum()
        return weights

    def probabilities(self) -> dict[str, float]:
        """Return the live probability of each enabled exit given that it was evaluated; absent before any frame."""
        out: dict[str, float] = {}
        reached = len(self._left)
        for name, _ in self._setting:
            if reached == 0:
                break
            left = sum(at == name for at in self._left)
            out[name] = left / reached
            reached -= left
        return out
