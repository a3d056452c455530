"""What keeps an installation repeatable and a machine's traces out of the project."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# torch and torchvision must come as a matched pair, with whatever they need.
FREE = re.compile(
    r"torch(vision)?|triton|nvidia[-_].*|cuda[-_].*|filelock|fsspec|jinja2|markupsafe|mpmath|sympy|setuptools",
    re.IGNORECASE,
)


def name_of(requirement: str) -> str:
    """Return the normalised name of a requirement (PEP 503)."""
    return re.sub(r"[-_.]+", "-", re.split(r"[<>=!~\[; ]", requirement, maxsplit=1)[0]).lower()


def pins() -> dict[str, str]:
    """Read constraints.txt: names and versions only."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)", line)
        assert match, f"constraints.txt: {line!r}, expected NAME==VERSION"
        found[name_of(match[1])] = match[2]
    return found


def test_everything_is_pinned_but_torch_and_what_it_needs() -> None:
    """Pip takes the newest matched pair of torch and torchvision, and the same rest every time."""
    required = [
        *PROJECT["dependencies"],
        *(each for extra in PROJECT["optional-dependencies"].values() for each in extra),
    ]

    assert [name for name in pins() if FREE.fullmatch(name)] == []
    assert [name for name in map(name_of, required) if name not in pins() and not FREE.fullmatch(name)] == []


def test_torch_and_torchvision_have_a_floor_only() -> None:
    """Both, in one extra."""
    train = [each for each in PROJECT["optional-dependencies"]["train"] if name_of(each).startswith("torch")]

    assert all(re.fullmatch(r"torch(vision)?>=[0-9.]+", each) for each in train)
    assert len(train) == 2


SCRIPTS = (".ci/run", "broker/install-mosquitto.sh", "systemd/install.sh")
PACKAGING = ("packaging/build-deb.sh", "packaging/postinst", "packaging/prerm", "packaging/postrm")


@pytest.mark.parametrize("script", [*SCRIPTS, *PACKAGING])
def test_scripts_are_sound(script: str) -> None:
    """Executable, and parsed by their shell."""
    path = ROOT / script
    shell = "bash" if "bash" in path.read_text(encoding="utf-8").splitlines()[0] else "sh"

    assert path.stat().st_mode & 0o111
    assert subprocess.run([shell, "-n", str(path)], check=False).returncode == 0


def test_ci_runs_the_readmes_test_command_and_the_checks() -> None:
    """Nothing that a developer could not run."""
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()

    assert "set -euo pipefail" in lines
    assert [line for line in lines if line.startswith("make")] == ["make check", "make test"]


def test_an_old_python_is_told_so() -> None:
    """`make test` with Python 3.9 says what is needed instead of failing somewhere inside."""
    said = subprocess.run(
        ["make", "--no-print-directory", "-C", str(ROOT), "VENV=/nonexistent/venv", "PYTHON=false", "test"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert said.returncode != 0
    assert "false is missing or too old: popexd needs Python 3.11 or newer" in said.stderr
