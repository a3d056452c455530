"""Temperature scaling against cases that have a closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from popexd.evaluation.calibration import COLDEST, HOTTEST, negative_log_likelihood, temperature


def one_sure_class(classes: int, margin: float, accuracy: float, samples: int = 9_000) -> tuple[np.ndarray, np.ndarray]:
    """Make logits (margin, 0, …) of which the first class is right in `accuracy`, errors spread evenly."""
    logits = np.zeros((samples, classes), dtype=np.float32)
    logits[:, 0] = margin
    labels = np.zeros(samples, dtype=np.uint8)
    wrong = round(samples * (1 - accuracy))
    labels[:wrong] = 1 + np.arange(wrong) % (classes - 1)
    return logits, labels


@pytest.mark.parametrize(
    ("classes", "margin", "accuracy", "expected"),
    [(2, 4, 0.8, 2.885390082), (10, 6, 0.7, 1.970752433), (10, 5, 0.9, 1.137799033), (100, 8, 0.6, 1.599812835)],
)
def test_the_temperature_is_the_one_of_the_closed_form(
    classes: int, margin: float, accuracy: float, expected: float
) -> None:
    """T = m / ln(a (K-1) / (1-a)); the calibrated confidence is the accuracy."""
    logits, labels = one_sure_class(classes, margin, accuracy)
    found = temperature(logits, labels)
    assert found == pytest.approx(expected, rel=1e-4)
    assert math.exp(margin / found) / (math.exp(margin / found) + classes - 1) == pytest.approx(accuracy, rel=1e-4)


def test_the_loss_before_and_after_is_that_of_the_closed_form() -> None:
    """Known values for two classes, margin 4, accuracy 0.8."""
    logits, labels = one_sure_class(2, 4, 0.8)
    exact = logits.astype(np.float64)
    assert negative_log_likelihood(exact, labels) == pytest.approx(0.818149928, abs=1e-6)
    assert negative_log_likelihood(exact / temperature(logits, labels), labels) == pytest.approx(0.500402424, abs=1e-6)


def test_a_branch_that_is_always_right_keeps_its_confidence() -> None:
    """Without an error there is no best temperature but zero."""
    logits, _ = one_sure_class(8, 5, 1.0)
    assert temperature(logits, np.zeros(len(logits), dtype=np.uint8)) == 1.0


def test_a_branch_that_guesses_is_made_as_unsure_as_it_may_be() -> None:
    """The search is bounded and the temperature positive."""
    logits, _ = one_sure_class(8, 30, 0.0)
    labels = (np.arange(len(logits)) % 8).astype(np.uint8)
    assert COLDEST < temperature(logits, labels) <= HOTTEST
