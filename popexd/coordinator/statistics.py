"""Counts since the start and figures over a window; what the metrics topic shows."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from popexd.coordinator.events import Answer


def percentile(ordered: list[float], share: float) -> float | None:
    """Return the nearest-rank percentile of an ascending list; None if it is empty."""
    if not ordered:
        return None
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True)
class _Seen:
    at: float
    seconds: float
    exit: str
    ratio: float | None


@dataclass
class Statistics:
    """At rest `received = taken + dropped + rejected` and `taken = answered`, always."""

    window_seconds: float = 60.0
    received: int = 0
    taken: int = 0
    answered: int = 0
    bytes_sent: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    exits: Counter[str] = field(default_factory=Counter)
    tiers: Counter[str] = field(default_factory=Counter)
    fallbacks: Counter[str] = field(default_factory=Counter)
    replies_rejected: Counter[str] = field(default_factory=Counter)
    requests_rejected: Counter[str] = field(default_factory=Counter)
    _window: deque[_Seen] = field(default_factory=lambda: deque(maxlen=20_000))

    def answer(self, answer: Answer, predicted_seconds: float | None, now: float) -> None:
        """Count an answer; `predicted_seconds` is what the plan expected for the path it took, None for a fallback."""
        self.answered += 1
        self.exits[answer.exit] += 1
        self.tiers[answer.tier.label] += 1
        if answer.fallback is not None:
            self.fallbacks[answer.fallback] += 1
        seconds = answer.timing.total
        ratio = (seconds - answer.timing.queue) / predicted_seconds if predicted_seconds else None
        self._window.append(_Seen(now, seconds, answer.exit, ratio))

    def _recent(self, now: float) -> list[_Seen]:
        while self._window and now - self._window[0].at > self.window_seconds:
            self._window.popleft()
        return list(self._window)

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return the figures of the metrics payload that the brain knows itself."""
        recent = self._recent(now)
        seconds = sorted(seen.seconds for seen in recent)
        ratios = sorted(seen.ratio for seen in recent if seen.ratio is not None)
        shares = Counter(seen.exit for seen in recent)
        return {
            "window_seconds": self.window_seconds,
            "frames": {
                "received": self.received,
                "taken": self.taken,
                "dropped": self.dropped.total(),
                "answered": self.answered,
                "rejected": self.rejected.total(),
                "rejected_by_reason": dict(self.rejected),
                "dropped_by_reason": dict(self.dropped),
            },
            "exits": dict(self.exits),
            "tiers": dict(self.tiers),
            "fallbacks": dict(self.fallbacks),
            "seconds": {
                "p50": percentile(seconds, 0.50),
                "p95": percentile(seconds, 0.95),
                "p99": percentile(seconds, 0.99),
                "mean": sum(seconds) / len(seconds) if seconds else None,
            },
            "prediction_error": {"median_ratio": percentile(ratios, 0.5)},
            "bytes_sent": self.bytes_sent,
            "exit_probabilities": {name: count / len(recent) for name, count in shares.items()},
            "replies": {"rejected": self.replies_rejected.total(), "by_reason": dict(self.replies_rejected)},
            "requests": {"rejected": self.requests_rejected.total(), "by_reason": dict(self.requests_rejected)},
        }
