"""The broker's folder: an authority, certificates, passwords and who may do what, kept in step.

::

    broker.json        which accounts there are, and what for
    authority.pem/key  signs everything else; the key never leaves the folder
    server.pem/key     the broker's own
    revoked.pem        certificates that are void before their time
    passwords, acl     what Mosquitto reads
    clients/NAME/      a client of this machine; one of another machine has a bundle instead, and nothing stays here

Every file is its owner's alone. Each change is made to a copy in memory and then written file by file, each whole or
not at all, broker.json last.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from popexd.errors import ConfigurationError, InputError
from popexd.protocol.topics import checked_name

from . import authority
from .access import User, check_user, render_acl
from .authority import Pair
from .config import BrokerSettings
from .files import acting_as_owner, write_private
from .process import SYSTEM_FOLDERS

SCHEMA = "popexd/broker/1"
SERVER = "server"
_INDEX = "broker.json"


@dataclass(frozen=True, slots=True)
class Account:
    """A user, the serial numbers of the certificates it was given, and when the newest expires."""

    user: User
    serials: tuple[int, ...]
    expires: str


@dataclass(frozen=True)
class Register:
    """What broker.json says: where the broker listens, under which names, and its accounts."""

    site: str
    host: str
    port: int
    names: tuple[str, ...]
    websockets_port: int | None = None
    accounts: Mapping[str, Account] = field(default_factory=dict)
    revoked: tuple[int, ...] = ()

    @property
    def users(self) -> tuple[User, ...]:
        """Every account's user."""
        return tuple(account.user for account in self.accounts.values())


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one client needs to be let in; the password is absent where it keeps the one it has."""

    name: str
    pair: Pair
    authority: bytes
    password: str | None = field(repr=False)


Deliver = Callable[[Credentials, Register], None]
"""Brings a client what it needs; called before anything is changed, and what it raises leaves all as it was."""


class BrokerFolder:
    """The folder of one broker, and the changes that can be made to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def initialised(self) -> bool:
        """Whether `init` was done here."""
        return (self.path / _INDEX).is_file()

    # ------------------------------------------------------------------------------------------ changes

    def init(self, register: Register, days: int = authority.CERTIFICATE_DAYS) -> None:
        """Make the authority and the broker's certificate; nobody has an account yet.

        Raises:
            ConfigurationError: already done, or the folder cannot be written.

        """
        checked_name(register.site, "site")
        self.path.mkdir(parents=True, exist_ok=True)
        with self._changing():
            if self.initialised:
                raise ConfigurationError(
                    f"{self.path}: a broker was set up here before, expected another folder (or `broker add`, `renew`)"
                )
            self.path.chmod(0o700)
            signer = authority.create(f"popexd {register.site}")
            server = authority.issue(signer, SERVER, register.names, days)
            self._write("authority.key", signer.key)
            self._write("authority.pem", signer.certificate)
            self._write_server(server)
            self._write("passwords", b"")
            self._store(register)

    def add(self, user: User, days: int = authority.CERTIFICATE_DAYS, deliver: Deliver | None = None) -> Credentials:
        """Make a certificate and a password for a new user, deliver them, and let it in.

        Raises:
            ConfigurationError: the name is taken.
            InputError: the name cannot be part of a topic.

        """
        check_user(user)
        password = secrets.token_urlsafe(24)
        hashed = hashed_password(user.name, password)
        with self._changing():
            register = self.read()
            if user.name == SERVER or user.name in register.accounts:
                raise ConfigurationError(f"{user.name}: the name is taken, expected another")
            pair = authority.issue(self._authority(), user.name, days=days)
            register = replace(register, accounts={**register.accounts, user.name: _account(user, pair)})
            credentials = Credentials(user.name, pair, self._file("authority.pem"), password)
            passwords = {**self._passwords(), user.name: hashed}
            if deliver is not None:
                deliver(credentials, register)
            self._write("passwords", _lines(passwords.values()))
            self._store(register)
            return credentials

    def revoke(self, name: str) -> None:
        """Lock a user out: no password, no rights, and a certificate that is void.

        Raises:
            ConfigurationError: no such account.

        """
        with self._changing():
            register = self.read()
            account = _known(register, name)
            accounts = {other: each for other, each in register.accounts.items() if other != name}
            hashed = {other: line for other, line in self._passwords().items() if other != name}
            self._write("passwords", _lines(hashed.values()))
            self._store(replace(register, accounts=accounts, revoked=(*register.revoked, *account.serials)))
            shutil.rmtree(self.path / "clients" / name, ignore_errors=True)

    def renew(
        self, name: str, days: int = authority.CERTIFICATE_DAYS, deliver: Deliver | None = None
    ) -> Credentials | None:
        """Make a new certificate for the broker (`server`; returns None) or for a client, who keeps its password.

        The old one stays good until it expires, so that the new one can be brought over in peace.

        Raises:
            ConfigurationError: no such account.

        """
        with self._changing():
            register = self.read()
            if name == SERVER:
                self._write_server(authority.issue(self._authority(), SERVER, register.names, days))
                return None
            account = _known(register, name)
            pair = authority.issue(self._authority(), name, days=days)
            renewed = _account(account.user, pair, account.serials)
            register = replace(register, accounts={**register.accounts, name: renewed})
            credentials = Credentials(name, pair, self._file("authority.pem"), None)
            if deliver is not None:
                deliver(credentials, register)
            self._store(register)
            return credentials

    # ------------------------------------------------------------------------------------------ reading

    def read(self) -> Register:
        """Return what was set up.

        Raises:
            ConfigurationError: nothing was, or the file was altered.

        """
        try:
            facts = json.loads((self.path / _INDEX).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigurationError(
                f"{self.path}: no broker was set up here ({error.strerror}), expected `popexd broker init` first"
            ) from error
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(f"{self.path / _INDEX}: not JSON: {error}") from error
        try:
            return _register(facts)
        except (AttributeError, InputError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise ConfigurationError(f"{self.path / _INDEX}: {error!r}, expected what `broker init` wrote") from error

    def settings(self) -> BrokerSettings:
        """Return what Mosquitto is to be configured with."""
        register = self.read()
        return BrokerSettings(
            host=register.host,
            port=register.port,
            websockets_port=register.websockets_port,
            password_file=self.path.absolute() / "passwords",
            acl_file=self.path.absolute() / "acl",
            ca_file=self.path.absolute() / "authority.pem",
            cert_file=self.path.absolute() / "server.pem",
            key_file=self.path.absolute() / "server.key",
            crl_file=self.path.absolute() / "revoked.pem",
        )

    def expiring(self) -> Mapping[str, datetime]:
        """Return when each certificate expires, the broker's under `server`."""
        ends = {name: datetime.fromisoformat(each.expires) for name, each in self.read().accounts.items()}
        return {SERVER: authority.expires(self._file("server.pem")), **ends}

    def generation(self) -> tuple[int, ...]:
        """Return something that changes when there is something to read again, for Mosquitto or for us."""
        found = []
        for name in ("acl", "passwords", "revoked.pem", "server.pem", _INDEX):
            try:
                found.append((self.path / name).stat().st_mtime_ns)
            except OSError:
                found.append(0)
        return tuple(found)

    # ------------------------------------------------------------------------------------------ files

    def refresh(self) -> bool:
        """Write the access list as this version makes it of the accounts; tell whether it was another's.

        Raises:
            ConfigurationError: it cannot be read or written.

        """
        with self._changing():
            register = self.read()
            rights = render_acl(register.users, register.site).encode()
            if self._file("acl") == rights:
                return False
            self._write("acl", rights)
            return True

    def _store(self, register: Register) -> None:
        previous = self._file("revoked.pem") if (self.path / "revoked.pem").exists() else None
        revoked = authority.revocation_list(self._authority(), register.revoked, previous)
        self._write("revoked.pem", revoked)
        self._write("acl", render_acl(register.users, register.site).encode())
        facts = {"schema": SCHEMA, **asdict(register)}
        self._write(_INDEX, (json.dumps(facts, indent=1) + "\n").encode())

    def _write_server(self, server: Pair) -> None:
        self._write("server.key", server.key)
        self._write("server.pem", server.certificate)

    def _write(self, name: str, content: bytes) -> None:
        write_private(self.path / name, content)

    def _file(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise ConfigurationError(
                f"{self.path / name}: {error.strerror}, expected what `broker init` made"
            ) from error

    def _authority(self) -> Pair:
        return Pair(self._file("authority.pem"), self._file("authority.key"))

    def _passwords(self) -> dict[str, str]:
        lines = self._file("passwords").decode(errors="replace").splitlines()
        return {line.partition(":")[0]: line for line in lines if line}

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One change at a time, made by the folder's owner."""
        with acting_as_owner(self.path):
            try:
                descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            except OSError as error:
                raise ConfigurationError(f"{self.path}: {error.strerror}, expected the broker's folder") from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)


def hashed_password(name: str, password: str) -> str:
    """Return the line of Mosquitto's password file.

    Raises:
        ConfigurationError: its tool is not installed, or fails.

    """
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *SYSTEM_FOLDERS])
    tool = shutil.which("mosquitto_passwd", path=path)
    if tool is None:
        raise ConfigurationError("mosquitto_passwd: not found, expected the package 'mosquitto' to be installed")
    # -U hashes what is in the file: the password is never an argument, which other users of the machine could read.
    with tempfile.TemporaryDirectory(prefix="popexd-password-") as folder:
        file = Path(folder) / "passwords"
        file.touch(mode=0o600)
        file.write_text(f"{name}:{password}\n", encoding="utf-8")
        done = subprocess.run([tool, "-U", str(file)], capture_output=True, text=True, check=False)  # noqa: S603 our own file
        line = file.read_text(encoding="utf-8").strip()
    if done.returncode or not line.startswith(f"{name}:$"):
        raise ConfigurationError(f"mosquitto_passwd: {done.stderr.strip()[:200] or 'left the password as it was'}")
    return line


def _known(register: Register, name: str) -> Account:
    if name not in register.accounts:
        known = ", ".join(sorted(register.accounts)) or "there is none yet"
        raise ConfigurationError(f"{name}: no such account, expected one of: {known}")
    return register.accounts[name]


def _account(user: User, pair: Pair, before: tuple[int, ...] = ()) -> Account:
    expires = authority.expires(pair.certificate).astimezone(UTC).isoformat(timespec="seconds")
    return Account(user, (*before, authority.serial(pair.certificate)), expires)


def _lines(lines: Any) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _register(facts: Mapping[str, Any]) -> Register:
    if facts["schema"] != SCHEMA:
        raise ValueError(f"schema {facts['schema']!r}, expected {SCHEMA!r}")
    accounts = {}
    for name, entry in facts["accounts"].items():
        told = entry["user"]
        user = User(name, told["role"], told["tier"], tuple(told["devices"]), tuple(told["cameras"]))
        check_user(user)
        if datetime.fromisoformat(entry["expires"]).tzinfo is None:
            raise ValueError(f"expires {entry['expires']!r}, expected a time with its zone")
        accounts[name] = Account(user, tuple(int(each) for each in entry["serials"]), entry["expires"])
    names = tuple(str(each) for each in facts["names"])
    if not names:
        raise ValueError("names: none, expected those under which the broker is reached")
    websockets_port = facts["websockets_port"]
    return Register(
        site=checked_name(facts["site"], "site"),
        host=str(facts["host"]),
        port=int(facts["port"]),
        names=names,
        websockets_port=None if websockets_port is None else int(websockets_port),
        accounts=accounts,
        revoked=tuple(int(each) for each in facts["revoked"]),
    )
