"""What our next start has to know of frames that the broker may deliver to it again: what they were answered, and how
often one of them was in our hands when we died.

A ring of slots in a file of fixed size, written in place and never synced: it has to outlive a killed process, not a
machine without power. As a service it lies in memory (`$RUNTIME_DIRECTORY`) and wears out no card.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections import Counter
from pathlib import Path

from popexd.logs import get_logger

log = get_logger("agent")

_SLOTS = 128
_SLOT_BYTES = 2048
_HEAD = struct.Struct(">IQ20sH")
"""Check sum of the rest, running number, mark, length of the answer; without one the frame was tried."""


class Diary:
    """The notes of the start before, and of this one.

    A file that cannot be had is no reason to stop: `tried` then says that nothing was noted.
    """

    def __init__(self, path: Path) -> None:
        self._answers: dict[bytes, bytes] = {}
        self._tries: Counter[bytes] = Counter()
        self._count = 0
        self._file: int | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.posix_fallocate(self._file, 0, _SLOTS * _SLOT_BYTES)  # so that a full disk does not matter later
            self._read(self._file)
        except OSError as error:
            self.close()
            log.warning("diary.unwritable", path=str(path), reason=error.strerror)

    def _read(self, file: int) -> None:
        found = []
        for slot in range(_SLOTS):
            data = os.pread(file, _SLOT_BYTES, slot * _SLOT_BYTES)
            check, number, mark, size = _HEAD.unpack_from(data)
            body = data[_HEAD.size : _HEAD.size + size]
            if number and check == zlib.crc32(data[4 : _HEAD.size + size]):
                found.append((number, mark, body))
        for number, mark, body in sorted(found):
            self._count = number
            if body:
                self._answers[mark] = body
            else:
                self._tries[mark] += 1

    def answer(self, mark: bytes) -> bytes | None:
        """Return what a frame was answered before we were started."""
        return self._answers.get(mark)

    def tries(self, mark: bytes) -> int:
        """Return how many starts before this one have tried a frame that was delivered again."""
        return self._tries[mark]

    def tried(self, mark: bytes) -> bool:
        """Note that this start tries it; tell whether that could be noted."""
        return self._write(mark, b"")

    def answered(self, mark: bytes, payload: bytes) -> None:
        """Note an answer, ahead of giving it."""
        self._write(mark, payload)

    def _write(self, mark: bytes, body: bytes) -> bool:
        if self._file is None or len(mark) != 20 or _HEAD.size + len(body) > _SLOT_BYTES:
            return False
        self._count += 1
        rest = _HEAD.pack(0, self._count, mark, len(body))[4:] + body
        try:
            os.pwrite(self._file, zlib.crc32(rest).to_bytes(4, "big") + rest, self._count % _SLOTS * _SLOT_BYTES)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Write no more."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)
