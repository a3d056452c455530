"""What is on its way: each message's own seconds, though the link serves one after the other."""

from __future__ import annotations

import pytest

from popexd.coordinator.transit import Transit

ROUND_TRIP = 0.02


def crossing(size: int, bits_per_second: float = 1e6) -> float:
    """Seconds of transfer."""
    return 8 * size / bits_per_second


def test_a_message_alone_takes_its_time_less_the_far_sides() -> None:
    """There and back, without what the worker did."""
    transit = Transit()
    transit.sent("a", 10_000, 5.0)
    assert transit.returned("a", 0.3, ROUND_TRIP, 5.5) == pytest.approx(0.2)


def test_a_message_that_queued_is_not_charged_for_the_one_ahead() -> None:
    """Its own time begins when the one before it was through."""
    transit = Transit()
    transit.sent("a", 20_000, 0.0)
    transit.sent("b", 10_000, 0.01)
    through = crossing(20_000)
    assert transit.returned("a", 0.5, ROUND_TRIP, through + ROUND_TRIP + 0.5) == pytest.approx(through + ROUND_TRIP)
    back = through + crossing(10_000) + ROUND_TRIP + 0.6
    assert transit.returned("b", 0.6, ROUND_TRIP, back) == pytest.approx(crossing(10_000) + ROUND_TRIP)


def test_the_brokers_receipt_tells_when_a_message_was_through() -> None:
    """The one behind it is measured from there, be the first one's worker ever so slow."""
    transit = Transit()
    transit.sent("slow", 20_000, 0.0)
    transit.sent("b", 10_000, 0.01)
    through = crossing(20_000)
    transit.crossed("slow", through)
    assert transit.returned("b", 0.0, ROUND_TRIP, through + crossing(10_000) + ROUND_TRIP) == pytest.approx(
        crossing(10_000) + ROUND_TRIP
    )
    assert transit.returned("slow", 7.0, ROUND_TRIP, 7.0 + through + ROUND_TRIP) == pytest.approx(through + ROUND_TRIP)


def test_an_answer_that_a_worker_sat_on_says_nothing_of_what_crosses_now() -> None:
    """When that message was through has long been known: what is on its way did not begin when the answer came."""
    transit = Transit()
    transit.sent("hung", 2_000, 0.0)
    transit.crossed("hung", crossing(2_000))
    transit.give_up("hung", 0.5)
    transit.sent("b", 60_000, 1.0)
    transit.returned("hung", 0.0, ROUND_TRIP, 1.4)
    assert transit.backlog_seconds(1e6, 1.4) == pytest.approx(crossing(60_000) - 0.4)
    back = 1.0 + crossing(60_000) + ROUND_TRIP
    assert transit.returned("b", 0.0, ROUND_TRIP, back) == pytest.approx(crossing(60_000) + ROUND_TRIP)


def test_who_overtakes_a_silent_one_cannot_be_measured() -> None:
    """Nobody knows when the one ahead was through; the next can be measured again."""
    transit = Transit()
    transit.sent("silent", 20_000, 0.0)
    transit.sent("b", 10_000, 0.01)
    assert transit.returned("b", 0.0, ROUND_TRIP, 0.3) is None
    transit.sent("c", 10_000, 1.0)
    assert transit.returned("c", 0.0, ROUND_TRIP, 1.1) == pytest.approx(0.1)


def test_a_ping_ahead_takes_no_time_to_speak_of() -> None:
    """It does not spoil the measurement of what follows, nor that what follows its own."""
    transit = Transit()
    transit.sent("ping", 64, 0.0)
    transit.sent("b", 10_000, 0.001)
    transit.crossed("b", 0.081)
    assert transit.returned("ping", 0.0, ROUND_TRIP, 0.1) == pytest.approx(0.1)
    assert transit.returned("b", 0.0, ROUND_TRIP, 0.101) == pytest.approx(0.1)


def test_what_was_given_up_still_holds_up_what_follows() -> None:
    """It is in the pipe; its late answer tells how slow the link has become."""
    transit = Transit()
    transit.sent("a", 20_000, 0.0)
    assert transit.give_up("a", 0.5) == pytest.approx(0.5)
    assert transit.give_up("a", 0.6) is None
    assert transit.occupied(0.6)
    transit.sent("b", 20_000, 0.6)
    assert transit.give_up("b", 0.9) == 0.0
    assert transit.returned("a", 0.0, ROUND_TRIP, 1.02) == pytest.approx(1.02)
    assert transit.returned("b", 0.0, ROUND_TRIP, 2.02) == pytest.approx(1.0 + ROUND_TRIP)
    assert not transit.occupied(2.1)


def test_what_was_lost_holds_nothing_up_for_ever() -> None:
    """After two seconds a message that was given up no longer counts as crossing; after a while it is forgotten."""
    transit = Transit()
    transit.sent("lost", 20_000, 0.0)
    transit.give_up("lost", 0.5)
    assert transit.occupied(1.9)
    assert not transit.occupied(2.1)
    transit.sent("later", 100, 40.0)
    assert transit.sent_of("lost") is None


def test_what_is_remembered_is_bounded() -> None:
    """Thousands of unanswered messages take no memory."""
    transit = Transit()
    for number in range(5_000):
        transit.sent(number, 100, 0.001 * number)
    assert len(transit._messages) <= 64


def test_the_backlog_is_what_has_not_crossed_yet() -> None:
    """It shrinks as time passes, and when the broker or a worker says so."""
    transit = Transit()
    assert transit.backlog_seconds(1e6, 0.0) == 0.0
    transit.sent("a", 12_500, 0.0)
    transit.sent("b", 12_500, 0.0)
    assert transit.backlog_seconds(1e6, 0.0) == pytest.approx(0.2)
    assert transit.backlog_seconds(1e6, 0.05) == pytest.approx(0.15)
    transit.crossed("a", 0.08)
    assert transit.backlog_seconds(1e6, 0.1) == pytest.approx(0.08)
    assert transit.backlog_seconds(1e6, 9.0) == 0.0
    transit.clear()
    assert not transit.occupied(0.0)


def test_what_never_left_is_not_there() -> None:
    """The bus said so: it occupies nothing and answers to nothing."""
    transit = Transit()
    transit.sent("a", 20_000, 0.0)
    transit.abandoned("a")
    assert not transit.occupied(0.0)
    assert transit.returned("a", 0.0, ROUND_TRIP, 1.0) is None
    transit.crossed("a", 1.0)
    assert transit.give_up("a", 1.0) is None
