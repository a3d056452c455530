"""`popexd worker run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="The worker that finishes what agents send.", no_args_is_help=True)


@app.callback()
def _program() -> None:
    """Keep `run` a command of its own."""


@app.command()
def run(
    config: Annotated[Path | None, typer.Option("--config", help="TOML file; without it the defaults apply.")] = None,
) -> None:
    """Run the worker until SIGTERM or SIGINT, then answer what is here and stop; SIGHUP reads the file again."""
    from popexd import config as settings
    from popexd import logs
    from popexd.service import Service

    from .daemon import Daemon
    from .worker import Worker

    def made() -> Daemon:
        told = settings.load_worker(config)
        logs.configure(told.log.level, told.log.format)
        return Daemon(Worker(told), config)

    if not Service().run(made):
        raise typer.Exit(1)
