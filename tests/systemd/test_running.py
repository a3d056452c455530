"""Agent and worker as services of a real systemd, beside Debian's Mosquitto: what kills, hangs and starves them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .container import until
from .machine import AGENT, BROKER, HOST, TOPICS, WORKER, Machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

FAULTS = Path(__file__).parent


def restarts(machine: Machine, unit: str) -> int:
    """How often systemd has started a unit again by itself."""
    return int(machine.show(unit, "NRestarts"))


def comes_back(machine: Machine, unit: str, before: int) -> None:
    """Wait until systemd has started a unit again, exactly once."""
    until(lambda: restarts(machine, unit) > before and machine.show(unit, "ActiveState") == "active", f"{unit} again")
    assert restarts(machine, unit) == before + 1


def busy_seconds(machine: Machine) -> float:
    """How long the agent has kept a core busy so far."""
    fields = machine.sh(f"cat /proc/$(systemctl show -p MainPID --value {AGENT})/stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def offloads(machine: Machine) -> None:
    """Have frames finished by the worker."""
    until(lambda: machine.ear.ask("set", mode="cloud")["status"] == "ok", "the request")
    until(
        lambda: set(machine.ear.last(TOPICS.decision).get("tiers", {}).values()) & {"cloud"},
        "a plan that takes the worker",
    )


def test_a_published_photo_is_answered(machine: Machine, jpeg: bytes) -> None:
    """A camera's JPEG as the whole payload; systemctl's line says what the agent does."""
    machine.ear.send("photo", jpeg)
    answer = machine.ear.answer("photo")

    assert answer["camera"] == "gate"
    assert 0 < answer["confidence"] <= 1
    until(lambda: "; exits " in machine.show(AGENT, "StatusText"), "a line with shares")
    line = machine.show(AGENT, "StatusText")
    assert line.startswith("conveyor-b-alexnet cut at ")
    assert "offloaded" in line
    assert machine.show(WORKER, "StatusText").startswith("cloud worker of conveyor-b-alexnet; ")
    assert machine.show(AGENT, "User") == "popexd"


@pytest.mark.parametrize(
    ("unit", "drop_in"),
    [
        ("popexd-agent", None), ("popexd-worker@cloud", None), ("popexd-broker", None), ("popexd-camera@gate", None),
        ("popexd-agent", "jetson"), ("popexd-camera@gate", "v4l2"),
    ],
)  # fmt: skip
def test_units_are_locked_up(machine: Machine, unit: str, drop_in: str | None) -> None:
    """Systemd's own measure of exposure is at most 2.0, with each drop-in too, and the unit has no mistakes."""
    if drop_in is not None:
        text = (FAULTS.parents[1] / "systemd/drop-ins" / f"{drop_in}.conf").read_text()
        machine.container.write(f"/etc/systemd/system/{unit}.service.d/{drop_in}.conf", text)
        machine.sh("systemctl daemon-reload")
    said = machine.sh(f"systemd-analyze security --no-pager {unit}.service", check=False)
    machine.sh(f"rm -rf /etc/systemd/system/{unit}.service.d; systemctl daemon-reload")
    path = f"/usr/local/lib/systemd/system/{unit.split('@', maxsplit=1)[0]}{'@' if '@' in unit else ''}.service"
    mistakes = machine.container.run("systemd-analyze", "verify", "--man=no", path, check=False)

    exposure = float(said.split("Overall exposure level")[1].split(":")[1].split()[0])
    assert exposure <= 2.0
    assert "popexd" not in mistakes.stderr


def test_a_killed_worker_is_started_again_and_its_frame_answered_once(machine: Machine, jpeg: bytes) -> None:
    """SIGKILL with a frame in its hands: the device answers, systemd starts the worker, its state is online again."""
    offloads(machine)
    before, shipped = restarts(machine, WORKER), machine.ear.tensors()
    machine.sh(f"systemctl kill --signal STOP {WORKER}")
    machine.ear.send("in-flight", jpeg)
    until(lambda: machine.ear.tensors() > shipped, "the shipment")
    machine.sh(f"systemctl kill --signal KILL {WORKER}")

    assert machine.ear.answer("in-flight")["fallback"]
    comes_back(machine, WORKER, before)
    machine.ear.until(TOPICS.worker(HOST, "state"), state="online")
    states = [json.loads(each)["state"] for each in machine.ear.all(TOPICS.worker(HOST, "state"))]
    assert states[-2:] == ["offline", "online"]
    machine.ear.at_rest()
    assert len(machine.ear.answers("in-flight")) == 1
    machine.listen()
    machine.ear.until(TOPICS.worker(HOST, "state"), state="online")


def test_a_killed_agent_is_started_again_and_answers_once(machine: Machine, jpeg: bytes) -> None:
    """SIGKILL with frames in its hands: the will says offline, then online is retained; each frame has one answer."""
    offloads(machine)
    before, shipped = restarts(machine, AGENT), machine.ear.tensors()
    names = [f"killed-{index}" for index in range(8)]
    machine.sh(f"systemctl kill --signal STOP {WORKER}")
    for index, name in enumerate(names):
        machine.ear.send(name, jpeg, f"c{index}")
    until(lambda: machine.ear.tensors() > shipped, "a frame in flight")
    machine.sh(f"systemctl kill --signal KILL {AGENT}; systemctl kill --signal CONT {WORKER}")

    comes_back(machine, AGENT, before)
    states = until(
        lambda: [json.loads(each) for each in machine.ear.all(TOPICS.state)][-2:], "the will and the new state"
    )
    machine.ear.until(TOPICS.state, state="online")
    states = [json.loads(each) for each in machine.ear.all(TOPICS.state)]
    assert [each["state"] for each in states[-2:]] == ["offline", "online"]
    assert states[-2]["reason"] == "connection lost"
    machine.ear.send("afterwards", jpeg)
    machine.ear.answer("afterwards")
    for index, name in enumerate(names):
        machine.ear.answer(name, f"c{index}")
    machine.ear.at_rest()
    assert "diary-" in machine.sh("ls /run/popexd-agent")
    assert [len(machine.ear.answers(name, f"c{index}")) for index, name in enumerate(names)] == [1] * len(names)
    machine.listen()
    machine.ear.until(TOPICS.state, state="online")


def test_the_watchdog_restarts_a_hanging_agent(machine: Machine, jpeg: bytes) -> None:
    """SIGSTOP: nothing is said to systemd any more, which ends and starts it; WatchdogSec= of a drop-in is obeyed."""
    machine.drop_in(AGENT, "WatchdogSec=2")
    machine.listen()
    machine.ear.until(TOPICS.state, state="online")
    before = restarts(machine, AGENT)
    machine.sh(f"systemctl kill --signal STOP {AGENT}")

    comes_back(machine, AGENT, before)
    assert any("watchdog" in str(entry["MESSAGE"]).lower() for entry in machine.journal("-u", AGENT))
    machine.ear.send("after-the-watchdog", jpeg)
    machine.ear.answer("after-the-watchdog")
    machine.no_drop_in(AGENT)


def test_the_watchdog_restarts_a_broker_whose_mosquitto_hangs(machine: Machine, jpeg: bytes) -> None:
    """SIGSTOP to Mosquitto alone: the program around it lives on, and still the unit is started again."""
    machine.ear.bus.stop()
    machine.sh("systemctl stop mosquitto; systemctl start popexd-broker")
    machine.drop_in(BROKER, "WatchdogSec=4")
    before = restarts(machine, BROKER)
    machine.listen()
    machine.ear.until(TOPICS.state, state="online")
    assert restarts(machine, BROKER) == before
    machine.sh(f"kill -STOP $(pgrep -P $(systemctl show -p MainPID --value {BROKER}))")

    comes_back(machine, BROKER, before)
    assert machine.logged(BROKER, "watchdog.withheld")
    machine.listen()
    machine.ear.until(TOPICS.state, state="online")
    machine.ear.send("after-the-broker", jpeg)
    machine.ear.answer("after-the-broker")
    machine.ear.bus.stop()
    machine.sh(f"systemctl stop {BROKER}")
    machine.no_drop_in(BROKER)
    machine.sh(f"systemctl stop {BROKER}; rm -rf /var/lib/popexd-broker; systemctl start mosquitto")
    machine.listen()
    machine.ear.until(TOPICS.state, state="online")


def test_a_full_disk_costs_no_answer(machine: Machine, jpeg: bytes) -> None:
    """State and cache folder without a byte left: the agent goes on, and starts again."""
    for folder in ("state", "cache"):
        path = "/var/lib/popexd" if folder == "state" else "/var/cache/popexd"
        machine.sh(f"mount -t tmpfs -o size=64k,mode=750,uid=popexd,gid=popexd tmpfs {path}")
        machine.sh(f"dd if=/dev/zero of={path}/filled bs=1k", check=False)
    try:
        machine.ear.send("full", jpeg)
        machine.ear.answer("full")
        machine.sh(f"systemctl restart {AGENT}")
        machine.listen()
        machine.ear.until(TOPICS.state, state="online")
        machine.ear.send("full-at-start", jpeg)
        machine.ear.answer("full-at-start")
    finally:
        machine.sh(f"systemctl stop {AGENT}; umount /var/lib/popexd /var/cache/popexd; systemctl start {AGENT}")


def test_a_clock_stepped_by_a_year_changes_nothing(machine: Machine, jpeg: bytes, tmp_path: Path) -> None:
    """Forward and back: it is noticed, metrics go on, frames are answered, and no core is busy catching up.

    A container has its machine's clock, so the step is what the C library tells the agent.
    """
    if shutil.which("cc") is None:
        pytest.skip("no C compiler for the library that steps the clock")
    library = tmp_path / "clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O", "-o", library, FAULTS / "clock.c", "-ldl"], check=True)
    shutil.copy(library, machine.container.root / "opt/clock.so")
    machine.container.write("/etc/clock-offset", "0\n")
    machine.drop_in(AGENT, "Environment=LD_PRELOAD=/opt/clock.so POPEXD_CLOCK_OFFSET=/etc/clock-offset")
    machine.listen()
    machine.ear.until(TOPICS.state, state="online")
    for number, seconds in enumerate(("31536000", "0"), start=1):
        machine.container.write("/etc/clock-offset", f"{seconds}\n")
        until(lambda steps=number: len(machine.logged(AGENT, "clock.stepped")) >= steps, "the step being noticed")
        heard = len(machine.ear.all(TOPICS.metrics))
        used = busy_seconds(machine)
        until(lambda count=heard + 4: len(machine.ear.all(TOPICS.metrics)) >= count, "metrics after the step")
        assert busy_seconds(machine) - used < 2
        machine.ear.send(f"stepped-{number}", jpeg)
        machine.ear.answer(f"stepped-{number}")
    machine.no_drop_in(AGENT)


def test_a_reload_puts_in_force_what_it_can(machine: Machine) -> None:
    """Thresholds, objective and log level at once; another broker waits for a restart, and the status says so."""
    given = machine.configuration("agent")
    text = given.replace("thresholds = {}", "thresholds = {b1 = 0.31}").replace('"seconds"  ', '"bytes"  ')
    machine.configure("agent", text.replace('level = "info"', 'level = "debug"').replace("port = 1883", "port = 1884"))
    pid = machine.show(AGENT, "MainPID")
    machine.sh(f"systemctl reload {AGENT}")

    until(lambda: machine.ear.ask("status")["data"]["settings"]["thresholds"] == {"b1": 0.31}, "the thresholds")
    until(lambda: machine.logged(AGENT, "configuration.reloaded"), "the reload being logged")
    entry = machine.logged(AGENT, "configuration.reloaded")[-1]
    assert entry["POPEXD_NEEDS_RESTART"] == "mqtt.port"
    assert "planner.thresholds" in entry["POPEXD_CHANGED"]
    assert "log.level" in entry["POPEXD_CHANGED"]
    until(lambda: machine.show(AGENT, "StatusText").endswith("needs a restart: mqtt.port"), "the hint")
    machine.configure("agent", "[planner]\nsolver = 'gess'\n")
    machine.sh(f"systemctl reload {AGENT}")
    until(lambda: machine.logged(AGENT, "configuration.refused"), "the mistake being told")
    assert machine.show(AGENT, "ActiveState") == "active"
    assert machine.show(AGENT, "MainPID") == pid
    machine.configure("agent", given)
    machine.sh(f"systemctl reload {AGENT}")
    until(lambda: machine.ear.ask("status")["data"]["settings"]["thresholds"] == {}, "the old settings")


def test_a_worker_reloads_too(machine: Machine) -> None:
    """Its log's level at once, its models at the next start."""
    given = machine.configuration("worker-cloud")
    machine.configure(
        "worker-cloud", given.replace('level = "info"', 'level = "error"').replace("threads = 0", "threads = 1")
    )
    machine.sh(f"systemctl reload {WORKER}")
    until(lambda: machine.show(WORKER, "StatusText").endswith("needs a restart: runtime.threads"), "the hint")
    machine.configure("worker-cloud", given)
    machine.sh(f"systemctl reload {WORKER}")
    until(lambda: not machine.show(WORKER, "StatusText").endswith("runtime.threads"), "the hint to go")


def test_a_camera_is_a_service(machine: Machine) -> None:
    """Its options come from a file of its name."""
    machine.container.write("/etc/popexd/camera-yard.env", "POPEXD_CAMERA_OPTIONS=--source generated --fps 4\n")
    machine.sh("systemctl start popexd-camera@yard")
    until(lambda: len(machine.ear.all(TOPICS.results("yard"))) >= 2, "answers to its frames")
    machine.sh("systemctl stop popexd-camera@yard")

    assert machine.show("popexd-camera@yard", "Result") == "success"


def test_a_missing_broker_is_no_reason_to_wait(machine: Machine) -> None:
    """Ready without one; when it comes, so does the retained state, and nothing was restarted."""
    machine.ear.bus.stop()
    machine.sh(f"systemctl stop mosquitto; systemctl restart {AGENT} {WORKER}")
    until(lambda: machine.show(AGENT, "StatusText").endswith("no connection to the broker"), "the line to say so")
    machine.sh("systemctl start popexd-broker")
    machine.listen()
    machine.ear.until(TOPICS.state, state="online")
    machine.ear.until(TOPICS.worker(HOST, "state"), state="online")
    machine.sh("systemctl stop popexd-broker; systemctl start mosquitto")
    machine.listen()
    machine.ear.until(TOPICS.state, state="online")

    assert restarts(machine, AGENT) == restarts(machine, WORKER) == 0


def test_stopping_answers_what_was_taken(machine: Machine, jpeg: bytes) -> None:
    """SIGTERM among frames: drained, and the retained state says offline, stopped."""
    for index in range(12):
        machine.ear.send(f"last-{index}", jpeg, f"c{index % 6}")
    machine.sh(f"systemctl stop {AGENT}")

    machine.ear.until(TOPICS.state, state="offline", reason="stopped")
    frames = machine.ear.at_rest()
    answered = sum(len(machine.ear.answers(f"last-{index}", f"c{index % 6}")) for index in range(12))
    assert frames["taken"] == frames["answered"] >= answered
    assert machine.show(AGENT, "Result") == "success"
    machine.listen()
    machine.ear.until(TOPICS.state, state="offline", reason="stopped")


def test_the_journal_has_priorities_and_fields_and_no_traceback(machine: Machine) -> None:
    """What a unit logs can be asked for by field; nothing that happened in any test here was a fault of ours."""
    machine.ear.send("not-a-picture", b"not a picture")
    rejected = until(lambda: machine.logged(AGENT, "input.rejected"), "the warning")[-1]
    started = machine.logged(AGENT, "agent.started")[-1]

    assert rejected["PRIORITY"] == "4"
    assert rejected["POPEXD_CAMERA"] == "gate"
    assert started["PRIORITY"] == "6"
    assert started["POPEXD_SITE"] == "site"
    assert started["SYSLOG_IDENTIFIER"] == "popexd"
    ours = machine.journal("_UID=" + machine.sh("id -u popexd").strip())
    assert not [entry for entry in ours if "Traceback" in str(entry.get("MESSAGE"))]
    assert not [entry for entry in ours if entry.get("PRIORITY") in {"0", "1", "2"}]


def test_a_password_comes_from_the_credential_store(machine: Machine) -> None:
    """What root alone may read reaches the agent, as a file that only it may read; a wrong one is refused and told."""
    machine.sh(
        "mosquitto_passwd -b -c /etc/mosquitto/passwords agent right; chown mosquitto /etc/mosquitto/passwords;"
        "printf 'password_file /etc/mosquitto/passwords\\nallow_anonymous true\\n' >/etc/mosquitto/conf.d/popexd.conf;"
        "install -d -m 700 /etc/credstore; printf wrong >/etc/credstore/popexd-agent.mqtt_password;"
        "chmod 600 /etc/credstore/popexd-agent.mqtt_password; systemctl restart mosquitto"
    )
    given = machine.configuration("agent")
    machine.configure("agent", given.replace('# username = "agent"', 'username = "agent"'))
    try:
        machine.sh(f"systemctl restart {AGENT}")
        until(
            lambda: any("refuses us" in entry["POPEXD_REASON"] for entry in machine.logged(AGENT, "connection.failed")),
            "the refusal",
        )
        machine.sh(f"printf right >/etc/credstore/popexd-agent.mqtt_password; systemctl restart {AGENT}")
        machine.listen()
        machine.ear.until(TOPICS.state, state="online")
        words = machine.sh("grep -rl '[r]ight' /proc/$(systemctl show -p MainPID --value popexd-agent)/cmdline || :")
        assert words == ""
    finally:
        machine.configure("agent", given)
        machine.sh(
            f"rm -f /etc/credstore/popexd-agent.* /etc/mosquitto/conf.d/popexd.conf;systemctl restart mosquitto {AGENT}"
        )
