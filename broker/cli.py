"""`popexd broker`: render Mosquitto's configuration, or run it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn, cast

import typer

from popexd.errors import BusError, ConfigurationError

from .config import BrokerSettings, Role, User, render, render_acl
from .process import Broker, last_words, write_private

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Mosquitto, configured for popexd.")

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
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object: file name to text.")] = False,
) -> None:
    """Print the configuration and, where users are named, their access list."""
    users = parse_users(user or [])
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
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 1883,
    password_file: PasswordFile = None,
    cert_file: CertFile = None,
    key_file: KeyFile = None,
    ca_file: CaFile = None,
    websockets_port: Websockets = None,
    max_packet_bytes: PacketBytes = DEFAULTS.max_packet_bytes,
    user: Users = None,
    folder: Annotated[
        Path | None, typer.Option(help="For the configuration and the log; default: a temporary one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the address as a JSON object.")] = False,
) -> int:
    """Run Mosquitto until it ends or a signal comes; the first line says where it listens."""
    settings = BrokerSettings(
        host=host,
        websockets_port=websockets_port,
        password_file=_absolute(password_file),
        ca_file=_absolute(ca_file),
        cert_file=_absolute(cert_file),
        key_file=_absolute(key_file),
        max_packet_bytes=max_packet_bytes,
    )
    broker = Broker(port=port, folder=folder, settings=settings, users=parse_users(user or []))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    try:
        _serve(broker, as_json)
    except BusError as error:
        if "in use" not in str(error):
            raise
        raise BusError(f"{error}; expected a free port, --port 0 finds one") from error
    except _Signalled:
        return 0
    finally:
        broker.stop()


def _serve(broker: Broker, as_json: bool) -> NoReturn:
    broker.start()
    place = {"host": broker.host, "port": broker.port}
    print(json.dumps(place) if as_json else f"mosquitto listens on {broker.host}:{broker.port}", flush=True)
    status = broker.wait()
    raise BusError(f"mosquitto ended with status {status}: {last_words(broker.log)}")


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
