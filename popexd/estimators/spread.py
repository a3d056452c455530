"""How far messages usually are from what is expected of them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from statistics import median

_REMEMBERED = 48
_FEWEST, _SETTLED = 3, 8
_LOWEST, _LOW, _FIRST, _BLIND, _HIGHEST = 0.04, 0.1, 0.12, 0.4, 0.4
"""Shares of what is expected: the least that is believed of many messages and of a few, what is assumed of none, what
where no small one tells of the round trip (a line through a few large ones fits them whatever the link is like), and
the most."""
_OF_TRANSFER = 0.1
"""How unsteady a rate is taken to be beside the round trip; large messages correct the sum of both."""


_RECENT = 64
_ENOUGH = 8
_LOGISTIC = 2.42
"""From the first to the ninth decile of the logistic law, in standard deviations; 2.56 of the normal one."""


class Jitter:
    """Standard deviation of what messages took beside what was expected of them, in seconds.

    It goes by the deciles, so one message in ten may have been held up for any time. Small and large ones have each
    their own middle: an estimate that is a little off is no jitter. As long as few have crossed it is 0.
    """

    def __init__(self, window_seconds: float) -> None:
        self._window_seconds = window_seconds
        self._seen: deque[tuple[float, bool, float]] = deque(maxlen=_RECENT)
        self._known: float | None = 0.0

    def add(self, at: float, large: bool, off: float) -> None:
        """Take in by how many seconds a message was late, negative if it was early."""
        self._seen.append((at, large, off))
        while at - self._seen[0][0] > self._window_seconds:
            self._seen.popleft()
        self._known = None

    def forget_since(self, instant: float) -> None:
        """Take back what has crossed from an instant on: it was not late, the link had changed."""
        self._seen = deque((seen for seen in self._seen if seen[0] < instant), maxlen=_RECENT)
        self._known = None

    @property
    def seconds(self) -> float:
        """The deviation by the messages of the window."""
        if self._known is None:
            self._known = self._learnt()
        return self._known

    def _learnt(self) -> float:
        if len(self._seen) < _ENOUGH:
            return 0.0
        kinds = [[off for _, large, off in self._seen if large is kind] for kind in (False, True)]
        ordered = sorted(off - median(kind) for kind in kinds for off in kind)
        low, high = (share * (len(ordered) - 1) for share in (0.1, 0.9))
        return (_between(ordered, high) - _between(ordered, low)) / _LOGISTIC


def _between(ordered: Sequence[float], place: float) -> float:
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


class Hiccups:
    """How many of the last messages were held up by far, and by nothing that lasted: a busy machine does that."""

    def __init__(self, window_seconds: float) -> None:
        self._window_seconds = window_seconds
        self._seen: deque[tuple[float, bool]] = deque(maxlen=_RECENT)

    def add(self, at: float, held_up: bool) -> None:
        """Take in whether a message was late by far."""
        self._seen.append((at, held_up))
        while at - self._seen[0][0] > self._window_seconds:
            self._seen.popleft()

    def forget_since(self, instant: float) -> None:
        """Take back what has crossed from an instant on: the link had changed."""
        self._seen = deque((seen for seen in self._seen if seen[0] < instant), maxlen=_RECENT)

    @property
    def share(self) -> float:
        """Their share of as many messages as are remembered at most."""
        return sum(held_up for _, held_up in self._seen) / _RECENT


class Spread:
    """The usual deviation of a message, in seconds: that of the round trip, and with it that of the transfer.

    What holds a message up on its way does so whatever its size. So small ones, which are many, tell it for all, and
    it does not grow with a message's own time: a large one stands out of it.
    """

    def __init__(self) -> None:
        self._small: deque[float] = deque(maxlen=_REMEMBERED)
        self._large: deque[tuple[float, float, float]] = deque(maxlen=_REMEMBERED)
        self._known: tuple[float, float | None] | None = None

    def add(self, large: bool, off: float, round_trip: float, transfer: float) -> None:
        """Take in by how many seconds a message was off what was expected of it, whichever way."""
        if large:
            self._large.append((abs(off), round_trip, transfer))
        else:
            self._small.append(min(1.0, abs(off) / max(1e-6, round_trip + transfer)))
        self._known = None

    def of_small(self) -> float:
        """Return the usual deviation of a small message, as a share of the seconds expected of it."""
        return self._shares()[0]

    def of_large(self, round_trip: float, transfer: float) -> float:
        """Return the usual deviation of a large message, in seconds."""
        share, scale = self._shares()
        expected = round_trip + transfer
        if scale is None:
            return _BLIND * expected
        floor = _LOWEST if len(self._small) + len(self._large) >= _SETTLED else _LOW
        at_least = max(floor * expected, share * round_trip if self._small else 0.0)
        return min(_HIGHEST * expected, max(scale * _base(share, round_trip, transfer), at_least))

    def _shares(self) -> tuple[float, float | None]:
        if self._known is None:
            self._known = self._learnt()
        return self._known

    def _learnt(self) -> tuple[float, float | None]:
        share = _FIRST
        if len(self._small) >= _FEWEST:
            share = min(_HIGHEST, max(_usual(self._small), _LOWEST if len(self._small) >= _SETTLED else _LOW))
        if len(self._large) >= _FEWEST:
            return share, _usual([off / _base(share, *parts) for off, *parts in self._large])
        return share, 1.0 if self._small else None


def _base(share: float, round_trip: float, transfer: float) -> float:
    return max(1e-6, math.hypot(share * round_trip, _OF_TRANSFER * transfer))


def _usual(deviations: Sequence[float] | deque[float]) -> float:
    """Return the usual one in units of a normal distribution's, though its tail may be longer."""
    ordered = sorted(deviations)
    return max(1.48 * ordered[len(ordered) // 2], ordered[int(0.9 * len(ordered))] / 1.64)
