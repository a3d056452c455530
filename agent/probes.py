"""The outside speed test: only when configured, never in the way.

It measures the path to a test server and not the product's own; so it counts only until our own path was measured.
speedtest-cli reaches for the network in its constructor, replaces standard streams when imported, and uses tens of
megabytes; so it runs in a process of its own and is not even imported here otherwise.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from collections.abc import Callable

from popexd.logs import get_logger

log = get_logger("agent.probes")

_TIMEOUT_SECONDS = 90.0


class SpeedTest:
    """Runs one test at a time in the background and hands the upload rate on."""

    def __init__(
        self,
        found: Callable[[float], None],
        command: tuple[str, ...] | None = None,
        timeout_seconds: float = _TIMEOUT_SECONDS,
    ) -> None:
        self._found = found
        self._command = command or (sys.executable, "-m", "speedtest", "--secure", "--no-download", "--json")
        self._timeout_seconds = timeout_seconds
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin a test unless one is under way; returns at once."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="speedtest", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End a test that is under way."""
        process = self._process
        if process is not None:
            process.kill()
        if self._thread is not None:
            self._thread.join(5)

    def _run(self) -> None:
        try:
            process = self._process = subprocess.Popen(  # noqa: S603 our own interpreter, fixed arguments
                self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
            )
            with process:
                bits_per_second = float(json.loads(self._output(process))["upload"])
        except Exception as error:  # noqa: BLE001 whatever it says, the next test is due all the same
            log.warning("speedtest.failed", reason=str(error)[:200] or type(error).__name__)
        else:
            if 0 < bits_per_second < math.inf:
                self._found(bits_per_second)
        finally:
            self._process = None

    def _output(self, process: subprocess.Popen[bytes]) -> bytes:
        try:
            return process.communicate(timeout=self._timeout_seconds)[0]
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise ValueError(f"no result within {self._timeout_seconds:g} s") from error
