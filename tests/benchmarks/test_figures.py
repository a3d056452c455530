"""Figures beside their targets."""

from __future__ import annotations

import json
import math

import pytest
from rich.console import Console

from benchmarks.figures import Figure, percentile, shown, table


def figure(value: float, at_least: float | None = None, at_most: float | None = None, unit: str = "ms") -> Figure:
    """A figure of some benchmark."""
    return Figure("bench", "something", value, unit, at_least, at_most)


@pytest.mark.parametrize(
    ("value", "at_least", "at_most", "verdict"),
    [
        (0.002, None, 0.003, "ok"),
        (0.003, None, 0.003, "ok"),
        (0.0031, None, 0.003, "missed"),
        (0.9, 0.85, 1.15, "ok"),
        (0.8, 0.85, 1.15, "missed"),
        (math.nan, None, 0.003, "missed"),
        (7.0, None, None, ""),
    ],
)
def test_a_target_is_met_or_missed(value: float, at_least: float | None, at_most: float | None, verdict: str) -> None:
    """Both ends count, the ends themselves are met, and what could not be measured is missed."""
    assert figure(value, at_least, at_most).verdict == verdict


def test_targets_read_as_one_would_say_them() -> None:
    """In the figure's unit."""
    assert figure(0.0, at_most=0.003).target == "at most 3.00 ms"
    assert figure(0.0, 0.85, 1.15, "x").target == "0.85 ... 1.15 x"
    assert figure(0.0, at_most=250e6, unit="MB").target == "at most 250 MB"
    assert figure(0.0).target == "-"


def test_values_are_shown_in_their_unit() -> None:
    """Seconds as ms or s, bytes as MB, ratios as they are."""
    assert [shown(0.0123, "ms"), shown(2.5, "s"), shown(1e8, "MB"), shown(1.0449, "x")] == [
        "12.3 ms",
        "2.50 s",
        "100 MB",
        "1.04 x",
    ]
    assert shown(math.nan, "ms") == "not measured"


def test_the_table_has_a_line_for_each_figure() -> None:
    """With target, value and verdict."""
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table([figure(0.002, at_most=0.003), figure(5.0, unit="s")]))
    lines = captured.get().splitlines()

    assert len(lines) == 3
    assert lines[1].split() == ["something", "at", "most", "3.00", "ms", "2.00", "ms", "ok"]
    assert lines[2].split() == ["something", "-", "5.00", "s"]


def test_json_has_base_units_and_no_nan() -> None:
    """Milliseconds and megabytes are for people."""
    report = [figure(0.002, at_most=0.003).as_json(), figure(math.nan).as_json(), figure(1e8, unit="MB").as_json()]

    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert [(one["value"], one["unit"]) for one in report] == [(0.002, "s"), (None, "s"), (1e8, "bytes")]


def test_percentiles_are_by_nearest_rank() -> None:
    """And of nothing there is none."""
    values = [5.0, 1.0, 4.0, 2.0, 3.0]

    assert [percentile(values, share) for share in (0.0, 0.5, 0.95, 1.0)] == [1.0, 3.0, 5.0, 5.0]
    assert math.isnan(percentile([], 0.5))
