"""Live exit shares as weights of the validation table."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from popexd.estimators import ExitRates
from popexd.validation import FINAL, Validation

NAMES = ("b1", "b2", FINAL)
SAMPLES = 400


def table(seed: int = 0) -> NDArray[np.float64]:
    """Confidences of three exits that depend on each other: what is easy for one is easy for the next."""
    dice = np.random.default_rng(seed)
    easy = dice.random(SAMPLES)
    return np.clip(easy + dice.normal(0, 0.15, (3, SAMPLES)), 0, 1)


def shares(confidence: NDArray[np.float64], weights: NDArray[np.float64], thresholds: dict[str, float]) -> list[float]:
    """Where the weighted samples leave."""
    weighed = Validation(NAMES, confidence, np.ones_like(confidence, dtype=bool), weights)
    return list(weighed.outcomes([(name, thresholds[name]) for name in NAMES if name in thresholds]).shares)


def stream(rates: ExitRates, left: dict[str, int], rounds: int, begin: float = 0.0, gap: float = 0.1) -> float:
    """Let frames leave in these proportions, well mixed; return the instant of the last."""
    pattern = [name for name, count in left.items() for _ in range(count)]
    order = np.random.default_rng(1).permutation(len(pattern))
    now = begin
    for _ in range(rounds):
        for index in order:
            now += gap
            rates.add(pattern[index], now)
    return now


def test_without_frames_the_table_stands_as_it_is() -> None:
    """All samples count alike."""
    rates = ExitRates(NAMES, table())
    rates.use({"b1": 0.7}, 0.0)
    assert np.allclose(rates.weights(10.0), 1.0)


@given(st.integers(1, 18), st.integers(1, 18), st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_live_shares_are_reproduced_exactly_as_evidence_grows(b1: int, b2: int, seed: int) -> None:
    """The weighted table has the very shares that were seen, whatever its own were."""
    thresholds = {"b1": 0.6, "b2": 0.5}
    confidence, seen = table(seed), {"b1": b1, "b2": b2, FINAL: 40 - b1 - b2}
    rates = ExitRates(NAMES, confidence)
    rates.use(thresholds, 0.0)
    wanted = [count / 40 for count in seen.values()]
    errors = []
    for rounds in (1, 4, 20, 120):
        now = stream(rates, seen, rounds)
        found = shares(confidence, rates.weights(now), thresholds)
        errors.append(max(abs(one - other) for one, other in zip(found, wanted, strict=True)))
    assert errors[-1] < 0.005
    assert errors == sorted(errors, reverse=True) or max(errors) < 0.005


def test_weights_have_mean_one_and_none_is_negative() -> None:
    """They weigh; they do not count."""
    rates = ExitRates(NAMES, table())
    rates.use({"b1": 0.7, "b2": 0.4}, 0.0)
    now = stream(rates, {"b1": 9, "b2": 0, FINAL: 1}, 50)
    weights = rates.weights(now)
    assert weights.mean() == pytest.approx(1.0)
    assert (weights >= 0).all()


def test_exits_that_did_not_run_are_priced_jointly() -> None:
    """Live frames twice as hard at b1 are harder at b2 too: no independence between exits is assumed."""
    confidence = table()
    rates = ExitRates(NAMES, confidence)
    rates.use({"b1": 0.5}, 0.0)
    easy, _, _ = shares(confidence, np.ones(SAMPLES), {"b1": 0.5, "b2": 0.5})
    now = stream(rates, {"b1": 1, FINAL: 3}, 400)
    weights = rates.weights(now)
    before, after = (shares(confidence, each, {"b2": 0.5})[0] for each in (np.ones(SAMPLES), weights))
    assert easy > 0.4
    assert after < 0.75 * before
    stays = confidence[0] < 0.5
    joint = 0.25 * (confidence[1][~stays] >= 0.5).mean() + 0.75 * (confidence[1][stays] >= 0.5).mean()
    assert after == pytest.approx(joint, abs=0.01)


def test_a_change_of_the_setting_keeps_what_was_learnt() -> None:
    """Frames seen under one choice of exits still count under the next."""
    confidence = table()
    rates = ExitRates(NAMES, confidence)
    rates.use({"b1": 0.5}, 0.0)
    now = stream(rates, {"b1": 1, FINAL: 9}, 100)
    before = rates.weights(now)
    rates.use({"b2": 0.5}, now)
    assert np.allclose(rates.weights(now), before)
    rates.use({"b2": 0.5}, now + 1)
    assert np.allclose(rates.weights(now), before)


def test_without_evidence_what_was_learnt_fades() -> None:
    """The table's own shares come back within the memory, after a change of the setting or when no frame comes."""
    for change in (True, False):
        rates = ExitRates(NAMES, table(), memory_seconds=100)
        rates.use({"b1": 0.5}, 0.0)
        now = stream(rates, {"b1": 1, FINAL: 9}, 20)
        if change:
            rates.use({"b2": 0.5}, now)
        assert np.abs(rates.weights(now + 1) - 1).max() > 0.3
        assert np.abs(rates.weights(now + 300) - 1).max() < 0.02


def test_only_the_last_frames_count() -> None:
    """When the camera looks at something else, the shares follow."""
    confidence = table()
    rates = ExitRates(NAMES, confidence, window=100)
    rates.use({"b1": 0.5}, 0.0)
    now = stream(rates, {"b1": 9, FINAL: 1}, 100)
    now = stream(rates, {"b1": 1, FINAL: 9}, 10, begin=now)
    assert shares(confidence, rates.weights(now), {"b1": 0.5})[0] == pytest.approx(0.1, abs=0.02)


def test_an_exit_that_is_not_in_force_counts_as_final() -> None:
    """A frame that was under way when the plan changed went past the exits that there are now."""
    rates = ExitRates(NAMES, table())
    rates.use({"b1": 0.5}, 0.0)
    now = stream(rates, {"b2": 10}, 80)
    assert shares(table(), rates.weights(now), {"b1": 0.5})[0] < 0.05


@pytest.mark.parametrize("left", ["b1", FINAL])
def test_what_the_table_never_saw_does_not_break_it(left: str) -> None:
    """All live frames leave where no sample of the table does: the weights stay finite."""
    confidence = np.full((3, 10), 0.9 if left == FINAL else 0.1)
    rates = ExitRates(NAMES, confidence)
    rates.use({"b1": 0.5}, 0.0)
    now = stream(rates, {left: 10}, 200)
    weights = rates.weights(now)
    assert np.isfinite(weights).all()
    assert weights.mean() == pytest.approx(1.0)
