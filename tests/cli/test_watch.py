"""`popexd watch`: lines, JSON and the picture for the terminal."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from rich.console import Console

from broker.process import Broker
from popexd.cli.view import View, line
from popexd.protocol.messages import (
    DecisionPayload,
    EventPayload,
    ExitSetting,
    FrameCounts,
    LinkFigures,
    MetricsPayload,
    Percentiles,
    PredictedFigures,
    PredictionError,
)

from .conftest import TOPICS, AnsweringAgent, Run, result, state

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def decision() -> bytes:
    """Make a decision."""
    return DecisionPayload(
        plan_id="p1",
        decided_at=NOW,
        reason="link.changed",
        solver="joint",
        objective="seconds",
        model="toy",
        cut="pool1",
        tiers={"pool1": "device", "fc": "cloud"},
        exits={"b1": ExitSetting(runs=True, threshold=0.9), "b3": ExitSetting(runs=False)},
        codec="q8+zstd",
        predicted=PredictedFigures(seconds=0.021, bytes=3700, accuracy=0.94),
        network={"uplink": LinkFigures(bits_per_second=5.5e6, at_least=True, round_trip_seconds=0.03)},
        solve_seconds=0.001,
    ).to_bytes()


def metrics() -> bytes:
    """Make metrics."""
    return MetricsPayload(
        at=NOW,
        window_seconds=60,
        uptime_seconds=5,
        frames=FrameCounts(received=9, taken=7, dropped=1, answered=7, rejected=1),
        exits={"b1": 5, "final": 2},
        seconds=Percentiles(p50=0.011),
        prediction_error=PredictionError(median_ratio=1.02),
    ).to_bytes()


def event() -> bytes:
    """Make an event with a field that would like to be an escape sequence."""
    fields = {"event": "worker.lost", "at": NOW, "worker": "w1\x1b[2J"}
    return EventPayload.model_validate(fields).to_bytes()


@contextmanager
def chattering(agent: AnsweringAgent) -> Iterator[None]:
    """Publish results until the command has had enough."""
    enough = threading.Event()

    def chatter() -> None:
        while not enough.wait(0.01):
            agent.bus.publish(TOPICS.results("gate"), result("f1", "gate"), qos=1)

    agent.bus.retain(TOPICS.decision, decision())
    thread = threading.Thread(target=chatter)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()
        agent.bus.publish(TOPICS.decision, b"", qos=1, retain=True)


def test_json_prints_payload_lines_and_ends_by_count(
    broker: Broker, agent: AnsweringAgent, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line is the payload as it was, and its topic."""
    with chattering(agent):
        assert run("watch", "--port", broker.port, "--device", "bench", "--json", "--count", "3") == 0
    said = [json.loads(each) for each in capsys.readouterr().out.splitlines()]

    assert sum(each["schema"] == "popexd/result/1" for each in said) == 3
    assert {"popexd/state/1", "popexd/decision/1"} <= {each["schema"] for each in said}
    assert said[-1]["topic"] == TOPICS.results("gate")


def test_away_from_a_terminal_it_prints_lines(
    broker: Broker, agent: AnsweringAgent, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line a message, its kind first."""
    with chattering(agent):
        assert run("watch", "--port", broker.port, "--device", "bench", "--count", "2") == 0
    said = capsys.readouterr().out.splitlines()

    assert {each.split()[0] for each in said} == {"state", "decision", "results"}
    assert any("washer" in each for each in said)


def drawn(view: View) -> str:
    """Draw a view as a wide terminal would show it."""
    console = Console(width=160, record=True, force_terminal=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115 a sink
    console.print(view)
    return console.export_text()


def test_the_picture_shows_all_that_was_said() -> None:
    """State, decision, metrics, results and events."""
    view = View(TOPICS)
    assert "site/bench: no agent has been heard of yet" in drawn(view)
    view.update(TOPICS.state, state(online=True))
    view.update(TOPICS.decision, decision())
    view.update(TOPICS.metrics, metrics())
    view.update(TOPICS.event, event())
    view.update(TOPICS.results("gate"), result("f1", "gate"))
    view.connection = "connection lost: gone"
    shown = drawn(view)

    for words in (
        "site/bench: online toy popexd 0.1.0",
        "connection lost: gone",
        "pool1 as q8+zstd",
        "b1 from 0.9, b3 off",
        "21.0 ms, 3700 bytes, accuracy 94.0 %",
        "uplink at least 5.5 Mbit/s, 30.0 ms round trip",
        "9 received, 7 taken, 7 answered, 1 dropped, 1 rejected",
        "b1 5, final 2",
        "washer",
        "12.3",
        "worker.lost worker=w1\\x1b[2J",
    ):
        assert words in shown


def test_what_cannot_be_read_is_counted_not_fatal() -> None:
    """Somebody else may publish on the topics."""
    view = View(TOPICS)
    assert view.update(TOPICS.decision, b"{}") is None
    assert view.update(TOPICS.results("gate"), b"\xff") is None
    assert "2 unreadable messages" in drawn(view)


def test_no_payload_can_drive_the_terminal() -> None:
    """Control characters are shown, not sent."""
    view = View(TOPICS)
    payload = view.update(TOPICS.event, event())

    assert payload is not None
    assert line(payload).endswith("worker.lost worker=w1\\x1b[2J")
