"""Root works in a folder of the service's user as that user: a link that lies there leads it nowhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.files import acting_as_owner, write_private
from popexd.errors import ConfigurationError
from tests.bus.waiting import PATIENCE_SECONDS

from .test_admission import PROGRAM, ROOT, done, run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can work in a folder of another")

NOBODY = 65_534
SECRET = "root:$6$not-yours:19000:0:99999:7:::\n"


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everybody may enter, as /var/lib is; pytest's own are closed."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def folder(place: Path) -> Path:
    """A broker set up by root in a folder of the service's user, with one account of this machine."""
    path = place / "broker"
    path.mkdir()
    os.chown(path, NOBODY, NOBODY)
    done("init", "--folder", path, "--host", "127.0.0.1", "--name", "127.0.0.1")
    done("add", "monitor", "eyes", "--folder", path)
    return path


@pytest.fixture
def roots(place: Path) -> Path:
    """A folder of root's with a file that only root may read."""
    path = place / "roots"
    path.mkdir(mode=0o755)
    (path / "secret").touch(mode=0o600)
    (path / "secret").write_text(SECRET)
    return path


@contextmanager
def untouched(roots: Path) -> Iterator[None]:
    """See that nothing happened to root's folder in the block."""

    def state() -> dict[str, tuple[int, int, int, bytes]]:
        found = {}
        for path in (roots, *roots.rglob("*")):
            told = path.stat()
            found[str(path)] = (told.st_uid, told.st_gid, told.st_mode, path.read_bytes() if path.is_file() else b"")
        return found

    before = state()
    yield
    assert state() == before


def lay(link: Path, target: Path) -> None:
    """Put a link where something else was, as the folder's owner may."""
    with acting_as_owner(link.parent):
        if link.exists():
            link.rename(link.with_name(f"{link.name}.before"))
        link.symlink_to(target)


def test_what_root_makes_is_the_users(folder: Path) -> None:
    """Else `sudo popexd broker add` would leave files that the service cannot read; root is root again afterwards."""
    done("renew", "eyes", "--folder", folder)
    done("add", "device", "pi", "--folder", folder)
    done("revoke", "pi", "--folder", folder)

    assert {(path.stat().st_uid, path.stat().st_gid) for path in folder.rglob("*")} == {(NOBODY, NOBODY)}
    assert (os.geteuid(), os.getegid()) == (0, 0)
    assert not (folder / "clients" / "pi").exists()


@pytest.mark.parametrize("words", [("add", "monitor", "more"), ("renew", "eyes"), ("revoke", "eyes")])
@pytest.mark.parametrize("link", ["clients", "clients/eyes", "clients/more"])
def test_a_link_among_the_clients_leads_nowhere(folder: Path, roots: Path, words: tuple[str, ...], link: str) -> None:
    """Nothing is written, given away or removed where it points to."""
    lay(folder / link, roots)
    with untouched(roots):
        process = run(*words, "--folder", folder)

    assert process.returncode in {0, 2}
    assert process.stderr.count("\n") == (process.returncode == 2)


@pytest.mark.parametrize("name", ["passwords", "authority.pem", "revoked.pem", "broker.json"])
def test_a_link_to_what_root_alone_may_read_is_not_read(folder: Path, roots: Path, name: str) -> None:
    """Its text would come back in a file of the service's user."""
    lay(folder / name, roots / "secret")
    with untouched(roots):
        process = run("add", "monitor", "more", "--folder", folder)

    assert process.returncode == 2
    assert process.stderr.count("\n") == 1
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert "not-yours" not in path.read_text()


def test_a_broker_that_root_runs_is_the_users(folder: Path, roots: Path) -> None:
    """It and Mosquitto have no right of root's left; links at its configuration and log change nothing of root's."""
    for name in ("mosquitto.conf", "mosquitto.log", "mosquitto.log.1"):
        lay(folder / name, roots / "secret")
    words = ["run", "--folder", str(folder), "--port", "0", "--json"]
    with untouched(roots):
        process = subprocess.Popen(
            [*PROGRAM, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        told = process.stdout.readline()
        assert told, process.communicate()[1]
        assert json.loads(told)["port"]
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in (str(process.pid), child):
            status = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            assert set(status["Uid"].split()) == {str(NOBODY)}
            assert set(status["Gid"].split()) == {str(NOBODY)}
            assert set(status["Groups"].split()) <= {str(NOBODY)}
            assert int(status["CapPrm"], 16) == 0
        done("add", "device", "pi", "--folder", folder)
        assert process.stderr is not None
        assert any("accounts.reloaded" in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)

    assert process.returncode == 0, errors
    assert "Traceback" not in errors


def test_a_rendered_configuration_replaces_a_link(place: Path, roots: Path) -> None:
    """It is not written where the link points to."""
    output = place / "etc"
    output.mkdir()
    os.chown(output, NOBODY, NOBODY)
    lay(output / "acl", roots / "secret")
    with untouched(roots):
        done("render", "--user", "pi:agent", "--output", output)

    assert (output / "acl").read_text().endswith("version\n")
    assert not (output / "acl").is_symlink()


def test_root_is_root_again_whatever_happened(place: Path) -> None:
    """An error inside changes nothing of that, nor does a block in the block; what is not allowed is one line."""
    os.chown(place, NOBODY, NOBODY)
    closed = Path(sys.executable).with_name("new")
    with acting_as_owner(place), acting_as_owner(place):
        assert os.geteuid() == os.getegid() == NOBODY
        assert os.getgroups() == [NOBODY]
        with pytest.raises(ConfigurationError, match="Permission denied"):
            write_private(closed, b"")
    with pytest.raises(LookupError), acting_as_owner(place):
        raise LookupError

    assert os.geteuid() == os.getegid() == 0
    assert not closed.exists()
