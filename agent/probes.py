"""The outside speed test: only when configured, never in the way.

It measures the path to a test server and not the product's own; so it counts only until our own path was measured.
speedtest-cli reaches for the network in its constructor, replaces standard streams when imported, and uses tens of
megabytes; so it runs in a process of its own and is not even imported here otherwise.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable

from popexd.logs import get_logger

log = get_logger("agent.probes")

_TIMEOUT_SECONDS = 90


class SpeedTest:
    """Runs one test at a time in the background and hands the upload rate on."""

    def __init__(self, found: Callable[[float], None], command: tuple[str, ...] | None = None) -> None:
        self._found = found
        self._command = command or (sys.executable, "-m", "speedtest", "--secure", "--no-download", "--json")
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin a test unless one is under way; returns at once."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="speedtest", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End a test that is under way."""
        if self._process is not None:
            self._process.kill()
        if self._thread is not None:
            self._thread.join(5)

    def _run(self) -> None:
        try:
            self._process = subprocess.Popen(  # noqa: S603 our own interpreter, fixed arguments
                self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            output, _ = self._process.communicate(timeout=_TIMEOUT_SECONDS)
            bits_per_second = float(json.loads(output)["upload"])
        except subprocess.TimeoutExpired:
            assert self._process is not None
            self._process.kill()
            log.warning("speedtest.failed", reason=f"no result within {_TIMEOUT_SECONDS} s")
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("speedtest.failed", reason=str(error)[:200] or type(error).__name__)
        else:
            if bits_per_second > 0:
                self._found(bits_per_second)
        finally:
            self._process = None
