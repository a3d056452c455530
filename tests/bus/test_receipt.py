"""Receipts: acknowledged once, on the connection that brought the message, whatever else happens."""

from __future__ import annotations

from popexd.bus.receipt import Receipt, Receipts, mark


def receipts() -> Receipts:
    """Of a session that has just begun."""
    found = Receipts(lambda: None)
    found.connected(resumed=False)
    return found


def arrived(book: Receipts, number: int, payload: bytes, *, again: bool = False) -> Receipt | None:
    """A message comes in."""
    return book.arrived(number, mark(number, "t", payload, b""), again=again)


def test_a_receipt_is_given_once() -> None:
    """However often somebody acknowledges."""
    book = receipts()
    receipt = arrived(book, 7, b"x")
    assert receipt is not None
    receipt.acknowledge()
    receipt.acknowledge()
    assert book.due() == [7]
    assert book.due() == []


def test_what_was_due_on_a_broken_connection_waits_for_the_message() -> None:
    """Its number may mean something else by now, so nothing is said before the broker has said it again."""
    book = receipts()
    due, late = arrived(book, 1, b"due"), arrived(book, 2, b"late")
    assert due is not None
    assert late is not None
    due.acknowledge()
    book.connected(resumed=True)
    late.acknowledge()
    assert book.due() == []
    assert arrived(book, 1, b"due", again=True) is None
    assert arrived(book, 2, b"late", again=True) is None
    assert book.due() == [1, 2]


def test_a_held_message_that_comes_again_is_not_heard_twice() -> None:
    """Its receipt is good on the new connection."""
    book = receipts()
    held = arrived(book, 1, b"x")
    assert held is not None
    book.connected(resumed=True)
    assert arrived(book, 1, b"x", again=True) is None
    held.acknowledge()
    assert book.due() == [1]


def test_another_message_under_an_old_number_is_heard() -> None:
    """Whether the old one was acknowledged or not: another start of ours may have done so."""
    book = receipts()
    for number, acknowledge in ((1, True), (2, False)):
        old = arrived(book, number, b"old")
        assert old is not None
        if acknowledge:
            old.acknowledge()
    book.connected(resumed=True)
    new = [arrived(book, number, b"new", again=True) for number in (1, 2)]
    assert all(new)
    assert book.due() == []


def test_after_a_broker_forgot_us_old_receipts_are_void() -> None:
    """Its numbers begin anew."""
    book = receipts()
    old = arrived(book, 1, b"old")
    assert old is not None
    book.connected(resumed=False)
    new = arrived(book, 1, b"new")
    old.acknowledge()
    assert book.due() == []
    assert new is not None
    new.acknowledge()
    assert book.due() == [1]


def test_marks_tell_messages_apart() -> None:
    """By number, topic, properties and every byte; they have one length."""
    said = [(1, "t", b"x", b""), (2, "t", b"x", b""), (1, "u", b"x", b""), (1, "t", b"y", b""), (1, "t", b"x", b"p")]
    marks = {mark(*each) for each in said}
    assert len(marks) == len(said)
    assert {len(each) for each in marks} == {20}
