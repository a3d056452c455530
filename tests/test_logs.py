"""Logging: form, time zone, journal, thinning and secrets."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from popexd import logs

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _own_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def written(level: logs.Level = "info", form: logs.Format = "auto") -> io.StringIO:
    """Configure logging to a buffer and return it."""
    stream = io.StringIO()
    logs.configure(level, form, stream)
    return stream


def test_away_from_a_terminal_a_line_is_time_level_event_and_fields() -> None:
    """The form people grep."""
    stream = written()
    logs.get_logger("agent.loop").info("frame.dropped", camera="gate 3", seconds=0.1234567)

    at, line = stream.getvalue().split(" ", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", at)
    assert line == "info frame.dropped module=agent.loop camera='gate 3' seconds=0.123457\n"


def test_json_on_request_one_object_a_line() -> None:
    """The form machines read, tracebacks included."""
    stream = written(form="json")
    log = logs.get_logger("agent")
    log.info("frame.dropped", path=Path("/x"))
    log.error("thing.failed", exc_info=ValueError("two\nlines"))
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())

    assert first.pop("at").endswith("Z")
    assert first == {"event": "frame.dropped", "level": "info", "module": "agent", "path": "/x"}
    assert "ValueError: two\nlines" in second["exception"]


def test_what_is_below_the_level_is_not_written() -> None:
    """`[log] level` is obeyed."""
    stream = written("warning")
    log = logs.get_logger("agent")
    log.info("frame.taken")
    log.warning("frame.dropped")

    assert "frame.taken" not in stream.getvalue()
    assert "frame.dropped" in stream.getvalue()


def test_the_journal_gets_priorities_and_keeps_the_time_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line, a traceback's too, begins with <N>; no second time stamp."""
    read_end, write_end = os.pipe()
    with os.fdopen(read_end) as reader:
        with os.fdopen(write_end, "w") as writer:
            status = os.fstat(write_end)
            monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
            logs.configure(stream=writer)
            log = logs.get_logger("agent")
            log.info("agent.started")
            log.warning("worker.lost")
            log.error("plan.failed", exc_info=ValueError("x"))
        lines = reader.read().splitlines()

    assert lines[0] == "<6>info agent.started module=agent"
    assert lines[1] == "<4>warning worker.lost module=agent"
    assert all(line.startswith("<3>") for line in lines[2:])


def test_a_stream_that_is_not_the_journals_gets_no_priorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """JOURNAL_STREAM is inherited by children whose output goes elsewhere."""
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    stream = written()
    logs.get_logger("agent").info("agent.started")

    assert not stream.getvalue().startswith("<")


def test_a_repeated_warning_is_thinned_and_counted() -> None:
    """A flood of one kind leaves the log readable, other kinds pass, and none goes uncounted."""
    now = 0.0
    thinning = logs.Thinning(burst=2, window_seconds=60, monotonic=lambda: now)

    def passes(event: str, method: str = "warning") -> object:
        try:
            return dict(thinning(None, method, {"event": event, "module": "m"})).get("held_back", 0)
        except structlog.DropEvent:
            return None

    assert [passes("worker.lost") for _ in range(5)] == [0, 0, None, None, None]
    assert passes("frame.dropped") == 0
    assert [passes("frame.taken", "info") for _ in range(5)] == [0] * 5
    now = 60.0
    assert [passes("worker.lost") for _ in range(3)] == [3, 0, None]


@pytest.mark.parametrize("form", ["console", "auto", "json"])
def test_secrets_are_never_written(form: logs.Format) -> None:
    """Neither by key, at any depth, nor inside an address."""
    stream = written(form=form)
    logs.get_logger("bus").info(
        "broker.connected",
        password="hunter2",
        url="mqtts://agent:hunter2@broker:8883/x",
        settings={"inner": [{"mqtt_token": "hunter2"}], "password_file": "/etc/popexd/p"},
    )

    assert "hunter2" not in stream.getvalue()
    assert logs.MASK in stream.getvalue()
    assert "/etc/popexd/p" in stream.getvalue()


@pytest.mark.parametrize("form", ["console", "auto", "json"])
@pytest.mark.parametrize("detail", ["x\n2026-01-01 info all.well", "\x1b[2J", "\r"])
def test_a_value_cannot_forge_a_line_or_drive_a_terminal(form: logs.Format, detail: str) -> None:
    """What comes from outside may hold line breaks and control characters."""
    stream = written(form=form)
    logs.get_logger("agent").info("input.rejected", detail=detail)

    assert stream.getvalue().count("\n") == 1
    assert detail not in stream.getvalue()


def test_other_libraries_warnings_take_our_form() -> None:
    """What apscheduler or paho say through the standard module is an event too; their chatter is left out."""
    stream = written()
    logging.getLogger("apscheduler.scheduler").warning("Run time of job %s was missed", "probe")
    logging.getLogger("apscheduler.scheduler").info("Added job")
    logging.getLogger("popexd.bus.base").warning("callback.failed about=%s", "frames")
    first, second = stream.getvalue().splitlines()

    assert "warning library.spoke module=apscheduler.scheduler" in first
    assert "Run time of job probe was missed" in first
    assert "warning callback.failed module=popexd.bus.base" in second


def test_event_names_are_noun_past_verb_throughout() -> None:
    """Every literal event in the code can be grepped by one form."""
    wrong = []
    for path in (
        path for folder in ("popexd", "agent", "cloud_worker", "broker") for path in (ROOT / folder).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(
                        value=ast.Name(id="log" | "logger" | "_log" | "LOG"),
                        attr="debug" | "info" | "warning" | "error" | "exception",
                    ),
                    args=[ast.Constant(value=str(event)), *_],
                ) if not re.match(r"[a-z]+(_[a-z]+)*\.[a-z]+(_[a-z]+)*( |$)", event):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {event}")
    assert wrong == []


def test_a_noisy_client_does_not_hide_what_another_is_refused() -> None:
    """Who was refused what is a kind of its own; too many kinds are one again."""
    thinning = logs.Thinning(burst=1, monotonic=lambda: 0.0)

    def refused(user: str) -> bool:
        try:
            thinning(None, "warning", {"event": "publish.refused", "module": "m", "user": user, "topic": "t"})
        except structlog.DropEvent:
            return False
        return True

    assert [refused("a"), refused("a"), refused("b"), refused("a")] == [True, False, True, False]
    passed = sum(refused(f"u{index}") for index in range(2 * logs.MOST_KINDS))
    assert passed <= logs.MOST_KINDS


def test_a_log_that_cannot_be_written_raises_nothing() -> None:
    """A full disk or a closed pipe costs lines only."""
    with Path("/dev/full").open("w", encoding="utf-8") as stream:
        stream.reconfigure(line_buffering=True)
        logs.configure(format="json", stream=stream)
        try:
            logs.get_logger("m").info("frame.answered")
            logs.get_logger("m").error("frame.lost")
        finally:
            logs.configure()
            with contextlib.suppress(OSError):
                stream.close()
