"""The simulator is the daemon: real parts on the memory bus and simulated ones see the same orders for a frame."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.loop import Buses
from agent.runtime import Agent
from cloud_worker.worker import Worker
from popexd.bus.memory import MemoryBroker
from popexd.config import AgentConfig, WorkerConfig
from popexd.coordinator import events as ev
from popexd.coordinator.brain import Settings
from popexd.coordinator.choosing import Candidate, Known, priced
from popexd.coordinator.settings import PlannerSettings
from popexd.lab.conveyor import scene
from popexd.plan import Tier
from popexd.simulation.agent_world import AgentWorld, Conditions, kind_of
from popexd.simulation.workers import Workers

FRAMES = 12
PATIENCE_SECONDS = 60.0

Sequences = dict[str, set[tuple[str, ...]]]


def until(condition: Callable[[], Any], what: str) -> None:
    """Wait until a condition holds."""
    deadline, pause = time.monotonic() + PATIENCE_SECONDS, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"still waiting for {what}"
        pause.wait(0.005)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this machine's profile is kept, measured once for all tests here."""
    return tmp_path_factory.mktemp("cache")


class Daemon:
    """A real agent, a real worker and a broker in this process; it remembers what the brain ordered for each frame."""

    def __init__(self, cache: Path, mode: str) -> None:
        self.broker = MemoryBroker()
        self.camera = self.broker.bus()
        runtime = {"cache_folder": cache, "threads": 1}
        told: dict[str, Any] = {"mqtt": {"site": "lab", "device": "box"}, "runtime": runtime}
        settings = {"mode": mode, "deadline_seconds": 30.0, "dwell_seconds": 3600.0}
        self.agent = Agent(AgentConfig.model_validate({**told, "planner": settings}), self._buses)
        told["mqtt"] = {"site": "lab"}
        self.worker = Worker(WorkerConfig.model_validate(told), lambda _config, will: self.broker.bus(will))
        self.orders: defaultdict[int, list[str]] = defaultdict(list)
        self.fell_back: set[int] = set()
        self.made: dict[str, ev.Decision] = {}
        self.followed: dict[int, str] = {}

    def _buses(self, _config: AgentConfig, will: Any) -> Buses:
        bus = self.broker.bus(will)
        return Buses(bus, bus)

    def __enter__(self) -> Daemon:
        self.camera.start()
        self.worker.start()
        self.agent.start()
        handle = self.agent.loop.brain.handle

        def recorded(event: ev.Event, now: float) -> list[ev.Effect]:
            effects = handle(event, now)
            if (made := self.agent.loop.brain.world.planner.decision) is not None:
                self.made[made.plan_id] = made
            for effect in effects:
                if isinstance(effect, ev.Run | ev.Ship | ev.Answer | ev.Forget):
                    self.orders[effect.key].append(kind_of(effect))
                if isinstance(effect, ev.Answer):
                    self.followed[effect.key] = effect.plan_id
                    if effect.fallback is not None:
                        self.fell_back.add(effect.key)
            return effects

        self.agent.loop.brain.handle = recorded  # type: ignore[method-assign]
        return self

    def __exit__(self, *_exception: object) -> None:
        self.agent.stop()
        self.worker.stop()
        self.camera.stop()

    def wait_for_a_plan(self, mode: str) -> None:
        """Wait until frames go where they are pinned."""
        planner = self.agent.loop.brain.world.planner

        def planned() -> bool:
            return planner.decision is not None and (mode == "device" or planner.decision.cut != "output")

        until(planned, "a plan")
        self.graph = planner.profiled  # with whoever is there now

    def see(self) -> tuple[int, list[str]]:
        """Publish a picture; return its key and what was ordered for it, when it is done with."""
        done = set(self.orders)
        scenery = scene(len(done), 11, (160, 120)).jpeg()
        self.camera.publish("popexd-data/lab/box/frames/c", scenery, qos=1)
        until(lambda: any("forget" in orders for key, orders in list(self.orders.items()) if key not in done), "it")
        (key,) = self.orders.keys() - done
        return key, self.orders[key]


def pin(world: AgentWorld, made: ev.Decision) -> None:
    """Let the simulated brain go by these plans; which are best depends on what was measured, and is not meant here."""
    planner = world.brain.world.planner
    chosen = planner._chosen

    def pinned(name: str | None, known: Known, *how: Any) -> Candidate:
        plan = made.plans.get(name, made.plan)
        return priced(plan, None, planner._graphs[name], known, PlannerSettings()) or chosen(name, known, *how)

    planner._chosen = pinned  # type: ignore[method-assign]
    planner._looks = lambda *_how: bool(made.by_quality)  # type: ignore[method-assign]


def simulated(
    daemon: Daemon, mode: str, made: ev.Decision, spoil: Callable[[Workers], None] = lambda _workers: None
) -> AgentWorld:
    """Play many frames in the simulator, on the daemon's own graph and under one of its decisions."""
    settings = Settings(PlannerSettings(mode=mode, deadline_seconds=30.0))
    world = AgentWorld(Conditions(daemon.graph, settings, 20e6, 0.001), random.Random(1))
    pin(world, made)
    world.all_up()
    world.schedule(3.0)
    world.clock.run(5.0)
    assert world.decision is not None
    assert world.decision.plans == made.plans
    spoil(world.workers)
    for _ in range(40 * FRAMES):
        world.frame("c")
        world.clock.run(world.clock.now + 1.0)
    return world


def by_answer(orders: dict[int, list[str]]) -> Sequences:
    """The sequences of orders, by the answer that they led to."""
    found: defaultdict[str, set[tuple[str, ...]]] = defaultdict(set)
    for sequence in orders.values():
        (answer,) = (order for order in sequence if order.startswith("answer"))
        found[answer].add(tuple(sequence))
    return dict(found)


def is_shipment(order: str) -> bool:
    """Whether it was ordered to send the frame on."""
    return order.startswith("ship")


@pytest.mark.parametrize("mode", ["cloud", "device"])
def test_a_frame_goes_the_same_way_in_both(cache: Path, mode: str) -> None:
    """For each exit that a frame of a class can leave at there is one sequence of orders, and it is the same one."""
    with Daemon(cache, mode) as daemon:
        daemon.wait_for_a_plan(mode)
        seen = dict(daemon.see() for _ in range(FRAMES))
        # A machine that is busy with something else may make a frame late, or move the plan: not the way meant here.
        in_time = {key for key in seen.keys() - daemon.fell_back if sum(map(is_shipment, seen[key])) <= 1}
        ((plan_id, _),) = Counter(daemon.followed[key] for key in in_time).most_common(1)
        real = by_answer({key: seen[key] for key in in_time if daemon.followed[key] == plan_id})
        world = simulated(daemon, mode, daemon.made[plan_id])
    played = by_answer(world.effects)
    assert all(len(sequences) == 1 for sequences in (*real.values(), *played.values()))
    assert real.keys() & played.keys()
    for answer in real.keys() & played.keys():
        assert real[answer] == played[answer]
    assert all(answer.endswith(mode) for answer in real)


def shipped(orders: list[str]) -> bool:
    """Whether it was tried to have a frame finished elsewhere."""
    return any(map(is_shipment, orders))


def deaf(workers: Workers) -> None:
    """Let nobody listen, and nobody say so."""
    for worker in workers.members:
        workers.kill(worker)


def test_when_nobody_listens_both_finish_here(cache: Path) -> None:
    """The presence says that there is a worker, the broker that nobody takes the message."""
    with Daemon(cache, "cloud") as daemon:
        daemon.wait_for_a_plan("cloud")
        uplink = daemon.agent.loop.brain.world.uplink
        until(lambda: not uplink.probing, "no probe that would tell before a frame does")
        for undo in daemon.worker._undo:
            undo()
        key, real = next(seen for seen in (daemon.see() for _ in range(40)) if shipped(seen[1]))
        world = simulated(daemon, "cloud", daemon.made[daemon.followed[key]], deaf)
    played = by_answer({key: orders for key, orders in world.effects.items() if shipped(orders)})
    assert played[real[-2]] == {tuple(real)}
    assert [order.split()[0] for order in real][-4:] == ["ship", "run", "answer", "forget"]
    assert Tier.DEVICE.label in real[-2]
