"""How frames divide among the image-quality classes of late."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping


class QualityMix:
    """Shares of the classes: what was seen, over the validation table's own shares as so many frames seen before.

    Where nothing is seen any more, the shares go back to the table's within `memory_seconds`.
    """

    def __init__(
        self,
        shares: Mapping[str, float],
        window: int = 200,
        prior_frames: float = 20.0,
        memory_seconds: float = 600.0,
    ) -> None:
        total = sum(shares.values())
        self.prior = {name: share / total for name, share in shares.items()}
        self._prior_frames = prior_frames
        self._memory_seconds = memory_seconds
        self._seen: deque[tuple[str, float]] = deque(maxlen=window)

    def add(self, name: str, now: float) -> None:
        """Take in the class of a frame; one that the table does not know is left out."""
        if name in self.prior:
            self._seen.append((name, now))

    def shares(self, now: float) -> dict[str, float]:
        """Return the share of every class, together 1."""
        while self._seen and now - self._seen[0][1] > self._memory_seconds:
            self._seen.popleft()
        counts = Counter(name for name, _ in self._seen)
        total = len(self._seen) + self._prior_frames
        return {name: (counts[name] + self._prior_frames * prior) / total for name, prior in self.prior.items()}
