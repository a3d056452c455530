"""The `popexd` command; every command is an app of its own, found by entry point and imported only when used."""

from popexd.cli.main import main

__all__ = ["main"]
