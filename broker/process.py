"""A real Mosquitto as a child process, for the demo, the tests and `popexd broker run`."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from popexd.errors import BusError, ConfigurationError

from .access import User, render_acl
from .config import BrokerSettings, check, render
from .files import write_private
from .record import Record

SYSTEM_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")  # a user's PATH often lacks them
LOG_FILE = "mosquitto.log"
_START_SECONDS = 30.0
_STOP_SECONDS = 5.0


def find_mosquitto() -> str:
    """Return the path of the `mosquitto` program.

    Raises:
        ConfigurationError: it is not installed.

    """
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *SYSTEM_FOLDERS])
    found = shutil.which("mosquitto", path=path)
    if found is None:
        raise ConfigurationError("mosquitto: not found, expected the package 'mosquitto' to be installed")
    return found


class Broker:
    """Mosquitto on a port of this machine, between `start` and `stop`.

    Args:
        port: 0 takes a free one, the same again after `restart`.
        folder: for the configuration and the log; None for a temporary one that goes with `stop`.
        settings: all the rest; its port is not used.
        users: who may do what, written to an access list; none for everybody everything.
        reader: is shown each line of Mosquitto's log and returns what to keep of it; called on a thread of its own.

    """

    def __init__(
        self,
        port: int = 0,
        folder: Path | None = None,
        settings: BrokerSettings | None = None,
        users: tuple[User, ...] = (),
        reader: Callable[[str], str | None] | None = None,
    ) -> None:
        self.port = port
        self.settings = settings or BrokerSettings()
        self.users = users
        self._reader = reader
        self._any_port = port == 0
        self._folder = folder
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._record: Record | None = None

    @property
    def host(self) -> str:
        """The address it listens on."""
        return self.settings.host

    @property
    def pid(self) -> int | None:
        """The child's process id while it runs."""
        return self._process.pid if self.running and self._process is not None else None

    @property
    def running(self) -> bool:
        """Whether the child is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What is kept of Mosquitto's words so far, all runs together as far as the file's size allows."""
        folder = self._folder or (Path(self._temporary.name) if self._temporary else None)
        file = folder / LOG_FILE if folder else None
        return file.read_text(errors="replace") if file is not None and file.exists() else ""

    @property
    def last_words(self) -> str:
        """The line that says best why Mosquitto ended."""
        if self._record is None:
            return "not started"
        if not self.running:
            self._record.finish(_STOP_SECONDS)
        return self._record.last_words()

    def start(self) -> None:
        """Run the child and wait until it accepts connections.

        Raises:
            ConfigurationError: Mosquitto is not installed, or the settings are unsafe.
            BusError: it ended at once; the text carries its last words.

        """
        if self.running:
            return
        program = find_mosquitto()
        attempts = 5 if self._any_port else 1
        for attempt in range(1, attempts + 1):
            if self._any_port:
                self.port = free_port(self.settings.host)
            try:
                self._launch(program)
            except BusError as error:
                # Between looking for a free port and binding it, somebody else may take it.
                if attempt == attempts or "in use" not in str(error):
                    raise
            else:
                self._any_port = False
                return

    def stop(self) -> None:
        """End the child, politely first, and remove the temporary folder."""
        self._end(signal.SIGTERM)
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def kill(self) -> None:
        """End the child at once, as a power cut would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Kill it if it runs, and start it again on the same port; it remembers nothing."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Stop its clock: connections stay open and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End a pause."""
        self._signal(signal.SIGCONT)

    def reload(self) -> None:
        """Let it read passwords, access list and certificates again; who is no longer welcome is thrown out."""
        self._signal(signal.SIGHUP)

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait until the child ends; returns its exit status, None if it has not ended within `seconds`."""
        if self._process is None:
            return 0
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()

    def _launch(self, program: str) -> None:
        configuration = self._write_configuration()
        # A session of its own: Ctrl-C on a terminal is for its parent, which still has farewells to say through it.
        process = self._process = subprocess.Popen(  # noqa: S603 the program is Mosquitto, its only argument our own file
            [*_dying_with_us(), program, "-c", str(configuration)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        record = self._record = Record(configuration.with_name(LOG_FILE), self._reader)
        if process.stdout is not None:
            record.follow(process.stdout)
        deadline = time.monotonic() + _START_SECONDS
        while not (record.running.is_set() and _accepts(self.settings.host, self.port)):
            if not self.running or time.monotonic() > deadline:
                self._end(signal.SIGKILL)
                raise BusError(f"mosquitto on {self.settings.host}:{self.port} did not start: {record.last_words()}")
            time.sleep(0.01)

    def _write_configuration(self) -> Path:
        settings = replace(self.settings, port=self.port)
        if os.geteuid() == 0 and settings.system_user is None:
            # As root it would change to the user `mosquitto`, who cannot read our files.
            settings = replace(settings, system_user=pwd.getpwuid(0).pw_name)
        check(settings)
        if self._folder is None and self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="popexd-broker-")
        folder = self._folder or Path(self._temporary.name if self._temporary else "")
        folder.mkdir(parents=True, exist_ok=True)
        if self.users:
            settings = replace(settings, acl_file=folder / "acl")
            write_private(folder / "acl", render_acl(self.users).encode())
        write_private(folder / "mosquitto.conf", render(settings).encode())
        return folder / "mosquitto.conf"

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)  # a paused one hears nothing else
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._record is not None:
            self._record.finish(_STOP_SECONDS)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nobody listens on at this moment."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _dying_with_us() -> list[str]:
    """Return what to put before a command so that a killed parent does not leave it behind, where the system can.

    The kernel counts the death of the thread that started the child, so only the main thread may ask for it. As a
    service there is no need: systemd ends all of a unit, and lets nobody touch privileges.
    """
    if "NOTIFY_SOCKET" in os.environ:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None or not sys.platform.startswith("linux"):
        return []
    return [setpriv, "--pdeathsig", "TERM"] if threading.current_thread() is threading.main_thread() else []


def _accepts(host: str, port: int) -> bool:
    # A broker on every address is asked on loopback.
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 compared, not bound
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1.0):
        return True
    return False
