"""The unit files by themselves: what systemd says of them without running any."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "systemd").glob("*.service"))
MANUAL = " ".join((ROOT / "docs/operating.md").read_text(encoding="utf-8").split())
NOTIFYING = ("popexd-agent.service", "popexd-broker.service", "popexd-worker@.service")


def settings(unit: Path) -> dict[str, list[str]]:
    """Every setting of a unit with its values."""
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", unit.read_text(encoding="utf-8"), re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_exposure_is_small(unit: Path) -> None:
    """At most 2.0 of 10, by systemd's own measure."""
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "unrecognized option" in said.stderr:
        pytest.skip("this systemd cannot examine a file")

    assert said.returncode == 0, said.stdout[-300:] + said.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_manual_says_what_systemd_measures() -> None:
    """The least and the greatest exposure, by Debian 12's systemd; others weigh a little differently."""
    told = re.search(r"`systemd-analyze security` says (\d\.\d) to (\d\.\d)", MANUAL)
    assert told is not None
    measured = sorted(exposure(unit) for unit in UNITS)

    assert measured[-1] <= told[2]
    version = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=True).stdout
    if version.startswith("systemd 252 "):
        assert (measured[0], measured[-1]) == told.groups()


def exposure(unit: Path) -> str:
    """What `systemd-analyze security` says of a unit, of 10."""
    words = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
    said = subprocess.run(words, capture_output=True, text=True, check=False)
    if "unrecognized option" in said.stderr:
        pytest.skip("this systemd cannot examine a file")
    found = re.search(r"Overall exposure level for \S+: (\d\.\d)", said.stdout)
    assert found is not None, said.stdout[-300:] + said.stderr
    return found[1]


def test_a_camera_is_started_again_for_ever() -> None:
    """After the time that the manual says; it has nobody to count its starts."""
    told = settings(ROOT / "systemd" / "popexd-camera@.service")

    assert (told["Restart"], told["StartLimitIntervalSec"]) == (["always"], ["0"])
    assert told["RestartSec"] == ["10"]
    assert "(a camera's always ten seconds)" in MANUAL


@pytest.mark.parametrize("name", NOTIFYING)
def test_services_say_how_they_are(name: str) -> None:
    """Ready by notification, restarted for ever, the configuration in its place, and time enough to drain."""
    told = settings(ROOT / "systemd" / name)

    assert told["Type"] == ["notify"]
    assert told["Restart"] == ["on-failure"]
    assert told["StartLimitIntervalSec"] == ["0"]
    assert told["ExecStart"][0].startswith("/opt/popexd/bin/popexd ")
    assert told["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert int(told["TimeoutStopSec"][0]) >= 20


def test_daemons_have_a_watchdog() -> None:
    """What hangs is started again."""
    for name in ("popexd-agent.service", "popexd-worker@.service", "popexd-broker.service"):
        assert settings(ROOT / "systemd" / name)["WatchdogSec"] == ["30"]


def test_all_units_share_one_sandbox() -> None:
    """A lock that is added to one is added to all."""
    loose = re.compile(
        r"(?:Protect|Private|Restrict|SystemCall|Capab|Ambient|Lock|NoNew|Keyring|UMask|RemoveIPC|Device)"
    )
    locks = [{key: value for key, value in settings(unit).items() if loose.match(key)} for unit in UNITS]

    assert all(each == locks[0] for each in locks)
    assert locks[0]["ProtectSystem"] == ["strict"]


def test_no_secret_stands_in_a_unit() -> None:
    """Secrets come from the credential store, each under the name that the configuration knows."""
    for name, prefixes in (("popexd-agent", ("mqtt", "uplink")), ("popexd-worker@", ("mqtt",))):
        loaded = settings(ROOT / "systemd" / f"{name}.service")["LoadCredential"]

        assert [each.split(":")[0] for each in loaded] == [
            f"{prefix}_{part}" for prefix in prefixes for part in ("password", "ca", "cert", "key")
        ]


def test_the_brokers_options_have_an_example() -> None:
    """What its unit reads is named in a file that is installed, where every line is a comment."""
    told = settings(ROOT / "systemd" / "popexd-broker.service")
    example = (ROOT / "examples" / "broker.env").read_text(encoding="utf-8")

    assert told["EnvironmentFile"] == ["-/etc/popexd/broker.env"]
    assert told["ExecStart"][0].endswith(" $POPEXD_BROKER_OPTIONS")
    assert "# POPEXD_BROKER_OPTIONS=" in example
    assert all(line.startswith("#") for line in example.splitlines() if line)
    assert "broker.env" in (ROOT / "systemd" / "install.sh").read_text(encoding="utf-8")
