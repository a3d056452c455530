"""How tables are printed: nothing in them is ever cut off."""

from __future__ import annotations

import os

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table


def show(*tables: Table) -> None:
    """Print tables. On a terminal what is too long is folded; elsewhere a table is as wide as what it holds.

    COLUMNS in the environment is a width that is wanted, wherever it goes. Cells are what they say: in a name, brackets
    and colons mean nothing.
    """
    console = Console(markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        endless = console.options.update(width=100_000)
        console.width = max(Measurement.get(console, endless, table).maximum for table in tables)
    for table in tables:
        for column in table.columns:
            column.no_wrap, column.overflow = False, "fold"
        console.print(table)
