"""Pictures as files: refused before any work where they cannot be, each whole or not there."""

from __future__ import annotations

import errno
import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from popexd.errors import InputError

FORMATS = ("png", "svg", "pdf")


def check_extra(option: str, instead: str = "") -> None:
    """Refuse to draw without matplotlib; `instead` says what else will do. Raises InputError."""
    if importlib.util.find_spec("matplotlib") is None:
        otherwise = f", expected it{instead}"
        raise InputError(f"{option}: pictures need the extra 'plot' (pip install 'popexd[plot]'){otherwise}")


def check_format(option: str, path: Path) -> None:
    """Refuse a name whose suffix is of no format. Raises InputError."""
    if path.suffix.lower().removeprefix(".") not in FORMATS:
        raise InputError(f"{option}: {path}, expected a name that ends in {', '.join(f'.{each}' for each in FORMATS)}")


def check_picture(option: str, path: Path) -> None:
    """Refuse a picture that cannot be drawn or written, before any work. Raises InputError."""
    check_format(option, path)
    check_extra(option)
    folder = path.absolute().parent
    if path.is_dir():
        reason = errno.EISDIR
    elif not folder.exists():
        reason = errno.ENOENT
    elif not folder.is_dir():
        reason = errno.ENOTDIR
    elif not os.access(folder, os.W_OK | os.X_OK):
        reason = errno.EACCES
    else:
        return
    raise InputError(f"{option}: {path}: {os.strerror(reason)}, expected a file that can be written")


def check_pictures(option: str, folder: Path) -> None:
    """Refuse a folder for pictures as `check_folder` does, and to draw without matplotlib. Raises InputError."""
    check_extra(option)
    check_folder(option, folder)


def check_folder(option: str, folder: Path) -> None:
    """Refuse a folder to write into, there or to be made, that cannot be written. Raises InputError."""
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    if not there.is_dir():
        raise InputError(f"{option}: {there if there != folder.absolute() else folder} is a file, expected a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{option}: {there}: {os.strerror(errno.EACCES)}, expected a folder that can be written")


def unreadable(where: object, error: Exception) -> InputError:
    """What to raise of a file that is no image, or is not there."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return InputError(f"{where}: cannot be read as an image: {reason}")


def put(files: Mapping[Path, Callable[[Path], object]]) -> None:
    """Write files, each by its function under another name beside it; when all are there, they take their places.

    Raises:
        OSError: one cannot be written; nothing of it is left behind.
    """
    pending = {path: path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}") for path in files}
    try:
        for path, write in files.items():
            write(pending[path])
        for path, partial in pending.items():
            partial.replace(path)
    finally:
        for partial in pending.values():
            partial.unlink(missing_ok=True)


def put_picture(option: str, path: Path, draw: Callable[[Path], object]) -> None:
    """Write one picture. Raises InputError where it cannot be."""
    try:
        put({path: draw})
    except OSError as error:
        raise InputError(f"{option}: {path}: {error.strerror or error}, expected a file that can be written") from error
