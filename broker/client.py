"""What one client takes home: its certificate, key and password, and the lines for its configuration.

Either a folder on this machine, or a bundle: a tar file that is brought over and unpacked there.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from pathlib import Path, PurePath

from popexd.errors import ConfigurationError

from .accounts import Account, Credentials, Register, write_secret

HOME = PurePath("/etc/popexd")
CONFIGURATION = "popexd.toml"


def write_folder(path: Path, credentials: Credentials, register: Register) -> None:
    """Write a client's files into a folder of its own, which nobody else can enter.

    Raises:
        ConfigurationError: it cannot be written.

    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.geteuid() == 0:
            owner = path.parent.parent.stat()
            for folder in (path.parent, path):
                os.chown(folder, owner.st_uid, owner.st_gid)
        for name, content in _files(credentials, register, path.absolute()).items():
            write_secret(path / name, content)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}, expected a folder that can be written") from error


def write_bundle(file: Path, credentials: Credentials, register: Register, home: PurePath = HOME) -> None:
    """Write a client's files as `NAME/…` into a new tar file, readable by its owner alone.

    `home` is the folder in which it will be unpacked: the paths in its configuration begin there.

    Raises:
        ConfigurationError: the file exists or cannot be written.

    """
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}, expected a new file for the bundle") from error
    with os.fdopen(descriptor, "wb") as stream, tarfile.open(fileobj=stream, mode="w") as archive:
        folder = tarfile.TarInfo(credentials.name)
        folder.type, folder.mode, folder.mtime = tarfile.DIRTYPE, 0o700, int(time.time())
        archive.addfile(folder)
        for name, content in _files(credentials, register, home / credentials.name).items():
            entry = tarfile.TarInfo(f"{credentials.name}/{name}")
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
            archive.addfile(entry, io.BytesIO(content))


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
