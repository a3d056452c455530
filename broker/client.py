"""What one client takes home: its certificate, key and password, and the lines for its configuration.

Either a folder on this machine, or a bundle: a tar file that is brought over and unpacked there.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

from popexd.errors import ConfigurationError

from .accounts import Account, Credentials, Register
from .files import acting_as_owner, write_private

HOME = PurePath("/etc/popexd")
CONFIGURATION = "popexd.toml"


def write_folder(path: Path, credentials: Credentials, register: Register) -> None:
    """Write a client's files into a folder of its own, which nobody else can enter.

    Raises:
        ConfigurationError: it cannot be written, or the password that the client keeps is not there.

    """
    with acting_as_owner(path.parent.parent):
        if credentials.password is None and not (path / "password").exists():
            raise ConfigurationError(
                f"{credentials.name}: its files are not on this machine, expected --bundle FILE for the new ones"
            )
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror}, expected a folder that can be written") from error
        for name, content in _files(credentials, register, path.absolute()).items():
            write_private(path / name, content)


@contextmanager
def new_bundle(file: Path) -> Iterator[int]:
    """Make a new file, readable by its owner alone, and yield its descriptor; it goes again if the block fails.

    Raises:
        ConfigurationError: it is there already, or cannot be made.

    """
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise ConfigurationError(f"{file}: is there already, expected a new file for the bundle") from error
    except FileNotFoundError as error:
        raise ConfigurationError(f"{file}: no such folder, expected a place for the bundle") from error
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}, expected a place for the bundle") from error
    try:
        yield descriptor
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def write_bundle(descriptor: int, credentials: Credentials, register: Register, home: PurePath = HOME) -> None:
    """Write a client's files as `NAME/…` of a tar file into an open one.

    `home` is the folder in which it will be unpacked: the paths in its configuration begin there.

    Raises:
        ConfigurationError: there is no room for it.

    """
    content = memoryview(_bundled(credentials, register, home))
    try:
        while content:
            content = content[os.write(descriptor, content) :]
        os.fsync(descriptor)
    except OSError as error:
        raise ConfigurationError(f"the bundle: {error.strerror}, expected room for it; nothing was changed") from error


def _bundled(credentials: Credentials, register: Register, home: PurePath) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        folder = tarfile.TarInfo(credentials.name)
        folder.type, folder.mode, folder.mtime = tarfile.DIRTYPE, 0o700, int(time.time())
        archive.addfile(folder)
        for name, content in _files(credentials, register, home / credentials.name).items():
            entry = tarfile.TarInfo(f"{credentials.name}/{name}")
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def configuration(account: Account, register: Register, home: PurePath) -> str:
    """Return the table [mqtt] of a client's configuration, and [worker] for a worker."""
    user = account.user
    device = user.name if user.role == "agent" else user.devices[0] if user.devices else None
    keys: dict[str, str | int | None] = {
        "host": register.names[0],
        "port": register.port,
        "site": register.site,
        "device": None if user.role == "worker" else device,
        "username": user.name,
        "password_file": str(home / "password"),
        "ca_file": str(home / "authority.pem"),
        "cert_file": str(home / "certificate.pem"),
        "key_file": str(home / "key.pem"),
    }
    lines = [
        f"# The account {user.name} ({user.role}) at the broker of site {register.site}.",
        "[mqtt]",
        *(f"{key} = {json.dumps(value)}" for key, value in keys.items() if value is not None),
    ]
    if user.role == "worker":
        lines += ["", "[worker]", f"name = {json.dumps(user.name)}", f"tier = {json.dumps(user.tier or 'cloud')}"]
    return "\n".join(lines) + "\n"


def _files(credentials: Credentials, register: Register, home: PurePath) -> dict[str, bytes]:
    files = {
        "authority.pem": credentials.authority,
        "certificate.pem": credentials.pair.certificate,
        "key.pem": credentials.pair.key,
        CONFIGURATION: configuration(register.accounts[credentials.name], register, home).encode(),
    }
    if credentials.password is not None:
        files["password"] = f"{credentials.password}\n".encode()
    return files
