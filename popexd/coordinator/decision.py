"""What was decided: a plan, why, and what is expected of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from popexd.latency import Prediction
from popexd.network import Link
from popexd.plan import Plan


@dataclass(frozen=True, slots=True)
class Choice:
    """A plan and what is expected of it; `form` is the plan as in files and messages."""

    plan: Plan
    form: Mapping[str, Any]
    prediction: Prediction

    @property
    def cut(self) -> str:
        """Return where the model is cut, several points joined by `+`."""
        cut = self.form["cut"]
        return cut if isinstance(cut, str) else "+".join(cut)

    def expected_seconds(self, left_at: str) -> float:
        """Return the predicted time of a frame that leaves at this exit."""
        return self.prediction.path_seconds.get(left_at, self.prediction.seconds)


@dataclass(frozen=True, slots=True)
class Decision(Choice):
    """The plan in force, why, and what was known when it was chosen.

    With a plan per image-quality class, `by_quality` has them, `shares` how large a part of the frames each class is,
    and the plan itself is for frames whose class is not known; what is expected is over all frames then.
    """

    plan_id: str
    decided_at: float
    reason: str
    solver: str
    objective: str
    alternatives: tuple[tuple[str, float], ...]
    network: Mapping[str, Link]
    solve_seconds: float
    by_quality: Mapping[str, Choice] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)

    def of(self, quality: str | None) -> Choice:
        """Return what frames of a class go by."""
        return self if quality is None else self.by_quality.get(quality, self)

    @property
    def plans(self) -> dict[str | None, Plan]:
        """Return every plan in force, by class; None is for frames whose class is not known."""
        return {None: self.plan, **{quality: choice.plan for quality, choice in self.by_quality.items()}}
