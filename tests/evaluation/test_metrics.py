"""Every figure on tables made by hand, counted again here with plain loops."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from popexd.criteria import Criterion
from popexd.errors import InputError
from popexd.evaluation.metrics import answered_right, by_quality, figures, missed_deadline, outage
from popexd.evaluation.outcomes import Answers
from popexd.evaluation.policy import Policy, of_bundle
from popexd.evaluation.reliability import expected_calibration_error, reliability
from tests.evaluation.tables import BUNDLE, drawn, table

TOY = table(
    [
        [0.95, 0.80, 0.79, 0.60, 0.90, 0.55],
        [0.99, 0.70, 0.85, 0.75, 0.60, 0.50],
        [0.97, 0.90, 0.95, 0.70, 0.99, 0.65],
    ],
    [
        [1, 0, 1, 1, 0, 0],
        [1, 1, 1, 0, 1, 1],
        [1, 1, 0, 0, 1, 1],
    ],
)


def exit_of(answers: Answers, thresholds: dict[str, float], sample: int) -> int:
    """Walk through the branches as the daemon does."""
    for index, name in enumerate(answers.exits[:-1]):
        if name in thresholds and answers.confidence[index, sample] >= thresholds[name]:
            return index
    return len(answers.exits) - 1


def test_figures_of_a_table_small_enough_to_count_on_fingers() -> None:
    """At 0.8, samples 1, 2 and 5 leave at b1 (one is right), 3 at b2 (right), 4 and 6 at the end (one is right)."""
    found = figures(TOY, Policy({"b1": 0.8, "b2": 0.8}))

    assert found.samples == 6
    assert found.shares == {"b1": 3 / 6, "b2": 1 / 6, "final": 2 / 6}
    assert found.accuracy_where_taken == {"b1": pytest.approx(1 / 3), "b2": 1.0, "final": 0.5}
    assert found.accuracy == pytest.approx(3 / 6)
    assert found.device_share == pytest.approx(4 / 6)
    assert found.offloading == pytest.approx(2 / 6)
    assert found.device_accuracy == pytest.approx(2 / 4)
    assert found.accuracy_alone == {"b1": 3 / 6, "b2": pytest.approx(5 / 6), "final": pytest.approx(4 / 6)}
    assert found.mean_confidence["b1"] == pytest.approx((0.95 + 0.80 + 0.79 + 0.60 + 0.90 + 0.55) / 6)


def test_a_branch_without_a_threshold_does_not_run() -> None:
    """And with none nobody leaves, so there is no device accuracy."""
    assert figures(TOY, Policy({"b2": 0.8})).shares == {"b1": 0, "b2": 2 / 6, "final": 4 / 6}
    nobody = figures(TOY, Policy({}))
    assert (nobody.device_share, nobody.offloading, nobody.device_accuracy) == (0, 1, None)
    assert nobody.accuracy == nobody.accuracy_alone["final"]


def test_the_most_confident_exit_answers_where_the_final_one_is_unsure() -> None:
    """Sample 4: final 0.70 wrong, b2 0.75 wrong, b1 0.60 right; sample 6: final 0.65 is the most confident of all."""
    policy = Policy({"b1": 0.8, "b2": 0.8})
    plain = answered_right(TOY, policy)
    surest = answered_right(TOY, policy, "most-confident", 0.8)
    assert plain.tolist() == [True, False, True, False, False, True]
    assert surest.tolist() == plain.tolist()
    higher = table([[0.75], [0.70]], [[1], [0]])
    assert answered_right(higher, Policy({"b1": 0.8})).tolist() == [False]
    assert answered_right(higher, Policy({"b1": 0.8}), "most-confident", 0.8).tolist() == [True]
    assert answered_right(higher, Policy({"b1": 0.8}), "most-confident", 0.7).tolist() == [False]
    assert answered_right(higher, Policy({}), "most-confident", 0.8).tolist() == [False]


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_what_a_loop_over_the_samples_counts(seed: int) -> None:
    """On drawn tables with two branches."""
    answers, thresholds = drawn(seed), {"b1": 0.83, "b2": 0.71}
    taken = [exit_of(answers, thresholds, sample) for sample in range(answers.samples)]
    right = [answers.predicted[row, sample] == answers.label[sample] for sample, row in enumerate(taken)]
    found = figures(answers, Policy(thresholds))

    for index, name in enumerate(answers.exits):
        assert found.shares[name] == pytest.approx(taken.count(index) / len(taken))
        own = [was for was, row in zip(right, taken, strict=True) if row == index]
        assert found.accuracy_where_taken[name] == pytest.approx(sum(own) / len(own))
    on_device = [was for was, row in zip(right, taken, strict=True) if row < 2]
    assert found.accuracy == pytest.approx(sum(right) / len(right))
    assert found.device_accuracy == pytest.approx(sum(on_device) / len(on_device))
    assert found.offloading == pytest.approx(1 - len(on_device) / len(taken))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("batch", [32, 256, 1000])
def test_outage_and_missed_deadline_are_what_a_loop_over_batches_counts(seed: int, batch: int) -> None:
    """The same shuffles, whole batches only, or one batch of all where there are fewer."""
    answers, policy = drawn(seed), Policy({"b1": 0.9, "b2": 0.8})
    taken, right = policy.taken(answers), answered_right(answers, policy)
    seconds = np.array([0.010, 0.020, 0.050])[taken]
    found = outage(taken < 2, right, 0.86, batch=batch, reshuffles=20, seed=seed)
    late = missed_deadline(taken < 2, right, seconds, 0.021, 0.80, batch=batch, reshuffles=20, seed=seed)

    random, size = np.random.default_rng(seed), min(batch, answers.samples)
    outages, misses = [], []
    for _ in range(20):
        order = random.permutation(answers.samples).tolist()
        batches = [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
        fell = missed = 0
        for each in batches:
            left = [sample for sample in each if taken[sample] < 2]
            fell += bool(left) and sum(right[sample] for sample in left) / len(left) < 0.86
            mean_seconds = sum(seconds[sample] for sample in each) / len(each)
            missed += mean_seconds > 0.021 or sum(right[sample] for sample in each) / len(each) < 0.80
        outages.append(fell / len(batches))
        misses.append(missed / len(batches))
    for one, counted in ((found, outages), (late, misses)):
        assert one.mean == pytest.approx(sum(counted) / 20)
        deviation = math.sqrt(sum((each - one.mean) ** 2 for each in counted) / 19)
        assert one.size == size
        if batch >= answers.samples:
            # However it is shuffled, it is the same batch.
            assert (one.low, one.high, one.batches, deviation) == (None, None, 1, 0)
            continue
        assert one.high is not None
        assert one.high - one.mean == pytest.approx(min(1 - one.mean, 1.96 * deviation / math.sqrt(20)), abs=1e-5)
        assert one.batches == 20 * len(batches)


def test_one_reshuffle_has_no_interval() -> None:
    """Of one number there is no spread."""
    left = np.ones(64, dtype=bool)
    found = outage(left, np.arange(64) % 2 == 0, 0.5, batch=16, reshuffles=1)
    assert (found.low, found.high, found.size, found.batches) == (None, None, 16, 4)


def test_a_batch_in_which_nobody_leaves_is_not_an_outage() -> None:
    """However wrong its answers are; it is counted, and it may well miss the deadline."""
    nobody, wrong = np.zeros(64, dtype=bool), np.zeros(64, dtype=bool)
    found = outage(nobody, wrong, 0.9, batch=16, reshuffles=10)
    late = missed_deadline(nobody, wrong, np.ones(64), 2.0, 0.9, batch=16, reshuffles=10)

    assert (found.mean, found.batches, found.without_exits) == (0, 40, 40)
    assert (late.mean, late.without_exits) == (1, 40)


def test_a_batch_exactly_at_the_target_is_no_outage() -> None:
    """11 of 20 is 0.55; so is a mean time exactly at the deadline in time."""
    left, right = np.ones(20, dtype=bool), np.arange(20) < 11
    assert outage(left, right, 0.55).mean == 0
    assert outage(left, right, 0.5500001).mean == 1
    assert missed_deadline(left, right, np.full(20, 0.25), 0.25, 0.55).mean == 0
    assert missed_deadline(left, right, np.full(20, 0.25), 0.2499, 0.55).mean == 1


def test_samples_are_sorted_by_what_was_done_to_them() -> None:
    """Each class its own answers, together all of them."""
    answers = drawn(1)
    parts = by_quality(answers)

    assert set(parts) == {"blurred", "clear"}
    assert sum(part.samples for part in parts.values()) == answers.samples
    assert all((part.quality == name).all() for name, part in parts.items())


def test_thresholds_of_a_class_count_where_the_estimator_sees_it() -> None:
    """Not where it is: sample 2 is blurred and looks clear."""
    words = (["blurred", "blurred", "clear"], ["blurred", "clear", "clear"])
    answers = table([[0.9] * 3] * 2, [[1] * 3] * 2, *words)
    policy = Policy({"b1": 0.8}, by_quality={"blurred": {"b1": 0.99}})

    assert policy.taken(answers).tolist() == [1, 0, 0]


@pytest.mark.parametrize(("name", "scale"), [("entropy", 1.0), ("normalised-entropy", math.log(2))])
def test_an_entropy_answers_strictly_below_its_threshold(name: str, scale: float) -> None:
    """In nats, or as a share of ln(classes)."""
    answers = drawn(3)
    threshold = 0.4 / scale
    policy = Policy({"b1": threshold}, {"b1": Criterion(name, 2)})
    assert answers.entropy is not None
    expected = [0 if nats / scale < threshold else 2 for nats in answers.entropy[0]]

    assert policy.taken(answers).tolist() == expected
    assert Policy({"b1": 0.0}, {"b1": Criterion(name, 2)}).taken(answers).tolist() == [2] * answers.samples


def test_an_entropy_that_was_not_kept_is_said() -> None:
    """With the branch and the criterion."""
    from dataclasses import replace

    answers = replace(drawn(3), entropy=None)
    with pytest.raises(InputError, match="b1: criterion entropy: no entropies"):
        Policy({"b1": 0.4}, {"b1": Criterion("entropy", 2)}).taken(answers)


def test_the_policy_of_a_bundle_is_its_thresholds() -> None:
    """As bundle.json has them."""
    policy = of_bundle(BUNDLE)

    assert policy.thresholds == {"b1": 0.943, "b3": 0.689}
    assert policy.criterion("b1") == Criterion("confidence", 8)


@pytest.mark.parametrize(("bins", "expected"), [(15, 0.286666667), (10, 0.286666667), (1, 0.116666667)])
def test_the_calibration_error_of_the_toy(bins: int, expected: float) -> None:
    """Six samples, three numbers of bins."""
    sure, right = (0.95, 0.92, 0.85, 0.81, 0.62, 0.55), (1, 1, 1, 0, 1, 0)
    assert expected_calibration_error(sure, right, bins) == pytest.approx(expected, abs=1e-9)


def test_bins_are_open_below_and_closed_above() -> None:
    """A confidence on an edge counts below it, as in the reference implementation."""
    sure = [0.2, 0.2000001, 1.0, 1 / 15, 0.0]
    found = reliability(sure, [1] * 5, 15)

    expected = [0] * 15
    for value in sure:
        for index, (low, high) in enumerate(pairwise(np.linspace(0, 1, 16))):
            if low < value <= high or (value == 0 and index == 0):
                expected[index] += 1
    assert found.counts.tolist() == expected
    assert found.counts[2] == found.counts[3] == 1
    assert np.isnan(found.accuracy[7])


@pytest.mark.parametrize("seed", range(4))
def test_the_calibration_error_is_what_a_loop_over_the_bins_counts(seed: int) -> None:
    """15 equal bins, each gap weighed with its share of the samples."""
    answers = drawn(seed)
    sure, right = answers.confidence[0], answers.correct[0]
    total = 0.0
    for low in range(15):
        inside = [index for index, value in enumerate(sure) if low / 15 < value <= (low + 1) / 15]
        if inside:
            gap = abs(sum(sure[index] for index in inside) - sum(int(right[index]) for index in inside))
            total += gap / len(sure)
    assert expected_calibration_error(sure, right) == pytest.approx(total)


def test_the_daemon_s_own_table_gives_the_figures_of_the_bundle() -> None:
    """What bundle.json says of the default network is what these metrics count."""
    from popexd.evaluation.outcomes import of_table

    summary = BUNDLE.facts["validation"]
    found = figures(of_table(BUNDLE.validation, 8), of_bundle(BUNDLE))

    assert found.samples == summary["samples"] == 2400
    assert found.accuracy == pytest.approx(summary["joint_accuracy"], abs=1e-5)
    for name, share in summary["shares"].items():
        assert found.shares[name] == pytest.approx(share, abs=1e-5)
        assert found.accuracy_alone[name] == pytest.approx(summary["accuracy"][name], abs=1e-5)
        assert found.accuracy_where_taken[name] == pytest.approx(summary["accuracy_where_taken"][name], abs=1e-5)
