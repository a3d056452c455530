"""The demo's processes and their configuration."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from popexd.errors import InputError
from popexd.protocol.messages import WorkerProfile

_STOP_SECONDS = 15


class Part:
    """One program of popexd as a child process; its log goes to a file, its first line is read where it `talks`."""

    def __init__(self, name: str, arguments: list[str], folder: Path, talks: bool = False) -> None:
        self.name = name
        self._command = [sys.executable, "-m", "popexd.cli", *arguments]
        self._log = folder / f"{name.replace(' ', '-')}.log"
        self._talks = talks
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process; in a session of its own, so that Ctrl-C reaches the demo alone."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 our own interpreter and our own programs
                self._command,
                stdout=subprocess.PIPE if self._talks else log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def first_line(self) -> str:
        """Return the first line that the program prints.

        Raises:
            InputError: it ended without one.

        """
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        if not line:
            self._process.wait(10)
            raise InputError(f"demo: the {self.name} does not start: {self.last_words()}")
        return line

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process is None or self._process.poll() is not None

    def last_words(self) -> str:
        """Return the last line of the log."""
        lines = self._log.read_text(errors="replace").strip().splitlines() if self._log.exists() else []
        return lines[-1] if lines else f"the {self.name} says nothing"

    def stop(self) -> None:
        """Ask the process to end, and insist after a while."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def worker_config(folder: Path, site: str, worker: str, port: int) -> str:
    """Write the worker's configuration; return its path."""
    return _write(
        folder / "worker.toml",
        {
            "mqtt": {"port": port, "site": site},
            "worker": {"name": worker, "tier": "cloud"},
            "runtime": {"cache_folder": str(folder), "threads": 1},
        },
    )


def agent_config(folder: Path, site: str, device: str, port: int, uplink_port: int, slowdown: float) -> str:
    """Write the agent's configuration; return its path."""
    return _write(
        folder / "agent.toml",
        {
            "mqtt": {"port": port, "site": site, "device": device},
            "uplink": {"port": uplink_port},
            "probe": {"interval_seconds": 2.0},
            "metrics": {"interval_seconds": 1.0, "window_seconds": 8.0},
            "runtime": {"cache_folder": str(folder), "threads": 1, "slowdown": round(slowdown, 2)},
        },
    )


def _write(path: Path, tables: dict[str, dict[str, object]]) -> str:
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items()), ""]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def worker_seconds(payload: bytes) -> float:
    """Return what this machine takes for a whole frame, from the profile that the worker published."""
    (profile,) = WorkerProfile.from_bytes(payload).models.values()
    return float(sum(profile["segments"].values()) + profile["frame_seconds"])
