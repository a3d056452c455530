"""The queue and the window, under any sequence of events."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from popexd.bus import Delivery
from popexd.bus.outbox import Entry, Outbox

QUEUE_BYTES, WINDOW_MESSAGES, WINDOW_BYTES = 100, 3, 60

steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("offer"),
            st.integers(0, 120),
            st.sampled_from([None, None, "a", "b"]),
            st.none() | st.integers(0, 9),
        ),
        st.tuples(st.just("precede"), st.lists(st.integers(0, 60), max_size=3)),
        st.tuples(st.just("next")),
        st.tuples(st.just("done"), st.integers(0, 5)),
        st.tuples(st.just("interrupt"), st.integers(1, 3)),
        st.tuples(st.just("wait"), st.integers(1, 4)),
    ),
    max_size=80,
)


def outbox() -> Outbox[int]:
    """A small one, so that every limit is met."""
    return Outbox(queue_bytes=QUEUE_BYTES, window_messages=WINDOW_MESSAGES, window_bytes=WINDOW_BYTES)


class Story:
    """Plays steps on an outbox and keeps the books."""

    def __init__(self) -> None:
        self.box = outbox()
        self.now = 0.0
        self.offered = 0
        self.left: list[tuple[int, Delivery]] = []

    def entry(self, size: int, key: str | None = None, patience: int | None = None) -> Entry[int]:
        """The next one, named by its number."""
        self.offered += 1
        return Entry(self.offered, size, key, None if patience is None else self.now + patience)

    def play(self, step: tuple[object, ...]) -> None:
        """One step."""
        match step:
            case ("offer", int(size), key, patience):
                self.left += self.box.offer(self.entry(size, key, patience))  # type: ignore[arg-type]
            case ("precede", list(sizes)):
                self.left += self.box.precede([self.entry(size) for size in sizes])
            case ("next",):
                _, late = self.box.next(self.now)
                self.left += late
            case ("done", int(index)) if index < len(self.box.in_flight):
                entry = self.box.in_flight[index]
                assert self.box.done(entry)
                assert not self.box.done(entry)
                self.left.append((entry.item, Delivery.DELIVERED))
            case ("interrupt", int(modulus)):
                self.left += self.box.interrupt(lambda item: item % modulus == 0, Delivery.STALE)
            case ("wait", int(seconds)):
                self.now += seconds


@given(steps)
def test_every_entry_leaves_exactly_once_and_the_bounds_hold(story: list[tuple[object, ...]]) -> None:
    """Whatever happens, nothing is lost, reported twice, or kept beyond the bounds."""
    told = Story()
    for step in story:
        told.play(step)
        box = told.box
        assert 0 <= box.queued_bytes <= QUEUE_BYTES
        assert len(box.in_flight) <= WINDOW_MESSAGES
        assert box.in_flight_bytes == sum(entry.bytes for entry in box.in_flight)
        assert box.in_flight_bytes <= WINDOW_BYTES or len(box.in_flight) == 1
    told.left += told.box.interrupt(lambda _: False, Delivery.DISCONNECTED)

    assert len(told.box) == told.box.queued_bytes == told.box.in_flight_bytes == 0
    assert Counter(item for item, _ in told.left) == Counter(range(1, told.offered + 1))


@given(st.lists(st.integers(1, 40), max_size=30))
def test_what_comes_out_comes_in_order_and_is_the_newest(sizes: list[int]) -> None:
    """Pushing out takes the oldest, so what remains is the end of what was offered, in order."""
    box = outbox()
    for number, size in enumerate(sizes):
        box.offer(Entry(number, size))
    out = []
    while (entry := box.next(0.0)[0]) is not None:
        box.done(entry)
        out.append(entry.item)

    assert out == list(range(len(sizes)))[len(sizes) - len(out) :]


@given(st.lists(st.integers(1, 30), max_size=8), st.integers(0, 8))
def test_an_interruption_keeps_the_order_of_what_survives(sizes: list[int], sent: int) -> None:
    """What was under way goes out again, before what had not been sent yet."""
    box = outbox()
    for number, size in enumerate(sizes):
        box.offer(Entry(number, size))
    for _ in range(sent):
        box.next(0.0)
    dropped = [item for item, _ in box.interrupt(lambda _: True, Delivery.STALE)]
    out = []
    while (entry := box.next(0.0)[0]) is not None:
        box.done(entry)
        out.append(entry.item)

    assert out == sorted(out)
    assert set(dropped) <= set(range(len(sizes))) - set(out)


def test_a_newer_entry_of_the_same_key_takes_the_place_of_the_waiting_one() -> None:
    """Only the last of a retained topic is worth sending."""
    box = outbox()
    box.offer(Entry(1, 10, "state"))
    box.offer(Entry(2, 10, "other"))

    assert box.offer(Entry(3, 10, "state")) == [(1, Delivery.DROPPED)]
    assert [box.next(0.0)[0].item for _ in range(2)] == [2, 3]  # type: ignore[union-attr]


def test_what_precedes_pushes_out_the_oldest_and_not_its_own_kind() -> None:
    """After a reconnect the retained set goes first, whatever else has piled up."""
    box = outbox()
    for number in range(10):
        box.offer(Entry(number, 10))

    pushed_out = box.precede([Entry(100, 10), Entry(101, 10)])

    assert pushed_out == [(0, Delivery.DROPPED), (1, Delivery.DROPPED)]
    assert [box.next(0.0)[0].item for _ in range(3)] == [100, 101, 2]  # type: ignore[union-attr]


def test_an_entry_larger_than_the_queue_is_too_large() -> None:
    """It pushes nobody out."""
    box = outbox()
    box.offer(Entry(1, 90))

    assert box.offer(Entry(2, 101)) == [(2, Delivery.TOO_LARGE)]
    assert len(box) == 1


def test_an_entry_larger_than_the_window_goes_alone() -> None:
    """Else it would wait for ever."""
    box = outbox()
    box.offer(Entry(1, 10))
    box.offer(Entry(2, 80))

    first, _ = box.next(0.0)
    assert first is not None
    assert box.next(0.0) == (None, [])
    box.done(first)
    second, _ = box.next(0.0)
    assert second is not None
    assert second.item == 2


def test_what_waited_past_its_expiry_is_stale() -> None:
    """It is not sent after an outage; what is still fresh is."""
    box = outbox()
    box.offer(Entry(1, 10, expires_at=5.0))
    box.offer(Entry(2, 10, expires_at=50.0))

    entry, late = box.next(10.0)

    assert late == [(1, Delivery.STALE)]
    assert entry is not None
    assert entry.item == 2
