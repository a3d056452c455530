"""The daily byte budget."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from popexd.estimators import ByteBudget

DAY = 86_400.0


@given(
    st.integers(0, 10_000_000),
    st.lists(st.tuples(st.floats(0, 90_000), st.integers(0, 3_000_000)), max_size=80),
)
@settings(max_examples=200, deadline=None)
def test_no_24_hours_ever_see_more_than_the_budget(daily_bytes: int, wishes: list[tuple[float, int]]) -> None:
    """Whenever one begins to count, and whatever is asked for."""
    budget, now = ByteBudget(daily_bytes), 0.0
    taken: list[tuple[float, int]] = []
    for later, amount in wishes:
        now += later
        if budget.take(amount, now):
            taken.append((now, amount))
    for begin, _ in taken:
        assert sum(amount for at, amount in taken if begin <= at < begin + DAY) <= daily_bytes
    assert budget.spent == sum(amount for _, amount in taken)


def test_a_budget_that_is_spent_comes_back() -> None:
    """A day later there is as much as at first."""
    budget = ByteBudget(40_000)
    assert budget.take(10_000, 0.0)
    assert not budget.take(1_000, 1.0)
    assert budget.left(1.0) < 10
    assert budget.take(10_000, DAY)


def test_a_clock_that_stands_still_or_steps_back_gives_nothing_away() -> None:
    """Time that goes back is no time."""
    budget = ByteBudget(40_000)
    assert budget.take(10_000, 5_000.0)
    assert budget.left(0.0) == 0
    assert budget.left(5_000.0) == 0
