"""The rig, and what the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .rig import Caches, Rig


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Caches:
    """Profiles of this machine, measured once."""
    return Caches(tmp_path_factory.mktemp("profiles"))


@pytest.fixture
def rig(tmp_path: Path, caches: Caches) -> Iterator[Rig]:
    """Starts what a test needs and stops it afterwards."""
    with ExitStack() as stack:
        yield Rig(stack, tmp_path, caches)


@pytest.fixture(scope="module")
def module_rig(tmp_path_factory: pytest.TempPathFactory, caches: Caches) -> Iterator[Rig]:
    """The same for what a whole module shares."""
    with ExitStack() as stack:
        yield Rig(stack, tmp_path_factory.mktemp("rig"), caches)
