"""A request leaves a line in the log that says what was asked and who said it was."""

from __future__ import annotations

import json

import pytest
from structlog.testing import capture_logs

from agent.inlet import Inlet
from popexd import bundle
from popexd.bus import Message
from popexd.coordinator import events as ev
from popexd.protocol.topics import DeviceTopics

TOPICS = DeviceTopics("site", "pi")


@pytest.fixture(scope="module")
def inlet() -> Inlet:
    """The agent's ears."""
    return Inlet(TOPICS, "boot", bundle.load())


def request(verb: str, *said: tuple[str, str], **fields: object) -> Message:
    """A request with these user properties."""
    return Message(TOPICS.request(verb), json.dumps(fields).encode(), user_properties=said)


def test_a_request_is_logged_with_who_asked(inlet: Inlet) -> None:
    """Keys and not values: what is asked for may be large."""
    with capture_logs() as lines:
        (event,) = inlet.request(request("set", ("client", "boss"), transaction="t1", mode="device"))

    assert event == ev.RequestReceived("set", "t1", {"mode": "device"}, "boss")
    (line,) = [line for line in lines if line["event"] == "request.received"]
    assert (line["log_level"], line["asked_by"], line["transaction"]) == ("info", "boss", "t1")
    assert line["keys"] == "mode"


@pytest.mark.parametrize("said", ["", "a\nb", "x" * 200])
def test_a_name_that_is_none_is_left_out(inlet: Inlet, said: str) -> None:
    """It could break a line, or fill it."""
    (event,) = inlet.request(request("probe", ("client", said)))

    assert isinstance(event, ev.RequestReceived)
    assert event.asked_by is None


def test_a_refused_request_is_logged_too(inlet: Inlet) -> None:
    """With the reason it is counted by."""
    with capture_logs() as lines:
        inlet.request(request("dance", ("client", "boss"), transaction=7))

    (line,) = [line for line in lines if line["event"] == "request.rejected"]
    assert "'dance'" in line["detail"]
    assert (line["log_level"], line["reason"], line["asked_by"], line["transaction"]) == ("warning", "verb", "boss", 7)
