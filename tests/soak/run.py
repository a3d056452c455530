"""A soak: load, and faults drawn from a seed, for as long as one likes; what must hold whatever happens."""

from __future__ import annotations

import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from broker.process import Broker
from popexd.config import as_toml
from popexd.lab.link import FOURTH_GENERATION, THIRD_GENERATION, WIFI, Link
from popexd.protocol.topics import DeviceTopics

from .cameras import FRAMES_PER_SECOND, Book, Cameras
from .processes import Growth, Process, growth
from .witness import Witness

TOPICS = DeviceTopics("soak", "box")
FRAGILE = DeviceTopics("soak", "fragile")
_WITNESSES = ("left", "middle", "right")
_DEADLINE_SECONDS = 2.0
# What a broker that is killed takes with it: answers it had acknowledged and not yet passed on.
_LOST_WITH_A_BROKER = 50


@dataclass
class Figures:
    """What a run came to; `complaints` is empty when everything held."""

    minutes: float
    seed: int
    faults: dict[str, int]
    published: int
    frames: dict[str, int]
    answers_heard: int
    answers_repeated: int
    tiers: dict[str, int]
    fallbacks: dict[str, int]
    p50_seconds: float
    p99_seconds: float
    slowest_seconds: float
    killed_agent: dict[str, int]
    agent: Growth
    worker: Growth
    complaints: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


class Soak:
    """A site's broker, the cloud's behind a link, and of agents and workers one that stays and one that suffers."""

    def __init__(self, stack: ExitStack, folder: Path, seed: int, say: Callable[[str], None]) -> None:
        self._random = random.Random(seed)
        self._say = say
        self._pause = threading.Event()
        self._sampled = threading.Event()
        self.faults: Counter[str] = Counter()
        self.site_deaths = 0
        self.site, self.cloud = Broker(), Broker()
        for broker in (self.site, self.cloud):
            broker.start()
            stack.callback(broker.stop)
        self.link = stack.enter_context(Link(self.cloud.host, self.cloud.port, WIFI))
        self.agent = Process("agent", _agent(folder, self.site.port, self.link.port, TOPICS.device))
        self.fragile = Process("agent", _agent(folder, self.site.port, self.link.port, FRAGILE.device))
        self.worker = Process("worker", _worker(folder, self.cloud.port, "steady"))
        self.victim = Process("worker", _worker(folder, self.cloud.port, "victim"))
        for process in (self.agent, self.worker, self.victim, self.fragile):
            process.start()
            stack.callback(process.end, signal.SIGKILL)
        self.book, self.ledger = Book(self.site.port, TOPICS), Book(self.site.port, FRAGILE)
        for each in (self.book, self.ledger):
            each.start()
            stack.callback(each.stop)
        self.cameras = Cameras(self.site.port, TOPICS)
        self.witness = Witness(self.site.port, FRAGILE, _WITNESSES, self.ledger.has, lambda: self.site_deaths)
        self._faults: tuple[Callable[[], str], ...] = (
            self.kills_an_agent, self.kills_an_agent,
            self.kills_a_worker, self.stops_a_worker, self.ends_a_worker, self.hangs_both_workers,
            self.changes_the_link, self.changes_the_link, self.changes_the_mode, self.cuts_the_link,
            self.restarts_the_cloud, self.restarts_the_site,
        )  # fmt: skip

    def run(self, seconds: float) -> None:
        """Load and faults, then quiet until nothing is owed."""
        self.until(lambda: self.book.metrics and self.ledger.metrics, "both agents", 120)
        self.cameras.start()
        self.witness.start()
        begun = time.monotonic()
        sampler = threading.Thread(target=self._sample, args=(begun,), daemon=True)
        sampler.start()
        while (left := begun + seconds - time.monotonic()) > 0:
            self._pause.wait(min(left, self._random.uniform(1.0, 4.0)))
            name = self._random.choice(self._faults)() if left > 5 else "quiet"
            self.faults.update([name] if name != "quiet" else [])
            self._say(f"{time.monotonic() - begun:6.0f} s  {name:<24} {self.book.metrics.get('frames')}")
        self.cameras.stop()
        self.witness.stop()
        self._sampled.set()
        sampler.join(60)

    def _sample(self, begun: float) -> None:
        while not self._sampled.wait(0.5):
            for process in (self.agent, self.worker):
                process.sample(time.monotonic() - begun)

    def until(self, condition: Callable[[], object], what: str, seconds: float) -> None:
        """Wait for something that must come about."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"still waiting for {what}; {self.book.metrics}\n{self.agent.log[-3000:]}")
            self._pause.wait(0.1)

    def at_rest(self) -> bool:
        """Whether the agent's books balance. It is asked, since its own reports may be of before the last frames."""
        self.book.ask()
        frames = self.book.counts
        balance = bool(frames) and frames["taken"] == frames["answered"]
        return balance and frames["received"] == frames["taken"] + frames["dropped"] + frames["rejected"]

    # ---------------------------------------------------------------------------------------------- the faults

    def _for(self, shortest: float, longest: float) -> None:
        self._pause.wait(self._random.uniform(shortest, longest))

    def kills_an_agent(self) -> str:
        """SIGKILL with whatever it holds, and another start; its cameras wait for their answers."""
        self.fragile.end(signal.SIGKILL)
        self._for(0.0, 2)
        self.fragile.start()
        return "agent killed"

    def kills_a_worker(self) -> str:
        """SIGKILL, and another start."""
        self.victim.end(signal.SIGKILL)
        self._for(0.2, 3)
        self.victim.start()
        return "worker killed"

    def stops_a_worker(self) -> str:
        """SIGSTOP for a while: its connection stays, and nothing comes from it."""
        self.victim.send(signal.SIGSTOP)
        self._for(0.5, 4)
        self.victim.send(signal.SIGCONT)
        return "worker stopped"

    def ends_a_worker(self) -> str:
        """SIGTERM, and another start."""
        self.victim.end()
        self._for(0.1, 1)
        self.victim.start()
        return "worker ended"

    def hangs_both_workers(self) -> str:
        """Nobody answers for a while, though everybody is connected."""
        for process in (self.worker, self.victim):
            process.send(signal.SIGSTOP)
        self._for(0.5, 3)
        for process in (self.worker, self.victim):
            process.send(signal.SIGCONT)
        return "both workers stopped"

    def changes_the_link(self) -> str:
        """Another kind of uplink."""
        self.link.set(self._random.choice((WIFI, FOURTH_GENERATION, THIRD_GENERATION)))
        return f"link {self.link.profile.name}"

    def changes_the_mode(self) -> str:
        """Whoever operates the agent pins where frames are finished, or leaves it to the planner."""
        mode = self._random.choice(("auto", "cloud"))
        self.cameras.ask(mode)
        return f"mode {mode}"

    def cuts_the_link(self) -> str:
        """An outage: nothing flows and nobody is told."""
        self.link.cut()
        self._for(0.5, 6)
        self.link.restore()
        return "outage"

    def restarts_the_cloud(self) -> str:
        """The broker of the workers is killed and forgets everything."""
        self.cloud.restart()
        return "cloud broker restarted"

    def restarts_the_site(self) -> str:
        """The broker of the cameras is killed and forgets everything."""
        self.site_deaths += 1
        self.site.restart()
        self.until(lambda: self.ledger.connected and self.witness.connected, "those who watch being back", 60)
        self.site_deaths += 1
        return "site broker restarted"


def soak(minutes: float, seed: int, say: Callable[[str], None] = lambda _: None) -> Figures:
    """Run one; nothing is left behind."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="popexd-soak-")))
        running = Soak(stack, folder, seed, say)
        running.run(60 * minutes)
        running.until(running.at_rest, "an agent that owes nothing", 60)
        return _figures(running, minutes, seed)


def _figures(run: Soak, minutes: float, seed: int) -> Figures:
    book, frames = run.book, run.book.counts
    counts = {key: frames[key] for key in ("received", "taken", "dropped", "answered", "rejected")}
    figures = Figures(
        minutes=minutes,
        seed=seed,
        faults=dict(run.faults),
        published=run.cameras.published,
        frames=counts,
        answers_heard=book.answered,
        answers_repeated=book.repeated,
        tiers=dict(book.tiers),
        fallbacks=dict(book.fallbacks),
        p50_seconds=round(book.percentile(0.5), 4),
        p99_seconds=round(book.percentile(0.99), 4),
        slowest_seconds=round(book.percentile(1.0), 4),
        killed_agent={
            "frames": run.witness.published,
            "answered": run.ledger.answered,
            "repeated": run.ledger.repeated,
            "forgotten by the broker": run.witness.excused,
        },
        agent=growth(run.agent.samples),
        worker=growth(run.worker.samples),
    )
    figures.complaints = _complaints(run, figures)
    return figures


def _complaints(run: Soak, figures: Figures) -> list[str]:
    book, frames = run.book, figures.frames
    lost = frames["answered"] - figures.answers_heard
    allowed = _LOST_WITH_A_BROKER * run.faults["site broker restarted"]
    logs = run.agent.log + run.worker.log + run.victim.log + run.fragile.log
    missing, different = run.witness.missing, run.ledger.different
    checks = {
        f"{frames['taken'] - frames['answered']} frames unanswered": frames["taken"] != frames["answered"],
        f"{len(book.different)} frames with two answers": bool(book.different),
        f"a killed agent left frames unanswered: {missing[:5]}": bool(missing),
        f"a killed agent answered frames twice: {different[:5]}": bool(different),
        f"{lost} answers were not heard": not 0 <= lost <= allowed,
        "nothing was offloaded": not book.tiers["cloud"],
        f"hardly any frame came through: {frames}": frames["taken"] < 0.1 * FRAMES_PER_SECOND * 60 * figures.minutes,
        f"an answer took {figures.slowest_seconds} s": figures.slowest_seconds > 3 * _DEADLINE_SECONDS,
        f"the agent grew: {figures.agent}": not figures.agent.flat,
        f"the worker grew: {figures.worker}": not figures.worker.flat,
        "the agent has died": not run.agent.running,
        "a traceback was logged": "Traceback" in logs,
    }
    return [what for what, wrong in checks.items() if wrong]


def _agent(folder: Path, port: int, uplink: int, device: str) -> Path:
    return _write(
        folder / f"agent-{device}.toml",
        {
            "mqtt": {"port": port, "site": TOPICS.site, "device": device},
            "uplink": {"port": uplink},
            "planner": {"mode": "cloud", "deadline_seconds": _DEADLINE_SECONDS},
            "probe": {"interval_seconds": 3.0},
            "metrics": {"interval_seconds": 0.5, "window_seconds": 10.0},
            # Slow enough for a worker to be worth the way.
            "runtime": {"threads": 1, "slowdown": 10.0, "cache_folder": str(folder)},
        },
    )


def _worker(folder: Path, port: int, name: str) -> Path:
    return _write(
        folder / f"{name}.toml",
        {
            "mqtt": {"port": port, "site": TOPICS.site},
            "worker": {"name": name},
            "metrics": {"interval_seconds": 1.0},
            "runtime": {"threads": 1, "cache_folder": str(folder)},
        },
    )


def _write(path: Path, tables: dict[str, dict[str, Any]]) -> Path:
    path.write_text(as_toml(tables), encoding="utf-8")
    return path
