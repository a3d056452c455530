"""How many frames leave at each exit, now and here."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from popexd.validation import FINAL

_LEAST_SHARE = 1e-6


class ExitRates:
    """Live exit shares, turned into weights for the per-sample validation table.

    Frames seen live tell how many leave at each enabled exit, not which would have left at another. So the table's
    samples are grouped by where *they* would leave under the exits in force, and each group is weighted to its live
    share (post-stratification). Any other choice of exits is then priced with the weighted table: no independence
    between exits is assumed. The table's own shares count as `prior_frames` frames at first, and for ever less as
    frames are seen; without evidence the weights fade back to the table's own within `memory_seconds`.

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
        self._thresholds: dict[str, float] = {}
        self._left: deque[tuple[str, float]] = deque(maxlen=window)
        self._seen = 0
        self._base: NDArray[np.float64] = np.ones(confidence.shape[1])
        self._base_at = 0.0

    @property
    def thresholds(self) -> Mapping[str, float]:
        """The exits in force, and from which confidence they answer."""
        return self._thresholds

    def use(self, thresholds: Mapping[str, float], now: float) -> None:
        """Say which exits run from now on, and from which confidence they answer; what was learnt is kept."""
        setting = {name: float(thresholds[name]) for name in self._names if name in thresholds}
        if setting != self._thresholds:
            self._base = self.weights(now)
            self._base_at = now
            self._left.clear()
            self._seen = 0
            self._thresholds = setting

    def add(self, left_at: str, now: float) -> None:
        """Take in that one frame left at this exit; any name but an enabled exit's counts as `final`."""
        self._left.append((left_at if left_at in self._thresholds else FINAL, now))
        self._seen += 1

    def _groups(self) -> Iterable[tuple[str, NDArray[np.bool_]]]:
        remaining = np.ones(self._confidence.shape[1], dtype=bool)
        for name, threshold in self._thresholds.items():
            leaves = remaining & (self._confidence[self._names.index(name)] >= threshold)
            remaining &= ~leaves
            yield name, leaves
        yield FINAL, remaining

    def _recent(self, now: float) -> list[str]:
        while self._left and now - self._left[0][1] > self._memory_seconds:
            self._left.popleft()
        if not self._left:
            self._seen = 0
        return [left_at for left_at, _ in self._left]

    def weights(self, now: float) -> NDArray[np.float64]:
        """Return one weight per validation sample, float [samples], mean 1."""
        fade = 0.5 ** (max(0.0, now - self._base_at) / (self._memory_seconds / 4))
        base: NDArray[np.float64] = 1.0 + (self._base - 1.0) * fade
        base *= len(base) / base.sum()
        recent = self._recent(now)
        if not recent:
            return base
        prior_frames = self._prior_frames * len(recent) / max(len(recent), self._seen)
        weights = base.copy()
        for name, group in self._groups():
            prior = float(base[group].sum()) / len(base)
            if prior > 0:
                share = (recent.count(name) + prior_frames * prior) / (len(recent) + prior_frames)
                weights[group] *= max(share, _LEAST_SHARE) / prior
        weights *= len(weights) / weights.sum()
        return weights
