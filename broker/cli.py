"""`popexd broker`: render Mosquitto's configuration, or run it; `admission` says who is let in."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, cast

import typer

from popexd import logs
from popexd.errors import BusError, ConfigurationError

from . import admission
from .access import Role, User, render_acl
from .accounts import BrokerFolder
from .config import BrokerSettings, is_loopback, render
from .heartbeat import Heartbeat
from .process import Broker, last_words, write_private
from .service import LOOK_SECONDS, Service

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

Host = Annotated[str, typer.Option(help="Address to listen on; any but loopback needs --password-file.")]
PasswordFile = Annotated[Path | None, typer.Option(help="Made with mosquitto_passwd; nobody gets in without.")]
CertFile = Annotated[Path | None, typer.Option(help="The broker's certificate, PEM; turns TLS on.")]
KeyFile = Annotated[Path | None, typer.Option(help="Its key, PEM.")]
CaFile = Annotated[Path | None, typer.Option(help="Ask clients for a certificate signed by this authority.")]
Websockets = Annotated[int | None, typer.Option("--websockets-port", help="A second listener, for browsers.")]
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
        print(render(BrokerFolder(folder).settings()), end="")
        return
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
        for name, text in files.items():
            write_private(output / name, text)
    if as_json:
        print(json.dumps(files))
    elif output is None:
        print("\n".join(f"# --- {name}\n{text}" if users else text for name, text in files.items()), end="")


@app.command("run")
def run_command(
    host: Annotated[str | None, typer.Option(help="Address to listen on; default 127.0.0.1, for this machine.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; default 1883; 0 takes a free one.")] = None,
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
    place = BrokerFolder(folder) if folder is not None else None
    logs.configure()
    heartbeat = Heartbeat()
    if place is not None and place.initialised:
        if any((host, password_file, cert_file, key_file, ca_file, user)):
            raise ConfigurationError(f"{folder}: says itself who is let in where, expected no option but --port")
        return _until_signalled(Service(place, port, heartbeat), as_json)
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
    broker = Broker(1883 if port is None else port, folder, settings, parse_users(user or []))
    return _until_signalled(Plain(broker, heartbeat), as_json)


class Plain:
    """A broker as the options describe it: nothing to follow."""

    def __init__(self, broker: Broker, heartbeat: Heartbeat) -> None:
        self.broker = broker
        self._heartbeat = heartbeat

    def start(self) -> None:
        """Run Mosquitto."""
        self.broker.start()

    def stop(self) -> None:
        """End it."""
        self.broker.stop()

    def serve(self) -> None:
        """Wait for its end. Raises BusError."""
        while (status := self.broker.wait(LOOK_SECONDS)) is None:
            self._heartbeat.look()
        raise BusError(f"mosquitto ended with status {status}: {last_words(self.broker.log)}")


def _until_signalled(service: Service | Plain, as_json: bool) -> int:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    signal.signal(signal.SIGHUP, lambda *_: service.broker.reload())
    try:
        service.start()
        broker = service.broker
        place = {"host": broker.host, "port": broker.port}
        print(json.dumps(place) if as_json else f"mosquitto listens on {broker.host}:{broker.port}", flush=True)
        service.serve()
    except BusError as error:
        if "in use" not in str(error):
            raise
        raise BusError(f"{error}; expected a free port, --port 0 finds one") from error
    except _Signalled:
        return 0
    finally:
        service.stop()
    return 0


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


class _Signalled(BaseException):
    """Somebody asked us to end."""


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise _Signalled


def _absolute(path: Path | None) -> Path | None:
    """Mosquitto reads relative paths from where it was started."""
    return None if path is None else path.expanduser().absolute()
