"""Tables: whatever the width, every name can be read whole."""

from __future__ import annotations

import re

import pytest
from rich import box
from rich.table import Table

from popexd.cli.tables import show

NAMES = ("a-very-long-name-of-a-layer" * 3, "[bold] :warning: short", "two words " * 12)


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Print a table of names and figures; its lines, without colours."""
    table = Table("name", "ms", "right", "what was found", box=box.SIMPLE_HEAD, title="names")
    for column in table.columns:
        column.no_wrap = True
    for name in NAMES:
        table.add_row(name, "12.345", "97.5 %", name)
    show(table)
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()


def test_a_file_gets_a_table_as_wide_as_what_it_holds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row is one line with everything in it, brackets and colons included."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    lines = printed(capsys)
    for name in NAMES:
        (line,) = [line for line in lines if name.strip() in line]
        assert line.count(name.strip()) == 2
        assert "12.345" in line
        assert "97.5 %" in line


@pytest.mark.parametrize("forced", [False, True])
def test_a_terminal_gets_folded_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, forced: bool
) -> None:
    """Or whoever asks for a width: no line is longer, no sign is missing, no figure is folded."""
    monkeypatch.setenv("COLUMNS", "60")
    if forced:
        monkeypatch.setenv("FORCE_COLOR", "1")
    lines = printed(capsys)
    assert max(map(len, lines)) <= 60
    assert "…" not in "".join(lines)
    (head,) = [number for number, line in enumerate(lines) if "what was found" in line]
    second, last = lines[head].index("ms"), lines[head].index("what was found")
    for start, end in ((0, second), (last, None)):
        column = "".join(line[start:end] for line in lines[head + 2 :])
        assert "".join(column.split()) == "".join("".join(NAMES).split())
    assert sum("12.345" in line and "97.5 %" in line for line in lines) == len(NAMES)
