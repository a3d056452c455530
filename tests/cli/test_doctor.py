"""`popexd doctor`: what it finds on a machine of ours, with brokers as people run them."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from broker import authority
from broker.config import BrokerSettings
from broker.process import Broker, find_mosquitto, free_port
from popexd import bundle as bundles
from popexd.bus.mqtt import MqttBus, MqttSettings
from popexd.cli.doctor import machine
from popexd.cli.doctor.findings import Level
from popexd.protocol.messages import AgentState, DecisionPayload, PredictedFigures, WorkerState
from popexd.protocol.topics import DeviceTopics
from tests.broker.conftest import password_file as password_file  # noqa: PLC0414 a fixture is found by its name
from tests.broker.site import Site, connected

from .conftest import Run, online, until

PI = DeviceTopics("site", "pi")
BUNDLE = bundles.load()


class Usage(NamedTuple):
    """What of shutil.disk_usage counts."""

    free: int


@contextmanager
def told(port: int, **retained: bytes) -> Iterator[None]:
    """A broker on which this is retained; `__` in a name stands for `/`."""
    bus = MqttBus(MqttSettings(port=port))
    for topic, payload in retained.items():
        bus.retain(f"popexd/site/{topic.replace('__', '/')}", payload)
    online(bus)
    until(lambda: bus.connected)
    yield
    bus.stop()


def worker(fingerprint: str) -> bytes:
    """A worker that is there and serves this."""
    return WorkerState(state="online", worker="w1", tier="cloud", models={BUNDLE.name: fingerprint}).to_bytes()


def decision(cut: str, codec: str) -> bytes:
    """A plan that sends this."""
    return DecisionPayload(
        plan_id="p1",
        decided_at=datetime.now(UTC),
        reason="start",
        solver="joint",
        objective="seconds",
        model=BUNDLE.name,
        cut=cut,
        tiers={},
        exits={},
        codec=codec,
        predicted=PredictedFigures(seconds=0.01),
        solve_seconds=0.001,
    ).to_bytes()


def test_without_a_broker_it_says_so_and_what_to_do(examine: Any) -> None:
    """Everything that needs none is still looked at."""
    found = examine("--port", free_port())

    assert (found.status, found.level) == (1, "fail")
    assert found.the("broker")["level"] == "fail"
    assert "Connection refused" in found.the("broker")["says"]
    assert "systemctl status mosquitto" in found.the("broker")["do"]
    assert {"processor", "memory", "clock", "configuration", "disk", "permissions", "model"} <= {
        each["check"] for each in found.findings
    }


def test_a_mosquitto_as_it_comes_waits_for_nagle(examine: Any) -> None:
    """No configuration at all: it answers, slowly, and nobody is there yet."""
    port = free_port()
    process = subprocess.Popen([find_mosquitto(), "-p", str(port)], stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        assert any(b" running" in line for line in process.stderr)
        found = examine("--port", port)
    finally:
        process.kill()
        process.communicate()

    assert (found.status, found.level) == (0, "warn")
    assert "set_tcp_nodelay" in found.the("round trip")["do"]
    assert found.the("version")["says"].startswith("mosquitto version")
    assert found.the("packet limit")["level"] == "ok"
    assert [found.the(check)["level"] for check in ("agent", "workers")] == ["warn", "warn"]


def test_a_broker_of_ours_with_everyone_there_is_well(examine: Any) -> None:
    """The agent, a worker with our model, and a plan that fits through."""
    state = AgentState(state="online", model="m").to_bytes()
    with (
        Broker() as broker,
        told(
            broker.port,
            pi__state=state,
            pi__decision=decision("pool5", "q8+zstd"),
            workers__w1__state=worker(BUNDLE.fingerprint),
        ),
    ):
        found = examine("--port", broker.port)

    assert found.status == 0
    for check in ("broker", "version", "packet limit", "round trip", "agent", "workers"):
        assert found.the(check)["level"] == "ok", found.the(check)
    assert "the plan in force sends" in found.the("packet limit")["says"]


def test_a_worker_with_another_model_and_a_plan_that_does_not_fit_are_told(examine: Any) -> None:
    """The fingerprints of both sides, and the limit to set."""
    settings = BrokerSettings(max_packet_bytes=2_000)
    codec = max(BUNDLE.codecs["pool5"], key=lambda name: BUNDLE.codecs["pool5"][name]["bytes"])
    with (
        Broker(settings=settings) as broker,
        told(broker.port, pi__decision=decision("pool5", codec), workers__w1__state=worker("0" * 64)),
    ):
        found = examine("--port", broker.port)

    assert found.status == 1
    assert found.the("packet limit")["level"] == "fail"
    assert "max_packet_size" in found.the("packet limit")["do"]
    assert found.the("workers")["level"] == "warn"
    assert "000000000000" in found.the("workers")["says"]
    assert BUNDLE.fingerprint[:12] in found.the("workers")["says"]


def test_every_classs_plan_counts_by_the_most_that_it_may_send(examine: Any) -> None:
    """Compressed bytes differ from frame to frame: whole they must fit as well, and so must each class's plan."""
    table = BUNDLE.codecs["pool5"]
    small, large = decision("fc7", "q2"), json.loads(decision("pool5", "q8+zstd"))
    plan = {key: large[key] for key in ("cut", "tiers", "exits", "codec", "predicted")} | {"share": 0.5}
    both = json.dumps({**json.loads(small), "by_quality": {"blurred": plan}}).encode()
    limit = 3_000
    assert table["q8+zstd"]["bytes"] + 700 < limit < table["q8"]["bytes"]
    with Broker(settings=BrokerSettings(max_packet_bytes=limit)) as broker, told(broker.port, pi__decision=both):
        found = examine("--port", broker.port)

    assert found.the("packet limit")["level"] == "warn"
    assert "about 1.8 kB, at most 4.9 kB: a larger one" in found.the("packet limit")["says"]


def test_a_frame_larger_than_the_brokers_limit_is_a_warning(examine: Any) -> None:
    """Mosquitto 2.1 takes 2 MB unless told."""
    with Broker(settings=BrokerSettings(max_packet_bytes=2_000_000)) as broker:
        found = examine("--port", broker.port)

    assert found.the("packet limit")["level"] == "warn"
    assert "limits.frame_bytes" in found.the("packet limit")["do"]


def configured(site: Site, name: str, tmp_path: Path, *changes: tuple[str, str]) -> Path:
    """An account's own configuration, for the port the broker has here."""
    text = (site.folder.path / "clients" / name / "popexd.toml").read_text()
    for old, new in (("port = 8883", f"port = {site.port}\ntls = true"), *changes):
        assert old in text
        text = text.replace(old, new)
    file = tmp_path / f"{name}.toml"
    file.write_text(text)
    file.chmod(0o644)
    return file


def test_with_tls_and_an_account_every_file_and_certificate_is_looked_at(
    examine: Any, site: Site, tmp_path: Path
) -> None:
    """The agent's own account can time the broker and sees its version."""
    site.listen()
    state = AgentState(state="online", model="m").to_bytes()
    with connected(site.of("pi")) as agent:
        agent.retain(PI.state, state)
        found = examine("--config", configured(site, "pi", tmp_path))

    assert found.status == 0
    assert found.the("agent")["level"] == "ok", "an account may see its own state"
    assert "refused" not in site.log.getvalue()
    certificates = {each["says"].split(":")[0].split(" (")[0] for each in found.of("certificate")}
    assert certificates == {"mqtt.cert_file", "mqtt.ca_file", "the broker's"}
    assert all(each["level"] == "ok" for each in found.of("certificate"))
    assert found.the("round trip")["level"] == "ok"
    assert found.the("version")["level"] == "ok"
    assert sum("its owner's alone" in each["says"] for each in found.of("permissions")) == 2


def test_an_account_that_may_not_speak_for_the_device_still_sees_the_rest(
    examine: Any, site: Site, tmp_path: Path
) -> None:
    """A monitor may only read."""
    found = examine("--config", configured(site, "eyes", tmp_path))

    assert found.status == 0
    assert found.the("round trip")["level"] == "warn"
    assert found.the("version")["level"] == "ok"


def test_an_account_that_may_see_nobody_claims_nothing(examine: Any, site: Site, tmp_path: Path) -> None:
    """A camera's: agent and worker are there, and it does not hear of them; the agent's own would."""
    with connected(site.of("pi")) as agent:
        agent.retain(PI.state, AgentState(state="online", model="m").to_bytes())
        found = examine("--config", configured(site, "gate", tmp_path))

    assert found.status == 0
    for check in ("agent", "workers"):
        assert found.the(check)["level"] == "warn"
        assert "this account may not see it" in found.the(check)["says"]


@pytest.mark.parametrize("name", ["w1", "e1"])
def test_a_workers_account_times_the_broker_too(examine: Any, site: Site, tmp_path: Path, name: str) -> None:
    """On a topic that it may use: the broker refuses nothing."""
    site.listen()
    found = examine("--config", configured(site, name, tmp_path))

    assert found.status == 0
    assert found.the("configuration")["says"].endswith("a valid worker's")
    assert found.the("round trip")["level"] == "ok"
    assert found.the("version")["level"] == "ok"
    assert "refused" not in site.log.getvalue()


def test_a_wrong_password_and_a_foreign_authority_are_told_apart(examine: Any, site: Site, tmp_path: Path) -> None:
    """Each with what to do."""
    home = site.folder.path / "clients" / "pi"
    (tmp_path / "password").write_text("guess\n")
    (tmp_path / "password").chmod(0o600)
    found = examine("--config", configured(site, "pi", tmp_path, (str(home / "password"), str(tmp_path / "password"))))
    assert found.status == 1
    assert "Not authorized" in found.the("broker")["says"]
    assert "password" in found.the("broker")["do"]

    (tmp_path / "ca.pem").write_bytes(authority.create("popexd site").certificate)
    changed = configured(site, "pi", tmp_path, (str(home / "authority.pem"), str(tmp_path / "ca.pem")))
    found = examine("--config", changed)
    assert found.status == 1
    assert "certificate verify failed" in found.the("broker")["says"]
    assert "ca_file" in found.the("broker")["do"]


@pytest.mark.parametrize(("days", "age", "level"), [(10, 0, "warn"), (730, 800, "fail")])
def test_a_certificate_at_its_end_is_told(
    examine: Any, site: Site, tmp_path: Path, days: int, age: int, level: str
) -> None:
    """A month before, and after."""
    path = site.folder.path
    signer = authority.Pair((path / "authority.pem").read_bytes(), (path / "authority.key").read_bytes())
    pair = authority.issue(signer, "pi", days=days, age_days=age)
    home, changes = path / "clients" / "pi", []
    for name, content in (("certificate.pem", pair.certificate), ("key.pem", pair.key)):
        (tmp_path / name).write_bytes(content)
        changes.append((str(home / name), str(tmp_path / name)))
    found = examine("--config", configured(site, "pi", tmp_path, *changes))

    own = next(each for each in found.of("certificate") if "cert_file" in each["says"])
    assert own["level"] == level
    assert "popexd broker renew" in own["do"]


def test_the_brokers_of_both_sides_are_looked_at(examine: Any, site: Site, tmp_path: Path) -> None:
    """Frames go through the site's, tensors through the uplink's, and workers are looked for there."""
    text = configured(site, "pi", tmp_path).read_text().replace("[mqtt]", "[uplink]")
    (tmp_path / "both.toml").write_text(
        "\n".join(line for line in text.splitlines() if not line.startswith(("site", "device")))
    )
    with Broker() as broker:
        found = examine("--config", tmp_path / "both.toml", "--port", broker.port)

    assert found.status == 0
    assert [each["says"].split(":")[0] for each in found.of("broker")] == ["mqtt", "uplink"]
    assert len(found.of("workers")) == len(found.of("agent")) == 1
    assert found.of("certificate")


@pytest.mark.parametrize(("lines", "level"), [((), "ok"), (("allow_anonymous true",), "warn")])
def test_a_broker_in_the_network_without_encryption_or_accounts_is_told(
    examine: Any, password_file: Any, tmp_path: Path, lines: tuple[str, ...], level: str
) -> None:
    """Passwords that can be read on the way, and strangers who are let in."""
    host = socket.gethostname()
    try:
        socket.getaddrinfo(host, None, socket.AF_INET)
    except OSError:
        pytest.skip("this machine's own name does not resolve")
    settings = BrokerSettings(host="0.0.0.0", password_file=password_file(pi="secret"), extra_lines=lines)
    (tmp_path / "password").write_text("secret\n")
    (tmp_path / "password").chmod(0o600)
    with Broker(settings=settings) as broker:
        file = tmp_path / "agent.toml"
        file.write_text(
            f'[mqtt]\nhost = "{host}"\nport = {broker.port}\nusername = "pi"\npassword_file = "{tmp_path}/password"\n'
        )
        found = examine("--config", file)

    assert found.the("encryption")["level"] == "warn"
    assert found.the("access")["level"] == level


def test_secrets_that_others_can_read_are_told(examine: Any, site: Site, tmp_path: Path) -> None:
    """With the command that mends it."""
    home = site.folder.path / "clients" / "other"
    (home / "password").chmod(0o644)
    try:
        found = examine("--config", configured(site, "other", tmp_path))
    finally:
        (home / "password").chmod(0o600)

    (loose,) = [each for each in found.of("permissions") if each["level"] == "warn"]
    assert "password" in loose["says"]
    assert loose["do"].startswith("chmod 600")


def test_people_get_a_line_each_and_advice_below(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """No tables, no colours where nobody looks."""
    assert run("doctor", "--port", free_port()) == 1

    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("fail broker") for line in lines)
    assert any(line.strip().startswith("do: no broker there") for line in lines)


def test_little_memory_and_a_full_disk_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their figures, as the system gives them."""
    for available, level in ((50_000, Level.FAIL), (200_000, Level.WARN), (2_000_000, Level.OK)):
        (tmp_path / "meminfo").write_text(f"MemTotal: 4000000 kB\nMemAvailable: {available} kB\n")
        assert machine.memory(tmp_path / "meminfo").level is level
    assert machine.memory(tmp_path / "nothing").level is Level.WARN
    assert str(tmp_path) in machine.disk(tmp_path / "not" / "there").says
    for free, level in ((1_000_000, Level.FAIL), (100_000_000, Level.WARN), (10**10, Level.OK)):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: Usage(free))
        assert machine.disk(tmp_path).level is level
