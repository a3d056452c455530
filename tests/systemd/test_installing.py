"""Installing, upgrading, booting, removing: by `make install` and by the Debian package, on a fresh machine."""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path

import pytest

from .container import until
from .machine import AGENT, HOST, SOURCE, TOPICS, WHEELS, WORKER, Machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# Where nothing of ours may be left; what the tests themselves put there is elsewhere.
TRACES = (
    "find /opt /usr /var /run /srv -xdev ( -path /usr/src -o -path /var/log -o -path /run/log ) -prune "
    "-o -newer /usr/src/mark -name *popexd* -print"
)


def another(wheels: Path, folder: Path, version: str, broken: bool = False) -> Path:
    """Make a copy of the wheels in which popexd has another version, and fails at start if `broken`."""
    shutil.copytree(wheels, folder)
    (old,) = folder.glob("popexd-*.whl")
    was = re.match(r"popexd-([^-]+)-", old.name)
    assert was is not None
    with zipfile.ZipFile(old) as source, zipfile.ZipFile(folder / old.name.replace(was[1], version), "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name == "popexd/__init__.py" or name.endswith("dist-info/METADATA"):
                data = data.replace(was[1].encode(), version.encode())
            if name == "agent/daemon.py" and broken:
                data += b"\n\nraise SystemExit(9)\n"
            target.writestr(name.replace(f"popexd-{was[1]}.dist-info", f"popexd-{version}.dist-info"), data)
    old.unlink()
    return folder


def answers(machine: Machine, frame_id: str, jpeg: bytes) -> None:
    """See that a published photo is answered."""
    machine.ear.send(frame_id, jpeg)
    machine.ear.answer(frame_id)


def put(machine: Machine, wheels: Path) -> str:
    """Copy a folder of wheels onto the machine; returns its path there."""
    path = f"/usr/src/{wheels.name}"
    shutil.copytree(wheels, machine.container.root / path.lstrip("/"))
    return path


def clear(machine: Machine) -> None:
    """Have nothing of ours on the machine."""
    machine.sh("dpkg --purge popexd >/dev/null 2>&1 || :")
    machine.sh(f"{SOURCE}/systemd/install.sh uninstall --purge; touch /usr/src/mark; systemctl start mosquitto")


def test_from_install_to_purge(bare: Machine, wheels: Path, jpeg: bytes, tmp_path: Path) -> None:
    """Every step of a service's life, in its order, on one machine."""
    machine = bare
    clear(machine)
    says_how_it_is_used(machine)
    says_what_is_missing(machine)
    installs_and_answers(machine, jpeg)
    installs_twice(machine)
    refuses_units_that_there_are_not(machine)
    boots(machine, jpeg)
    upgrades(machine, put(machine, another(wheels, tmp_path / "newer", "0.9.1")), jpeg)
    broken = put(machine, another(wheels, tmp_path / "broken", "0.9.2", broken=True))
    rolls_back(machine, broken, jpeg)
    takes_back_what_is_interrupted(machine, jpeg)
    upgrades_beside_what_fails(machine)
    rolls_back(machine, broken, jpeg)
    refuses_a_configuration_it_does_not_understand(machine)
    uninstalls(machine)
    purges(machine)


def says_how_it_is_used(machine: Machine) -> None:
    """To anyone who asks; a word that it does not know is refused, not guessed at."""
    program = f"{SOURCE}/systemd/install.sh"
    for asked in ("--help", "-h", "install --help"):
        assert "uninstall [--purge]" in machine.sh(f"runuser -u nobody -- {program} {asked}")
    for wrong in ("", "remove", "uninstall --pruge", "install popexd-agent"):
        done = machine.container.run("sh", "-c", f"{program} {wrong}", check=False)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


def says_what_is_missing(machine: Machine) -> None:
    """A folder without the wheels installs nothing, and leaves nothing."""
    said = machine.install(wheels="/var/empty", check=False)
    assert "could not be installed; nothing has changed" in said
    assert machine.container.run("test", "!", "-e", "/opt/popexd").returncode == 0


def refuses_units_that_there_are_not(machine: Machine) -> None:
    """A slip in a name is told before anything is touched."""
    before = machine.sh("ls /opt/popexd/releases; systemctl show -p MainPID popexd-agent")
    machine.sh("systemctl mask popexd-broker")
    for units, said in (
        ("popexd-agnet", "no unit popexd-agnet, expected popexd-agent,"),
        (f"{WORKER} mosquitto", "no unit mosquitto"),
        ("popexd-worker", "no unit popexd-worker"),
        ("popexd-worker@cluod", "popexd-worker@cluod reads /etc/popexd/worker-cluod.toml, which is not there"),
        ("popexd-camera@gate", "camera-gate.env, which is not there"),
        ("popexd-broker.service", "popexd-broker.service is masked"),
    ):
        assert said in machine.install(f"UNITS={units}", check=False)
    machine.sh("systemctl unmask popexd-broker")
    assert machine.sh("ls /opt/popexd/releases; systemctl show -p MainPID popexd-agent") == before


def takes_back_what_is_interrupted(machine: Machine, jpeg: bytes) -> None:
    """By a signal, while it looks whether the new version stays up: the one before runs again, and nothing is left."""
    before = machine.sh("readlink /opt/popexd/current; ls /opt/popexd/releases")
    said = machine.sh(
        f"""
        WHEELS={WHEELS} SETTLE_SECONDS=15 setsid {SOURCE}/systemd/install.sh install 2>/run/said & group=$!
        until [ "$(systemctl show -p MainPID --value {WORKER})" != "$1" ] && systemctl is-active --quiet {AGENT} &&
            pgrep -g $group -x sleep >/run/sleep; do sleep 0.1; kill -0 $group; done
        /bin/kill -TERM -- "-$group"
        wait $group || echo failed; cat /run/said
        """.replace("$1", machine.show(WORKER, "MainPID")),
        timeout=400,
    )
    assert "failed" in said
    assert "was taken back" in said
    assert machine.sh("readlink /opt/popexd/current; ls /opt/popexd/releases") == before
    machine.ear.until(TOPICS.state, state="online", version="0.9.1")
    answers(machine, "interrupted", jpeg)


def upgrades_beside_what_fails(machine: Machine) -> None:
    """What failed before holds no upgrade up, nor does what is new; both are told, and only what ran must run."""
    machine.configure("worker-lost", "[unheard_of]\n")
    machine.container.write("/etc/popexd/camera-lost.env", "POPEXD_CAMERA_OPTIONS=--source /nowhere\n")
    machine.sh("systemctl enable --now popexd-camera@lost popexd-worker@lost || :")
    until(lambda: machine.show("popexd-camera@lost", "NRestarts") != "0", "the camera to fail")
    until(lambda: machine.show("popexd-worker@lost", "ActiveState") == "activating", "the worker to fail")
    said = machine.install()
    assert "is installed" in said
    assert AGENT in said
    assert "lost" not in said.split("Running:")[1]
    said = machine.install("UNITS=popexd-worker@lost", check=False)
    assert "is installed, but not every unit came up: popexd-worker@lost.service" in said
    assert "unknown section" in said
    machine.sh("systemctl disable --now popexd-camera@lost popexd-worker@lost; systemctl reset-failed 'popexd-*'")
    machine.sh("rm /etc/popexd/worker-lost.toml /etc/popexd/camera-lost.env")
    machine.ear.until(TOPICS.state, state="online")
    machine.install(wheels="/usr/src/newer")
    machine.ear.until(TOPICS.state, state="online", version="0.9.1")


def installs_and_answers(machine: Machine, jpeg: bytes) -> None:
    """`make install` alone ends with a device that answers; the worker is enabled as it is."""
    said = machine.install()
    assert "Running: popexd-agent.service" in said
    machine.listen()
    machine.ear.until(TOPICS.state, state="online")
    answers(machine, "installed", jpeg)
    machine.sh(f"systemctl enable --now {WORKER}")
    machine.ear.until(TOPICS.worker(HOST, "state"), state="online")
    imported = machine.sh("/opt/popexd/bin/python -c 'import importlib.util as u; print(u.find_spec(\"torch\"))'")
    assert imported.strip() == "None"
    assert machine.sh("popexd --version").startswith("popexd ")


def installs_twice(machine: Machine) -> None:
    """Again is the same: configuration stays as it was edited, and so does what is enabled."""
    edited = machine.configuration("agent").replace('"info"', '"warning"', 1)
    machine.configure("agent", edited)
    units = machine.sh("ls /etc/systemd/system/multi-user.target.wants")
    machine.install()
    assert machine.configuration("agent") == edited
    assert machine.sh("ls /etc/systemd/system/multi-user.target.wants") == units
    assert len(machine.sh("ls /opt/popexd/releases").split()) == 2


def boots(machine: Machine, jpeg: bytes) -> None:
    """After a boot everything is there beside Debian's Mosquitto, without one restart."""
    machine.ear.bus.stop()
    machine.container.reboot()
    machine.listen()
    machine.ear.until(TOPICS.state, state="online")
    machine.ear.until(TOPICS.worker(HOST, "state"), state="online")
    answers(machine, "booted", jpeg)
    assert machine.show(AGENT, "NRestarts") == machine.show(WORKER, "NRestarts") == "0"


def upgrades(machine: Machine, wheels: str, jpeg: bytes) -> None:
    """A newer version takes over and says so; the configuration is the same."""
    before = machine.configuration("agent")
    said = machine.install(wheels=wheels)
    assert "popexd 0.9.1 is installed" in said
    assert machine.ear.until(TOPICS.state, state="online", version="0.9.1")
    answers(machine, "upgraded", jpeg)
    assert machine.configuration("agent") == before


def rolls_back(machine: Machine, wheels: str, jpeg: bytes) -> None:
    """A version that does not come up is taken back: what ran before runs again, and why is told."""
    said = machine.install(wheels=wheels, check=False)
    assert "the new version did not come up and was taken back" in said
    assert machine.sh("popexd --version").strip() == "popexd 0.9.1"
    machine.ear.until(TOPICS.state, state="online", version="0.9.1")
    answers(machine, "rolled-back", jpeg)
    until(lambda: machine.show(WORKER, "ActiveState") == "active", "the worker")


def refuses_a_configuration_it_does_not_understand(machine: Machine) -> None:
    """Nothing is touched then, not even what runs; the mistake is told."""
    good, pid = machine.configuration("agent"), machine.show(AGENT, "MainPID")
    machine.configure("agent", good + "\n[unheard_of]\n")
    said = machine.install(check=False)
    machine.configure("agent", good)
    assert "unknown section" in said
    assert "nothing has changed" in said
    assert machine.show(AGENT, "MainPID") == pid


def uninstalls(machine: Machine) -> None:
    """Nothing of ours is left but /etc."""
    machine.sh(f"make --no-print-directory -C {SOURCE} uninstall")
    machine.ear.until(TOPICS.state, state="offline", reason="stopped")
    assert machine.container.run(*TRACES.split()).stdout == ""
    assert machine.sh("systemctl list-unit-files --no-legend 'popexd*'", check=False) == ""
    assert machine.container.run("id", "popexd", check=False).returncode != 0
    assert '"warning"' in machine.configuration("agent")


def purges(machine: Machine) -> None:
    """And then not even that."""
    machine.sh(f"make --no-print-directory -C {SOURCE} uninstall ARGS=--purge")
    assert machine.sh("find /etc -name '*popexd*'") == ""


def test_the_debian_package(bare: Machine, jpeg: bytes) -> None:
    """Built on the machine, installed, enabled by choice, upgraded with its configuration kept, removed, purged."""
    machine = bare
    clear(machine)
    build = f"WHEELS={WHEELS} COMPRESSION=none make --no-print-directory -C {SOURCE} deb"
    package = machine.sh(build, timeout=240).split()[-1]
    assert machine.sh(f"dpkg-deb --info {package} conffiles").split() == [
        "/etc/popexd/agent.toml",
        "/etc/popexd/broker.env",
        "/etc/popexd/worker-cloud.toml",
    ]
    machine.sh(f"dpkg --install {package}")
    assert machine.container.run("systemctl", "is-enabled", AGENT, check=False).stdout.strip() == "disabled"
    assert "the Debian package popexd is installed: upgrade that" in machine.install(check=False)
    uninstalled = machine.container.run(f"{SOURCE}/systemd/install.sh", "uninstall", check=False)
    assert (uninstalled.returncode, "apt-get remove popexd" in uninstalled.stderr) == (1, True)
    machine.sh(f"systemctl enable --now {AGENT} {WORKER}")
    machine.listen()
    machine.ear.until(TOPICS.state, state="online")
    machine.ear.until(TOPICS.worker(HOST, "state"), state="online")
    answers(machine, "packaged", jpeg)

    edited = machine.configuration("agent").replace('"info"', '"warning"', 1)
    machine.configure("agent", edited)
    pid = machine.show(AGENT, "MainPID")
    machine.sh(f"dpkg --install --force-confold {package}")
    assert machine.configuration("agent") == edited
    assert machine.show(AGENT, "MainPID") != pid
    machine.ear.until(TOPICS.state, state="online")
    answers(machine, "package-upgraded", jpeg)

    machine.sh("dpkg --remove popexd")
    machine.ear.until(TOPICS.state, state="offline", reason="stopped")
    assert machine.configuration("agent") == edited
    takes_the_place_of_a_removed_package(machine, package, jpeg)
    machine.sh(f"dpkg --install --force-confold --force-confmiss {package}; dpkg --purge popexd")
    assert machine.sh("find /etc -name '*popexd*'") == ""
    assert machine.container.run(*TRACES.split()).stdout == ""


def takes_the_place_of_a_removed_package(machine: Machine, package: str, jpeg: bytes) -> None:
    """Neither is put over the other, nor does the memory of one take anything from the other."""
    assert "dpkg --purge popexd deletes it" in machine.install()
    refused = machine.container.run("dpkg", "--install", package, check=False)
    assert refused.returncode != 0
    assert "popexd was installed with make install: sudo make uninstall first" in refused.stderr
    machine.sh("dpkg --purge popexd")
    machine.ear.until(TOPICS.state, state="online")
    answers(machine, "after-the-purge", jpeg)
    assert machine.container.run("id", "popexd").returncode == 0
    machine.sh(f"{SOURCE}/systemd/install.sh uninstall --purge")
