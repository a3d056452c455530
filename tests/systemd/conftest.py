"""A machine to install on, one for each process of the test run."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from popexd.lab.conveyor import scene

from .container import Container, why_not
from .machine import HOST, ROOT, Machine


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything an installation without network needs, as `make wheels` makes it; built once for all processes."""
    mine = tmp_path_factory.getbasetemp()
    # With several processes each has a folder of its own below one of this run.
    folder = (mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine) / "popexd-wheels"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            command = [
                "-m",
                "pip",
                "wheel",
                "--quiet",
                "--disable-pip-version-check",
                "--constraint",
                "constraints.txt",
            ]
            made = subprocess.run(
                [_python(folder), *command, "--wheel-dir", str(folder), "."],
                cwd=ROOT, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if made.returncode:
                pytest.skip(f"the wheels cannot be built here: {made.stderr.strip().splitlines()[-1]}")
            (folder / "complete").touch()
    return folder


def _python(folder: Path) -> str:
    """A Python with pip, of the version that the container's system has."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    said = subprocess.run(["/usr/bin/python3", "--version"], capture_output=True, text=True, check=True).stdout
    if said.split()[1].startswith(f"{version}."):
        return sys.executable
    environment = folder.with_name("popexd-wheels-python")
    subprocess.run(["/usr/bin/python3", "-m", "venv", str(environment)], check=True)
    return str(environment / "bin/python")


@pytest.fixture(scope="session")
def computer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A booted machine with what an installer needs, whatever is installed on it by now."""
    if reason := why_not():
        pytest.skip(reason)
    container = Container(tmp_path_factory.mktemp("container"))
    try:
        container.start(hostname=HOST)
        yield Machine(container)
    finally:
        container.stop()


@pytest.fixture
def bare(computer: Machine, wheels: Path) -> Machine:
    """A machine with the project's source and wheels on it."""
    if not (computer.container.root / "usr/src/popexd").exists():
        computer.prepare(wheels)
    return computer


@pytest.fixture
def machine(bare: Machine) -> Machine:
    """A machine where agent and worker run as installed."""
    bare.ready()
    return bare


@pytest.fixture(scope="session")
def jpeg() -> bytes:
    """A camera's photo."""
    return scene(3, 11).jpeg()
