"""`popexd broker`: render Mosquitto's configuration, or run it; `admission` says who is let in."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, cast

import typer

from popexd import logs
from popexd.errors import ConfigurationError
from popexd.service import Notifier

from . import admission
from .access import Role, User, render_acl
from .accounts import BrokerFolder
from .config import BrokerSettings, is_loopback, render
from .files import acting_as_owner, become_owner, write_private
from .heartbeat import Heartbeat
from .process import Broker
from .running import Plain, until_signalled
from .service import Service

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Mosquitto, configured for popexd.")
for name, command in (
    ("init", admission.init),
    ("add", admission.add),
    ("revoke", admission.revoke),
    ("renew", admission.renew),
    ("list", admission.list_accounts),
):
    app.command(name)(command)

DEFAULTS = BrokerSettings()
_SET_UP = (
    "says itself who is let in where, expected no option but --port and --max-packet-bytes "
    "(`broker init` has --host and --websockets-port)"
)

Host = Annotated[str, typer.Option(help="Address to listen on; any but loopback needs --password-file.")]
PasswordFile = Annotated[Path | None, typer.Option(help="Made with mosquitto_passwd; nobody gets in without.")]
CertFile = Annotated[Path | None, typer.Option(help="The broker's certificate, PEM; turns TLS on.")]
KeyFile = Annotated[Path | None, typer.Option(help="Its key, PEM.")]
CaFile = Annotated[Path | None, typer.Option(help="Ask clients for a certificate signed by this authority.")]
Websockets = Annotated[
    int | None, typer.Option("--websockets-port", help="A second listener, for browsers; with accounts it is `init`'s.")
]
PacketBytes = Annotated[int, typer.Option("--max-packet-bytes", help="Largest packet accepted.")]
Users = Annotated[
    list[str] | None,
    typer.Option("--user", metavar="NAME:ROLE", help="agent, worker, camera, monitor or operator; repeatable."),
]


@app.command("render")
def render_command(
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 1883,
    password_file: PasswordFile = None,
    cert_file: CertFile = None,
    key_file: KeyFile = None,
    ca_file: CaFile = None,
    websockets_port: Websockets = None,
    max_packet_bytes: PacketBytes = DEFAULTS.max_packet_bytes,
    user: Users = None,
    site: Annotated[str | None, typer.Option(help="Let users touch this site only.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write mosquitto.conf and acl to this folder.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where `init` was done: for a Mosquitto that others run.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object: file name to text.")] = False,
) -> None:
    """Print the configuration and, where users are named, their access list."""
    users = parse_users(user or [])
    if folder is not None:
        if any((password_file, cert_file, key_file, ca_file, websockets_port, users, site)):
            raise ConfigurationError(f"{folder}: says itself who is let in where, expected none of these options")
        settings = replace(BrokerFolder(folder).settings(), max_packet_bytes=max_packet_bytes)
    else:
        settings = BrokerSettings(
            host=host,
            port=port,
            websockets_port=websockets_port,
            password_file=_absolute(password_file),
            acl_file=((output or Path()).absolute() / "acl") if users else None,
            ca_file=_absolute(ca_file),
            cert_file=_absolute(cert_file),
            key_file=_absolute(key_file),
            max_packet_bytes=max_packet_bytes,
        )
    files = {"mosquitto.conf": render(settings)}
    if users:
        files["acl"] = render_acl(users, site)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        with acting_as_owner(output):
            for name, text in files.items():
                write_private(output / name, text.encode())
    if as_json:
        print(json.dumps(files))
    elif output is None:
        print("\n".join(f"# --- {name}\n{text}" if users else text for name, text in files.items()), end="")


@app.command("run")
def run_command(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; default 127.0.0.1, or what `init` said.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; default 1883, or what `init` said; 0 takes a free one.")
    ] = None,
    password_file: PasswordFile = None,
    cert_file: CertFile = None,
    key_file: KeyFile = None,
    ca_file: CaFile = None,
    websockets_port: Websockets = None,
    max_packet_bytes: PacketBytes = DEFAULTS.max_packet_bytes,
    user: Users = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="Where `init` was done; else for configuration and log. Default: a temporary one."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the address as a JSON object.")] = False,
) -> int:
    """Run Mosquitto until it ends or a signal comes; the first line says where it listens."""
    logs.configure()
    notifier = Notifier()
    heartbeat = Heartbeat(notifier)
    if folder is not None:
        become_owner(folder)

    def make() -> Service | Plain:
        place = BrokerFolder(folder) if folder is not None else None
        if place is not None and place.initialised:
            if any((host, password_file, cert_file, key_file, ca_file, websockets_port, user)):
                raise ConfigurationError(f"{folder}: {_SET_UP}")
            return Service(place, port, heartbeat, max_packet_bytes)
        settings = BrokerSettings(
            host=host or "127.0.0.1",
            websockets_port=websockets_port,
            password_file=_absolute(password_file),
            ca_file=_absolute(ca_file),
            cert_file=_absolute(cert_file),
            key_file=_absolute(key_file),
            max_packet_bytes=max_packet_bytes,
            extra_lines=heartbeat.lines,
        )
        if cert_file is None and not is_loopback(settings.host) and password_file is not None:
            print("popexd: without --cert-file passwords and pictures can be read on the way", file=sys.stderr)
        return Plain(Broker(1883 if port is None else port, folder, settings, parse_users(user or [])), heartbeat)

    return until_signalled(make, notifier, as_json)


def parse_users(words: list[str]) -> tuple[User, ...]:
    """Read `NAME:ROLE` words.

    Raises:
        ConfigurationError: no role given.

    """
    users = []
    for word in words:
        name, colon, role = word.rpartition(":")
        if not colon:
            raise ConfigurationError(f"--user {word}: no role, expected NAME:ROLE such as camera-1:camera")
        users.append(User(name, cast(Role, role)))
    return tuple(users)


def _absolute(path: Path | None) -> Path | None:
    """Mosquitto reads relative paths from where it was started."""
    return None if path is None else path.expanduser().absolute()
