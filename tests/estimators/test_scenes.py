"""How many looks at the world a row of frames is, and what chance does to so many."""

from __future__ import annotations

import numpy as np
import pytest

from popexd.estimators.scenes import (
    Scenes,
    effective_number,
    largest_by_chance,
    mix_by_chance,
    share_by_chance,
)

TIMES = 4_000


def test_frames_that_are_alike_are_one_scene_and_others_are_not() -> None:
    """By class and certainty; a scene that comes back soon is the same one, one that changes slowly stays it."""
    scenes = Scenes()
    said = [("nut", 0.9), ("nut", 0.85), ("nut", 0.4), ("bolt", 0.86), ("nut", 0.9)]
    assert [scenes.number("c", *each) for each in said] == [0, 0, 1, 2, 0]
    assert scenes.number("another camera", "nut", 0.9) == 3
    assert len({scenes.number("slow", "nut", value) for value in np.linspace(0.1, 1.0, 50)}) == 1


def test_equal_scenes_count_each_and_one_that_lasts_counts_little_more_than_one() -> None:
    """As many as there are, at most."""
    assert effective_number(range(100)) == 100
    assert effective_number([number // 10 for number in range(100)]) == pytest.approx(10)
    assert effective_number([0] * 100) == 1
    assert 1 < effective_number([0] * 250 + list(range(1, 51))) < 1.5
    assert effective_number([]) == 0


@pytest.mark.parametrize("looks", [20, 60, 300])
def test_chance_exceeds_its_bounds_once_in_a_hundred_times(looks: int) -> None:
    """Drawn many times from the law that is expected; the bound of a mix is on the safe side."""
    dice = np.random.default_rng(looks)
    levels = np.linspace(0.1, 0.9, 9)
    distances = [np.abs((dice.random(looks)[:, None] <= levels).mean(axis=0) - levels).max() for _ in range(TIMES)]
    assert np.mean(np.array(distances) > largest_by_chance(looks)) <= 0.015
    shares = dice.binomial(looks, 0.3, TIMES) / looks
    assert 0.003 <= np.mean(np.abs(shares - 0.3) > share_by_chance(0.3, looks)) <= 0.02
    expected = np.array([0.5, 0.3, 0.15, 0.05])
    mixes = np.abs(dice.multinomial(looks, expected, TIMES) / looks - expected).sum(axis=1) / 2
    assert np.mean(mixes > mix_by_chance(expected, looks)) <= 0.01


def test_a_single_look_proves_nothing() -> None:
    """No difference is larger than that."""
    assert largest_by_chance(1.0) > 1
    assert share_by_chance(0.3, 1.0) > 0.7
    assert mix_by_chance([0.5, 0.5], 1.0) > 1
