"""A Debian 12 that nobody has ever used: `make install` ends with a device that answers a published photo.

Its packages are those that the tutorial's apt-get names, and Mosquitto, which the installer would fetch: the container
has no network, so they are put there when the system is made.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .container import Container, why_not
from .machine import AGENT, HOST, ROOT, TOPICS, Machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

_SYSTEM = ("systemd", "systemd-sysv", "dbus", "mosquitto")


def mirror() -> str | None:
    """Where this machine takes its packages from."""
    sources = [*Path("/etc/apt").glob("sources.list.d/*.sources"), *Path("/etc/apt").glob("sources.list*/*.list")]
    text = "\n".join(each.read_text() for each in [*sources, Path("/etc/apt/sources.list")] if each.is_file())
    found = re.search(r"^(?:URIs:|deb(?: \[[^]]*\])?)\s+(https?://\S+debian/?)\s", text, re.MULTILINE)
    return found[1] if found else None


@pytest.fixture
def clean(tmp_path: Path, wheels: Path) -> Iterator[Machine]:
    """The machine, booted, with the project's source on it."""
    if reason := why_not():
        pytest.skip(reason)
    if shutil.which("debootstrap") is None:
        pytest.skip("debootstrap is not installed")
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the wheels here are not for Debian 12's Python")
    packages = ",".join((*_SYSTEM, *told_to_install()))
    words = ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(tmp_path / "debian")]
    made = subprocess.run([*words, *([mirror()] if mirror() else [])], capture_output=True, text=True, check=False)  # type: ignore[list-item]
    if made.returncode:
        pytest.skip(f"Debian cannot be fetched here: {made.stdout.strip().splitlines()[-1:]}")
    container = Container(tmp_path / "container", tmp_path / "debian")
    try:
        container.start(hostname=HOST)
        machine = Machine(container)
        machine.prepare(wheels)
        yield machine
    finally:
        container.stop()
        shutil.rmtree(tmp_path / "debian", ignore_errors=True)


def told_to_install() -> list[str]:
    """The packages that the tutorial has one install."""
    text = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    found = re.search(r"^sudo apt-get install -y (.*)$", text, re.MULTILINE)
    assert found is not None
    return found[1].split()


def test_install_on_a_clean_debian_ends_with_an_answer(clean: Machine, jpeg: bytes) -> None:
    """Nothing that a developer's machine has is needed: not numpy, not a compiler, not pip of the system."""
    assert clean.sh("cat /etc/debian_version").startswith("12.")
    assert "yes" in clean.sh("python3 -c 'import numpy' 2>/dev/null && echo no || echo yes")
    said = clean.install()
    assert clean.show(AGENT, "ActiveState") == "active", said
    clean.listen()
    clean.ear.until(TOPICS.state, seconds=120, state="online")
    clean.ear.send("photo", jpeg)
    assert clean.ear.answer("photo")["tier"] == "device"
    shutil.copy(ROOT / "docs/camera.jpg", clean.container.root / "root/camera.jpg")
    assert "Traceback" not in clean.sh("popexd publish /root/camera.jpg 2>&1")
    assert clean.journal("-p", "err", "-u", AGENT) == []
