"""Which tiers answer what reaches them: a worker that hangs says nothing against the link, nor against other tiers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass

from popexd.plan import Tier

SILENCE_SECONDS = 0.6
"""So many unanswered messages in a row, and nothing heard for so long, are more than a hiccup."""
_SUSPECT_AFTER, _MOST_SUSPECT_AFTER = 2, 4
_FIRST_PAUSE_SECONDS, _PAUSE_FACTOR, _LONGEST_PAUSE_SECONDS = 0.5, 1.5, 4.0
_REMEMBERED = 64


@dataclass(slots=True)
class _Tier:
    heard_at: float = float("-inf")
    unanswered: int = 0
    silent_since: float = 0.0
    suspect: bool = False
    restored_at: float = float("-inf")
    ping_at: float = float("inf")
    pause_seconds: float = _FIRST_PAUSE_SECONDS


class Trust:
    """Tiers are trusted until what has reached the broker for them is not answered; whoever answers is trusted again.

    The workers of a tier share its messages, so one that hangs leaves some unanswered though the others are well: the
    more workers, the more silences in a row it takes. A suspect tier is pinged until it answers.
    """

    def __init__(self) -> None:
        self._tiers: dict[Tier, _Tier] = {}
        self._asked: OrderedDict[int, Tier] = OrderedDict()

    def clear(self) -> None:
        """Forget everything, as when the connection breaks."""
        self._tiers.clear()
        self._asked.clear()

    def forget(self, tier: Tier) -> None:
        """Take in that a tier has no worker any more: the next one starts with a clean sheet."""
        self._tiers.pop(tier, None)

    def _of(self, tier: Tier) -> _Tier:
        return self._tiers.setdefault(tier, _Tier())

    @property
    def suspects(self) -> frozenset[Tier]:
        """The tiers that did not answer."""
        return frozenset(tier for tier, known in self._tiers.items() if known.suspect)

    def heard_at(self, tier: Tier) -> float:
        """When a tier answered last, minus infinity if never."""
        return self._of(tier).heard_at

    def restored_at(self, tier: Tier) -> float:
        """When a tier last began to answer again, minus infinity if it never stopped."""
        return self._of(tier).restored_at

    def heard(self, tier: Tier, now: float) -> bool:
        """Take in an answer of a tier; tell whether it was suspect."""
        known = self._of(tier)
        known.heard_at, known.unanswered = now, 0
        if not known.suspect:
            return False
        known.suspect, known.restored_at = False, now
        return True

    def unanswered(self, tier: Tier, sent_at: float, workers: int, now: float) -> bool:
        """Take in that a message which reached the broker was not answered; tell whether that makes a tier suspect."""
        known = self._of(tier)
        if known.suspect or known.heard_at >= sent_at:
            return False
        if known.unanswered == 0:
            known.silent_since = sent_at
        known.unanswered += 1
        enough = min(_MOST_SUSPECT_AFTER, max(_SUSPECT_AFTER, 1 + workers))
        if known.unanswered < enough or now - known.silent_since < SILENCE_SECONDS:
            return False
        return self.lost(tier, now)

    def lost(self, tier: Tier, now: float) -> bool:
        """Take in that nobody of a tier listens; tell whether that is new."""
        known = self._of(tier)
        if known.suspect:
            return False
        known.suspect, known.ping_at, known.pause_seconds = True, now, _FIRST_PAUSE_SECONDS
        return True

    # ------------------------------------------------------------------------------------------ asking

    def hurry(self, tier: Tier, now: float) -> None:
        """Have a suspect tier pinged at once: there is a reason to hope."""
        known = self._of(tier)
        if known.suspect:
            known.ping_at, known.pause_seconds = now, _FIRST_PAUSE_SECONDS

    @property
    def wakeup_at(self) -> float:
        """When the next ping is due, infinity if no tier is suspect."""
        return min((known.ping_at for known in self._tiers.values() if known.suspect), default=float("inf"))

    def due(self, now: float) -> Collection[Tier]:
        """Return the suspect tiers that are to be pinged now."""
        found = [tier for tier, known in self._tiers.items() if known.suspect and known.ping_at <= now]
        for tier in found:
            known = self._tiers[tier]
            known.ping_at = now + known.pause_seconds
            known.pause_seconds = min(known.pause_seconds * _PAUSE_FACTOR, _LONGEST_PAUSE_SECONDS)
        return found

    def asked(self, sequence: int, tier: Tier) -> None:
        """Take in that a probe went to a tier."""
        self._asked[sequence] = tier
        if len(self._asked) > _REMEMBERED:
            self._asked.popitem(last=False)

    def asked_tier(self, sequence: int) -> Tier | None:
        """Return the tier that a probe went to; None if it is not remembered."""
        return self._asked.get(sequence)

    def echoed(self, sequence: int) -> Tier | None:
        """Take in a probe's echo; return who it is from, None if nobody asked, or it came before."""
        return self._asked.pop(sequence, None)
