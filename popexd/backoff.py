"""Back-off between starts that fail: systemd's own came with version 254, and Debian 12 has 252."""

from __future__ import annotations

import contextlib
from pathlib import Path

_AT_ONCE = 3
_LONGEST_SECONDS = 60.0


class Backoff:
    """Counts the starts since the program last ran well, in a file that outlives it.

    Arguments:
        folder: systemd's `RuntimeDirectory=` with `RuntimeDirectoryPreserve=restart`; None counts nothing.

    """

    def __init__(self, folder: Path | None) -> None:
        self._file = None if folder is None else folder / "starts"

    def starting(self) -> float:
        """Count a start; return the seconds to wait before it: none for the first ones, then twice as long each time.

        A file that cannot be read or written costs the waiting, never the start.
        """
        if self._file is None:
            return 0.0
        starts = 0
        with contextlib.suppress(OSError, ValueError):
            starts = int(self._file.read_text(encoding="ascii"))
        with contextlib.suppress(OSError):
            self._file.write_text(str(starts + 1), encoding="ascii")
        return 0.0 if starts < _AT_ONCE else min(_LONGEST_SECONDS, 2.0 ** min(starts - _AT_ONCE + 1, 16))

    def settled(self) -> None:
        """Take note that the program runs well, or ended because it was told to."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)
