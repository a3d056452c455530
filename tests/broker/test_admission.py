"""`popexd broker init`, `add`, `revoke`, `renew` and `list`, as a person types them."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from broker import authority
from broker.access import User
from broker.accounts import BrokerFolder, Register
from popexd.bus.configured import mqtt_settings
from popexd.bus.mqtt import MqttBus
from popexd.cli import main
from popexd.config import load_agent, load_worker
from popexd.errors import ConfigurationError
from popexd.protocol.topics import DeviceTopics
from tests.broker.site import Site, connected, connecting
from tests.bus.waiting import until

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, "-c", "from popexd.cli import main; main()", "broker"]


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def run(*words: object) -> Done:
    """`popexd broker …` to its end, in this process."""
    output, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(output), redirect_stderr(errors), pytest.raises(SystemExit) as ended:
        main(["broker", *map(str, words)])
    return Done(int(ended.value.code or 0), output.getvalue(), errors.getvalue())


def done(*words: object) -> str:
    """The output of a command that succeeds."""
    process = run(*words)
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A broker of this machine, set up, without accounts."""
    path = tmp_path / "broker"
    done("init", "--folder", path, "--host", "127.0.0.1", "--name", "127.0.0.1")
    return path


@pytest.fixture
def running(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """`popexd broker run` of that folder on a free port, which its first line says."""
    words = ["run", "--folder", str(folder), "--port", "0", "--json"]
    process = subprocess.Popen([*PROGRAM, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    yield process
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def port_of(process: subprocess.Popen[str]) -> int:
    """Where it listens."""
    assert process.stdout is not None
    return int(json.loads(process.stdout.readline())["port"])


def private(path: Path) -> bool:
    """Tell whether nobody but its owner can read a file, or what is in a folder."""
    return path.stat().st_mode & 0o077 == 0


def test_every_file_is_its_owners_alone(folder: Path) -> None:
    """Keys above all; a lax umask changes nothing."""
    before = os.umask(0)
    try:
        done("add", "device", "pi", "--folder", folder)
    finally:
        os.umask(before)

    assert private(folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"authority.key", "server.key", "key.pem", "password", "passwords", "acl"} <= {path.name for path in files}
    assert all(private(path) for path in files)


def test_a_bundle_is_all_one_client_needs_and_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    """Its key and password are in the bundle alone; the authority's key is nowhere else."""
    file = tmp_path / "w1.tar"
    done("add", "worker", "w1", "--tier", "edge", "--bundle", file, "--at", tmp_path, "--folder", folder)

    assert private(file)
    assert not (folder / "clients").exists()
    with tarfile.open(file) as archive:
        assert all(member.mode & 0o077 == 0 for member in archive)
        archive.extractall(tmp_path, filter="data")
    home = tmp_path / "w1"
    assert {path.name for path in home.iterdir()} == {
        "authority.pem", "certificate.pem", "key.pem", "password", "popexd.toml",
    }  # fmt: skip
    key, password = (home / "key.pem").read_bytes(), (home / "password").read_bytes().strip()
    for path in folder.iterdir():
        assert key not in path.read_bytes()
        assert password not in path.read_bytes()
    told = load_worker(home / "popexd.toml")
    assert (told.worker.name, told.worker.tier, told.mqtt.port) == ("w1", "edge", 8883)
    assert told.mqtt.password() == password.decode()


def test_a_folder_with_accounts_takes_another_packet_limit(folder: Path) -> None:
    """As a small board wants it; all else was said to `init`."""
    words = ["run", "--folder", str(folder), "--port", "0", "--max-packet-bytes", "2000"]
    process = subprocess.Popen([*PROGRAM, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    _, errors = process.communicate(timeout=60)

    assert process.returncode == 0, errors
    assert "max_packet_size 2000" in (folder / "mosquitto.conf").read_text().splitlines()


def test_what_a_bundle_says_lets_its_client_in(folder: Path, running: subprocess.Popen[str], tmp_path: Path) -> None:
    """Unpacked where it was made for, its configuration is one that connects; added while the broker runs."""
    port = port_of(running)
    done("add", "device", "pi", "--bundle", tmp_path / "pi.tar", "--at", tmp_path, "--folder", folder)
    subprocess.run(["tar", "-xpf", tmp_path / "pi.tar", "-C", tmp_path], check=True)
    told = load_agent(tmp_path / "pi" / "popexd.toml").mqtt.model_copy(update={"port": port})

    with connecting(mqtt_settings(told)) as bus:
        until(lambda: bus.connected, "the broker to follow its folder")
        assert told.device == "pi"


def test_a_running_broker_throws_out_who_is_revoked_and_says_who_was_refused(
    folder: Path, running: subprocess.Popen[str]
) -> None:
    """By itself, and on standard error."""
    done("add", "device", "pi", "--folder", folder)
    done("add", "monitor", "eyes", "--folder", folder)
    port = port_of(running)

    def bus(name: str) -> MqttBus:
        told = load_agent(folder / "clients" / name / "popexd.toml").mqtt.model_copy(update={"port": port})
        return MqttBus(mqtt_settings(told))

    with connected(bus("eyes").settings) as monitor, connected(bus("pi").settings) as agent:
        monitor.publish(DeviceTopics("site", "pi").state, b"lies", qos=1)
        done("revoke", "pi", "--folder", folder)
        until(lambda: not agent.connected, "the end of the connection")
        assert monitor.connected
    assert not (folder / "clients" / "pi").exists()
    running.send_signal(signal.SIGTERM)
    assert running.stderr is not None
    words = running.stderr.read()
    assert "publish.refused" in words
    assert "user=eyes" in words
    assert "Traceback" not in words


@pytest.mark.parametrize("words", [("add", "device", "pi"), ("renew", "eyes")])
def test_a_bundle_that_cannot_be_written_changes_nothing(folder: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    """Whoever could not be told has no account; the same command works once there is room."""
    done("add", "monitor", "eyes", "--folder", folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    file = tmp_path / "new.tar"
    # As on a full disk: a bundle of 10 kB does not fit, each file of the broker's would.
    process = subprocess.run(
        [*PROGRAM, *words, "--bundle", str(file), "--folder", str(folder)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000)),
    )  # fmt: skip

    assert process.returncode == 2
    assert process.stderr.count("\n") == 1
    assert "expected room" in process.stderr
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not file.exists()
    done(*words, "--bundle", file, "--folder", folder)
    with tarfile.open(file) as archive:
        assert archive.getnames()


def test_an_account_that_cannot_be_stored_leaves_no_bundle(folder: Path, tmp_path: Path) -> None:
    """A bundle without an account would be taken for one that lets in."""
    (folder / "authority.key").write_bytes(b"damaged")
    process = run("add", "device", "pi", "--bundle", tmp_path / "pi.tar", "--folder", folder)

    assert process.returncode == 2
    assert process.stderr.count("\n") == 1
    assert not (tmp_path / "pi.tar").exists()


def test_a_client_of_another_machine_is_renewed_with_a_bundle_only(folder: Path, tmp_path: Path) -> None:
    """No key is left on the broker's machine, and no configuration that names a password which is not there."""
    done("add", "device", "pi", "--bundle", tmp_path / "pi.tar", "--folder", folder)
    before = (folder / "broker.json").read_bytes()

    refused = run("renew", "pi", "--folder", folder)

    assert refused.returncode == 2
    assert "expected --bundle FILE" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not (folder / "clients").exists()
    assert (folder / "broker.json").read_bytes() == before
    done("renew", "pi", "--bundle", tmp_path / "new.tar", "--folder", folder)


def test_renewing_keeps_the_password(folder: Path) -> None:
    """A new certificate and key; whoever replaces the files goes on."""
    done("add", "camera", "gate", "--device", "pi", "--folder", folder)
    home = folder / "clients" / "gate"
    before = {path.name: path.read_bytes() for path in home.iterdir()}

    done("renew", "gate", "--days", "90", "--folder", folder)
    done("renew", "server", "--folder", folder)

    after = {path.name: path.read_bytes() for path in home.iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"certificate.pem", "key.pem"}
    left = authority.expires(after["certificate.pem"]) - datetime.now(UTC)
    assert timedelta(days=89) < left <= timedelta(days=90)
    rows = {row["name"]: row for row in json.loads(done("list", "--folder", folder, "--json"))}
    assert (rows["gate"]["role"], rows["gate"]["for"]) == ("camera", "pi")
    assert rows["server"]["role"] == "server"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("add", "device", "a/b"), "cannot be part of a topic"),
        (("add", "device", "server"), "is taken"),
        (("add", "device", "workers"), "reserved"),
        (("add", "monitor", "pi"), "is taken"),
        (("add", "worker", "w", "--camera", "c"), "say little of a worker"),
        (("add", "monitor", "m4", "--tier", "edge"), "--tier says little of a monitor"),
        (("add", "monitor", "new", "--bundle", "/nowhere/at/all.tar"), "no such folder"),
        (("add", "monitor", "new", "--bundle", "/dev/null"), "is there already"),
        (("add", "monitor", "new", "--bundle", "/proc/new.tar"), "expected a place for the bundle"),
        (("revoke", "nobody"), "expected one of: pi"),
        (("renew", "nobody"), "expected one of: pi"),
        (("init",), "expected another folder"),
        (("run", "--host", "0.0.0.0"), "expected no option but --port"),
        (("run", "--websockets-port", "9001"), "expected no option but --port"),
    ],
)
def test_what_cannot_be_done_is_one_line(folder: Path, words: tuple[str, ...], expected: str) -> None:
    """With status 2, and nothing is changed."""
    done("add", "device", "pi", "--folder", folder)
    before = (folder / "broker.json").read_text()

    process = run(*words, "--folder", folder)

    assert process.returncode == 2
    assert expected in process.stderr
    assert process.stderr.count("\n") == 1
    assert (folder / "broker.json").read_text() == before


@pytest.mark.parametrize("name", ["bad name/..", "a..b", "", "-a.local", "a" * 64, "b.*", "ü.local"])
def test_a_name_that_no_client_could_call_is_refused(tmp_path: Path, name: str) -> None:
    """Names of machines and addresses only; nothing is set up."""
    process = run("init", "--folder", tmp_path, "--name", name)

    assert process.returncode == 2
    assert process.stderr == f"popexd: --name {name!r}: expected a host name or an address\n"
    assert not any(tmp_path.iterdir())


def test_without_a_broker_set_up_it_says_so(tmp_path: Path) -> None:
    """Init comes first."""
    process = run("add", "device", "pi", "--folder", tmp_path)

    assert process.returncode == 2
    assert "popexd broker init" in process.stderr


def test_a_damaged_register_is_told_and_locks_nobody_out(tmp_path: Path) -> None:
    """One line names the file; what Mosquitto reads was not touched."""
    folder = BrokerFolder(tmp_path)
    folder.init(Register("site", "127.0.0.1", 8883, ("127.0.0.1",)))
    folder.add(User("pi", "agent"))
    acl = (tmp_path / "acl").read_bytes()
    whole = (tmp_path / "broker.json").read_text()
    damages = ["", "[]", '{"schema": "popexd/broker/2"}', '{"schema": "popexd/broker/1"}', "[" * 100_000]
    for before, after in (
        ('"pi"', '"../pi"'),
        ('"agent"', '"root"'),
        ('"websockets_port": null', '"websockets_port": "x"'),
        ('"127.0.0.1"\n', "\n"),
        ("+00:00", ""),
    ):
        assert before in whole
        damages.append(whole.replace(before, after))
    for damage in damages:
        (tmp_path / "broker.json").write_text(damage)
        with pytest.raises(ConfigurationError, match=r"broker\.json"):
            folder.add(User("w1", "worker"))
        assert (tmp_path / "acl").read_bytes() == acl


@pytest.mark.parametrize("name", ["authority.key", "authority.pem", "revoked.pem", "passwords"])
def test_a_damaged_file_is_one_line(folder: Path, name: str) -> None:
    """Whatever it is; passwords that cannot be read are those of nobody."""
    (folder / name).write_bytes(b"\xff\x00damage")
    process = run("add", "device", "pi", "--folder", folder)

    assert process.returncode == (0 if name == "passwords" else 2)
    assert process.stderr.count("\n") == process.returncode // 2


def test_a_register_damaged_while_the_broker_runs_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accounts stay as they were, the look for what expires goes on too, and it is read again when it is mended."""
    monkeypatch.setattr("broker.service._DAY_SECONDS", 0.0)
    site = Site(tmp_path / "broker")
    index = site.folder.path / "broker.json"
    whole = index.read_text()
    with site.running() as service, connected(site.of("pi")) as agent:
        for damage in ("{", whole.replace("+00:00", "")):
            site.listen()
            index.write_text(damage)
            for _ in range(2):
                service.look()
            lines = site.log.getvalue().splitlines()
            assert sum("accounts.unreadable" in line for line in lines) == 1
            assert sum("certificates.unreadable" in line for line in lines) == 2
            assert all("broker.json" in line for line in lines)
        index.write_text(whole)
        service.look()
        site.wait_logged("accounts.reloaded")
        assert agent.connected


def test_a_revocation_list_is_always_newer_than_the_one_before() -> None:
    """OpenSSL takes the newest by whole seconds: two within one second must not tie."""
    signer = authority.create("popexd test")
    lists = [authority.revocation_list(signer, [])]
    for count in range(3):
        lists.append(authority.revocation_list(signer, range(1, count + 2), lists[-1]))

    from cryptography import x509

    dates = [x509.load_pem_x509_crl(each).last_update_utc for each in lists]
    assert dates == sorted(set(dates))
    assert dates[-1] < datetime.now(UTC)
    ends = x509.load_pem_x509_crl(lists[-1]).next_update_utc
    assert ends == authority.expires(signer.certificate)


def test_a_running_broker_says_that_a_certificate_is_about_to_expire(tmp_path: Path) -> None:
    """With the command that mends it, from a month before."""
    folder = tmp_path / "broker"
    done("init", "--folder", folder, "--host", "127.0.0.1", "--name", "127.0.0.1")
    done("add", "device", "pi", "--days", "20", "--folder", folder)
    words = ["run", "--folder", str(folder), "--port", "0"]
    process = subprocess.Popen(
        [*PROGRAM, *words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        line = next(line for line in process.stderr if "certificate." in line)
    finally:
        process.terminate()
        process.communicate(timeout=60)

    assert "certificate.expires" in line
    assert "account=pi" in line
    assert "popexd broker renew pi" in line


def test_another_mosquitto_can_serve_the_folder(folder: Path) -> None:
    """Its configuration is printed whole."""
    text = done("render", "--folder", folder)

    for line in (
        "listener 8883 127.0.0.1", "allow_anonymous false", "require_certificate true", "tls_version tlsv1.2",
        f"password_file {folder}/passwords", f"acl_file {folder}/acl", f"crlfile {folder}/revoked.pem",
    ):  # fmt: skip
        assert line in text.splitlines()
    assert json.loads(done("render", "--folder", folder, "--json")) == {"mosquitto.conf": text}
    assert "max_packet_size 2000" in done("render", "--folder", folder, "--max-packet-bytes", 2000).splitlines()
    done("render", "--folder", folder, "--output", folder.parent / "etc")
    assert (folder.parent / "etc" / "mosquitto.conf").read_text() == text
