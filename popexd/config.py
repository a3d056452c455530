"""Settings of the agent and the worker: a TOML file, the environment over it, secrets from files.

The environment uses `POPEXD_<SECTION>__<KEY>`, for example `POPEXD_MQTT__HOST`. A password is never a value here: it
is read, when a connection is made, from `password_file` or from systemd's `$CREDENTIALS_DIRECTORY/mqtt_password`
(`uplink_password` for the uplink); `mqtt_ca`, `mqtt_cert`, `mqtt_key` likewise. Settings made in code read neither.
"""

from __future__ import annotations

import json
import os
import re
import socket
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

from popexd.complaints import complaint, keys, nearest
from popexd.errors import ConfigurationError
from popexd.kinds import (
    BundleName,
    BundleNames,
    DeviceName,
    Host,
    Mode,
    Name,
    Objective,
    SolverName,
    Text,
    Threshold,
    UserPath,
    number,
)
from popexd.protocol.topics import valid_name
from popexd.solvers import NAMES

PREFIX = "POPEXD_"
MASK = "********"


def host_name() -> str:
    """Return this machine's name with whatever a topic level may not hold replaced by `-`."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname().split(".")[0]).strip("-._")[:64]
    return name if valid_name(name) and name not in ("workers", "tier") else "device"


def cache_folder() -> Path:
    """Return where measurements are kept: systemd's `$CACHE_DIRECTORY`, else `popexd` in the user's cache folder."""
    if given := os.environ.get("CACHE_DIRECTORY"):
        return Path(given.split(":")[0])
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "popexd"
    try:
        return Path.home() / ".cache" / "popexd"
    except RuntimeError:  # a user without a home
        return Path("/var/cache/popexd")


class Section(BaseModel):
    """A table of the configuration: frozen, and every key of it is known."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Broker(Section):
    """How to reach a broker."""

    host: Host = Field(default="127.0.0.1", description="name or address")
    port: int = number("mqtt.port", 1883, "8883 is usual with TLS")
    username: Text | None = Field(default=None, description="absent: we do not say who we are")
    password_file: UserPath | None = Field(default=None, description="a file whose first line is the password")
    tls: bool | None = Field(default=None, description="encrypt; absent: if a certificate is named or the port is 8883")
    ca_file: UserPath | None = Field(default=None, description="certificate authority that signed the broker's")
    cert_file: UserPath | None = Field(default=None, description="our certificate")
    key_file: UserPath | None = Field(default=None, description="our certificate's key")
    keepalive_seconds: int = number("mqtt.keepalive_seconds", 30, "a silent connection is taken for dead after this")

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("expected cert_file and key_file together, or neither")
        return self

    @property
    def encrypted(self) -> bool:
        """Whether the connection uses TLS."""
        return self.tls if self.tls is not None else bool(self.ca_file or self.cert_file) or self.port == 8883

    def password(self) -> str | None:
        """Read the password, or return None where none is configured.

        Raises:
            ConfigurationError: the file cannot be read or holds no password.

        """
        if self.password_file is None:
            return None
        try:
            lines = self.password_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise ConfigurationError(
                f"password_file {self.password_file}: {reason}, expected a readable file"
            ) from error
        if not lines or not lines[0]:
            raise ConfigurationError(f"password_file {self.password_file}: is empty, expected a password")
        return lines[0]


class SiteBroker(Broker):
    """The site's broker, and our site's name."""

    site: Name = Field(default="site", description="first level of every topic")


class DeviceBroker(SiteBroker):
    """The site's broker, our site and this device."""

    device: DeviceName = Field(default_factory=host_name, description="this device; default: the host name")
    session_seconds: int = number("mqtt.session_seconds", 60, "a broker keeps frames so long after a crash")


class AgentModel(Section):
    """The model to run."""

    bundle: BundleName = Field(default="default", description='"default" or a bundle folder')


class WorkerModels(Section):
    """The models to serve."""

    bundle: BundleName | None = Field(default=None, description='"default" or a bundle folder')
    bundles: BundleNames = Field(default_factory=list, description="several of them")

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> Self:
        if self.bundle is not None and self.bundles:
            raise ValueError("expected either bundle or bundles, not both")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Every bundle to serve, `default` if none is named."""
        return tuple(dict.fromkeys(self.bundles)) or (self.bundle or "default",)


class Planner(Section):
    """How the cut is chosen."""

    mode: Mode = Field(default="auto", description="auto, or pin where frames are finished")
    solver: SolverName = Field(default="joint", description=f"{', '.join(NAMES)}")
    objective: Objective = Field(
        default="seconds", description="what the plan is to keep small, or large for throughput"
    )
    min_accuracy: float | None = number("planner.min_accuracy", None, "expected share of right answers")
    min_agreement: float = number("planner.min_agreement", 0.98, "share of answers a codec must leave unchanged")
    deadline_seconds: float = number("planner.deadline_seconds", 2.0, "the device finishes a frame itself after this")
    dwell_seconds: float = number("planner.dwell_seconds", 2.0, "least time between two changes of plan")
    quantile: float = number("planner.quantile", 0.25, "plan on this quantile of the link's recent rates")
    thresholds: dict[Text, Threshold] = Field(
        default_factory=dict, description="of side branches, in the unit of their criteria; absent: the bundle's"
    )


class Probe(Section):
    """How the uplink is measured when no traffic tells."""

    interval_seconds: float = number("probe.interval_seconds", 30.0, "if no traffic tells; a fifth if all stays here")
    daily_bytes: int = number("probe.daily_bytes", 50_000_000, "probes never use more a day")
    speedtest: bool = Field(default=False, description="also ask speedtest-cli, which uses tens of megabytes a time")


class Limits(Section):
    """What is refused unread."""

    frame_bytes: int = number("limits.frame_bytes", 8_000_000, "of a camera frame as it came")
    frame_pixels: int = number("limits.frame_pixels", 50_000_000, "width times height, from the header")
    tensor_bytes: int = number("limits.tensor_bytes", 16_000_000, "of a tensor message")


class Metrics(Section):
    """How often statistics are published, and over what window."""

    interval_seconds: float = number("metrics.interval_seconds", 10.0, "between two publications")
    window_seconds: float = number("metrics.window_seconds", 60.0, "what percentiles and shares look back on")


class Runtime(Section):
    """How segments are run."""

    threads: int = number("runtime.threads", 0, "0: all cores")
    slowdown: float = number("runtime.slowdown", 1.0, "laboratory: pretend the machine is so many times slower")
    cache_folder: UserPath = Field(
        default_factory=cache_folder,
        description="measurements are kept here; default: $CACHE_DIRECTORY, else popexd in the user's cache",
    )


class Log(Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="and what is graver")
    format: Literal["auto", "console", "json"] = Field(
        default="auto", description="auto: coloured on a terminal, plain elsewhere"
    )


class WorkerIdentity(Section):
    """Who this worker is and which tier it serves."""

    name: Name = Field(default_factory=host_name, description="unique within the site; default: the host name")
    tier: Literal["edge", "cloud"] = Field(default="cloud", description="workers of one tier share the load")


class AgentConfig(Section):
    """Everything the agent can be told."""

    mqtt: DeviceBroker = Field(default_factory=DeviceBroker, description="the site's broker")
    uplink: Broker | None = Field(default=None, description="the broker towards the workers; absent: the site's")
    model: AgentModel = Field(default_factory=AgentModel)
    planner: Planner = Field(default_factory=Planner)
    probe: Probe = Field(default_factory=Probe)
    limits: Limits = Field(default_factory=Limits)
    metrics: Metrics = Field(default_factory=Metrics)
    runtime: Runtime = Field(default_factory=Runtime)
    log: Log = Field(default_factory=Log)


class WorkerConfig(Section):
    """Everything a worker can be told."""

    mqtt: SiteBroker = Field(default_factory=SiteBroker, description="the broker through which tensors arrive")
    worker: WorkerIdentity = Field(default_factory=WorkerIdentity)
    model: WorkerModels = Field(default_factory=WorkerModels)
    limits: Limits = Field(default_factory=Limits)
    metrics: Metrics = Field(default_factory=Metrics)
    runtime: Runtime = Field(default_factory=Runtime)
    log: Log = Field(default_factory=Log)


Config = TypeVar("Config", AgentConfig, WorkerConfig)


def load_agent(path: Path | None = None) -> AgentConfig:
    """Read the agent's settings from `path`, if given, and the environment.

    Raises:
        ConfigurationError: one line with the file or variable, the key, and what was expected.

    """
    return _load(AgentConfig, path)


def load_worker(path: Path | None = None) -> WorkerConfig:
    """Read a worker's settings from `path`, if given, and the environment.

    Raises:
        ConfigurationError: one line with the file or variable, the key, and what was expected.

    """
    return _load(WorkerConfig, path)


def masked(config: AgentConfig | WorkerConfig) -> dict[str, Any]:
    """Return the settings in force as plain values, with a mask where a password is in use."""
    tables: dict[str, Any] = config.model_dump(mode="json")
    for name in ("mqtt", "uplink"):
        table = tables.get(name)
        if table and table["password_file"]:
            table["password"] = MASK
    return tables


def as_toml(tables: Mapping[str, Any]) -> str:
    """Write the result of `masked` as TOML; keys without a value become comments."""
    blocks = []
    for name, table in tables.items():
        if table is None:
            blocks.append(f"# [{name}] is absent")
            continue
        lines = [f"# {key} is absent" if value is None else f"{key} = {_toml(value)}" for key, value in table.items()]
        blocks.append("\n".join([f"[{name}]", *lines]))
    return "\n\n".join(blocks) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)


def _load(kind: type[Config], path: Path | None) -> Config:
    """Check the file by itself, strictly, and then what the environment makes of it, where numbers are text."""
    tables = {} if path is None else _read(path)
    try:
        kind.model_validate_json(json.dumps(tables, default=str), strict=True)
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {complaint(error, kind)}") from error
    except RecursionError as error:
        raise ConfigurationError(f"{path}: nested too deeply") from error
    except ValueError as error:  # more digits than Python writes
        raise ConfigurationError(f"{path}: a number has thousands of digits") from error
    try:
        config = kind.model_validate(_merged(tables, _environment(kind)))
    except ValidationError as error:
        raise ConfigurationError(f"environment {complaint(error, kind, _variable)}") from error
    try:
        return _with_credentials(config)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}" if path else str(error)) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}, expected a readable TOML file") from error
    except (ValueError, RecursionError) as error:  # what is no TOML, no UTF-8, or a number of thousands of digits
        raise ConfigurationError(f"{path}: not TOML: {error}") from error


class _AgentEnvironment(AgentConfig, BaseSettings):
    """Tells pydantic-settings which variables the agent knows."""

    model_config = SettingsConfigDict(frozen=True)


class _WorkerEnvironment(WorkerConfig, BaseSettings):
    """Tells pydantic-settings which variables a worker knows."""

    model_config = SettingsConfigDict(frozen=True)


_READERS: dict[type[BaseModel], type[BaseSettings]] = {
    AgentConfig: _AgentEnvironment,
    WorkerConfig: _WorkerEnvironment,
}


def _environment(kind: type[BaseModel]) -> dict[str, Any]:
    sections = {*AgentConfig.model_fields, *WorkerConfig.model_fields}
    for variable in sorted(os.environ):
        section = variable.upper().removeprefix(PREFIX).split("__")[0].lower()
        if variable.upper().startswith(PREFIX) and "__" in variable and section not in sections:
            raise ConfigurationError(f"environment {variable}: unknown section {section!r}{nearest(section, sections)}")
    try:
        read = EnvSettingsSource(_READERS[kind], env_prefix=PREFIX, env_nested_delimiter="__")()
    except (SettingsError, RecursionError) as error:
        raise ConfigurationError(f"environment {PREFIX}…: {error}, expected JSON") from error
    return {section: _without_the_others(kind, section, values) for section, values in read.items()}


def _without_the_others(kind: type[BaseModel], section: str, values: Any) -> Any:
    """Leave out what only the other program knows: one environment may serve both."""
    other: type[BaseModel] = WorkerConfig if kind is AgentConfig else AgentConfig
    foreign = keys(other, [section]) - keys(kind, [section])
    return {key: value for key, value in values.items() if key not in foreign} if isinstance(values, dict) else values


def _variable(path: Iterable[str]) -> str:
    return PREFIX + "__".join(path).upper()


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(below)
    for key, value in above.items():
        under = both.get(key)
        both[key] = _merged(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return both


def _with_credentials(config: Config) -> Config:
    """Name systemd's credential files where no password file is given, and see that every password can be read."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    brokers: dict[str, Broker] = {"mqtt": config.mqtt}
    if isinstance(config, AgentConfig) and config.uplink is not None:
        brokers["uplink"] = config.uplink
    for name, broker in brokers.items():
        files = {part: Path(folder or "", f"{name}_{part}") for part in ("password", "ca", "cert", "key") if folder}
        given = {f"{part}_file": path for part, path in files.items() if path.is_file()}
        absent = {key: path for key, path in given.items() if getattr(broker, key) is None}
        brokers[name] = broker.model_copy(update=absent)
        try:
            brokers[name].password()
        except ConfigurationError as error:
            raise ConfigurationError(f"{name}.{error}") from error
    return config.model_copy(update=dict(brokers))
