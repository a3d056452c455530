"""The real Mosquitto, run as a child."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from broker.access import User
from broker.config import BrokerSettings
from broker.process import Broker, find_mosquitto, free_port
from popexd.bus import Delivery, Will
from popexd.bus.mqtt import MqttBus, MqttSettings
from popexd.errors import BusError, ConfigurationError
from popexd.protocol.topics import DeviceTopics, SiteTopics
from tests.broker.conftest import PasswordFile
from tests.broker.site import connecting, refusal
from tests.bus.waiting import PATIENCE_SECONDS, Fates, Inbox, until

HERE = Path(__file__).resolve().parents[2]


def test_it_accepts_connections_when_start_returns_and_is_gone_after_stop() -> None:
    """No race at either end; the temporary folder goes with it."""
    with Broker() as broker:
        socket.create_connection(("127.0.0.1", broker.port), timeout=PATIENCE_SECONDS).close()
        assert " running" in broker.log
        pid = broker.pid
        assert pid is not None
        broker.start()
        assert broker.pid == pid

    assert not broker.running
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", broker.port), timeout=PATIENCE_SECONDS)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_restart_keeps_the_port_and_forgets_the_rest() -> None:
    """Whatever was retained is gone: that is why the retained set is published again."""
    with Broker() as broker:
        port, pid = broker.port, broker.pid
        bus, fates = MqttBus(MqttSettings(port=port)), Fates()
        bus.start()
        bus.publish("kept", b"x", qos=1, retain=True, on_done=fates.on_done())
        fates.wait()
        bus.stop()

        broker.restart()
        assert (broker.port, broker.pid != pid) == (port, True)
        listener, inbox = MqttBus(MqttSettings(port=port)), Inbox()
        listener.subscribe("kept", inbox)
        listener.start()
        listener.wait_connected(PATIENCE_SECONDS)
        listener.publish("kept", b"end", qos=1)
        assert inbox.next().payload == b"end"
        listener.stop()


def test_a_taken_port_is_one_clear_line() -> None:
    """With Mosquitto's own reason."""
    with (
        Broker() as broker,
        pytest.raises(BusError, match=f"{broker.port} did not start: Error: Address already in use"),
    ):
        Broker(port=broker.port).start()


def test_a_free_port_taken_meanwhile_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between looking and binding somebody else may have come."""
    with Broker() as first:
        ports = iter([first.port, free_port()])
        monkeypatch.setattr("broker.process.free_port", lambda _host: next(ports))
        with Broker() as second:
            assert second.port != first.port


def test_a_missing_mosquitto_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the package that brings it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("broker.process.SYSTEM_FOLDERS", ())

    with pytest.raises(ConfigurationError, match="expected the package 'mosquitto'"):
        find_mosquitto()


def test_mosquitto_is_found_outside_a_users_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Debian installs it where only root's PATH looks."""
    folder = tmp_path / "sbin"
    folder.mkdir()
    (folder / "mosquitto").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("broker.process.SYSTEM_FOLDERS", (str(folder),))

    assert find_mosquitto() == str(folder / "mosquitto")


def test_a_killed_broker_is_not_running() -> None:
    """And can be started again."""
    with Broker() as broker:
        broker.kill()
        assert not broker.running
        assert broker.pid is None
        broker.start()
        assert broker.running


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="the system has no setpriv")
def test_a_killed_parent_leaves_no_broker_behind() -> None:
    """A demo that was killed does not hold its port for ever."""
    program = "from broker.process import Broker\nb = Broker()\nb.start()\nprint(b.pid, flush=True)\ninput()"
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()

    def gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    until(gone, "the end of the child")


def test_strangers_stay_out_and_friends_keep_to_their_topics(password_file: PasswordFile) -> None:
    """A wrong password is refused with a reason; a user may do what the topic table grants its role."""
    settings = BrokerSettings(password_file=password_file(pi="secret", w1="other"))
    users = (User("pi", "agent"), User("w1", "worker"))
    pi, site = DeviceTopics("site", "pi"), SiteTopics("site")
    with Broker(settings=settings, users=users) as broker:
        stranger = MqttSettings(port=broker.port, username="pi", password="guess")
        assert "refuses us: Not authorized" in refusal(stranger)
        assert "guess" not in repr(stranger)

        agent = MqttBus(MqttSettings(port=broker.port, username="pi", password="secret"), Will(pi.state, b"offline"))
        worker = MqttBus(MqttSettings(port=broker.port, username="w1", password="other"))
        tensors, replies, fates = Inbox(), Inbox(), Fates()
        worker.subscribe(site.shared_tensors("cloud", "alexnet"), tensors)
        agent.subscribe(pi.reply("pi"), replies)
        for bus in (worker, agent):
            bus.start()
            bus.wait_connected(PATIENCE_SECONDS)
        agent.publish_bulk(site.tensors("cloud", "alexnet"), b"tensor", on_done=fates.on_done("tensor"))
        assert tensors.next().payload == b"tensor"
        worker.publish(pi.reply("pi"), b"answer", qos=1)
        assert replies.next().payload == b"answer"
        agent.publish(DeviceTopics("site", "other").state, b"lies", qos=1, on_done=fates.on_done("lies"))
        worker.publish(pi.decision, b"lies", qos=1, on_done=fates.on_done("more lies"))

        assert fates.wait("tensor") is Delivery.DELIVERED
        assert fates.wait("lies") is Delivery.REFUSED
        assert fates.wait("more lies") is Delivery.REFUSED
        for bus in (worker, agent):
            bus.stop()


def test_tls_keeps_strangers_out_on_both_sides(certificates: Path) -> None:
    """A broker of another authority is not trusted, a client without a certificate is not let in."""
    client = {"cert_file": certificates / "client.pem", "key_file": certificates / "client.key"}
    settings = BrokerSettings(
        cert_file=certificates / "server.pem",
        key_file=certificates / "server.key",
        ca_file=certificates / "ca.pem",
    )
    with Broker(settings=settings) as broker:
        friend, inbox = MqttSettings(port=broker.port, ca_file=certificates / "ca.pem", **client), Inbox()
        with connecting(friend) as bus:
            bus.subscribe("t", inbox)
            bus.wait_connected(PATIENCE_SECONDS)
            payload = bytes(range(256)) * 4_000
            bus.publish("t", payload, qos=1)
            assert inbox.next().payload == payload

        assert "certificate verify failed" in refusal(replace(friend, ca_file=certificates / "stranger.pem"))
        assert str(broker.port) in refusal(replace(friend, cert_file=None, key_file=None))


def test_websockets_are_served_beside() -> None:
    """A browser's handshake is answered."""
    port = free_port()
    settings = BrokerSettings(websockets_port=port)
    with (
        Broker(settings=settings),
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as connection,
    ):
        connection.sendall(
            b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Protocol: mqtt\r\n\r\n"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 101")


def test_the_installer_does_nothing_where_mosquitto_is(tmp_path: Path) -> None:
    """And where it cannot install says in one line what to do."""
    script = HERE / "broker" / "install-mosquitto.sh"
    assert subprocess.run([script], capture_output=True, check=True).stderr == b""


@pytest.fixture
def bare_machine(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the installer where only the named programs exist; each records its call."""
    folder, script = tmp_path / "bin", tmp_path / "install-mosquitto.sh"
    folder.mkdir()
    original = (HERE / "broker" / "install-mosquitto.sh").read_text()
    # The folders a system might have are taken out, so that this machine's Mosquitto is not seen.
    script.write_text(original.replace(':/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"', '"'))

    def run(user: int, **programs: str) -> subprocess.CompletedProcess[str]:
        programs["id"] = f"echo {user}"
        for name, body in programs.items():
            path = folder / name.replace("_", "-")
            path.write_text(f'#!/bin/sh\necho "$(basename $0) $*" >> {tmp_path}/calls\n{body}\n')
            path.chmod(0o755)
        for needed in ("env", "basename", "touch", "chmod"):
            target = Path("/usr/bin") / needed
            (folder / needed).unlink(missing_ok=True)
            (folder / needed).symlink_to(target)
        return subprocess.run(
            ["/bin/sh", str(script)], env={"PATH": str(folder)}, capture_output=True, text=True, check=False
        )

    return run


def test_the_installer_uses_apt_and_sudo_only_where_needed(
    bare_machine: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """As a user through sudo, updating the lists when the first attempt fails."""
    mosquitto = tmp_path / "bin" / "mosquitto"
    apt = f'case "$*" in *update*) touch {tmp_path}/updated ;; *) [ -e {tmp_path}/updated ] || exit 100; '
    apt += f"touch {mosquitto}; chmod 755 {mosquitto} ;; esac"

    done = bare_machine(1000, apt_get=apt, sudo='exec "$@"')

    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text()
    assert calls.count("sudo ") == 3
    assert "apt-get update" in calls
    assert calls.count("apt-get install -y --no-install-recommends mosquitto") >= 2


@pytest.mark.parametrize(
    ("programs", "advice"),
    [
        ({"dnf": "exit 9"}, "sudo dnf install mosquitto"),
        ({"brew": "exit 9"}, "brew install mosquitto"),
        ({}, "Install the package 'mosquitto'"),
        ({"apt_get": "exit 9"}, "As root, run: apt-get install mosquitto"),
    ],
)
def test_the_installer_elsewhere_says_what_to_do(
    bare_machine: Callable[..., subprocess.CompletedProcess[str]], programs: dict[str, str], advice: str
) -> None:
    """It never runs another package manager by itself."""
    done = bare_machine(1000, **programs)

    assert done.returncode == 1
    assert advice in done.stderr
    assert done.stderr.count("\n") == 1
