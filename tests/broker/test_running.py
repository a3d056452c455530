"""`popexd broker run` and `render`, as processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from broker.config import BrokerSettings
from broker.process import Broker, free_port
from tests.bus.waiting import PATIENCE_SECONDS, until

HERE = Path(__file__).resolve().parents[2]


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


def test_a_mosquitto_that_was_killed_says_no_last_words() -> None:
    """What it logged before has nothing to do with it."""
    process = run_command("run", "--port", "0")
    assert process.stdout is not None
    process.stdout.readline()
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()

    os.kill(int(child), signal.SIGKILL)

    assert ended(process) == (1, "", "popexd: mosquitto was killed by signal 9 (SIGKILL)\n")


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
