"""The `[planner]` part of the configuration, checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from popexd.bounds import BOUNDS
from popexd.criteria import Criterion
from popexd.errors import InputError
from popexd.solvers import MODES, NAMES, OBJECTIVES


@dataclass(frozen=True, slots=True)
class PlannerSettings:
    """What planning goes by; `request/set` changes it while running.

    `thresholds` are in the unit of each branch's criterion, and stand for frames of every image-quality class.
    """

    mode: str = "auto"
    solver: str = "joint"
    objective: str = "seconds"
    min_accuracy: float | None = None
    min_agreement: float = 0.98
    deadline_seconds: float = 2.0
    dwell_seconds: float = 2.0
    quantile: float = 0.25
    thresholds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _one_of("mode", self.mode, MODES)
        _one_of("solver", self.solver, NAMES)
        _one_of("objective", self.objective, OBJECTIVES)
        if self.min_accuracy is not None:
            _number("min_accuracy", self.min_accuracy, *BOUNDS["planner.min_accuracy"])
        for key in ("min_agreement", "deadline_seconds", "dwell_seconds", "quantile"):
            _number(key, getattr(self, key), *BOUNDS[f"planner.{key}"])
        if not isinstance(self.thresholds, Mapping):
            raise InputError(f"thresholds: {_said(self.thresholds)}, expected a table of exit = threshold")
        for name, value in self.thresholds.items():
            _number(f"thresholds.{name}", value, *BOUNDS["planner.thresholds"])

    def updated(self, given: Mapping[str, Any], exits: Mapping[str, Criterion]) -> PlannerSettings:
        """Return the settings with what is `given` over them; `exits` are the model's branches and what they go by.

        Thresholds are merged. One of None takes back what was set before, None for all of them takes all back: the
        bundle's own stand again.

        Raises:
            InputError: an unknown key, exit or value; nothing is changed then.

        """
        known = [each.name for each in fields(self)]
        for key in given:
            if key not in known:
                raise InputError(f"{key}: not a setting, expected one of {', '.join(known)}")
        thresholds = given.get("thresholds", {})
        before = self.thresholds if thresholds is not None else {}
        thresholds = {} if thresholds is None else thresholds
        if not isinstance(thresholds, Mapping):
            raise InputError(f"thresholds: {_said(thresholds)}, expected a table of exit = threshold")
        for name, value in thresholds.items():
            _one_of("thresholds", name, tuple(exits))
            if value is None:
                continue
            _number(f"thresholds.{name}", value, 0, exits[name].largest + 0.01)
        merged = {**before, **thresholds}
        kept = {name: value for name, value in merged.items() if value is not None}
        return replace(self, **{**given, "thresholds": kept})

    def changes(self, after: PlannerSettings) -> dict[str, dict[str, Any]]:
        """Return what is another in `after`, as `{key: {"from", "to"}}`; a threshold of None is the bundle's own."""
        old, new = self._flat(), after._flat()
        keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        return {key: {"from": old.get(key), "to": new.get(key)} for key in keys}

    def _flat(self) -> dict[str, Any]:
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "thresholds"}
        return {**values, **{f"thresholds.{name}": value for name, value in self.thresholds.items()}}


def _said(value: object) -> str:
    """Return a value as whoever sent it wrote it: these three are not spelt in JSON as in Python."""
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)


def _one_of(key: str, value: object, expected: tuple[str, ...]) -> None:
    if value not in expected:
        raise InputError(f"{key}: {_said(value)}, expected one of {', '.join(expected)}")


def _number(key: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InputError(f"{key}: {_said(value)}, expected a number from {low:g} to {high:g}")
