"""Temperature scaling against cases that have a closed form, and on a network that was really trained."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from popexd.criteria import confidence, entropy, softmax
from popexd.evaluation.calibration import COLDEST, HOTTEST, exits_taken, fit, temperature
from popexd.evaluation.metrics import figures
from popexd.evaluation.outcomes import answers
from popexd.evaluation.policy import Policy
from popexd.evaluation.reliability import expected_calibration_error
from tests.evaluation.tables import trained


def one_sure_class(classes: int, margin: float, accuracy: float, samples: int = 9_900) -> tuple[np.ndarray, np.ndarray]:
    """Make logits (margin, 0, …) of which the first class is right in `accuracy`, errors spread evenly."""
    logits = np.zeros((samples, classes), dtype=np.float32)
    logits[:, 0] = margin
    labels = np.zeros(samples, dtype=np.uint8)
    wrong = round(samples * (1 - accuracy))
    labels[:wrong] = 1 + np.arange(wrong) % (classes - 1)
    return logits, labels


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -ln softmax at the label; logits are [samples, classes]."""
    exact = logits.astype(np.float64)
    shifted = exact - exact.max(axis=1, keepdims=True)
    total = np.log(np.exp(shifted).sum(axis=1))
    return float((total - shifted[np.arange(labels.size), labels]).mean())


def error(logits: np.ndarray, labels: np.ndarray, scale: float = 1.0) -> float:
    """The expected calibration error at a temperature."""
    return expected_calibration_error(confidence(logits, scale), logits.argmax(axis=1) == labels)


@pytest.mark.parametrize(
    ("classes", "margin", "accuracy", "best", "loss_before", "loss_after", "error_before"),
    [
        (2, 4, 0.8, 2.885390082, 0.818149928, 0.500402424, 0.182013790),
        (10, 6, 0.7, 1.970752433, 1.822063569, 1.270031675, 0.278178051),
        (10, 5, 0.9, 1.137799033, 0.558873935, 0.544805431, 0.042825619),
        (100, 8, 0.6, 1.599812835, None, None, None),
    ],
)
def test_the_temperature_is_the_one_of_the_closed_form(
    classes: int,
    margin: float,
    accuracy: float,
    best: float,
    loss_before: float | None,
    loss_after: float | None,
    error_before: float | None,
) -> None:
    """T = m / ln(a (K-1) / (1-a)); then the confidence is the accuracy, the loss the entropy, the error zero."""
    logits, labels = one_sure_class(classes, margin, accuracy)
    found = temperature(logits, labels)

    assert best == pytest.approx(margin / math.log(accuracy * (classes - 1) / (1 - accuracy)), abs=1e-9)
    assert found == pytest.approx(best, abs=1e-8)
    assert confidence(logits, found) == pytest.approx(accuracy, abs=1e-8)
    assert error(logits, labels, found) == pytest.approx(0, abs=1e-8)
    after = negative_log_likelihood(logits.astype(np.float64) / found, labels)
    assert after == pytest.approx(float(entropy(softmax(logits[0], found))), abs=1e-8)
    if loss_before is not None:
        assert negative_log_likelihood(logits, labels) == pytest.approx(loss_before, abs=1e-8)
        assert after == pytest.approx(loss_after, abs=1e-8)
        assert error(logits, labels) == pytest.approx(error_before, abs=1e-8)


@pytest.mark.parametrize(
    ("probabilities", "nats"),
    [
        ((0.5, 0.5), 0.693147181),
        ((0.1,) * 10, 2.302585093),
        ((0.7, 0.2, 0.1), 0.801818553),
        ((0.5, 0.25, 0.25), 1.039720771),
        ((0.9, *(0.1 / 9,) * 9), 0.544805431),
        ((1.0, 0.0), 0.0),
    ],
)
def test_entropy_is_in_nats(probabilities: tuple[float, ...], nats: float) -> None:
    """Known values; a certain class has none, and no nan."""
    assert float(entropy(probabilities)) == pytest.approx(nats, abs=1e-9)


def test_entropy_normalised_on_request() -> None:
    """Divided by ln(classes)."""
    assert float(entropy((0.7, 0.2, 0.1), normalised=True)) == pytest.approx(0.729846699, abs=1e-9)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.zeros((0, 4)), np.zeros(0, dtype=int)),
        (one_sure_class(8, 5, 1.0)[0], np.zeros(9_900, dtype=int)),
        (np.full((50, 3), 2.5), np.arange(50) % 3),
        (np.array([[1.0, math.nan], [1.0, 2.0]]), np.array([1, 0])),
        (np.array([[1.0, math.inf], [1.0, 2.0]]), np.array([0, 0])),
    ],
    ids=["no samples", "never wrong", "no preference", "nan", "infinite"],
)
def test_where_nothing_can_be_learned_the_temperature_stays_one(logits: np.ndarray, labels: np.ndarray) -> None:
    """Instead of running away or raising."""
    assert temperature(logits, labels) == 1.0


def test_the_temperature_is_bounded_and_positive() -> None:
    """A branch that is sure and guesses, one that is always wrong, and one that is far too unsure."""
    logits, _ = one_sure_class(8, 30, 0.0)
    guessed = np.arange(len(logits)) % 8
    unsure = np.tile([0.001, 0.0], (100, 1))
    assert temperature(logits, guessed) == HOTTEST
    assert temperature(logits, np.ones(len(logits), dtype=int)) == HOTTEST
    assert temperature(unsure, np.arange(100) == 0) == COLDEST


@settings(deadline=None)
@given(
    logits=arrays(np.float32, st.tuples(st.integers(1, 30), st.integers(2, 6)), elements=st.floats(-50, 50, width=32)),
    labels=st.randoms(use_true_random=False),
    method=st.sampled_from(["none", "global", "per-branch"]),
    samples_of=st.sampled_from(["all", "exiting"]),
    target=st.floats(0, 1),
)
def test_calibration_never_changes_a_class_and_never_makes_the_loss_worse(
    logits: np.ndarray, labels: object, method: str, samples_of: str, target: float
) -> None:
    """Whatever the logits: the temperature is positive and finite, the order of the classes stays."""
    truth = np.array([labels.randrange(logits.shape[1]) for _ in logits])  # type: ignore[attr-defined]
    exits = np.stack([logits, logits[::-1] * 0.5, logits * 2])
    found = fit(exits, truth, method, samples_of, target)

    assert len(found.values) == 3
    for own, scale in zip(exits, found.values, strict=True):
        assert COLDEST <= scale <= HOTTEST
        likely = softmax(own, scale)
        # Equal up to ties: the class that led still does.
        leader = own.argmax(axis=1)
        assert (np.take_along_axis(likely, leader[:, None], axis=1)[:, 0] == likely.max(axis=1)).all()
    if method == "per-branch" and samples_of == "all":
        for own, scale in zip(exits, found.values, strict=True):
            before = negative_log_likelihood(own.astype(np.float64), truth)
            assert negative_log_likelihood(own.astype(np.float64) / scale, truth) <= before + 1e-9
    scaled = answers(("b1", "b2", "final"), exits, truth, temperatures=found.values)
    np.testing.assert_array_equal(scaled.predicted, exits.argmax(axis=2))


def test_a_temperature_is_the_best_of_a_fine_grid() -> None:
    """On the really trained exits: nothing between a quarter and four is better."""
    logits, labels = trained()
    for own in logits.astype(np.float64):
        found = temperature(own, labels)
        grid = [negative_log_likelihood(own / scale, labels) for scale in np.geomspace(0.25, 4, 400)]
        assert negative_log_likelihood(own / found, labels) <= min(grid) + 1e-12


def test_global_and_exiting_learn_from_the_exit_that_is_taken() -> None:
    """At the target confidence, by confidences before calibration; picked out here sample by sample."""
    logits, labels = trained()
    picked: list[list[int]] = [[], [], []]
    for sample in range(labels.size):
        sure = [float(softmax(logits[index, sample]).max()) for index in range(2)]
        picked[0 if sure[0] >= 0.8 else 1 if sure[1] >= 0.8 else 2].append(sample)
    emitted = np.concatenate([logits[index, own] for index, own in enumerate(picked)])
    order = np.concatenate([labels[own] for own in picked])

    assert exits_taken(logits, [0.8, 0.8]).tolist() == [
        next(index for index in range(3) if sample in picked[index]) for sample in range(labels.size)
    ]
    assert fit(logits, labels, "global").values == pytest.approx([temperature(emitted, order)] * 3)
    exiting = fit(logits, labels, "per-branch", "exiting")
    for index, own in enumerate(picked):
        assert exiting.values[index] == pytest.approx(temperature(logits[index, own], labels[own]))
    everything = fit(logits, labels, "per-branch", "all")
    assert everything.samples == (360, 360, 360)
    assert everything.values == pytest.approx([temperature(own, labels) for own in logits])


@pytest.mark.parametrize("scale", [2.5, 1.0])
def test_calibrating_an_overconfident_branch_keeps_more_frames_and_gets_more_of_them_right(scale: float) -> None:
    """The seed paper's claim, at every threshold: fewer leave at the first branch, and they are righter.

    The default network's branch is rather too unsure; logits times 2.5 make it over-confident. As it is, calibration
    goes the other way, as it must.
    """
    logits, labels = trained()
    half = labels.size // 2
    given = logits * np.array([scale, 1, 1], dtype=np.float32)[:, None, None]
    found = fit(given[:, :half], labels[:half], "per-branch", "all")
    names = ("b1", "b3", "final")
    plain = answers(names, given[:, half:], labels[half:])
    scaled = answers(names, given[:, half:], labels[half:], temperatures=found.values)
    before, after = (
        [figures(one, Policy({"b1": level, "b3": 0.9})) for level in (0.6, 0.7, 0.8, 0.9, 0.95)]
        for one in (plain, scaled)
    )
    pairs = list(zip(before, after, strict=True))

    assert (found.values[0] > 1) == (scale > 1)
    if scale > 1:
        assert all(now.shares["b1"] < then.shares["b1"] for then, now in pairs)
        assert all(
            (now.accuracy_where_taken["b1"] or 0) > (then.accuracy_where_taken["b1"] or 0) for then, now in pairs
        )
        assert all(now.accuracy >= then.accuracy for then, now in pairs)
        assert after[0].calibration_error["b1"] < before[0].calibration_error["b1"]
    else:
        assert all(now.shares["b1"] >= then.shares["b1"] for then, now in pairs)


@pytest.mark.parametrize(("method", "samples_of"), [("platt", "all"), ("per-branch", "some")])
def test_an_unknown_method_is_refused(method: str, samples_of: str) -> None:
    """With those that there are."""
    with pytest.raises(ValueError, match="expected one of"):
        fit(np.zeros((2, 1, 2)), np.zeros(1, dtype=int), method, samples_of)
