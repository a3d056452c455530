"""Exit criteria: spec (b) C."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from popexd.criteria import CRITERIA, Criterion, confidence, confident_enough, entropy, low_enough, softmax


@pytest.mark.parametrize(
    ("probabilities", "nats"),
    [
        ([0.5] * 2, 0.693147181),
        ([0.1] * 10, 2.302585093),
        ([0.7, 0.2, 0.1], 0.801818553),
        ([0.5, 0.25, 0.25], 1.039720771),
        ([0.9, *[0.1 / 9] * 9], 0.544805431),
        ([1.0, 0.0, 0.0], 0.0),
    ],
)
def test_entropy_is_in_nats(probabilities: list[float], nats: float) -> None:
    """The published values, and 0 ln 0 = 0."""
    assert float(entropy(probabilities)) == pytest.approx(nats, abs=5e-10)


def test_entropy_can_be_normalised() -> None:
    """Over ln(classes): 0 for certainty, 1 for none."""
    assert float(entropy([0.7, 0.2, 0.1], normalised=True)) == pytest.approx(0.729846699, abs=5e-10)
    assert float(entropy([0.25] * 4, normalised=True)) == pytest.approx(1)
    assert float(entropy([0, 1, 0], normalised=True)) == 0


def test_an_entropy_at_the_threshold_does_not_answer() -> None:
    """Strictly below."""
    at = entropy([0.5, 0.5])

    assert not low_enough(at, float(at))
    assert low_enough(at, math.nextafter(float(at), 1))


def test_a_confidence_at_the_threshold_answers() -> None:
    """At the threshold and above, whatever the precision."""
    assert confident_enough(0.9, 0.9)
    assert confident_enough(np.float32(0.9), 0.9)
    assert not confident_enough(0.9, math.nextafter(0.9, 1))


def test_temperature_flattens() -> None:
    """Logits (4, 0) at T* = 2.885390082 have confidence 0.8 (spec T)."""
    assert float(confidence([4.0, 0.0])) == pytest.approx(0.982013790)
    assert float(confidence([4.0, 0.0], 2.885390082)) == pytest.approx(0.8)
    with pytest.raises(ValueError, match="temperature is 0"):
        softmax([1.0], 0)


def test_each_row_of_a_batch_is_its_own() -> None:
    """Per-sample routing: no sums over the batch."""
    assert confidence([[0.0, 0.0], [0.0, 1000.0]]).tolist() == [0.5, 1.0]
    assert entropy([[0.5, 0.5], [1, 0]]).tolist() == pytest.approx([math.log(2), 0])


@given(st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=20), st.floats(0.01, 100))
def test_softmax_is_a_distribution(logits: list[float], temperature: float) -> None:
    """For any finite logits, however large."""
    p = softmax(logits, temperature)

    assert p.sum() == pytest.approx(1)
    assert np.all((p >= 0) & (p <= 1))
    assert 0 <= float(entropy(p)) <= math.log(len(logits)) + 1e-9


CLASSES = 7
LOGITS = st.lists(st.floats(-8, 8), min_size=CLASSES, max_size=CLASSES)


@pytest.mark.parametrize("name", CRITERIA)
@given(logits=LOGITS, threshold=st.floats(0, 2.5))
def test_certainty_reaches_its_bound_exactly_where_the_criterion_holds(
    name: str, logits: list[float], threshold: float
) -> None:
    """Confidence at the threshold and above; entropy strictly below, by BranchyNet's own definition."""
    criterion = Criterion(name, CLASSES)
    likely = softmax(logits)
    sure, nats = float(likely.max()), float(entropy(likely))
    answers = bool(criterion.certainty(sure, nats) >= criterion.bound(threshold))
    said = {"confidence": sure, "entropy": nats, "normalised-entropy": nats / math.log(CLASSES)}[name]
    if abs(said - threshold) > 1e-12:
        assert answers == (sure >= threshold if name == "confidence" else said < threshold)


@pytest.mark.parametrize("name", ["entropy", "normalised-entropy"])
@given(logits=LOGITS)
def test_an_entropy_just_at_the_threshold_never_answers(name: str, logits: list[float]) -> None:
    """Not by rounding either."""
    criterion = Criterion(name, CLASSES)
    nats = float(entropy(softmax(logits)))
    threshold = nats if name == "entropy" else nats / math.log(CLASSES)
    assert not criterion.certainty(0.5, nats) >= criterion.bound(threshold) or threshold >= criterion.largest


@pytest.mark.parametrize("name", CRITERIA)
@given(threshold=st.floats(0, 1))
def test_a_bound_is_shown_as_the_threshold_it_came_from(name: str, threshold: float) -> None:
    """To a dozen digits."""
    criterion = Criterion(name, CLASSES)
    assert criterion.threshold(criterion.bound(threshold)) == pytest.approx(threshold, abs=1e-11)


def test_an_entropy_threshold_above_all_entropies_lets_everything_answer() -> None:
    """BranchyNet's T = 5 and 10."""
    criterion = Criterion("entropy", CLASSES)
    assert criterion.certainty(1 / CLASSES, math.log(CLASSES)) >= criterion.bound(5)
