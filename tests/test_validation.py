"""The per-sample table of exits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from popexd.errors import ProfileError
from popexd.validation import Validation, conditional_probabilities


def test_counts_become_conditional_probabilities() -> None:
    """Spec A3: exits 200, 300, 400 and 100 left; and BranchyNet's published shares."""
    probabilities, reach = conditional_probabilities([200, 300, 400, 100])

    assert probabilities == pytest.approx([0.2, 0.375, 0.8, 1])
    assert reach == pytest.approx([1, 0.8, 0.5, 0.1])
    shares, _ = conditional_probabilities([4361, 3579, 2060])
    assert shares[0] == pytest.approx(0.4361)
    assert shares[1] == pytest.approx(0.634687, abs=5e-7)


def test_weights_count() -> None:
    """A sample of weight three counts three times."""
    table = Validation(["b", "final"], [[0.9, 0.1], [1, 1]], [[True, True], [True, False]], [3, 1])

    assert table.outcomes([("b", 0.9)]).shares == (0.75, 0.25)
    assert table.outcomes([]).correct == (0.75,)
    assert table.final_accuracy == 0.5


@given(st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_each_sample_leaves_at_the_first_branch_that_is_sure(seed: int, branches: int) -> None:
    """Counted one by one, with any weights, thresholds and order of the branches."""
    numbers = np.random.default_rng(seed)
    exits = [*(f"b{index}" for index in range(branches)), "final"]
    confidence, correct = numbers.random((len(exits), 30)), numbers.random((len(exits), 30)) < 0.6
    table = Validation(exits, confidence, correct, numbers.random(30) + 0.01)
    evaluated = [(exits[row], float(numbers.random())) for row in numbers.permutation(branches)]
    shares, right = dict.fromkeys(exits, 0.0), dict.fromkeys(exits, 0.0)
    for sample, mass in enumerate(table.mass):
        sure = (name for name, threshold in evaluated if confidence[exits.index(name), sample] >= threshold)
        leaves = next(sure, "final")
        shares[leaves] += mass
        right[leaves] += mass * correct[exits.index(leaves), sample]

    found = table.outcomes(evaluated)

    order = [*(name for name, _ in evaluated), "final"]
    assert found.shares == pytest.approx([shares[name] for name in order])
    assert found.correct == pytest.approx([right[name] for name in order])
    assert found.reach == pytest.approx([sum(found.shares[place:]) for place in range(len(order))])


def test_a_share_that_no_sample_makes_up_is_refused() -> None:
    """Nobody is sure at b1 here, so it cannot answer half of them."""
    table = Validation(["b1", "final"], [[0.1, 0.2], [1, 1]], np.ones((2, 2), dtype=bool))

    with pytest.raises(
        ProfileError, match=r"no sample could make up an exit probability 0\.5 of 'b1' at threshold 0\.9"
    ):
        table.reweighted([("b1", 0.9)], {"b1": 0.5})


def test_thresholds_compare_in_the_precision_of_the_table() -> None:
    """A float32 confidence of 0.9 reaches a threshold of 0.9: confidence == threshold answers."""
    table = Validation(["b", "final"], np.full((2, 1), 0.9, np.float32), [[True], [True]])

    assert table.outcomes([("b", 0.9)]).shares == (1.0, 0.0)
