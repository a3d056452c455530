"""Bytes that may be spent in a day."""

from __future__ import annotations


class ByteBudget:
    """A byte budget a day as a token bucket: never more than `daily_bytes` in any 24 hours."""

    def __init__(self, daily_bytes: int) -> None:
        self.daily_bytes = daily_bytes
        self._capacity = daily_bytes / 4
        self._per_second = 0.75 * daily_bytes / 86_400
        self._level = self._capacity
        self._at: float | None = None
        self.spent = 0

    def left(self, now: float) -> int:
        """Return how many bytes may be taken at instant `now`."""
        if self._at is not None:
            self._level = min(self._capacity, self._level + max(0.0, now - self._at) * self._per_second)
        self._at = now if self._at is None else max(self._at, now)
        return int(self._level)

    @property
    def well_filled(self) -> bool:
        """Whether at least half of what it can hold was there when it was asked last."""
        return self._level >= 0.5 * self._capacity

    def seconds_for(self, amount: int) -> float:
        """Return how long it takes until `amount` bytes have been added; what is added to a full one is lost."""
        return amount / self._per_second if self._per_second > 0 else float("inf")

    def take(self, amount: int, now: float) -> bool:
        """Take `amount` bytes out of the budget if it holds them."""
        if amount > self.left(now):
            return False
        self._level -= amount
        self.spent += amount
        return True
