"""Whether what the exits say of live frames still looks like what they said of the validation samples.

How many frames leave at an exit is no health signal by itself: under blur, a branch that was calibrated on clear frames
went on to answer 18 % of them and was right on 21 % of those (expert branches, GLOBECOM 2021). So three things are
watched: how sure each exit is, how many frames it answers, and of which image-quality classes the frames are.

Every frame is compared with the validation samples that would have come as far as it did, under the thresholds in force
for it, and of its own class: its certainty has a rank among theirs, and ranks of frames like the samples are uniform
whatever the plan was. So frames of different plans and classes add up, and a change of plan is no drift.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popexd.estimators.scenes import Scenes, effective_number, largest_by_chance, mix_by_chance, share_by_chance
from popexd.validation import FINAL, Validation

WINDOW = 300
FEWEST = 100
"""Frames that are looked back on at most, and from how many on anything is said."""

DETECTED, CLEARED = 0.25, 0.15
"""Largest difference of two distribution functions, 0..1. Only what is large matters, and only what chance does not
explain is told: frames that follow each other are alike, so what counts there is how many scenes were looked at."""

_LEVELS = np.linspace(0.1, 0.9, 9)
_FEWEST_SAMPLES = 30
_MOST_REFERENCES = 256


@dataclass(frozen=True, slots=True)
class Change:
    """A drift that came or went: `signal` is `confidence`, `exits` or `quality`; `exit` is None for the last."""

    signal: str
    exit: str | None
    detected: bool
    figures: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Reference:
    """The validation samples that come to an exit, all that is asked of them."""

    ordered: NDArray[np.float64]
    below: NDArray[np.float64]
    leaving: float
    certainty: float

    def rank(self, certainty: float) -> float:
        """The share of samples that are less certain, those that are just as certain counted by half."""
        low, high = (np.searchsorted(self.ordered, certainty, side) for side in ("left", "right"))
        return float(low + high) / (2 * len(self.ordered))


@dataclass(frozen=True, slots=True)
class _Seen:
    excess: NDArray[np.float64]
    left: bool
    leaving: float
    certainty: float
    expected: float
    scene: int


class Drift:
    """Watches every exit, and the mix of image-quality classes, over the last frames."""

    def __init__(self, table: Validation) -> None:
        self._rows = {
            name: np.asarray(row, dtype=np.float64) for name, row in zip(table.exits, table.confidence, strict=True)
        }
        self._classes = table.qualities
        self._shares = {name: table.share_of(name) for name in self._classes}
        self._references: dict[Hashable, _Reference | None] = {}
        self._seen: dict[str, deque[_Seen]] = {name: deque(maxlen=WINDOW) for name in table.exits}
        self._qualities: deque[tuple[str, Hashable]] = deque(maxlen=WINDOW)
        self._scenes = Scenes()
        self._last_scenes: dict[str, dict[str, int]] = {}
        self._drifting: set[tuple[str, str | None]] = set()

    def looked(self, quality: str, camera: str = "") -> None:
        """Take in the image-quality class of a frame; as far as is known it shows what the one before it showed.

        That is what every exit saw last: scenes that one of them tells apart are two, for one that is sure of all that
        it sees takes quite different frames for one scene.
        """
        if quality in self._classes:
            scenes = self._last_scenes.get(camera)
            self._qualities.append((quality, tuple(sorted(scenes.items())) if scenes else self._scenes.another()))

    def said(
        self,
        exit_name: str,
        certainty: float,
        left: bool,
        asked: Sequence[tuple[str, float]],
        quality: str | None,
        camera: str = "",
        label: Hashable = None,
    ) -> None:
        """Take in how certain an exit was of a frame, and whether it answered.

        `asked` are the branches that were asked before it and were not sure, in order, with their bounds; for the exit
        itself, its own bound is last unless it is the end of the network. `label` is what it took the frame for.
        """
        reference = self._reference(exit_name, tuple(asked), quality if quality in self._classes else None)
        if reference is None:
            return
        rank = reference.rank(certainty)
        excess = (rank <= _LEVELS) - reference.below
        scene = self._scenes.number((camera, exit_name), label, certainty)
        if len(self._last_scenes) >= _MOST_REFERENCES and camera not in self._last_scenes:
            self._last_scenes.clear()
        self._last_scenes.setdefault(camera, {})[exit_name] = scene
        self._seen[exit_name].append(_Seen(excess, left, reference.leaving, certainty, reference.certainty, scene))

    def _reference(
        self, exit_name: str, asked: tuple[tuple[str, float], ...], quality: str | None
    ) -> _Reference | None:
        key = (exit_name, asked, quality)
        if key not in self._references:
            if len(self._references) >= _MOST_REFERENCES:
                self._references.clear()
            self._references[key] = self._built(exit_name, asked, quality)
        return self._references[key]

    def _built(self, exit_name: str, asked: tuple[tuple[str, float], ...], quality: str | None) -> _Reference | None:
        row = self._rows.get(exit_name)
        if row is None:
            return None
        come = np.ones(row.shape, dtype=bool) if quality is None else self._classes[quality].copy()
        for name, bound in asked:
            if name != exit_name and name in self._rows:
                come &= self._rows[name] < bound
        if come.sum() < _FEWEST_SAMPLES:
            return None if quality is None else self._reference(exit_name, asked, None)
        ordered = np.sort(row[come])
        own = dict(asked).get(exit_name)
        draft = _Reference(ordered, np.zeros(0), 1.0 if own is None else float((ordered >= own).mean()), 0.0)
        ranks = np.array([draft.rank(value) for value in ordered])
        below = (ranks[:, None] <= _LEVELS).mean(axis=0)
        return _Reference(ordered, below, draft.leaving, float(ordered.mean()))

    # ------------------------------------------------------------------------------------------ what it comes to

    def figures(self) -> dict[str, Any]:
        """Return live and expected figures, by exit and by image-quality class."""
        exits = {name: self._exit(name) for name, seen in self._seen.items() if seen}
        looks = {"quality_scenes": self._looks()} if self._qualities else {}
        return {"exits": exits, "quality": self._mix(), **looks, "drifting": sorted(self._names())}

    def _names(self) -> Iterable[str]:
        return (signal if name is None else f"{signal} {name}" for signal, name in self._drifting)

    def _exit(self, name: str) -> dict[str, float]:
        seen = self._seen[name]
        return {
            "frames": len(seen),
            "scenes": effective_number(each.scene for each in seen),
            "share": _mean(each.left for each in seen),
            "expected_share": _mean(each.leaving for each in seen),
            "confidence": _mean(each.certainty for each in seen),
            "expected_confidence": _mean(each.expected for each in seen),
            "distance": float(np.abs(np.mean([each.excess for each in seen], axis=0)).max()),
        }

    def _mix(self) -> dict[str, dict[str, float]]:
        counts, total = Counter(quality for quality, _ in self._qualities), len(self._qualities)
        if not total:
            return {}
        return {
            name: {"share": counts[name] / total, "expected_share": expected} for name, expected in self._shares.items()
        }

    def _looks(self) -> float:
        return effective_number(scenes for _, scenes in self._qualities)

    def changes(self) -> list[Change]:
        """Return the drifts that came or went since this was asked last."""
        found: list[Change] = []
        for name, seen in self._seen.items():
            if len(seen) < FEWEST:
                continue
            figures = self._exit(name)
            looks, expected = figures["scenes"], figures["expected_share"]
            self._follow(found, "confidence", name, figures["distance"], largest_by_chance(looks), figures)
            if name != FINAL:
                distance = abs(figures["share"] - expected)
                self._follow(found, "exits", name, distance, share_by_chance(expected, looks), figures)
        if len(self._qualities) >= FEWEST:
            mix = self._mix()
            distance = sum(abs(each["share"] - each["expected_share"]) for each in mix.values()) / 2
            looks = self._looks()
            chance = mix_by_chance(self._shares.values(), looks)
            told = {"distance": distance, "scenes": looks, "classes": mix}
            self._follow(found, "quality", None, distance, chance, told)
        return found

    def _follow(
        self,
        found: list[Change],
        signal: str,
        name: str | None,
        distance: float,
        chance: float,
        figures: dict[str, Any],
    ) -> None:
        before = (signal, name) in self._drifting
        now = distance >= (CLEARED if before else max(DETECTED, chance))
        if now != before:
            (self._drifting.add if now else self._drifting.discard)((signal, name))
            found.append(Change(signal, name, now, figures))


def _mean(values: Iterable[float]) -> float:
    each = list(values)
    return math.fsum(each) / len(each)
