"""A machine to install on: systemd booted in a container over a copy-on-write view of this one."""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")

_ENVIRONMENT = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root")
# What a machine of someone who works on popexd may have and a fresh one has not.
_LEFTOVERS = (
    "opt/popexd", "etc/popexd", "var/lib/popexd", "var/cache/popexd", "var/log/journal", "usr/local/bin/popexd",
    "usr/local/lib/systemd", "etc/mosquitto/conf.d",
)  # fmt: skip
_CLONE_NEWNET = 0x40000000
_NUMBERS = itertools.count(1)


def why_not() -> str | None:
    """Say why no container can be booted here; None if one can."""
    if os.geteuid() != 0:
        return "only root can boot a container"
    for program, package in (
        ("systemd-nspawn", "systemd-container"),
        ("nsenter", "util-linux"),
        ("systemctl", "systemd"),
    ):
        if shutil.which(program) is None:
            return f"{program} is not installed (package {package})"
    if not Path("/lib/systemd/systemd").exists():
        return "this system has no systemd"
    if not Path("/usr/sbin/mosquitto").exists():
        return "Debian's mosquitto is not installed"
    probe = "import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))"
    if subprocess.run(["/usr/bin/python3", "-c", probe], check=False, capture_output=True).returncode:
        return "the system's own Python is older than 3.11 or has no venv"
    return None


def until(condition: Callable[[], T], what: str, seconds: float = 60.0) -> T:
    """Return the first true value of `condition`; fail when there is none in time."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, f"still waiting for {what}"
        pause.wait(0.05)
    return found


class Container:
    """Between `start` and `stop` a machine of its own: processes, network, and every change to its files.

    `system` is the root of the installed system that it is a view of: this machine's, or another's.
    """

    def __init__(self, folder: Path, system: Path = Path("/")) -> None:
        self._system = system
        self._layers = folder / "layers"
        self.root = folder / "root"
        self._log = folder / "console.log"
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._door: Door | None = None
        # One process may have two at a time; in the other's control groups, or in ours, it would end what is not its.
        self._name = f"popexd-{os.getpid()}-{next(_NUMBERS)}"
        self._groups = ControlGroups(self._name)
        self.leader = 0

    def start(self, hostname: str) -> None:
        """Put the copy-on-write view in place and boot it."""
        for each in (self._layers, self.root):
            each.mkdir(parents=True)
        # A memory file system: an upper layer must not lie inside its own lower one.
        _mount("-t", "tmpfs", "-o", "size=3g,mode=755", "tmpfs", str(self._layers))
        for name in ("upper", "work"):
            (self._layers / name).mkdir()
        layers = f"lowerdir={self._system},upperdir={self._layers}/upper,workdir={self._layers}/work"
        _mount("-t", "overlay", "overlay", "-o", layers, str(self.root))
        self._tidy()
        self.write("/etc/hostname", f"{hostname}\n")
        self.boot()

    def _tidy(self) -> None:
        for name in _LEFTOVERS:
            shutil.rmtree(self.root / name, ignore_errors=True)
            with suppress(OSError):
                (self.root / name).unlink()
        (self.root / "etc/mosquitto/conf.d").mkdir(parents=True, exist_ok=True)
        system = self.root / "etc/systemd/system"
        for link in [*system.glob("*.wants/*"), *system.glob("popexd-*")]:
            if "mosquitto" not in link.name and not link.is_dir():
                link.unlink()
        wanted = system / "multi-user.target.wants"
        wanted.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            (wanted / "mosquitto.service").symlink_to("/lib/systemd/system/mosquitto.service")

    def boot(self) -> None:
        """Boot, and wait until everything that is enabled has been started."""
        if not self._groups.folders and not Path("/run/systemd/system").exists():
            self._groups.make()
            if not self._groups.folders:
                pytest.skip("no control group can be made here for a container")
        # Where systemd runs, nspawn has it make a control group; else the one it is started in becomes the container's.
        keep = ["--keep-unit"] if self._groups.folders else []
        with self._log.open("ab") as log:
            self._nspawn = subprocess.Popen(
                ["systemd-nspawn", "--quiet", f"--directory={self.root}", "--boot", "--register=no", *keep,
                 "--private-network", "--console=pipe", f"--machine={self._name}", "systemd.log_level=notice"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=self._groups.enter,  # noqa: PLW1509 a few writes, before any other thread of the child
            )  # fmt: skip
        self.leader = until(self._find_leader, "the container's first process")
        states = ("running", "degraded")
        until(lambda: self.run("systemctl", "is-system-running", check=False).stdout.strip() in states, "the boot", 180)

    def _find_leader(self) -> int:
        assert self._nspawn is not None
        assert self._nspawn.poll() is None, self._log.read_text(errors="replace")[-2000:]
        for pid in _descendants(self._nspawn.pid):
            with suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                if next(line for line in status.splitlines() if line.startswith("NSpid")).split()[-1:] == ["1"]:
                    return pid
        return 0

    def run(self, *words: str, check: bool = True, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root."""
        inside = ["nsenter", f"--target={self.leader}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        done = subprocess.run(
            [*inside, "--", "env", "-i", *_ENVIRONMENT, *words],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def sh(self, script: str, check: bool = True, timeout: float = 240) -> str:
        """Run a shell script inside; returns what it printed."""
        return self.run("sh", "-euc", script, check=check, timeout=timeout).stdout

    def write(self, path: str, text: str) -> None:
        """Write a file inside."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def door(self, port: int) -> int:
        """Return a port of this machine that leads to the container's own loopback."""
        if self._door is not None:
            self._door.close()
        self._door = Door(self.leader, port)
        return self._door.port

    def reboot(self) -> None:
        """Shut down in order and boot again; files stay."""
        assert self._nspawn is not None
        self.run("systemctl", "poweroff", check=False)
        self._nspawn.wait(120)
        self.boot()

    def stop(self) -> None:
        """Pull the plug and forget every change."""
        if self._door is not None:
            self._door.close()
        if self._nspawn is not None and self._nspawn.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.leader or self._nspawn.pid, signal.SIGKILL)
            self._nspawn.wait(60)
        for each in (self.root, self._layers):
            subprocess.run(["umount", "--lazy", str(each)], check=False, capture_output=True)
        self._groups.remove()


class ControlGroups:
    """Control groups of the container's own, one in each hierarchy: two containers must not share theirs."""

    def __init__(self, name: str) -> None:
        self.folders: list[Path] = []
        self._name = name

    def make(self) -> None:
        """Make them below those we are in."""
        base = Path("/sys/fs/cgroup")
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            name = controllers.removeprefix("name=") or ("unified" if (base / "unified").is_dir() else "")
            folder = base / name / path.lstrip("/") / self._name
            with suppress(OSError):
                folder.mkdir(exist_ok=True)
                for key in ("cpuset.cpus", "cpuset.mems"):  # empty at first, and then nobody may enter
                    if controllers == "cpuset":
                        (folder / key).write_text((folder.parent / key).read_text())
                self.folders.append(folder)

    def enter(self) -> None:
        """Move the calling process."""
        for folder in self.folders:
            with suppress(OSError):
                (folder / "cgroup.procs").write_text("0")

    def remove(self) -> None:
        """Remove them with all that was made in them."""
        for folder in self.folders:
            for inner, _, _ in os.walk(folder, topdown=False):
                with suppress(OSError):
                    Path(inner).rmdir()


class Door:
    """Carries connections from a port of this machine to a port of the container's loopback."""

    def __init__(self, leader: int, inner_port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._inner_port = inner_port
        self._namespace = os.open(f"/proc/{leader}/ns/net", os.O_RDONLY)
        threading.Thread(target=self._serve, name="door", daemon=True).start()

    def _serve(self) -> None:
        # The thread moves into the container's network; the listening socket stays where it was made.
        library = ctypes.CDLL(None, use_errno=True)
        assert library.setns(self._namespace, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        while True:
            try:
                outer, _ = self._listener.accept()
            except OSError:
                return
            try:
                inner = socket.create_connection(("127.0.0.1", self._inner_port), timeout=30)
            except OSError:
                outer.close()
                continue
            inner.settimeout(None)
            for each in (outer, inner):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for pair in ((outer, inner), (inner, outer)):
                threading.Thread(target=_pump, args=pair, daemon=True).start()

    def close(self) -> None:
        """Carry no more."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        os.close(self._namespace)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
    for each in (source, sink):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def _descendants(pid: int) -> list[int]:
    found = []
    with suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for child in map(int, children):
            found += [child, *_descendants(child)]
    return found


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)
