"""The brain's effects as payloads: calendar time, nulls for what was not involved, and parts within the total."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agent import render
from popexd.coordinator import events as ev
from popexd.network import Link
from popexd.plan import Tier
from popexd.protocol.messages import EventPayload, MetricsPayload, ResponsePayload, ResultPayload


def answer(**over: Any) -> ev.Answer:
    """Make an answer of the device."""
    fields: dict[str, Any] = {
        "key": 7,
        "frame_id": "f7",
        "correlation": b"\xff",
        "camera": "left",
        "classified": ev.Classified(2, "gear", 0.75),
        "exit": "b1",
        "tier": Tier.DEVICE,
        "fallback": None,
        "plan_id": "boot-1",
        "captured_at": time.monotonic() - 5.0,
        "timing": ev.Timing(total=0.5, queue=0.1, decode=0.1, device=0.3),
        "bytes_sent": 0,
    }
    return ev.Answer(**{**fields, **over})


def test_an_instant_is_calendar_time_in_utc() -> None:
    """Five seconds ago by the monotonic clock is five seconds ago by the wall's, written as RFC 3339."""
    earliest = datetime.now(UTC) - timedelta(seconds=5)
    payload = render.result(answer(), "f7")
    latest = datetime.now(UTC) - timedelta(seconds=5)

    slack = timedelta(milliseconds=50)  # by which the two clocks may be corrected against each other
    assert earliest - slack <= payload.captured_at <= latest + slack
    text = json.loads(payload.to_bytes())["captured_at"]
    assert text.endswith("Z")
    assert datetime.fromisoformat(text).tzinfo is not None


def test_what_was_not_involved_is_null() -> None:
    """Never zero, and never left out."""
    seconds = json.loads(render.result(answer(), "f7").to_bytes())["seconds"]

    assert seconds == {
        "total": 0.5,
        "queue": 0.1,
        "decode": 0.1,
        "device": 0.3,
        "encode": None,
        "transfer": None,
        "edge": None,
        "cloud": None,
    }


def test_a_result_has_every_field_of_the_contract() -> None:
    """Null ones too, so that a reader need not ask whether they are there."""
    fields = json.loads(render.result(answer(tier=Tier.CLOUD, exit="final", bytes_sent=4711), "f7").to_bytes())

    assert fields.keys() == {
        "schema", "frame_id", "camera", "label", "class_index", "confidence", "exit", "tier", "fallback", "plan_id",
        "captured_at", "quality", "seconds", "bytes_sent",
    }  # fmt: skip
    assert (fields["tier"], fields["exit"], fields["bytes_sent"], fields["label"]) == ("cloud", "final", 4711, "gear")
    ResultPayload.from_bytes(json.dumps(fields).encode())


def test_a_link_that_is_unknown_is_null() -> None:
    """As is its age where it was given rather than measured."""
    assert render.link(None, 10.0).model_dump() == {
        "bits_per_second": None,
        "at_least": False,
        "round_trip_seconds": None,
        "source": "none",
        "age_seconds": None,
        "jitter_seconds": None,
    }
    assert render.link(Link(1e6, 0.02), 10.0).age_seconds is None
    measured = render.link(Link(1e6, 0.02, "probe", measured_at=7.5, jitter_seconds=0.004), 10.0)
    assert measured.jitter_seconds == 0.004
    assert not measured.at_least
    assert render.link(Link(1e9, 0.02, at_least=True), 10.0).at_least
    assert (measured.bits_per_second, measured.source, measured.age_seconds) == (1e6, "probe", 2.5)


def test_a_link_measured_this_instant_has_no_negative_age() -> None:
    """Whatever the order in which the two instants were read."""
    assert render.link(Link(1e6, 0.02, "passive", measured_at=10.5), 10.0).age_seconds == 0.0


def test_metrics_carry_the_brains_figures_and_the_time() -> None:
    """Counts as they are; empty percentiles are null."""
    figures = {
        "window_seconds": 60.0,
        "frames": {"received": 3, "taken": 1, "dropped": 1, "answered": 1, "rejected": 1},
        "seconds": {"p50": None, "p95": None, "p99": None, "mean": None},
        "prediction_error": {"median_ratio": None},
        "network": {"device": None},
    }
    now = time.monotonic()
    payload = render.metrics(figures, now - 12.5, now)

    assert payload.uptime_seconds == pytest.approx(12.5)
    assert (payload.frames.received, payload.frames.dropped_by_reason) == (3, {})
    assert payload.seconds.p50 is None
    assert MetricsPayload.from_bytes(payload.to_bytes()) == MetricsPayload.from_bytes(payload.to_bytes())


def test_an_event_keeps_its_own_fields() -> None:
    """Beside its name and the time; a field may not take their places."""
    payload = render.event(ev.Notice("frame.dropped", {"camera": "left", "count": 3, "at": "never"}), time.monotonic())
    fields = json.loads(payload.to_bytes())

    assert (fields["event"], fields["camera"], fields["count"]) == ("frame.dropped", "left", 3)
    assert datetime.fromisoformat(fields["at"]).year == datetime.now(UTC).year
    EventPayload.from_bytes(payload.to_bytes())


@pytest.mark.parametrize(
    ("made", "status"),
    [
        (ev.Respond("status", "t", data={"a": 1}), "ok"),
        (ev.Respond("status", 5), "ok"),
        (ev.Respond("set", "t", error="mode: no"), "error"),
    ],
)
def test_a_response_is_ok_or_an_error(made: ev.Respond, status: str) -> None:
    """Never both; the transaction comes back with its type."""
    payload = ResponsePayload.from_bytes(render.response(made).to_bytes())

    assert payload.status == status
    assert payload.transaction == made.transaction
    assert payload.error == made.error
