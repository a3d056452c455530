"""`popexd agent run` and `popexd agent check`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="The daemon on the device.", no_args_is_help=True)

ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; without it the defaults apply.")]


@app.command()
def run(config: ConfigFile = None) -> None:
    """Run the daemon until SIGTERM or SIGINT, then answer what is owed and stop; SIGHUP reads the file again."""
    from popexd import config as settings
    from popexd import logs
    from popexd.fitting import from_file
    from popexd.service import Service

    from .daemon import Daemon
    from .runtime import Agent

    service = Service()

    def made() -> Daemon:
        told = settings.load_agent(config)
        logs.configure(told.log.level, told.log.format)
        with from_file(config):
            return Daemon(Agent(told, on_failure=service.stop), config)

    if not service.run(made):
        raise typer.Exit(1)


@app.command()
def check(
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Validate the configuration and print it as it is in force, secrets masked."""
    from popexd import config as settings
    from popexd.fitting import bundle_of, from_file, planner_settings

    told = settings.load_agent(config)
    with from_file(config):
        planner_settings(told, bundle_of(told))
    tables = settings.masked(told)
    typer.echo(json.dumps(tables, indent=2) if as_json else settings.as_toml(tables), nl=as_json)
