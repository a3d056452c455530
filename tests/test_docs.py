"""The documents say what the code does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from popexd.cli.main import COMMANDS
from popexd.protocol.messages import PAYLOADS
from popexd.protocol.topics import TABLE

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def renderer() -> ModuleType:
    """Load docs/render.py, which is no package."""
    spec = importlib.util.spec_from_file_location("render", ROOT / "docs" / "render.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_written_from_the_code() -> None:
    """`make docs` would change nothing."""
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")

    assert renderer().rendered(text) == text, "run `make docs`"


def test_the_reference_has_every_topic_and_payload() -> None:
    """Whatever the renderer does, none is missing."""
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")

    for rule in TABLE:
        assert f"`{rule.pattern.replace('{', '<').replace('}', '>')}`" in text
    for kind in PAYLOADS.values():
        assert f"### `{kind.SCHEMA}`" in text


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    """Every relative link is a file of ours."""
    code = re.compile(r"^```.*?^```|`[^`\n]+`|^    .*?$", re.MULTILINE | re.DOTALL)
    prose = code.sub("", path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)#]+)", prose):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_targets_that_are_named_exist(path: Path) -> None:
    """`popexd x` and `make x` can be typed."""
    text = path.read_text(encoding="utf-8")
    commands = {name for group in COMMANDS.values() for name in group}
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    typed = "\n".join(
        [*re.findall(r"`([^`\n]+)`", text), *re.findall(r"^```.*?$(.*?)^```", text, re.MULTILINE | re.DOTALL)]
    )

    assert set(re.findall(r"(?:^|\$ |/)popexd ([a-z]+)", typed, re.MULTILINE)) <= commands
    assert set(re.findall(r"(?:^|\$ )make ([a-z]+)", typed, re.MULTILINE)) <= targets
