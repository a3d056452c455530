"""The real Mosquitto, run as a child."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from broker.access import User
from broker.config import BrokerSettings
from broker.process import Broker, find_mosquitto, free_port
from broker.record import FILE_BYTES
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


@pytest.mark.parametrize("reader", [None, lambda line: line], ids=["plain", "read"])
def test_a_log_that_has_grown_is_set_aside(tmp_path: Path, reader: Callable[[str], str | None] | None) -> None:
    """At a start as at any time, and a start it is; what was written before can still be read beside it."""
    (tmp_path / "mosquitto.log").write_bytes(b"1: old\n" * (FILE_BYTES // 7 + 1))
    with Broker(folder=tmp_path, reader=reader) as broker:
        assert " running" in broker.log
        assert "old" not in broker.log

    assert (tmp_path / "mosquitto.log.1").read_bytes().startswith(b"1: old\n")


def test_the_log_of_a_plain_broker_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files at most, for their owner alone, however long it runs."""
    monkeypatch.setattr("broker.record.FILE_BYTES", 1_000)
    with Broker(folder=tmp_path) as broker:

        def set_aside_again() -> bool:
            connection = socket.create_connection(("127.0.0.1", broker.port), timeout=PATIENCE_SECONDS)
            connection.close()
            before = tmp_path / "mosquitto.log.1"
            return before.exists() and " running" not in before.read_text()

        until(set_aside_again, "a second time")
    logs = list(tmp_path.glob("mosquitto.log*"))

    assert {path.name for path in logs} == {"mosquitto.log", "mosquitto.log.1"}
    assert all(path.stat().st_size < 2_000 for path in logs)
    assert all(path.stat().st_mode & 0o077 == 0 for path in logs)


def test_a_reader_that_fails_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """The next line is read too, and every one is kept; that it fails is told."""

    def reader(line: str) -> str | None:
        raise LookupError(line)

    with Broker(reader=reader) as broker:
        before = broker.log
        socket.create_connection(("127.0.0.1", broker.port), timeout=PATIENCE_SECONDS).close()
        until(lambda: "New connection from" in broker.log[len(before) :], "the next line")

    assert "line.failed" in "".join(capsys.readouterr())


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


def run_command(*words: str, **environment: str) -> subprocess.Popen[str]:
    """`popexd broker …` as a process."""
    program = [sys.executable, "-c", "from popexd.cli import main; main()", "broker", *words]
    return subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=HERE, env=os.environ | environment
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Status, standard output and error of a process that ends by itself."""
    output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, output, errors


def test_the_run_command_ends_with_its_broker_on_a_signal() -> None:
    """It says where it listens, and nothing stays behind."""
    process = run_command("run", "--port", "0")
    assert process.stdout is not None
    line = process.stdout.readline()
    port = int(line.rpartition(":")[2])
    assert line.startswith("mosquitto listens on 127.0.0.1:")
    socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS).close()

    process.send_signal(signal.SIGTERM)

    status, _, errors = ended(process)
    assert (status, errors) == (0, "")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_while_it_ends_change_nothing(number: signal.Signals) -> None:
    """Whoever is impatient gets no traceback, and no broker is left behind."""
    process = run_command("run", "--port", "0")
    assert process.stdout is not None
    port = int(process.stdout.readline().rpartition(":")[2])
    pause = threading.Event()
    while process.poll() is None:
        process.send_signal(number)
        pause.wait(0.001)

    status, _, errors = ended(process)
    assert (status, errors) == (0, "")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)


def test_a_mosquitto_that_is_asked_to_end_first_did_not_fail() -> None:
    """A service manager asks every process of a unit; which one hears it first is a matter of time."""
    process = run_command("run", "--port", "0")
    assert process.stdout is not None
    process.stdout.readline()
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()

    os.kill(process.pid, signal.SIGSTOP)
    os.kill(int(child), signal.SIGTERM)
    until(lambda: Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z", "Mosquitto's end")
    os.kill(process.pid, signal.SIGCONT)
    process.send_signal(signal.SIGTERM)

    assert ended(process) == (0, "", "")


def test_starts_that_fail_are_counted_and_waited_for(tmp_path: Path) -> None:
    """As a service: the next start waits and says so; a signal ends the waiting, which is no failure."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, Broker() as taken:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE_SECONDS)
        service = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "RUNTIME_DIRECTORY": str(tmp_path)}
        for _ in range(3):
            status, _, errors = ended(run_command("run", "--port", str(taken.port), **service))
            assert status == 1
            assert errors.count("\n") == 1
        assert (tmp_path / "starts").read_text() == "3"
        (tmp_path / "starts").write_text("9")

        process = run_command("run", "--port", str(taken.port), **service)
        while (told := manager.recv(4096)) != b"STATUS=the last starts failed, waiting 60 s":
            assert b"READY=1" not in told
        process.send_signal(signal.SIGTERM)

        assert ended(process) == (0, "", "")
        assert not (tmp_path / "starts").exists()


def test_the_run_command_says_what_is_wrong_in_one_line() -> None:
    """A taken port, and a broker without passwords for all the world."""
    with Broker() as broker:
        status, _, errors = ended(run_command("run", "--port", str(broker.port)))
        assert status == 1
        assert errors.count("\n") == 1
        assert "--port 0 finds one" in errors

    status, _, errors = ended(run_command("run", "--host", "0.0.0.0"))
    assert status == 2
    assert errors.count("\n") == 1
    assert "expected a password file" in errors


def test_the_render_command_writes_what_mosquitto_takes(tmp_path: Path) -> None:
    """The folder it writes is a working configuration, readable by its owner alone."""
    port = free_port()
    status, output, errors = ended(
        run_command("render", "--port", str(port), "--user", "pi:agent", "--output", str(tmp_path / "etc"))
    )
    assert (status, output, errors) == (0, "", "")
    files = {file.name: file for file in (tmp_path / "etc").iterdir()}
    assert set(files) == {"mosquitto.conf", "acl"}
    assert all(file.stat().st_mode & 0o077 == 0 for file in files.values())

    with Broker(port=port, settings=BrokerSettings(extra_lines=(f"acl_file {files['acl']}",))):
        pass


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
