"""`popexd broker init`, `add`, `revoke`, `renew` and `list`: who is let in."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path, PurePath
from typing import Annotated, cast

import typer

from popexd.errors import InputError

from .access import Role, User
from .accounts import SERVER, BrokerFolder, Deliver, Register
from .client import HOME, new_bundle, write_bundle, write_folder
from .config import is_loopback


class Kind(StrEnum):
    """What an account is for, as people say it."""

    device = "device"
    worker = "worker"
    monitor = "monitor"
    camera = "camera"
    operator = "operator"


class TierChoice(StrEnum):
    """Where a worker stands."""

    edge = "edge"
    cloud = "cloud"


Folder = Annotated[
    Path | None,
    typer.Option(help="The broker's. Default: /var/lib/popexd-broker for root, else popexd/broker in ~/.config."),
]
BundleFile = Annotated[
    Path | None,
    typer.Option("--bundle", help="Write its certificate, key and password to this tar file, and keep no copy."),
]
Home = Annotated[Path, typer.Option("--at", help="Where the bundle will be unpacked.")]
Days = Annotated[int, typer.Option(min=1, max=7000, help="How long the certificate is good.")]
Json = Annotated[bool, typer.Option("--json", help="Print a JSON object.")]


def default_folder() -> Path:
    """Return where a broker is set up unless told otherwise."""
    if os.geteuid() == 0:
        return Path("/var/lib/popexd-broker")  # where popexd-broker.service looks
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "popexd" / "broker"


def init(
    folder: Folder = None,
    site: Annotated[str, typer.Option(help="The only site its accounts may touch.")] = "site",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",  # noqa: S104 TLS, certificates and passwords guard it
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8883,
    name: Annotated[
        list[str] | None, typer.Option(help="A name or address clients reach it under; repeatable.")
    ] = None,
    websockets_port: Annotated[int | None, typer.Option(help="A second listener, for browsers.")] = None,
    days: Days = 730,
    as_json: Json = False,
) -> None:
    """Set a broker up: authority, certificate, passwords and access list; nobody has an account yet."""
    place = BrokerFolder(folder or default_folder())
    names = tuple(dict.fromkeys([*(name or _own_names(host)), "localhost", "127.0.0.1", "::1"]))
    place.init(Register(site, host, port, names, websockets_port), days)
    if as_json:
        print(json.dumps({"folder": str(place.path), "host": host, "port": port, "site": site, "names": names}))
        return
    at = "" if folder is None else f" --folder {place.path}"
    print(f"{place.path}: authority, the broker's certificate for {', '.join(names)}, and an empty list of accounts")
    print(f"next: popexd broker add device NAME --bundle NAME.tar{at}; then popexd broker run --folder {place.path}")


def add(
    kind: Annotated[Kind, typer.Argument(help="What it is for.")],
    name: Annotated[str, typer.Argument(help="The device's, worker's or camera's name in topics.")],
    tier: Annotated[TierChoice | None, typer.Option(help="A worker's; default: cloud.")] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="The only device a camera, monitor or operator is for; repeatable.")
    ] = None,
    camera: Annotated[list[str] | None, typer.Option(help="A camera's name where it is another; repeatable.")] = None,
    bundle: BundleFile = None,
    home: Home = Path(HOME),
    folder: Folder = None,
    days: Days = 730,
    as_json: Json = False,
) -> None:
    """Let a new client in: a certificate, a password, and the rights of its kind."""
    place = BrokerFolder(folder or default_folder())
    if (device and kind in (Kind.device, Kind.worker)) or (camera and kind is not Kind.camera):
        raise InputError(f"--device and --camera say little of a {kind.value}, expected them with a camera or monitor")
    if tier is not None and kind is not Kind.worker:
        raise InputError(f"--tier says little of a {kind.value}, expected it with a worker")
    user = User(
        name,
        cast(Role, "agent" if kind is Kind.device else kind.value),
        (tier or TierChoice.cloud).value if kind is Kind.worker else None,
        tuple(device or ()),
        tuple(camera or ()),
    )
    with _delivery(place, bundle, home) as deliver:
        place.add(user, days, deliver)
    _tell(place, name, bundle, home, as_json)


def revoke(
    name: Annotated[str, typer.Argument(help="The account's.")], folder: Folder = None, as_json: Json = False
) -> None:
    """Lock a client out; a running `popexd broker run` throws it out within seconds."""
    place = BrokerFolder(folder or default_folder())
    place.revoke(name)
    if as_json:
        print(json.dumps({"revoked": name}))
    else:
        print(f"{name} is out: no password, no rights, its certificates void; another Mosquitto needs a reload")


def renew(
    name: Annotated[str, typer.Argument(help=f"The account's, or `{SERVER}` for the broker's own.")],
    bundle: BundleFile = None,
    home: Home = Path(HOME),
    folder: Folder = None,
    days: Days = 730,
    as_json: Json = False,
) -> None:
    """Make a new certificate and key; the old one is good until it expires, the password stays."""
    place = BrokerFolder(folder or default_folder())
    if name != SERVER:
        with _delivery(place, bundle, home) as deliver:
            place.renew(name, days, deliver)
        _tell(place, name, bundle, home, as_json)
        return
    place.renew(name, days)
    if as_json:
        print(json.dumps({"renewed": name, "expires": place.expiring()[SERVER].isoformat()}))
    else:
        print(f"the broker's certificate is good until {place.expiring()[SERVER]:%Y-%m-%d}")


def list_accounts(folder: Folder = None, as_json: Json = False) -> None:
    """Show the accounts, what each is for and when its certificate expires."""
    place = BrokerFolder(folder or default_folder())
    register, ends = place.read(), place.expiring()
    rows = [
        {
            "name": name,
            "role": user.role if user else SERVER,
            "expires": end.date().isoformat(),
            "for": " ".join(filter(None, (user.tier, *user.devices, *user.cameras))) if user else "",
        }
        for name, end in ends.items()
        for user in [register.accounts[name].user if name in register.accounts else None]
    ]
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(f"{row['name']:<24} {row['role']:<9} until {row['expires']}  {row['for']}".rstrip())


@contextmanager
def _delivery(place: BrokerFolder, bundle: Path | None, home: Path) -> Iterator[Deliver]:
    """Yield how a client's files are written: into its folder, or a bundle that is made now and goes if we fail."""
    if bundle is None:
        clients = place.path / "clients"
        yield lambda credentials, register: write_folder(clients / credentials.name, credentials, register)
        return
    with new_bundle(bundle) as descriptor:
        yield lambda credentials, register: write_bundle(descriptor, credentials, register, PurePath(home))


def _tell(place: BrokerFolder, name: str, bundle: Path | None, home: Path, as_json: bool) -> None:
    client = place.path / "clients" / name
    if as_json:
        print(json.dumps({"name": name, "written": str(bundle or client)}))
    elif bundle is None:
        print(f"{client}: certificate, key, password, and popexd.toml with the lines for its configuration")
    else:
        print(f"{bundle}: bring it to its machine, `tar -xpf {bundle.name} -C {home}` there, and delete it here")


def _own_names(host: str) -> list[str]:
    """Guess how others call this machine."""
    names = [socket.gethostname(), f"{socket.gethostname().split('.')[0]}.local"]
    if host not in ("0.0.0.0", "::") and not is_loopback(host):  # noqa: S104 compared, not bound
        names.insert(0, host)
    return names
