"""What leaving early costs, counted by hand; and that its bound is one."""

from __future__ import annotations

import numpy as np
import pytest

from popexd.cli.words import lost
from popexd.evaluation.losses import NORMAL_90, NORMAL_95, Loss, bound, interval, paired
from popexd.evaluation.metrics import figures
from popexd.evaluation.policy import Policy
from tests.evaluation.tables import table


def test_a_loss_is_what_the_end_knows_better_less_the_reverse() -> None:
    """Of five frames at b1, two are lost to the end and one is gained; none leaves at b2."""
    answers = table(
        [[0.9] * 5 + [0.5], [0.6] * 6, [0.9] * 6],
        [[0, 0, 1, 1, 0, 1], [1] * 6, [1, 1, 0, 1, 0, 1]],
    )
    lost = figures(answers, Policy({"b1": 0.8, "b2": 0.8})).lost

    assert set(lost) == {"b1"}
    assert (lost["b1"].samples, lost["b1"].share) == (5, pytest.approx(1 / 5))
    # By Bonett and Price: 3 and 2 of 7.
    assert lost["b1"].at_most == pytest.approx(1 / 7 + 1.6448536 * ((5 / 7 - 1 / 49) / 7) ** 0.5)


def test_nothing_lost_is_no_proof() -> None:
    """On few frames it may be much, on many little; of no frames nothing is said."""
    few, many = (paired(np.ones(count, dtype=bool), np.ones(count, dtype=bool)) for count in (30, 3000))
    assert few is not None
    assert many is not None
    assert few.share == many.share == 0
    assert few.at_most > 0.05
    assert many.at_most < 0.001
    assert paired(np.zeros(0, dtype=bool), np.zeros(0, dtype=bool)) is None


@pytest.mark.parametrize("samples", [40, 100, 1000])
@pytest.mark.parametrize(("lost", "gained"), [(0.05, 0.01), (0.1, 0.1), (0.02, 0.0)])
def test_the_bound_is_kept_as_often_as_it_says(samples: int, lost: float, gained: float) -> None:
    """On fresh draws, in at least 19 of 20 but for a point or two."""
    random = np.random.default_rng(samples)
    kept = 0
    for _ in range(2000):
        drawn = random.random(samples)
        branch, end = drawn >= lost, (drawn < lost) | (drawn >= lost + gained)
        found = paired(branch, end)
        assert found is not None
        kept += found.at_most >= lost - gained
    assert kept / 2000 >= 0.93


def test_the_bound_by_hand() -> None:
    """Three lost and one gained of a hundred; none of none."""
    spread = ((0.04 - 0.02**2) / 100) ** 0.5
    assert bound(3, 1, 100, NORMAL_90) == pytest.approx(0.02 + 1.28155157 * spread)
    assert bound(3, 1, 100, NORMAL_95) == pytest.approx(0.02 + 1.64485363 * spread)
    assert bound([0, 0], [0, 0], [0, 10], NORMAL_95).tolist() == [0, 0]


def test_the_interval_of_a_share_is_wilson_s() -> None:
    """Within 0 to 1 also at its ends; the two shares whose own spread just reaches the count."""
    for share, samples in ((0.5, 10), (0.93, 50), (1.0, 20), (0.0, 20)):
        low, high = interval(share, samples)
        assert 0 <= low <= share <= high <= 1
        for end in {low, high} - {0.0, 1.0}:
            assert abs(share - end) == pytest.approx(1.95996398 * (end * (1 - end) / samples) ** 0.5)


@pytest.mark.parametrize(
    ("share", "at_most", "told"),
    [
        (0.012, 0.02, "loses 1.2 % against the network's end on 50 frames, at most 2.0 % (95 %)"),
        (0.0, 0.02, "loses nothing against the network's end on 50 frames, at most 2.0 % (95 %)"),
        (-0.091, -0.0352, "gains 9.1 % against the network's end on 50 frames, at least 3.5 % (95 %)"),
        (-0.01, 0.02, "gains 1.0 % against the network's end on 50 frames, or loses at most 2.0 % (95 %)"),
    ],
)
def test_a_bound_is_told_as_what_it_is(share: float, at_most: float, told: str) -> None:
    """Of a loss it is the most, of a gain the least, unless it may be a loss after all."""
    assert lost(Loss(50, share, at_most)) == told
