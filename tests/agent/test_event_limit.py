"""Events may be rate-limited, counts never: what was left out is told by the next that passes."""

from __future__ import annotations

from agent.loop import EventLimit


def passed(limit: EventLimit, event: str, times: int, now: float) -> list[int]:
    """How many were left out before each that passes, of so many events at one instant."""
    told = (limit.passes(event, now) for _ in range(times))
    return [left_out for left_out in told if left_out is not None]


def test_a_burst_passes_whole() -> None:
    """Ordinary days are never limited."""
    assert passed(EventLimit(), "frame.dropped", 20, 0.0) == [0] * 20


def test_a_flood_is_thinned_and_what_was_left_out_is_told() -> None:
    """After the burst a few a second; the numbers add up."""
    limit = EventLimit()
    told = passed(limit, "input.rejected", 100, 0.0)
    later = passed(limit, "input.rejected", 3, 1.0)

    assert len(told) == 20
    assert later == [80, 0, 0]


def test_a_flood_that_goes_on_is_a_trickle() -> None:
    """Some five a second, whatever comes in."""
    limit = EventLimit()
    passed(limit, "input.rejected", 20, 0.0)
    told = [number for tick in range(1, 1001) for number in passed(limit, "input.rejected", 2, tick / 100)]

    assert 48 <= len(told) <= 52
    assert sum(told) + len(told) <= 2000


def test_one_kind_of_event_does_not_silence_another() -> None:
    """Each has its own allowance."""
    limit = EventLimit()
    passed(limit, "input.rejected", 1000, 0.0)

    assert passed(limit, "worker.lost", 1, 0.0) == [0]


def test_silence_restores_the_allowance() -> None:
    """But never more than a burst."""
    limit = EventLimit()
    passed(limit, "input.rejected", 20, 0.0)

    assert len(passed(limit, "input.rejected", 100, 3600.0)) == 20
