"""A whole installation in miniature: brokers, agents, workers, and a camera's pictures."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

from agent.runtime import Agent
from broker.config import BrokerSettings
from broker.process import Broker, free_port
from cloud_worker.worker import Worker
from popexd.bundle import Bundle, load
from popexd.config import AgentConfig, WorkerConfig, as_toml
from popexd.lab.conveyor import scene
from popexd.lab.link import Link, Profile
from popexd.runtime import background
from popexd.runtime.segments import SegmentRunner

from .watch import BUSY, PATIENCE_SECONDS, TENSORS, TOPICS, Watch, until

__all__ = [
    "BUSY",
    "PATIENCE_SECONDS",
    "TENSORS",
    "TOPICS",
    "Caches",
    "Program",
    "Rig",
    "Watch",
    "bundle",
    "photo",
    "until",
]

THREADS = 1
# Fast enough to be no matter: what the link emulator is for here is to be cut.
FAST = Profile("fast", 1e9, 1e9)
# Stands in a profile for what the planner must not choose.
_FORBIDDEN_SECONDS = 20.0

Tables = dict[str, dict[str, Any]]


@cache
def bundle() -> Bundle:
    """The model that everybody here runs."""
    return load("default")


@cache
def photo(index: int) -> bytes:
    """A camera's JPEG file; the same for the same index."""
    return scene(index, 11, (160, 120)).jpeg()


class Program:
    """`popexd agent run` or `popexd worker run` as a child process of its own."""

    def __init__(self, kind: str, config: Path) -> None:
        self._log = config.with_suffix(".log")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [Path(sys.executable).with_name("popexd"), kind, "run", "--config", config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether it is alive, paused or not."""
        return self._process.poll() is None

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text(errors="replace")

    def pause(self) -> None:
        """SIGSTOP: its connections stay open and nothing is answered."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End a pause."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, paused or not, and wait until it is gone."""
        self._process.kill()
        self._process.wait(PATIENCE_SECONDS)

    def terminate(self) -> int:
        """SIGTERM; returns the exit status."""
        self._process.terminate()
        return self._process.wait(PATIENCE_SECONDS)

    def stop(self) -> None:
        """Be rid of it."""
        if self.running:
            self.kill()


class Rig:
    """Starts what a test needs and stops it afterwards, in reverse; `folder` is for files, `caches` for profiles."""

    def __init__(self, stack: ExitStack, folder: Path, caches: Caches) -> None:
        self.caches = caches
        self._stack = stack
        self._folder = folder
        self._count = 0

    def broker(self, *, started: bool = True, **settings: Any) -> Broker:
        """A real Mosquitto on a port of its own."""
        broker = Broker(0 if started else free_port(), settings=BrokerSettings(**settings))
        self._stack.callback(broker.stop)
        if started:
            broker.start()
        return broker

    def link(self, broker: Broker) -> Link:
        """A link to a broker that can be cut."""
        return self._stack.enter_context(Link(broker.host, broker.port, FAST))

    def watch(self, port: int, *filters: str) -> Watch:
        """A watcher, already connected."""
        watch = Watch(port, *filters)
        self._stack.callback(watch.stop)
        return watch

    def agent(self, tables: Tables) -> Agent:
        """An agent in this process; returned once it is started."""
        agent = Agent(AgentConfig.model_validate(tables))
        agent.start()
        self._stack.callback(agent.stop)
        return agent

    def worker(self, tables: Tables) -> Worker:
        """A worker in this process; returned once it is started."""
        worker = Worker(WorkerConfig.model_validate(tables))
        worker.start()
        self._stack.callback(worker.stop)
        return worker

    def program(self, kind: str, tables: Tables) -> Program:
        """An agent or a worker as a child process."""
        self._count += 1
        config = self._folder / f"{kind}-{self._count}.toml"
        config.write_text(as_toml(tables))
        program = Program(kind, config)
        self._stack.callback(program.stop)
        return program

    def agent_tables(
        self, port: int, uplink: int | None = None, *, cut: str = "input camera", **over: Mapping[str, Any]
    ) -> Tables:
        """An agent's configuration that pins where frames are cut: `cut` is a point and a codec, or `measured`."""
        tables: Tables = {
            "mqtt": {"port": port, "site": TOPICS.site, "device": TOPICS.device},
            "planner": {"mode": "cloud"},
            "probe": {"interval_seconds": 1.0},
            "metrics": {"interval_seconds": 0.1},
            "runtime": {"threads": THREADS, "cache_folder": str(self.caches.folder(cut))},
        }
        if uplink is not None:
            tables["uplink"] = {"port": uplink}
        return _over(tables, over)

    def worker_tables(
        self, port: int, name: str = "w1", *, cut: str = "input camera", **over: Mapping[str, Any]
    ) -> Tables:
        """A worker's configuration; `cut` as with the agent."""
        tables: Tables = {
            "mqtt": {"port": port, "site": TOPICS.site},
            "worker": {"name": name},
            "metrics": {"interval_seconds": 0.1},
            "runtime": {"threads": THREADS, "cache_folder": str(self.caches.folder(cut))},
        }
        return _over(tables, over)


def _over(tables: Tables, over: Mapping[str, Mapping[str, Any]]) -> Tables:
    return {name: {**tables.get(name, {}), **over.get(name, {})} for name in {**tables, **over}}


class Caches:
    """Folders with this machine's profile: as measured once, or edited so that a planner can only choose one cut."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def folder(self, cut: str) -> Path:
        """Return the folder for `<point> <codec>`, or for `measured`."""
        folder = self._root / cut.replace(" ", "-")
        if folder.exists():
            return folder
        if cut == "measured":
            background.measured_once(SegmentRunner(bundle(), THREADS), bundle(), folder)
            return folder
        shutil.copytree(self.folder("measured"), folder)
        (file,) = folder.glob("profile-*.json")
        file.write_text(json.dumps(_pinned(json.loads(file.read_text()), *cut.split())))
        return folder


def _pinned(profile: dict[str, Any], point: str, codec: str) -> dict[str, Any]:
    """Make every other way to ship dear: what the device encodes for long, and the camera's bytes decoded for long."""
    encode = {
        cut: {name: seconds if (cut, name) == (point, codec) else _FORBIDDEN_SECONDS for name, seconds in table.items()}
        for cut, table in profile["encode"].items()
    }
    decode = {cut: dict(table) for cut, table in profile["decode"].items()}
    if codec != "camera":
        decode["input"]["camera"] = _FORBIDDEN_SECONDS
    return {**profile, "encode": encode, "decode": decode}
