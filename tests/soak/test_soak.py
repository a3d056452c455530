"""A minute of what `make soak` does for ten and more."""

from __future__ import annotations

import pytest

from .processes import Sample, growth
from .run import soak


@pytest.mark.slow
def test_a_minute_among_faults_leaves_no_frame_unanswered_and_nothing_growing() -> None:
    """Four cameras, workers that are killed and stopped, brokers that restart, a link that changes and fails."""
    figures = soak(minutes=1, seed=4)

    assert figures.complaints == [], figures


def test_growth_is_the_last_third_against_the_middle_one() -> None:
    """What the first third takes to warm up does not count."""
    samples = [Sample(at, 10 if at < 3 else 100 if at < 6 else 104, 20, 8) for at in range(10)]

    assert growth(samples).resident_growth == 0.04
    assert growth(samples).flat
    leaking = [Sample(at, 100, 20 + 2 * at, 8) for at in range(10)]
    assert not growth(leaking).flat
