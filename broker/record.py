"""What Mosquitto says, line by line: read by who wants to know, and written to a file that stays small."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO

from popexd.logs import get_logger

log = get_logger("broker")

FILE_BYTES = 5_000_000
"""One file of at most this size is kept beside the one that is written."""
_RUNNING = re.compile(r"(\d+: )?mosquitto version \S+ running")
_LINES = 100


class Record:
    """The words of one run of Mosquitto.

    Args:
        file: where they are appended.
        reader: is shown each line and returns what to keep of it, called on a thread of the record's own; None keeps
            every line.

    """

    def __init__(self, file: Path, reader: Callable[[str], str | None] | None = None) -> None:
        self.running = threading.Event()
        self._file = file
        self._reader = reader
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._thread: threading.Thread | None = None

    def follow(self, stream: IO[bytes]) -> None:
        """Read to the end of a stream. Mosquitto would wait if nobody read, so nothing stops this but its end."""
        self._thread = threading.Thread(target=self._copy, args=(stream,), name="mosquitto-log", daemon=True)
        self._thread.start()

    def finish(self, seconds: float) -> None:
        """Wait until all has been read that was said, `seconds` at most."""
        if self._thread is not None:
            self._thread.join(seconds)

    def last_words(self) -> str:
        """Return the line that says best why Mosquitto ended, without its time stamp."""
        lines = [re.sub(r"^\d+: ", "", line) for line in self._lines.copy()] or ["no output"]
        return next((line for line in reversed(lines) if line.startswith("Error")), lines[-1])

    def _copy(self, stream: IO[bytes]) -> None:
        with stream:
            for raw in stream:
                line = raw.decode(errors="replace").rstrip("\n")
                kept = self._kept(line)
                if kept is not None:
                    self._lines.append(kept)
                    with contextlib.suppress(OSError):  # a full disk must not stop the broker
                        self._write(kept)
                if _RUNNING.fullmatch(line):
                    self.running.set()

    def _kept(self, line: str) -> str | None:
        if self._reader is None:
            return line
        try:
            return self._reader(line)
        except Exception as error:  # noqa: BLE001 whatever a line may do to its reader, the next one is to be read
            log.error("line.failed", line=line[:200], error=f"{type(error).__name__}: {error}"[:200])  # noqa: TRY400 one line
            return line

    def _write(self, line: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self._file.stat().st_size > FILE_BYTES:
                self._file.replace(self._file.with_name(f"{self._file.name}.1"))
        with open(self._file, "a", encoding="utf-8", errors="replace", opener=_private) as file:
            file.write(f"{line}\n")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
