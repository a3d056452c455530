"""Standard output that is full, closed or of another encoding: nothing of it is a fault of ours."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Run
from .test_main import standing_in

COMMANDS = (["--version"], ["--help"], ["schema"], ["schema", "state"], ["plan", "--help"], ["agent", "check"])


def popexd(words: list[str], shell: str = '"$@"', **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a shell that does something to its standard output."""
    command = [sys.executable, "-c", "from popexd.cli import main; main()", *words]
    return subprocess.run(
        ["/bin/sh", "-c", shell, "sh", *command],
        capture_output=True, text=True, timeout=240, check=False, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_full_disk_is_one_line(words: list[str], unbuffered: str) -> None:
    """Whether it shows at the first character or at the end."""
    ended = popexd(words, '"$@" >/dev/full', PYTHONUNBUFFERED=unbuffered)

    assert ended.returncode == 1
    assert ended.stderr == "popexd: cannot write: No space left on device\n"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_output_that_nobody_wants_is_not_missed(words: list[str]) -> None:
    """Standard output may be closed from the start."""
    ended = popexd(words, '"$@" >&-')

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.parametrize("shell", ['"$@" 2>/dev/full', '"$@" 2>&-'])
def test_a_complaint_that_cannot_be_written_keeps_its_status(shell: str) -> None:
    """The status is all that is left to say it with."""
    assert popexd(["schema", "nonsense"], shell).returncode == 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_lacks_a_character_shows_an_escape(encoding: str) -> None:
    """Here the ellipsis of the help."""
    ended = popexd(["schema", "--help"], PYTHONIOENCODING=encoding)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert "\\u2026" in ended.stdout


def test_any_other_file_that_fills_up_is_told_alike(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], run: Run
) -> None:
    """An open file has no name in the error, but the reason is worth more than a traceback."""
    monkeypatch.delenv("POPEXD_DEBUG", raising=False)
    standing_in(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))

    assert run("schema") == 1
    assert capfd.readouterr().err == "popexd: cannot write: No space left on device\n"
