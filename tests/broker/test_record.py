"""What is kept of Mosquitto's words: enough, and never too much."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.process import Broker
from broker.record import FILE_BYTES
from tests.bus.waiting import PATIENCE_SECONDS, until


@pytest.mark.parametrize("reader", [None, lambda line: line], ids=["plain", "read"])
def test_a_log_that_has_grown_is_set_aside(tmp_path: Path, reader: Callable[[str], str | None] | None) -> None:
    """At a start as at any time, and a start it is; what was written before can still be read beside it."""
    (tmp_path / "mosquitto.log").write_bytes(b"1: old\n" * (FILE_BYTES // 7 + 1))
    with Broker(folder=tmp_path, reader=reader) as broker:
        assert " running" in broker.log
        assert "old" not in broker.log

    assert (tmp_path / "mosquitto.log.1").read_bytes().startswith(b"1: old\n")


def test_the_log_of_a_plain_broker_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files at most, for their owner alone, however long it runs."""
    monkeypatch.setattr("broker.record.FILE_BYTES", 1_000)
    with Broker(folder=tmp_path) as broker:

        def set_aside_again() -> bool:
            connection = socket.create_connection(("127.0.0.1", broker.port), timeout=PATIENCE_SECONDS)
            connection.close()
            before = tmp_path / "mosquitto.log.1"
            return before.exists() and " running" not in before.read_text()

        until(set_aside_again, "a second time")
    logs = list(tmp_path.glob("mosquitto.log*"))

    assert {path.name for path in logs} == {"mosquitto.log", "mosquitto.log.1"}
    assert all(path.stat().st_size < 2_000 for path in logs)
    assert all(path.stat().st_mode & 0o077 == 0 for path in logs)


def test_a_reader_that_fails_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """The next line is read too, and every one is kept; that it fails is told."""

    def reader(line: str) -> str | None:
        raise LookupError(line)

    with Broker(reader=reader) as broker:
        before = broker.log
        socket.create_connection(("127.0.0.1", broker.port), timeout=PATIENCE_SECONDS).close()
        until(lambda: "New connection from" in broker.log[len(before) :], "the next line")

    assert "line.failed" in "".join(capsys.readouterr())
