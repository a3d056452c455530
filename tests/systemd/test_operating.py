"""docs/operating.md takes a newcomer from a bare board to two machines: its commands are run here as they stand."""

from __future__ import annotations

import re
import shutil

import pytest

from .container import until
from .machine import AGENT, ROOT, WHEELS, Machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# What reaches for another machine or the network; the packages that apt-get names are on this one.
STAND_INS = {
    "sudo": 'exec "$@"',
    "apt-get": 'case "$*" in *install*) for each; do :; done; command -v make mosquitto >/dev/null ;; esac',
    "scp": 'cp "/root/server/${1#*:}" "$2"',
}


def chapters() -> list[str]:
    """The commands of the section, in order: board, first answer, server, device."""
    text = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    section = text.split("## From a bare board to two machines\n")[1].split("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def test_every_command_of_the_tutorial_works(bare: Machine) -> None:
    """Board and server are one machine here, under two names; the broker between them asks for certificates."""
    machine = bare
    machine.sh("dpkg --purge popexd >/dev/null 2>&1 || :; /usr/src/popexd/systemd/install.sh uninstall --purge")
    machine.sh("systemctl start mosquitto; grep -q server /etc/hosts || echo 127.0.0.1 server >>/etc/hosts")
    for name, script in STAND_INS.items():
        machine.container.write(f"/usr/src/stand-ins/{name}", f"#!/bin/sh\n{script}\n")
    machine.sh("chmod +x /usr/src/stand-ins/*; mkdir -p /usr/src/popexd/docs")
    shutil.copy(ROOT / "docs" / "camera.jpg", machine.container.root / "usr/src/popexd/docs")
    before = f"export PATH=/usr/src/stand-ins:$PATH WHEELS={WHEELS} SETTLE_SECONDS=1 PYTHONWARNINGS=ignore;"

    board, first_answer, server, device = chapters()
    machine.sh("for name in popexd server/popexd; do mkdir -p /root/$name; cp -r /usr/src/popexd/. /root/$name; done")
    machine.sh(f"{before} cd /root/popexd; {board}", timeout=240)
    said = machine.sh(f"{before} cd /root/popexd; {first_answer}")
    assert "active (running)" in said
    machine.sh(f"{before} cd /root/server/popexd; {server}", timeout=240)
    machine.sh(f"{before} cd /root/popexd; {device}")

    checked = machine.sh("popexd agent check --config /etc/popexd/agent.toml --json")
    assert '"port": 8883' in checked
    until(lambda: machine.logged(AGENT, "worker.found"), "the worker on the far side of the certificates")
    assert machine.logged(AGENT, "worker.found")[-1]["POPEXD_WORKER"] == "w1"
