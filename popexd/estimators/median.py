"""The median of the last samples."""

from __future__ import annotations

import math
import statistics
from collections import deque


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
