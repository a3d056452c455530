"""The options by which every command reaches a broker, and the connection they lead to."""

from __future__ import annotations

import functools
import inspect
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from pydantic import ValidationError

from popexd import logs
from popexd.bus.configured import mqtt_settings
from popexd.bus.mqtt import MqttBus
from popexd.bus.queued import QueueLimits
from popexd.complaints import complaint
from popexd.config import Broker, DeviceBroker, load_agent
from popexd.errors import BusError, InputError
from popexd.protocol.topics import DeviceTopics

B = TypeVar("B", bound=Broker)

CONNECT_SECONDS = 10.0
# Room for a few of the largest frames an agent accepts.
QUEUE_BYTES = 32_000_000


@dataclass(frozen=True)
class Reach:
    """Every option's type and help; the names are those of [mqtt], `config` apart."""

    host: Annotated[str | None, typer.Option(help="the site's broker; default 127.0.0.1")] = None
    port: Annotated[int | None, typer.Option(help="default 1883")] = None
    site: Annotated[str | None, typer.Option(help="default 'site'")] = None
    device: Annotated[str | None, typer.Option(help="the agent's device; default: this host's name")] = None
    username: Annotated[str | None, typer.Option(help="at the broker")] = None
    password_file: Annotated[Path | None, typer.Option(help="file whose first line is the password")] = None
    ca_file: Annotated[Path | None, typer.Option(help="who signed the broker's certificate; turns TLS on")] = None
    config: Annotated[Path | None, typer.Option(help="the agent's TOML file: its table mqtt is used")] = None


def with_broker(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `Reach` in place of its parameter `broker`, a DeviceBroker."""
    own = [each for each in inspect.signature(command, eval_str=True).parameters.values() if each.name != "broker"]
    keyword = inspect.Parameter.KEYWORD_ONLY
    hints = get_type_hints(Reach, include_extras=True)
    reach = [inspect.Parameter(each.name, keyword, default=None, annotation=hints[each.name]) for each in fields(Reach)]

    @functools.wraps(command)
    def reaching(**values: Any) -> None:
        options = {each.name: values.pop(each.name) for each in reach}
        command(broker=device_broker(options.pop("config"), **options), **values)

    parameters = [each.replace(kind=keyword) for each in own] + reach
    reaching.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    reaching.__annotations__ = {each.name: each.annotation for each in parameters}
    return reaching


def device_broker(config: Path | None, **options: Any) -> DeviceBroker:
    """Return the agent's [mqtt] with what was given on the command line over it.

    Raises:
        InputError: an option or the configuration is wrong.

    """
    broker = overridden(load_agent(config).mqtt, options)
    broker.password()
    return broker


def overridden(broker: B, options: Mapping[str, Any]) -> B:
    """Return a broker's table with the options over it that are not None.

    Raises:
        InputError: an option is wrong.

    """
    kind = type(broker)
    given = {key: value for key, value in options.items() if value is not None}
    try:
        return kind.model_validate(broker.model_dump() | given)
    except ValidationError as error:
        raise InputError(complaint(error, kind, _option)) from error


def device_topics(broker: DeviceBroker) -> DeviceTopics:
    """Return the topics of the device that is meant."""
    return DeviceTopics(broker.site, broker.device)


@contextmanager
def connected(broker: Broker, prepare: Callable[[MqttBus], None] = lambda _: None) -> Iterator[MqttBus]:
    """Connect, with the subscriptions `prepare` makes in force, and disconnect at the end.

    Raises:
        BusError: the broker cannot be reached or refuses us; the text says why.

    """
    logs.configure("error")  # what a person must know, the commands say themselves
    limits = QueueLimits(bulk_queue_bytes=QUEUE_BYTES)
    bus = MqttBus(mqtt_settings(broker, limits=limits))
    changes: queue.SimpleQueue[tuple[bool, str]] = queue.SimpleQueue()
    bus.on_connection(lambda up, reason: changes.put((up, reason)))
    prepare(bus)
    bus.start()
    try:
        up, reason = _first(changes) or (False, f"{broker.host}:{broker.port} does not answer")
        if not up:
            raise BusError(f"cannot reach the broker: {reason}")
        yield bus
    finally:
        bus.stop()


def _first(changes: queue.SimpleQueue[tuple[bool, str]]) -> tuple[bool, str] | None:
    try:
        return changes.get(timeout=CONNECT_SECONDS)
    except queue.Empty:
        return None


def remaining(deadline: float) -> float:
    """Return the seconds until `deadline` on the monotonic clock, none below zero."""
    return max(0.0, deadline - time.monotonic())


def _option(path: Iterable[str]) -> str:
    return "--" + ".".join(path).replace("_", "-")
