"""Files in a folder that may be another's: written as its owner, each whole or not at all.

Whoever owns a folder can lay links in it. Root that followed one would write, read or give away what the owner may not
touch. So where root works in a folder of another it is that other, and the system refuses what it would refuse to them.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 imported by the first look-up of a host, maybe from where only root may read
import os
import pwd
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from popexd.errors import ConfigurationError


class _Identity(NamedTuple):
    user: int
    group: int
    groups: list[int]


def become_owner(folder: Path) -> None:
    """Be whoever owns the folder from here on, where root is asked to work in another's.

    Raises:
        ConfigurationError: the system does not let us.

    """
    if (owner := _other_owner(folder)) is None:
        return
    try:
        os.setgroups(owner.groups)
        os.setgid(owner.group)
        os.setuid(owner.user)
    except OSError as error:
        raise _not_allowed(folder, error) from error


@contextmanager
def acting_as_owner(folder: Path) -> Iterator[None]:
    """Be whoever owns the folder inside the block, where root is asked to work in another's; may be nested.

    Files that are open already stay what they are.

    Raises:
        ConfigurationError: the system does not let us.

    """
    if (owner := _other_owner(folder)) is None:
        yield
        return
    before = _Identity(0, os.getegid(), os.getgroups())
    try:
        try:
            os.setgroups(owner.groups)
            os.setegid(owner.group)
            os.seteuid(owner.user)
        except OSError as error:
            raise _not_allowed(folder, error) from error
        yield
    finally:
        os.seteuid(before.user)
        os.setegid(before.group)
        os.setgroups(before.groups)


def write_private(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, for its owner alone.

    Raises:
        ConfigurationError: it cannot be written.

    """
    try:
        descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600 from the start
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            Path(partial).replace(path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}, expected a place that can be written") from error


def _other_owner(folder: Path) -> _Identity | None:
    """Return who owns the folder, None where we are no root, it is root's, or it is still to be made."""
    if os.geteuid() != 0:
        return None
    try:
        owned = folder.stat()
    except FileNotFoundError:
        return None
    if owned.st_uid == 0:
        return None
    try:
        entry = pwd.getpwuid(owned.st_uid)
    except KeyError:
        return _Identity(owned.st_uid, owned.st_gid, [owned.st_gid])
    return _Identity(entry.pw_uid, entry.pw_gid, os.getgrouplist(entry.pw_name, entry.pw_gid))


def _not_allowed(folder: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"{folder}: cannot act as its owner: {error.strerror}, expected the right to")
