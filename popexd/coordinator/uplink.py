"""What the brain knows of the uplink: is it there, how fast, and when to probe it."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from popexd.coordinator.events import SendProbe
from popexd.estimators import ByteBudget, LinkEstimator, LinkSample
from popexd.network import Link
from popexd.plan import Tier

PING_BYTES = 64
_LARGEST_PROBE = 65_536
_SMALLEST_PROBE = 2_048
_PROBE_TIMEOUT_SECONDS = 3.0
_SUSPECT_AFTER = 2
"""Unanswered messages in a row, nothing heard in between, until the uplink counts as lost."""


@dataclass(frozen=True, slots=True)
class _Outstanding:
    bytes: int
    sent_at: float
    alone: bool


class Uplink:
    """The uplink as samples show it; `usable` is what planning asks."""

    def __init__(self, interval_seconds: float, daily_bytes: int, quantile: float) -> None:
        self.interval_seconds = interval_seconds
        self.estimator = LinkEstimator(quantile)
        self.budget = ByteBudget(daily_bytes)
        self.connected = False
        self.suspect = False
        self.max_packet_bytes: int | None = None
        self.heard_at = float("-inf")
        self._outstanding: dict[Hashable, _Outstanding] = {}
        self._cleared_at = float("-inf")
        self._unanswered = 0
        self._sequence = 0
        self._probe: tuple[int, float] | None = None
        self._train: list[int] = []
        self._sized_at = float("-inf")
        self._backoff_seconds = 0.5
        self._ping_at = float("inf")

    def configure(self, interval_seconds: float, daily_bytes: int, quantile: float) -> None:
        """Go on with other settings; what was measured stays."""
        self.interval_seconds = interval_seconds
        self.estimator.quantile = quantile
        if daily_bytes != self.budget.daily_bytes:
            spent = self.budget.spent
            self.budget = ByteBudget(daily_bytes)
            self.budget.spent = spent

    # ------------------------------------------------------------------------------------------ state

    @property
    def usable(self) -> bool:
        """Whether a message sent now can be expected to be answered."""
        return self.connected and not self.suspect

    @property
    def busy(self) -> bool:
        """Whether a message is out."""
        return bool(self._outstanding)

    @property
    def link(self) -> Link | None:
        """The estimate to plan on; None while the uplink is unusable or unknown."""
        return self.estimator.link() if self.usable else None

    def connection(self, connected: bool, max_packet_bytes: int | None) -> None:
        """Take in that the uplink's broker was reached or lost; what was outstanding is void."""
        self.connected = connected
        self.max_packet_bytes = max_packet_bytes
        self._outstanding.clear()
        self._probe = None
        self._train.clear()
        self.suspect = False
        self._unanswered = 0
        if connected:
            self.estimator.reset()
            self._plan_train()

    def backlog_seconds(self, now: float) -> float:
        """Seconds of transfer that are ahead of a message sent now, by the estimate."""
        link = self.estimator.link()
        if link is None:
            return 0.0
        ahead = sum(8.0 * item.bytes / link.bits_per_second for item in self._outstanding.values())
        oldest = min((item.sent_at for item in self._outstanding.values()), default=now)
        return max(0.0, ahead - max(0.0, now - max(oldest, self._cleared_at)))

    # ------------------------------------------------------------------------------------------ samples

    def sent(self, key: Hashable, message_bytes: int, now: float) -> None:
        """Take in that a message left."""
        self._outstanding[key] = _Outstanding(message_bytes, now, not self._outstanding)

    def abandoned(self, key: Hashable) -> None:
        """Take in that a message never left or will never be answered through no fault of the link."""
        self._outstanding.pop(key, None)

    def returned(self, key: Hashable, far_seconds: float, now: float, source: str = "passive") -> bool:
        """Take in the answer to a message; tell whether the link has changed.

        The link serves one message after the other, so a message's own time starts when the one before it was through.
        """
        was_suspect = self.suspect
        self.heard_at = now
        self._unanswered = 0
        self.suspect = False
        item = self._outstanding.pop(key, None)
        if item is None:
            return was_suspect
        started = item.sent_at if item.alone else max(item.sent_at, self._cleared_at)
        seconds = now - far_seconds - started
        self._cleared_at = max(self._cleared_at, now - far_seconds - self.estimator.round_trip_seconds)
        if was_suspect:
            # It crossed an outage: it tells that the link is back, not how fast it is.
            self.estimator.reset()
            self._plan_train()
            return True
        changed = self.estimator.add(LinkSample(item.bytes, seconds, now, source))
        if item.bytes >= _SMALLEST_PROBE:
            self._sized_at = now
        return changed

    def timed_out(self, key: Hashable, now: float) -> bool:
        """Take in that a message was not answered in time; tell whether the link has changed."""
        item = self._outstanding.pop(key, None)
        if item is None:
            return False
        self._cleared_at = max(self._cleared_at, now - self.estimator.round_trip_seconds)
        if self.heard_at >= item.sent_at:
            return False
        changed = self.estimator.add_unanswered(LinkSample(item.bytes, now - item.sent_at, now))
        self._unanswered += 1
        if self._unanswered >= _SUSPECT_AFTER and not self.suspect:
            self._suspect(now)
            return True
        return changed

    def lost(self, now: float) -> None:
        """Take in that nobody listens any more; probing goes on until somebody does."""
        self._suspect(now)

    def _suspect(self, now: float) -> None:
        self.suspect = True
        self._train.clear()
        self._backoff_seconds = 0.5
        self._ping_at = now

    # ------------------------------------------------------------------------------------------ probing

    def _plan_train(self) -> None:
        self._train = [PING_BYTES, PING_BYTES, PING_BYTES, 4096]

    def order_probe(self) -> None:
        """Ask for a round trip and a sized probe as soon as possible."""
        if self.suspect:
            self._ping_at = float("-inf")
        elif not self._train:
            self._train = [PING_BYTES, PING_BYTES, self._sized()]

    def _sized(self) -> int:
        link = self.estimator.link()
        if link is None:
            return 4096
        seconds = min(0.05, max(0.01, 2 * link.round_trip_seconds))
        size = int(link.bits_per_second * seconds / 8)
        limit = min(_LARGEST_PROBE, (self.max_packet_bytes or _LARGEST_PROBE) - 1024)
        return max(min(size, limit), min(_SMALLEST_PROBE, limit))

    def due(self, now: float, force: bool = False) -> None:
        """Take in that the schedule calls for a probe: a sized one unless traffic has measured the link lately."""
        if self.suspect or not self.connected:
            return
        if force or now - self._sized_at >= 0.9 * self.interval_seconds:
            self.order_probe()

    @property
    def wakeup_at(self) -> float:
        """When `probes` wants to be asked again, infinity if an event will come first."""
        if not self.connected:
            return float("inf")
        if self._probe is not None:
            return self._probe[1] + _PROBE_TIMEOUT_SECONDS
        return self._ping_at if self.suspect else float("inf")

    def probes(self, tier: Tier | None, now: float) -> list[SendProbe]:
        """Return the probe to send now, if any: one is out at a time, sized ones only while the link is idle."""
        if self._probe is not None and now >= self._probe[1] + _PROBE_TIMEOUT_SECONDS:
            sequence, _ = self._probe
            self._probe = None
            self._train.clear()
            self.timed_out(("probe", sequence), now)
        if not self.connected or self._probe is not None:
            return []
        if tier is None:
            self._ping_at = max(self._ping_at, now + 1.0)
            return []
        if self.suspect:
            if now < self._ping_at:
                return []
            self._ping_at = now + self._backoff_seconds
            self._backoff_seconds = min(self._backoff_seconds * 1.5, max(1.0, min(4.0, self.interval_seconds)))
            return self._send(PING_BYTES, tier, now)
        if not self._train or self._outstanding:
            return []
        size = self._train.pop(0)
        if not self.budget.take(size, now):
            self._train.clear()
            return []
        return self._send(size, tier, now)

    def _send(self, size: int, tier: Tier, now: float) -> list[SendProbe]:
        self._sequence += 1
        self._probe = (self._sequence, now)
        self.sent(("probe", self._sequence), size, now)
        return [SendProbe(self._sequence, tier, size)]

    def probe_returned(self, sequence: int, far_seconds: float, now: float) -> bool:
        """Take in a probe's echo; tell whether the link has changed."""
        if self._probe is None or self._probe[0] != sequence:
            return False
        size = self._outstanding[("probe", sequence)].bytes if ("probe", sequence) in self._outstanding else PING_BYTES
        self._probe = None
        changed = self.returned(("probe", sequence), far_seconds, now, "probe")
        link = self.estimator.link()
        if not self._train and link is not None and size >= _SMALLEST_PROBE and self._too_small(size, link):
            self._train = [min(4 * size, _LARGEST_PROBE)]
        if self.estimator.in_doubt:
            self.order_probe()
        return changed

    def _too_small(self, size: int, link: Link) -> bool:
        transfer = 8.0 * size / link.bits_per_second
        return size < _LARGEST_PROBE and transfer < max(0.003, 0.5 * link.round_trip_seconds)
