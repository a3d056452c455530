"""The command: look at everything, say what is wrong and what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from popexd.bundle import Bundle
from popexd.cli import connection
from popexd.config import AgentConfig, Broker
from popexd.protocol.topics import DeviceTopics, SiteTopics

from . import brokers, files, machine
from .findings import Finding, Level, worst

_STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}
_WIDTH = 14


def doctor(
    config: Annotated[
        Path | None, typer.Option(help="The agent's or a worker's TOML file; without it the defaults apply.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Look at this broker instead of the configured one.")] = None,
    port: Annotated[int | None, typer.Option(help="Its port.", min=1, max=65535)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> int:
    """Examine this machine, the configuration and the broker; exit status 1 if something does not work.

    Permissions are those of whoever runs it: for a service, `sudo -u popexd popexd doctor --config …`; where its
    secrets are systemd's credentials, `sudo popexd doctor --config …`, for only root may read those.
    """
    override = {"host": host, "port": port}
    connection.overridden(Broker(), override)
    if config is not None:
        files.must_be_there(config)
    findings: list[Finding] = []
    console = Console(highlight=False, soft_wrap=True)
    for finding in examination(config, override):
        findings.append(finding)
        if not as_json:
            _show(console, finding)
    level = worst(findings)
    if as_json:
        print(json.dumps({"status": level, "findings": [asdict(finding) for finding in findings]}))
    return 1 if level is Level.FAIL else 0


def examination(path: Path | None, override: dict[str, str | int | None]) -> Iterator[Finding]:
    """Yield what is found, in the order in which things have to be right."""
    processor = machine.processor()
    yield processor
    yield machine.memory()
    yield machine.clock()
    config, finding = files.configuration(path)
    yield finding
    if config is None:
        return
    config, said = files.credentials(config, path)
    yield from said
    yield machine.disk(config.runtime.cache_folder)
    yield files.cache(config.runtime.cache_folder)
    bundles, findings = files.models(config, can_run=processor.level is not Level.FAIL)
    yield from findings
    for place in _places(config, tuple(bundles), override):
        yield from files.secrets(place.name, place.broker)
        yield from brokers.examine(place)


def _places(
    config: files.Config, bundles: tuple[Bundle, ...], override: dict[str, str | int | None]
) -> Iterator[brokers.Place]:
    mqtt = connection.overridden(config.mqtt, override)
    if not isinstance(config, AgentConfig):
        topics = SiteTopics(mqtt.site)
        echo = topics.worker_echo(config.worker.name, "out"), topics.worker_echo(config.worker.name, "back")
        yield brokers.Place("mqtt", mqtt, mqtt.site, None, echo, bundles, 0, has_workers=True)
        return
    device, frames = config.mqtt.device, config.limits.frame_bytes
    own = DeviceTopics(mqtt.site, device)
    echo = own.echo("out"), own.echo("back")
    alone = config.uplink is None
    yield brokers.Place("mqtt", mqtt, mqtt.site, device, echo, bundles, frames, alone, input_bytes=frames)
    if config.uplink is not None:
        yield brokers.Place(
            "uplink", config.uplink, mqtt.site, device, echo, bundles, 0, has_workers=True, input_bytes=frames
        )


def _show(console: Console, finding: Finding) -> None:
    line = Text(f"{finding.level:<5}", style=_STYLES[finding.level])
    line.append(f"{finding.check:<{_WIDTH}}{finding.says}", style="default")
    console.print(line)
    if finding.do:
        console.print(Text(f"{'':<{5 + _WIDTH}}do: {finding.do}"))
