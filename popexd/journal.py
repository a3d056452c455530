"""systemd's journal in its native protocol: every field of an event is a field of the entry, to be searched for.

`journalctl POPEXD_EVENT=worker.lost` finds what a pattern over texts would have to guess at.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

SOCKET = Path("/run/systemd/journal/socket")
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""syslog's, see sd-daemon(3)."""

# A datagram holds some 200 kB; what is longer is cut rather than passed on in a file, as the protocol would allow.
_LONGEST_BYTES = 32_768
_LONGEST_NAME = 64


def entry(message: str, level: str, fields: Mapping[str, Any]) -> bytes:
    """Return the datagram of one entry (systemd's Native Journal Protocol); `fields` become `POPEXD_…`."""
    named = {"MESSAGE": message, "PRIORITY": PRIORITIES.get(level, 6), "SYSLOG_IDENTIFIER": "popexd"}
    for key, value in fields.items():
        if value is not None:
            name = re.sub(r"[^A-Z0-9]+", "_", f"POPEXD_{key}".upper()).strip("_")
            named[name[:_LONGEST_NAME]] = value
    return b"".join(_field(name, str(value).encode()[:_LONGEST_BYTES]) for name, value in named.items())


def _field(name: str, value: bytes) -> bytes:
    if b"\n" not in value:
        return name.encode() + b"=" + value + b"\n"
    return name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"


class JournalLogger:
    """The end of structlog's chain: sends entries, and writes to `stream` in syslog's form what cannot be sent."""

    def __init__(self, stream: TextIO, path: Path | None = None) -> None:
        self._stream = stream
        self._path = SOCKET if path is None else path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def msg(self, message: str, level: str, fields: Mapping[str, Any]) -> None:
        """Log one entry; a journal that does not take it costs at most its fields."""
        try:
            self._socket.sendto(entry(message, level, fields), str(self._path))
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                self._stream.write(prefixed(message, level) + "\n")
                self._stream.flush()

    debug = info = warning = warn = error = exception = critical = fatal = log = msg


def prefixed(message: str, level: str) -> str:
    """Return the message with the priority in front of every line, as the journal reads a stream."""
    return "\n".join(f"<{PRIORITIES.get(level, 6)}>{line}" for line in message.split("\n"))
