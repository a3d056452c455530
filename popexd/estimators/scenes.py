"""How many looks at the world a row of frames is: successive ones of one scene are one look."""

from __future__ import annotations

import itertools
import math
from collections import Counter, OrderedDict, deque
from collections.abc import Hashable, Iterable

_ALIKE = 0.1
"""Frames of one scene differ by no more certainty than this; sensor noise is less."""
_KEPT = 4
"""Scenes that are known again: an object at the edge between two classes is called now one and now the other."""
_MOST_PLACES = 256


class Scenes:
    """Gives every frame the number of its scene: that of a recent one of its camera with its class and certainty.

    A scene may change by and by, as with the light of the day: it goes by how it looked last.
    """

    def __init__(self) -> None:
        self._recent: OrderedDict[Hashable, deque[tuple[Hashable, float, int]]] = OrderedDict()
        self._numbers = itertools.count()

    def another(self) -> int:
        """Return the number of a scene that nobody has seen."""
        return next(self._numbers)

    def number(self, place: Hashable, label: Hashable, certainty: float) -> int:
        """Return the number of the scene at a place, a camera as seen by one exit."""
        recent = self._recent.setdefault(place, deque(maxlen=_KEPT))
        self._recent.move_to_end(place)
        while len(self._recent) > _MOST_PLACES:
            self._recent.popitem(last=False)
        alike = [seen for seen in recent if seen[0] == label and abs(certainty - seen[1]) <= _ALIKE]
        if alike:
            nearest = min(alike, key=lambda seen: abs(certainty - seen[1]))
            recent.remove(nearest)
            number = nearest[2]
        else:
            number = self.another()
        recent.append((label, certainty, number))
        return number


def effective_number(scenes: Iterable[Hashable]) -> float:
    """Return how many independent frames a row of frames is worth, by the scene of each; 0 of none.

    A scene that was looked at `m` times weighs `m`, so the mean over all frames varies as that of
    ``(sum m)^2 / sum m^2`` equal ones does (Kish, Survey Sampling, 1965).
    """
    counts = Counter(scenes).values()
    return sum(counts) ** 2 / sum(count * count for count in counts) if counts else 0.0


def largest_by_chance(looks: float) -> float:
    """Return what the largest difference of two distribution functions exceeds by chance once in a hundred times.

    Kolmogorov's law, at its limit for many looks.
    """
    return 1.63 / math.sqrt(looks)


def share_by_chance(expected: float, looks: float) -> float:
    """Return what a share is off by chance once in a hundred times."""
    expected = min(0.98, max(0.02, expected))
    return 2.58 * math.sqrt(expected * (1.0 - expected) / looks)


def mix_by_chance(expected: Iterable[float], looks: float) -> float:
    """Return what half the sum of all differences of shares exceeds by chance at most once in a hundred times.

    Its mean by the deviation of each share, and McDiarmid's inequality beyond, as one look moves it by `1 / looks`.
    """
    mean = 0.5 * sum(math.sqrt(share * (1.0 - share) / looks) for share in expected)
    return mean + math.sqrt(math.log(100.0) / (2.0 * looks))
