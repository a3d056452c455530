"""docs/operating.md takes a newcomer from a bare board to two machines, docs/security.md to accounts.

Their commands are run here as they stand.
"""

from __future__ import annotations

import json
import re
import shutil

import pytest

from .container import until
from .machine import AGENT, ROOT, WHEELS, WORKER, Machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# What reaches for another machine or the network; the packages that apt-get names are on this one.
STAND_INS = {
    "sudo": 'exec /usr/src/stand-ins/as-root --reuid=0 --regid=0 --clear-groups -- env HOME=/root "$@"',
    "apt-get": 'case "$*" in *install*) for each; do :; done; command -v make mosquitto >/dev/null ;; esac',
    "scp": 'cp "/home/visitor/server/${1#*:}" "$2"',
}


def chapters() -> list[str]:
    """The commands of the section, in order: board, first answer, server, device."""
    text = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    section = text.split("## From a bare board to two machines\n")[1].split("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def test_every_command_of_the_tutorial_works(bare: Machine) -> None:
    """Board and server are one machine here, under two names; the broker between them asks for certificates.

    Whoever types them is no root.
    """
    machine = bare
    machine.sh("dpkg --purge popexd >/dev/null 2>&1 || :; /usr/src/popexd/systemd/install.sh uninstall --purge")
    machine.sh("systemctl start mosquitto; grep -q server /etc/hosts || echo 127.0.0.1 server >>/etc/hosts")
    for name, script in STAND_INS.items():
        machine.container.write(f"/usr/src/stand-ins/{name}", f"#!/bin/sh\n{script}\n")
    machine.sh("cp /usr/bin/setpriv /usr/src/stand-ins/as-root; chmod 755 /usr/src/stand-ins /usr/src/stand-ins/*")
    machine.sh("chmod u+s /usr/src/stand-ins/as-root; id visitor >/dev/null 2>&1 || useradd --create-home visitor")
    machine.sh("mkdir -p /usr/src/popexd/docs")
    shutil.copy(ROOT / "docs" / "camera.jpg", machine.container.root / "usr/src/popexd/docs")
    machine.sh(
        "cd /home/visitor; for name in popexd server/popexd; do mkdir -p $name; cp -r /usr/src/popexd/. $name; done;"
        "chown -R visitor: ."
    )

    def typed(folder: str, lines: str) -> str:
        before = f"export PATH=/usr/src/stand-ins:$PATH WHEELS={WHEELS} SETTLE_SECONDS=1 PYTHONWARNINGS=ignore"
        shell = ("runuser", "-u", "visitor", "--", "env", "HOME=/home/visitor", "sh", "-euc")
        return machine.container.run(*shell, f"{before}; cd ~/{folder}; {lines}").stdout

    board, first_answer, server, device = chapters()
    typed("popexd", board)
    assert "active (running)" in typed("popexd", first_answer)
    typed("server/popexd", server)
    typed("popexd", device)

    checked = machine.sh("popexd agent check --config /etc/popexd/agent.toml --json")
    assert '"port": 8883' in checked
    until(lambda: machine.logged(AGENT, "worker.found"), "the worker on the far side of the certificates")
    assert machine.logged(AGENT, "worker.found")[-1]["POPEXD_WORKER"] == "w1"


def test_every_command_of_the_security_page_works(machine: Machine) -> None:
    """The block in its order, a bundle unpacked, then every command that is named in a line or a table."""
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    *setting_up, run = block.strip().splitlines()
    assert run.startswith("popexd broker run ")
    named = re.findall(r"`(popexd [a-z]+ [^`]*(?:NAME|FILE|FOLDER|server|list))`", text)
    assert {line.split()[1] for line in named} == {"broker", "doctor"}
    assert len(named) >= 6
    unpack = re.findall(r"`(tar [^`]*)`", text)
    assert unpack

    machine.sh(f"systemctl stop {AGENT} {WORKER} mosquitto; rm -rf /var/lib/popexd-broker /root/bundles")
    machine.sh("mkdir /root/bundles; grep -q broker.example /etc/hosts || echo 127.0.0.1 broker.example >>/etc/hosts")
    for line in setting_up:
        assert "Traceback" not in machine.sh(f"cd /root/bundles; {line} 2>&1")
    machine.sh(f"systemd-run --unit=by-hand --service-type=exec {run.replace('popexd', '/opt/popexd/bin/popexd', 1)}")
    try:
        for line in unpack:
            machine.sh(f"cd /root/bundles; {line}")
        until(lambda: "certificate" in machine.sh(_filled("popexd doctor --config FILE"), check=False), "the broker")
        examined = machine.sh(_filled("popexd doctor --config FILE --json"), check=False)
        assert {"check": "broker", "level": "ok"}.items() <= _finding(examined, "broker").items()
        # What takes somebody's rights comes last.
        for line in sorted(named, key=lambda line: "revoke" in line):
            if "doctor" not in line:
                assert "Traceback" not in machine.sh(f"{_filled(line)} 2>&1")
        assert (
            _finding(machine.sh(_filled("popexd doctor --config FILE --json"), check=False), "broker")["level"]
            == "fail"
        )
    finally:
        machine.sh("systemctl stop by-hand; rm -rf /var/lib/popexd-broker /etc/popexd/pi; systemctl start mosquitto")


def _filled(line: str) -> str:
    """A command for what was set up."""
    line = line.replace("--bundle FILE", "--bundle /root/bundles/renewed.tar")
    places = {"FILE": "/etc/popexd/pi/popexd.toml", "FOLDER": "/var/lib/popexd-broker", "NAME": "pi"}
    for word, value in places.items():
        line = re.sub(rf"\b{word}\b", value, line)
    return line


def _finding(said: str, check: str) -> dict[str, str]:
    findings: list[dict[str, str]] = json.loads(said.strip().splitlines()[-1])["findings"]
    return next(each for each in findings if each["check"] == check)
