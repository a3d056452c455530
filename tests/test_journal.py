"""The journal's native protocol, heard at a real socket."""

from __future__ import annotations

import io
import logging
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from popexd import journal as journals
from popexd import logs
from popexd.journal import JournalLogger, entry


def fields(datagram: bytes) -> dict[str, str]:
    """Read an entry as journald does."""
    found = {}
    while datagram:
        line, _, datagram = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack_from("<Q", datagram)
            value, datagram = datagram[8 : 8 + size], datagram[8 + size + 1 :]
        found[name.decode()] = value.decode()
    return found


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    """A socket that takes entries."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "journal"))
        receiver.settimeout(10)
        yield receiver


def test_an_event_arrives_with_its_priority_and_fields(journal: socket.socket, tmp_path: Path) -> None:
    """Every field of the event is one of the entry; line breaks and equals signs survive."""
    told: dict[str, Any] = {"event": "worker.lost", "worker": "w=1", "detail": "two\nlines", "nothing": None}
    JournalLogger(io.StringIO(), tmp_path / "journal").warning("worker.lost worker='w=1'", "warning", told)

    assert fields(journal.recv(65_536)) == {
        "MESSAGE": "worker.lost worker='w=1'",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "popexd",
        "POPEXD_EVENT": "worker.lost",
        "POPEXD_WORKER": "w=1",
        "POPEXD_DETAIL": "two\nlines",
    }


def test_a_value_cannot_forge_a_field() -> None:
    """Neither by its text nor by its name."""
    datagram = entry("hello", "info", {"detail": "x\nPRIORITY=0\n", "a=b\nPRIORITY": 0, "_pid": 1})

    assert fields(datagram)["PRIORITY"] == "6"
    assert set(fields(datagram)) == {
        "MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "POPEXD_DETAIL", "POPEXD_A_B_PRIORITY", "POPEXD_PID",
    }  # fmt: skip


def test_without_a_journal_the_stream_gets_the_line(tmp_path: Path) -> None:
    """In syslog's form, every line of it; a value without end is cut, not refused."""
    stream = io.StringIO()
    JournalLogger(stream, tmp_path / "nobody").error("a\nb", "error", {})

    assert stream.getvalue() == "<3>a\n<3>b\n"
    assert len(entry("x" * 10**6, "info", {})) < 40_000


def test_logging_under_systemd_goes_there_without_secrets(
    journal: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole chain: priority, fields, a fault's traceback, and a mask where a password was."""
    monkeypatch.setattr(journals, "SOCKET", tmp_path / "journal")
    handlers, level = logging.root.handlers[:], logging.root.level
    try:
        with (tmp_path / "stderr").open("w") as stream:
            status = os.fstat(stream.fileno())
            monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
            logs.configure(stream=stream)
            log = logs.get_logger("agent")
            log.info("broker.connected", password="hunter2", url="mqtts://agent:hunter2@broker:8883")
            log.error("plan.failed", exc_info=ValueError("two\nlines"))
    finally:
        structlog.reset_defaults()
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
    connected, failed = (fields(journal.recv(65_536)) for _ in range(2))

    assert "hunter2" not in str(connected)
    assert connected["POPEXD_PASSWORD"] == logs.MASK
    assert (connected["PRIORITY"], failed["PRIORITY"]) == ("6", "3")
    assert failed["MESSAGE"].startswith("error plan.failed module=agent\nValueError: two\nlines")
    assert (tmp_path / "stderr").read_text() == ""
