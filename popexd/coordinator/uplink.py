"""What the brain knows of the uplink: is it there, how fast, and when to probe it."""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum

from popexd.coordinator.events import SendProbe
from popexd.coordinator.transit import Transit
from popexd.coordinator.trust import SILENCE_SECONDS
from popexd.estimators import ByteBudget, LinkEstimator, LinkSample
from popexd.network import Link
from popexd.plan import Tier

PING_BYTES = 64
_LARGEST_PROBE = 65_536
_SMALLEST_PROBE, _FIRST_PROBE = 2_048, 4_096
_SHARES = 100
"""A probe takes no more than such a part of what is left in the budget: it becomes smaller before it becomes rarer."""
_MOST_OFTEN = 5
"""An eager uplink is probed so many times as often as the schedule says, at most."""
_PROBE_TIMEOUT_SECONDS = 3.0
_SUSPECT_AFTER = 2
_TELLING_SECONDS = 0.5
"""An answer that is missing for less may be a hiccup of anything; for more, it tells of the link."""
_MOST_TRAINS, _TRAIN_SECONDS = 8, 4.0
"""So many unscheduled trains of probes in a row, then one in so many seconds: a link that nobody can make out is not to
be flooded."""


class News(Enum):
    """What an answer, or its absence, says of the uplink."""

    NONE = "none"
    CHANGED = "changed"
    LOST = "lost"
    RESTORED = "restored"
    ANSWERING = "answering"
    """Nothing of the uplink itself: a tier that did not answer does so again."""


class Uplink:
    """The way to the broker and to who answers there, as samples show it; `usable` is what planning asks.

    It is suspect when not even the broker takes what is sent; whether anybody answers then is another matter (`Trust`).

    It is `eager` while nothing crosses it but probes, though a better link might change that: then bytes that the
    budget would not hold are spent on probing it more often than the schedule says.
    """

    def __init__(self, interval_seconds: float, daily_bytes: int, quantile: float) -> None:
        self.interval_seconds = interval_seconds
        self.estimator = LinkEstimator(quantile)
        self.budget = ByteBudget(daily_bytes)
        self.connected = False
        self.suspect = False
        self.max_packet_bytes: int | None = None
        self._largest = _LARGEST_PROBE
        self.heard_at = float("-inf")
        self.changed_at = float("-inf")
        self._transit = Transit()
        self._unanswered = 0
        self._silent_since = 0.0
        self._restored_at = float("-inf")
        self._sequence = 0
        self._probe: tuple[int, float] | None = None
        self._train: list[int] = []
        self._trains_left: float = _MOST_TRAINS
        self._trains_at = 0.0
        self._backoff_seconds = 0.5
        self._ping_at = float("inf")
        self.eager = False
        self._early_at = float("inf")

    def configure(self, interval_seconds: float, daily_bytes: int) -> None:
        """Go on with other settings; what was measured stays."""
        self.interval_seconds = interval_seconds
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
    def probing(self) -> bool:
        """Whether a probe is out or waits for a gap between messages."""
        return self._probe is not None or bool(self._train)

    @property
    def link(self) -> Link | None:
        """The estimate to plan on; None while the uplink is unusable or unknown."""
        return self.estimator.link() if self.usable else None

    def connection(self, connected: bool, max_packet_bytes: int | None) -> None:
        """Take in that the uplink's broker was reached or lost; what was on its way is void."""
        self.connected = connected
        self._limit(max_packet_bytes)
        self._transit.clear()
        self._probe = None
        self._train.clear()
        self.suspect = False
        self._unanswered = 0
        if connected:
            self.estimator.reset()
            self._plan_train()

    def too_large(self, message_bytes: int) -> None:
        """Take in that a message was too large for the broker, whatever limit it had announced."""
        self._limit(min(self.max_packet_bytes or message_bytes, message_bytes - 1))

    def _limit(self, max_packet_bytes: int | None) -> None:
        self.max_packet_bytes = max_packet_bytes
        self._largest = _LARGEST_PROBE if max_packet_bytes is None else min(_LARGEST_PROBE, max_packet_bytes - 1024)
        # What the largest message there can be does not tell, nothing will.
        self.estimator.telling_bytes = max(PING_BYTES, self._largest // 2)

    def backlog_seconds(self, now: float) -> float:
        """Seconds of transfer that are ahead of a message sent now, by the estimate."""
        link = self.estimator.link()
        return 0.0 if link is None else self._transit.backlog_seconds(link.bits_per_second, now)

    # ------------------------------------------------------------------------------------------ samples

    def sent(self, key: Hashable, message_bytes: int, now: float) -> None:
        """Take in that a message left."""
        self._transit.sent(key, message_bytes, now)

    def delivered(self, key: Hashable, now: float) -> News:
        """Take in that the broker has a message: it has crossed, whenever it is answered."""
        self._transit.crossed(key, now - self.estimator.round_trip_seconds)
        return self._heard(now)

    def has_crossed(self, key: Hashable) -> bool:
        """Whether a message is known to have reached the broker."""
        return self._transit.has_crossed(key)

    def held_beyond(self, key: Hashable) -> bool:
        """Whether a message had reached the broker when it was given up."""
        return self._transit.held_beyond(key)

    def sent_at(self, key: Hashable) -> float | None:
        """Return when a message left that is remembered."""
        sent = self._transit.sent_of(key)
        return None if sent is None else sent[1]

    def _heard(self, now: float) -> News:
        self.heard_at = now
        self._unanswered = 0
        if not self.suspect:
            return News.NONE
        # What crossed an outage tells that the link is back, not how fast it is.
        self.suspect = False
        self.begin_anew(now)
        return News.RESTORED

    def begin_anew(self, now: float) -> None:
        """Measure from the start: whatever is on its way says nothing of the link."""
        self._restored_at = now
        self._transit.clear()
        self._probe = None
        self.estimator.reset()
        self._plan_train()

    def abandoned(self, key: Hashable) -> None:
        """Take in that a message never left."""
        self._transit.abandoned(key)

    def returned(
        self, key: Hashable, far_seconds: float, now: float, source: str = "passive", telling: bool = True
    ) -> News:
        """Take in the answer to a message; `telling` is false where its time says nothing of the link."""
        sent = self._transit.sent_of(key)
        seconds = self._transit.returned(key, far_seconds, self.estimator.round_trip_seconds, now)
        if self._heard(now) is News.RESTORED:
            return News.RESTORED
        if not telling or sent is None or seconds is None or sent[1] < self._restored_at:
            return News.NONE
        changed = self.estimator.add(LinkSample(sent[0], seconds, now, source))
        if self.estimator.in_doubt or (source == "probe" and self.estimator.suspicious):
            self.order_probe(now)
        return self._noted(changed, now)

    def _noted(self, changed: bool, now: float) -> News:
        if changed:
            self.changed_at = now
        return News.CHANGED if changed else News.NONE

    def timed_out(self, key: Hashable, now: float) -> News:
        """Take in that a message was not answered in time."""
        sent = self._transit.sent_of(key)
        crossing_seconds = self._transit.give_up(key, now)
        if sent is None or crossing_seconds is None:
            return News.NONE
        size, sent_at = sent
        if self.heard_at >= sent_at:
            return News.NONE
        if self._unanswered == 0:
            self._silent_since = sent_at
        self._unanswered += 1
        if not self.suspect and self._unanswered >= _SUSPECT_AFTER and now - self._silent_since >= SILENCE_SECONDS:
            self.lost(now)
            return News.LOST
        if crossing_seconds < _TELLING_SECONDS:
            return News.NONE
        return self._noted(self.estimator.add_unanswered(LinkSample(size, crossing_seconds, now)), now)

    def lost(self, now: float) -> None:
        """Take in that nothing gets through any more; probing goes on until something does."""
        self.suspect = True
        self._train.clear()
        self._backoff_seconds = 0.5
        self._ping_at = now

    # ------------------------------------------------------------------------------------------ probing

    def _plan_train(self) -> None:
        self._train = [PING_BYTES, PING_BYTES, PING_BYTES, _FIRST_PROBE]

    def order_probe(self, now: float) -> None:
        """Ask for a round trip and a sized probe as soon as possible, within reason."""
        if self.suspect:
            self._ping_at = float("-inf")
            return
        self._trains_left = min(_MOST_TRAINS, self._trains_left + (now - self._trains_at) / _TRAIN_SECONDS)
        self._trains_at = now
        if not self._train and self._trains_left >= 1:
            self._trains_left -= 1
            self._train = self._full_train(now)

    def _full_train(self, now: float) -> list[int]:
        return [PING_BYTES, PING_BYTES, self._telling_bytes(now)]

    def _telling_bytes(self, now: float) -> int:
        """Return the size of a probe that takes long enough to tell the rate, and not longer."""
        rate = self.estimator.rate(0.5)
        if rate is None:
            return _FIRST_PROBE
        round_trip, noise = self.estimator.round_trip_seconds, self.estimator.noise_seconds
        seconds = min(0.08, max(0.01, 0.35 * round_trip, 5.0 * noise))
        fair = max(_FIRST_PROBE, self.budget.left(now) // _SHARES)
        return max(_SMALLEST_PROBE, min(_LARGEST_PROBE, fair, int(rate * seconds / 8)))

    def due(self, now: float, force: bool = False) -> None:
        """Take in that the schedule calls for a probe: only what traffic has not told lately."""
        if self.suspect or not self.connected:
            return
        if force or now - self.estimator.rate_told_at >= 0.6 * self.interval_seconds:
            self._train = self._train or self._full_train(now)
        elif now - self.estimator.round_trip_told_at >= 0.6 * self.interval_seconds and not self._train:
            self._train = [PING_BYTES]

    @property
    def wakeup_at(self) -> float:
        """When `probes` wants to be asked again, infinity if an event will come first."""
        if not self.connected:
            return float("inf")
        if self._probe is not None:
            return self._probe[1] + _PROBE_TIMEOUT_SECONDS
        if self.suspect:
            return self._ping_at
        return self._early_at if self.eager else float("inf")

    def overdue_probe(self, now: float) -> int | None:
        """Give up a probe that is not answered in time; return its number, `timed_out` is to be told of it."""
        if self._probe is None or now < self._probe[1] + _PROBE_TIMEOUT_SECONDS:
            return None
        return self.end_probe(self._probe[0])

    def end_probe(self, sequence: int) -> int | None:
        """Wait no longer for a probe, nor go on with what it began; return its number if it was waited for."""
        if self._probe is None or self._probe[0] != sequence:
            return None
        self._probe = None
        self._train.clear()
        return sequence

    def probes(self, tier: Tier | None, now: float) -> list[SendProbe]:
        """Return the probe to send now, if any: one is out at a time, and only while nothing else crosses."""
        if not self.connected or self._probe is not None:
            return []
        if self.eager and now >= self._early_at:
            self._early_at = float("inf")
            self._train = self._train or self._full_train(now)
        if tier is None:
            self._ping_at = max(self._ping_at, now + 1.0)
            return []
        if self.suspect:
            if now < self._ping_at:
                return []
            self._ping_at = now + self._backoff_seconds
            self._backoff_seconds = min(self._backoff_seconds * 1.5, max(1.0, min(4.0, self.interval_seconds)))
            self.budget.take(PING_BYTES, now)  # taken or not: without it nobody would ever know
            return self._send(PING_BYTES, tier, now)
        if not self._train or self._transit.occupied(now):
            return []
        size = self._affordable(self._train.pop(0), now)
        if size is None or not self.budget.take(size, now):
            self._train.clear()
            return []
        return self._send(size, tier, now)

    def _affordable(self, size: int, now: float) -> int | None:
        """Cut a sized probe down to what the budget and the broker allow; None when that would tell nothing."""
        if size <= PING_BYTES:
            return size
        allowed = min(size, self._largest, self.budget.left(now))
        return allowed if allowed >= _SMALLEST_PROBE else None

    def _send(self, size: int, tier: Tier, now: float) -> list[SendProbe]:
        if size > PING_BYTES:
            # As often as the budget would overflow without it, and only while it is well filled.
            pause = max(self.interval_seconds / _MOST_OFTEN, self.budget.seconds_for(size + 2 * PING_BYTES))
            self._early_at = now + pause if self.budget.well_filled else float("inf")
        self._sequence += 1
        self._probe = (self._sequence, now)
        self.sent(("probe", self._sequence), size, now)
        return [SendProbe(self._sequence, tier, size)]

    def ping(self, tier: Tier, now: float) -> SendProbe:
        """Return a ping that asks whether a tier answers, and measures nothing."""
        self.budget.take(PING_BYTES, now)  # taken or not: without it nobody would ever know
        self._sequence += 1
        return SendProbe(self._sequence, tier, PING_BYTES)

    def probe_returned(self, sequence: int, far_seconds: float, now: float, telling: bool = True) -> News:
        """Take in a probe's echo, be it late."""
        sent = self._transit.sent_of(("probe", sequence))
        if sent is None:
            return News.NONE
        size, _ = sent
        if self._probe is not None and self._probe[0] == sequence:
            self._probe = None
        news = self.returned(("probe", sequence), far_seconds, now, "probe", telling)
        if not self._train and size >= _SMALLEST_PROBE and self._too_small(size):
            larger = min(4 * size, self._largest, self.budget.left(now))
            self._train = [larger] if larger > size else []
            if not self._train:  # this is as good as it gets
                self.estimator.telling_bytes = min(self.estimator.telling_bytes, size // 2)
        return news

    def _too_small(self, size: int) -> bool:
        """Whether a larger probe would tell the rate better."""
        rate = self.estimator.rate(0.5)
        if rate is None:
            return True
        round_trip, noise = self.estimator.round_trip_seconds, self.estimator.noise_seconds
        return 8.0 * size / rate < max(0.003, 0.25 * round_trip, 2.5 * noise)
