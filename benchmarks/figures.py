"""A measured figure beside its target, and the table of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

_SCALES = {"ms": 1e3, "s": 1.0, "MB": 1e-6, "x": 1.0}
"""What a unit makes of seconds, bytes and ratios."""


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        benchmark: which benchmark measured it.
        name: what was measured.
        value: seconds, bytes or a ratio; NaN where it could not be measured.
        unit: how it is shown: `ms` and `s` for seconds, `MB` for bytes, `x` for a ratio.
        at_least: the target's lower end, in the value's own measure; None for none.
        at_most: the target's upper end, likewise.
        note: what else is worth a glance.
        details: everything behind the value, for `--json`.

    """

    benchmark: str
    name: str
    value: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target."""
        if self.at_least is None and self.at_most is None:
            return None
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        return low <= self.value <= high

    @property
    def target(self) -> str:
        """The target as it is shown."""
        ends = [shown(end, self.unit) for end in (self.at_least, self.at_most) if end is not None]
        if len(ends) == 2:
            return f"{ends[0].split()[0]} ... {ends[1]}"
        return f"at {'least' if self.at_most is None else 'most'} {ends[0]}" if ends else "-"

    @property
    def verdict(self) -> str:
        """`ok`, `missed`, or nothing where there is no target."""
        return {True: "ok", False: "missed", None: ""}[self.met]

    def as_json(self) -> dict[str, Any]:
        """Return the figure for machines, in seconds, bytes or as a ratio."""
        return {
            "benchmark": self.benchmark,
            "name": self.name,
            "value": None if math.isnan(self.value) else self.value,
            "unit": {"ms": "s", "MB": "bytes"}.get(self.unit, self.unit),
            "at_least": self.at_least,
            "at_most": self.at_most,
            "met": self.met,
            "note": self.note,
            "details": dict(self.details),
        }


def shown(value: float, unit: str) -> str:
    """Write a value in a unit, with as many digits as are of use."""
    if math.isnan(value):
        return "not measured"
    scaled = value * _SCALES[unit]
    digits = 0 if abs(scaled) >= 100 else 1 if abs(scaled) >= 10 else 2
    return f"{scaled:.{digits if unit != 'x' else 2}f} {unit}"


def table(figures: Sequence[Figure]) -> Table:
    """Return the table that `make bench` prints."""
    found = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("figure", "target", "measured", "", "of note"):
        found.add_column(name, justify="right" if name in ("target", "measured") else "left", overflow="fold")
    for figure in figures:
        style = "red" if figure.met is False else None
        measured = shown(figure.value, figure.unit)
        found.add_row(figure.name, figure.target, measured, figure.verdict, figure.note, style=style)
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile, NaN of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan
