"""The examples in docstrings and in docs/planning.md are true."""

from __future__ import annotations

import doctest
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from popexd import plan, solvers, validation
from popexd.profile import LayerGraph
from popexd.solvers import NAMES

DOCUMENT = (Path(__file__).parents[2] / "docs" / "planning.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("module", [plan, solvers, validation], ids=lambda module: module.__name__)
def test_docstrings(module: ModuleType) -> None:
    """Each example gives what it shows."""
    outcome = doctest.testmod(module)

    assert outcome.attempted
    assert not outcome.failed


def test_the_profile_in_the_document_is_one() -> None:
    """It is read, and written back in full."""
    shown = re.search(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)
    assert shown is not None
    data = json.loads(shown[1])

    assert LayerGraph.from_json(data, "planning.md").to_json().keys() == data.keys()


def test_every_solver_is_documented() -> None:
    """The table has a row for each."""
    assert all(f"| `{name}` |" in DOCUMENT for name in NAMES)
