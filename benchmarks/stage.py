"""Real parts for a benchmark: Mosquitto, a worker, agents, each a process of its own; and the link between them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from broker.process import Broker
from popexd.bus.base import Message
from popexd.bus.mqtt import MqttBus, MqttSettings
from popexd.config import as_toml
from popexd.errors import PopexdError
from popexd.lab.demo import FRAME_SECONDS
from popexd.lab.link import Link, Profile
from popexd.protocol.topics import SiteTopics

from .device import SITE, Device
from .pins import Pin, Tables

WORKER = "w1"
_PATIENCE_SECONDS = 60.0
_STOP_SECONDS = 15.0


class BenchmarkError(PopexdError):
    """A part did not do what the measurement needs."""


class Program:
    """`popexd <arguments>` as a child process; what it says goes to a file."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self._command = [sys.executable, "-m", "popexd.cli", *arguments]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; in a session of its own, so that Ctrl-C reaches the benchmark alone."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("POPEXD_")}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment,
            )

    def stop(self) -> None:
        """Ask it to end, and insist after a while."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self._process is None or self._process.poll() is not None

    @property
    def last_words(self) -> str:
        """The end of what it said."""
        text = self._log.read_text(errors="replace").strip() if self._log.exists() else ""
        return text[-500:] or "it says nothing"

    def memory_bytes(self) -> dict[str, int]:
        """Return its resident memory now and at its highest, as the kernel counts them.

        Raises:
            BenchmarkError: the system does not say (no /proc).

        """
        assert self._process is not None
        status = Path("/proc", str(self._process.pid), "status")
        if not status.exists():
            raise BenchmarkError("resident memory: there is no /proc here")
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return {name: 1024 * int(lines[name].split()[0]) for name in ("VmRSS", "VmHWM")}


class Stage:
    """One broker and a worker; with a `link`, a second broker that is reached through it and the worker there.

    Every program runs `threads` threads, as the demo's do: several share this machine.
    """

    def __init__(self, link: Profile | None = None, threads: int = 1) -> None:
        self._profile = link
        self._threads = threads
        self._stack = ExitStack()
        self._changed = threading.Condition()
        self._worker_profile: bytes | None = None
        self.folder: Path
        self.site: MqttBus
        self.link: Link
        self._site_port = self._uplink_port = 0

    def __enter__(self) -> Self:
        try:
            self._set_up()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stack.close()

    def _set_up(self) -> None:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="popexd-bench-")))
        self._site_port = worker_port = self._stack.enter_context(Broker()).port
        if self._profile is not None:
            worker_port = self._stack.enter_context(Broker()).port
            self.link = self._stack.enter_context(Link("127.0.0.1", worker_port, self._profile))
            self._uplink_port = self.link.port
        self.site = self._connect(self._site_port)
        far = self.site if self._profile is None else self._connect(worker_port)
        far.subscribe(SiteTopics(SITE).worker(WORKER, "profile"), self._hear_profile)
        worker = self.program("worker", {"mqtt": {"port": worker_port, "site": SITE}, "worker": {"name": WORKER}})
        self.wait(lambda: self._worker_profile, worker, self._changed)

    def _connect(self, port: int) -> MqttBus:
        bus = MqttBus(MqttSettings(port=port))
        bus.start()
        self._stack.callback(bus.stop)
        bus.wait_connected(10)
        return bus

    def _hear_profile(self, message: Message) -> None:
        with self._changed:
            self._worker_profile = message.payload
            self._changed.notify_all()

    # ------------------------------------------------------------------------------------------ programs

    def program(self, kind: str, tables: Tables, name: str | None = None, cache: Path | None = None) -> Program:
        """Start an agent or a worker; it ends with the stage, if not before."""
        name = name or kind
        runtime = {"cache_folder": str(cache or self.folder / "cache"), "threads": self._threads}
        tables = {**tables, "runtime": {**runtime, **tables.get("runtime", {})}}
        config = self.folder / f"{name}.toml"
        config.write_text(as_toml(tables), encoding="utf-8")
        program = Program([kind, "run", "--config", str(config)], self.folder / f"{name}.log")
        self._stack.callback(program.stop)
        program.start()
        return program

    def agent(self, name: str, tables: Tables | None = None, pin: Pin | None = None) -> Device:
        """Start an agent and wait until it is online and has measured its way to the worker, if it may use it."""
        tables = dict(tables or {})
        cache = None
        if pin is not None:
            tables["planner"] = {**tables.get("planner", {}), **pin.planner}
            cache = self._pinned_cache(name, pin)
        device = Device(self.site, name)
        began = time.monotonic()
        device.program = self.program("agent", {**self._brokers(name), **tables}, name, cache)
        self.wait(lambda: device.online_at > began, device.program, device.changed)
        if tables.get("planner", {}).get("mode") != "device":
            self.wait(lambda: device.decision is not None and device.decision.network, device.program, device.changed)
        return device

    def braked(self) -> dict[str, Any]:
        """Return the `[runtime]` keys of a device that takes `FRAME_SECONDS` for a frame that it finishes alone.

        The brake goes by the profile, which worker and agents share here.
        """
        (file,) = (self.folder / "cache").glob("profile-*.json")
        profile = json.loads(file.read_text(encoding="utf-8"))
        alone_seconds = sum(profile["segments"].values()) + profile["frame_seconds"]
        return {"slowdown": round(max(1.0, FRAME_SECONDS / alone_seconds), 2)}

    def _brokers(self, name: str) -> dict[str, Mapping[str, Any]]:
        site: dict[str, Mapping[str, Any]] = {"mqtt": {"port": self._site_port, "site": SITE, "device": name}}
        return site if self._profile is None else {**site, "uplink": {"port": self._uplink_port}}

    def _pinned_cache(self, name: str, pin: Pin) -> Path:
        folder = self.folder / f"cache-{name}"
        folder.mkdir()
        for file in (self.folder / "cache").glob("profile-*.json"):
            edited = pin.edit(json.loads(file.read_text(encoding="utf-8")))
            (folder / file.name).write_text(json.dumps(edited), encoding="utf-8")
        return folder

    def wait(
        self,
        there: Callable[[], object],
        program: Program,
        changed: threading.Condition,
        seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        """Wait for a condition that `changed` tells of.

        Raises:
            BenchmarkError: it does not come true, or the program has ended.

        """
        deadline = time.monotonic() + seconds
        with changed:
            while not changed.wait_for(there, 0.2):
                if program.ended or time.monotonic() > deadline:
                    raise BenchmarkError(f"the benchmark waits in vain: {program.last_words}")
