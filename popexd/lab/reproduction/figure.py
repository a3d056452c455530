"""A figure as data: panels of curves, what it was made from, and the facts that the paper states of it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Curve:
    """Points of one curve; `labels` says in words what each y stands for, where it stands for something."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Panel:
    """Curves over the same axes.

    Attributes:
        title: what sets this panel apart.
        x_name: what x is, with its unit, as a key in files.
        y_name: likewise y.
        x_label: what x is, for people.
        y_label: likewise y.
        curves: nan leaves a gap.
        y_factor: what y is multiplied by for people.
        y_ticks: names of 0, 1, 2, ... on the y axis; then curves are drawn as steps.
        x_logarithmic: whether the x axis is.
        y_from_zero: whether the y axis begins at 0.
        mark: a vertical line with its name, where the paper marks one.
    """

    title: str
    x_name: str
    y_name: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    y_factor: float = 1.0
    y_ticks: Sequence[str] = ()
    x_logarithmic: bool = False
    y_from_zero: bool = True
    mark: tuple[float, str] | None = None


@dataclass(frozen=True)
class Fact:
    """One thing that the paper says, what was found, and whether that is the same; None where it cannot be told."""

    figure: str
    paper: str
    found: str
    same: bool | None

    @property
    def verdict(self) -> str:
        """`same`, `differs` or `cannot be told`."""
        if self.same is None:
            return "cannot be told"
        return "same" if self.same else "differs"


@dataclass(frozen=True)
class Figure:
    """One figure; `source` says what it was made from, `settings` with which numbers."""

    name: str
    title: str
    source: str
    panels: Sequence[Panel]
    facts: Sequence[Fact] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The form of its file; what is only for people's eyes stays out."""
        return {
            "figure": self.name,
            "title": self.title,
            "source": self.source,
            "settings": self.settings,
            "panels": [
                {
                    "title": panel.title,
                    "x": panel.x_name,
                    "y": panel.y_name,
                    "curves": [_plain(curve) for curve in panel.curves],
                }
                for panel in self.panels
            ],
            "facts": [asdict(fact) for fact in self.facts],
        }

    def to_csv(self) -> str:
        """One row a point: panel, curve, x, y, and what y stands for."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["figure", "panel", "curve", "x_is", "x", "y_is", "y", "label"])
        for panel in self.panels:
            for curve in panel.curves:
                labels = curve.labels or [""] * len(curve.x)
                for x, y, label in zip(curve.x, curve.y, labels, strict=True):
                    shown = "" if math.isnan(y) else repr(float(y))
                    rows.writerow(
                        [self.name, panel.title, curve.name, panel.x_name, repr(float(x)), panel.y_name, shown, label]
                    )
        return text.getvalue()


def _plain(curve: Curve) -> dict[str, Any]:
    """A curve in JSON, which knows no nan."""
    plain: dict[str, Any] = {
        "name": curve.name,
        "x": [float(x) for x in curve.x],
        "y": [None if math.isnan(y) else float(y) for y in curve.y],
    }
    return {**plain, "labels": list(curve.labels)} if curve.labels else plain
