"""Tickets of the shell: each comes back exactly once, and what comes again keeps a slot of its own."""

from __future__ import annotations

from popexd.coordinator import events as ev

from .makers import SURE, Bench, first, only


def received(ticket: str, camera: str = "c", again: bool = False, payload: bytes | None = None) -> ev.FrameReceived:
    """A frame called as its ticket."""
    return ev.FrameReceived(camera, payload or ticket.encode(), ticket, ticket=ticket, again=again)


def came_back(effects: list[ev.Effect]) -> list[object]:
    """The tickets among effects."""
    answered = [answer.ticket for answer in only(ev.Answer, effects)]
    return answered + [settled.ticket for settled in only(ev.Settled, effects)]


def test_a_ticket_comes_back_with_the_answer() -> None:
    """And not before."""
    bench = Bench()
    run = first(ev.Run, bench.tell(received("one")))
    assert came_back(bench.log) == []
    bench.ran(run, SURE)
    assert came_back(bench.log) == ["one"]
    assert bench.answers()[0].ticket == "one"


def test_a_ticket_comes_back_when_its_frame_is_dropped_or_rejected() -> None:
    """Pushed out, a duplicate, unusable, or caught by the end."""
    bench = Bench()
    run = first(ev.Run, bench.tell(received("taken")))
    bench.tell(received("pushed out"))
    assert came_back(bench.tell(received("newest"))) == ["pushed out"]
    assert came_back(bench.tell(received("newest"))) == ["newest"]
    assert came_back(bench.tell(ev.RunFailed(run.key, True, "format"))) == ["taken"]
    assert came_back(bench.tell(received("waits"))) == []
    assert came_back(bench.tell(ev.Drain())) == ["waits"]
    assert came_back(bench.tell(received("too late"))) == ["too late"]


def test_what_comes_again_is_not_pushed_out() -> None:
    """It may have been taken before we died; it is answered though newer frames of its camera wait."""
    bench = Bench()
    run = first(ev.Run, bench.tell(received("now")))
    for ticket in ("first", "second"):
        bench.tell(received(ticket, again=True))
    for ticket in ("older", "newer"):
        bench.tell(received(ticket))
    for _ in range(4):
        run = next(iter(only(ev.Run, bench.ran(run, SURE))), run)
    assert [answer.ticket for answer in bench.answers()] == ["now", "first", "second", "newer"]
    assert only(ev.Settled, bench.log) == [ev.Settled("older")]


def test_without_tickets_nothing_is_settled() -> None:
    """A shell that keeps none hears of none."""
    bench = Bench()
    for _ in range(3):
        bench.frame("c")
    assert not only(ev.Settled, bench.log)
    skipped = bench.tell(ev.FramesSkipped("c", 1, "answered"))
    assert first(ev.Notice, skipped).fields["reason"] == "answered"
