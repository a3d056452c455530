"""The rig, and what the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .rig import Caches, Rig
from .site import Site


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


@pytest.fixture(scope="module")
def shared(module_rig: Rig) -> Site:
    """An agent and a worker on one broker."""
    rig = module_rig
    broker = rig.broker()
    watch = rig.watch(broker.port)
    rig.worker(rig.worker_tables(broker.port))
    agent = rig.agent(rig.agent_tables(broker.port))
    watch.cut_is("input")
    return Site(watch, agent.boot)


@pytest.fixture
def site(shared: Site) -> Site:
    """The same, set as it was at first, whichever test was before."""
    given = {"mode": "cloud", "solver": "joint", "objective": "seconds", "min_accuracy": None, "deadline_seconds": 2.0}
    assert shared.watch.ask("set", **given, min_agreement=0.98, dwell_seconds=0.0).status == "ok"
    shared.watch.planned("input")
    return shared
