"""The commands of popexd as tests run them."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest

from popexd.cli.main import main


def popexd(*words: object, status: int = 0) -> str:
    """Run the command; what it printed, or its complaint where that is expected."""
    out, complaint = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(complaint), pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert int(ended.value.code or 0) == status, complaint.getvalue()
    return out.getvalue() if status == 0 else complaint.getvalue().strip()


def in_a_process(*words: object, status: int = 0) -> str:
    """Run the command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "popexd.cli", *(str(word) for word in words)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr.strip()
