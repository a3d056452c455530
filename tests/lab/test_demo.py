"""The demo is the product in small: it runs to its end, owes nothing, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def started(*arguments: str) -> subprocess.Popen[str]:
    """Run the demo in a session of its own."""
    command = [sys.executable, "-u", "-m", "popexd.cli", "demo", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def children(parent: int) -> set[int]:
    """Every process that has `parent` for an ancestor."""
    found: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found |= {int(stat.parent.name)} | children(int(stat.parent.name))
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_every_taken_frame_is_answered_while_the_link_changes() -> None:
    """Wi-Fi to outage and back: nothing unanswered, nothing twice, and in the outage the device answers alone."""
    with started("--seconds", "20", "--json") as demo:
        output, errors = demo.communicate(timeout=600)
    assert demo.returncode == 0, errors
    summary = json.loads(output)

    assert summary["unanswered"] == 0
    assert summary["answered_twice"] == 0
    assert summary["frames"]["taken"] == summary["frames"]["answered"] > 0
    assert summary["frames"]["received"] == sum(summary["frames"][kind] for kind in ("taken", "dropped", "rejected"))
    assert "device" in summary["tiers"]
    assert [phase["name"] for phase in summary["phases"]] == ["Wi-Fi", "4G", "3G", "outage", "Wi-Fi again"]
    assert summary["accuracy"] > 0.8


def test_ended_from_outside_it_leaves_no_process_behind() -> None:
    """SIGTERM in the middle: brokers, worker and agent go with it."""
    with started("--seconds", "60", "--plain") as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith("---"):
                break
        parts = children(demo.pid)
        os.kill(demo.pid, signal.SIGTERM)
        demo.communicate(timeout=120)
    deadline = time.monotonic() + 60
    while any(alive(part) for part in parts) and time.monotonic() < deadline:
        threading.Event().wait(0.02)

    assert len(parts) >= 6  # two brokers and their Mosquittos, the worker, the agent
    assert not [part for part in parts if alive(part)]
    assert demo.returncode == 128 + signal.SIGTERM
