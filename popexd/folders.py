"""Folders made for what is about to be written, and gone again where that fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make a folder, its parents too; where what follows fails, those that are new and still empty go again.

    Raises:
        OSError: it cannot be made.
    """
    with none_left(folder):
        folder.mkdir(parents=True, exist_ok=True)
        yield


@contextmanager
def none_left(folder: Path) -> Iterator[None]:
    """Where what follows fails, remove `folder` and its parents as far as they are new and empty."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield
    except BaseException:  # Ctrl-C, too
        for each in missing:
            with suppress(OSError):
                each.rmdir()
        raise
