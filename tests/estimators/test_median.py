"""The running median."""

from __future__ import annotations

import math

import pytest

from popexd.estimators import RunningMedian


def test_before_the_first_sample_it_is_the_default() -> None:
    """A default, or none."""
    assert RunningMedian().value is None
    assert RunningMedian(default=3.0).value == 3.0


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_ignored(odd: float) -> None:
    """One division by zero somewhere does not spoil the rest."""
    median = RunningMedian(3)
    for value in (1.0, odd, 2.0, 9.0):
        median.add(value)
    assert (median.value, len(median)) == (2.0, 3)


def test_it_moves_with_the_last_samples() -> None:
    """It forgets all but so many."""
    median = RunningMedian(3)
    for value in (1.0, 1.0, 1.0, 5.0, 6.0, 7.0):
        median.add(value)
    assert median.value == 6.0
