"""What the configuration names: whether it is there, readable for us, and not for others."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from popexd import bundle as bundles
from popexd.bundle import Bundle
from popexd.complaints import keys
from popexd.config import AgentConfig, Broker, WorkerConfig, load_agent, load_worker
from popexd.errors import BundleError, ConfigurationError

from . import certificates
from .findings import Finding, fail, ok, warn

Config = AgentConfig | WorkerConfig

CREDENTIALS = Path("/etc/credstore")
"""Where systemd finds what the units load, for root alone."""
_PARTS = ("password", "ca", "cert", "key")


def must_be_there(path: Path) -> None:
    """See that a file is there; one that may not be read is a finding like others.

    Raises:
        ConfigurationError: it is not.

    """
    try:
        path.stat()
    except PermissionError:
        return
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}, expected a readable TOML file") from error


def configuration(path: Path | None) -> tuple[Config | None, Finding]:
    """Read the agent's or a worker's configuration, whichever it is."""
    try:
        kind = _kind(path)
        config: Config = load_worker(path) if kind == "worker" else load_agent(path)
    except ConfigurationError as error:
        return None, fail("configuration", str(error), "examples/ shows every key")
    if path is None:
        return config, ok("configuration", "none given, the defaults apply")
    mode = path.stat().st_mode
    if mode & (stat.S_IWGRP | stat.S_IWOTH) and not path.is_symlink():
        return config, fail("configuration", f"{path} can be changed by others", f"chmod go-w {path}")
    return config, ok("configuration", f"{path}: a valid {kind}'s")


def _kind(path: Path | None) -> str:
    """Tell whose file it is: by the keys that only one program knows, else by its name, as the units have it."""
    if path is None:
        return "agent"
    named = "worker" if path.stem.startswith("worker") else "agent"
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return named  # its reader says what is wrong
    agents, workers = (_known(tables, kind) for kind in (AgentConfig, WorkerConfig))
    return named if agents == workers else "agent" if agents > workers else "worker"


def _known(tables: dict[str, object], kind: type[AgentConfig] | type[WorkerConfig]) -> int:
    """Count the sections and keys that a program knows."""
    return sum(
        (section in kind.model_fields) + len(keys(kind, [section]) & set(table if isinstance(table, dict) else ()))
        for section, table in tables.items()
    )


def credentials(config: Config, path: Path | None) -> tuple[Config, list[Finding]]:
    """Add what systemd would hand to the unit that runs with this file, as far as we may read it."""
    if path is None or "CREDENTIALS_DIRECTORY" in os.environ:  # in the unit they have been found already
        return config, []
    found: dict[str, Broker] = {}
    names: list[str] = []
    for name in ("mqtt", "uplink"):
        broker = getattr(config, name, None)
        if broker is None:
            continue
        files = {f"{part}_file": CREDENTIALS / f"popexd-{path.stem}.{name}_{part}" for part in _PARTS}
        loaded = {key: file for key, file in files.items() if getattr(broker, key) is None and os.access(file, os.R_OK)}
        found[name] = broker.model_copy(update=loaded)
        names += [file.name for file in loaded.values()]
    if names:
        said = [ok("credentials", f"{CREDENTIALS}: {', '.join(names)}")]
    elif CREDENTIALS.exists() and not os.access(CREDENTIALS, os.R_OK | os.X_OK) and _lacks_a_password(found.values()):
        what = f"{CREDENTIALS} is closed to {_who()}: the unit may have a password there"
        said = [warn("credentials", what, f"sudo popexd doctor --config {path}")]
    else:
        said = []
    return config.model_copy(update=dict(found)), said


def _lacks_a_password(brokers: Iterable[Broker]) -> bool:
    return any(broker.username is not None and broker.password_file is None for broker in brokers)


def secrets(name: str, broker: Broker) -> Iterator[Finding]:
    """Look at the files of a connection: passwords and keys are nobody else's, certificates not about to expire."""
    for key in ("password_file", "key_file"):
        path = getattr(broker, key)
        if path is None:
            continue
        where = f"{name}.{key} {path}"
        if not os.access(path, os.R_OK):
            yield fail("permissions", f"{where}: not readable for {_who()}", f"chown it to {_who()}, chmod 600")
        elif path.stat().st_mode & 0o077:
            yield warn("permissions", f"{where}: readable for others", f"chmod 600 {path}")
        else:
            yield ok("permissions", f"{where}: its owner's alone")
    for key in ("cert_file", "ca_file"):
        path = getattr(broker, key)
        if path is not None:
            yield certificates.of_file(f"{name}.{key}", path)


def cache(folder: Path) -> Finding:
    """Look whether measurements can be kept; without, every start measures again."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if os.access(place, os.W_OK | os.X_OK):
        return ok("permissions", f"{folder}: measurements can be kept")
    return warn("permissions", f"{folder}: not writable for {_who()}", "set runtime.cache_folder, or chown it")


def models(config: Config, can_run: bool = True) -> tuple[list[Bundle], list[Finding]]:
    """Load every bundle the configuration names; see that planning can go by it, where ONNX Runtime `can_run`."""
    names = config.model.names if isinstance(config, WorkerConfig) else (config.model.bundle,)
    loaded, findings = [], []
    for name in names:
        try:
            loaded.append(bundles.load(name))
        except BundleError as error:
            findings.append(fail("model", str(error), "copy the bundle again, whole"))
        else:
            findings.append(ok("model", f"{loaded[-1].name}, fingerprint {loaded[-1].fingerprint[:12]}"))
            if can_run and isinstance(config, AgentConfig):
                findings += _planning(config, loaded[-1])
    return loaded, findings


def _planning(config: AgentConfig, bundle: Bundle) -> Iterator[Finding]:
    from popexd.fitting import planner_settings

    try:
        planner_settings(config, bundle)
    except ConfigurationError as error:
        yield fail("planner", str(error), "another solver or objective")


def _who() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
