"""The simulator is the daemon: real parts on the memory bus and simulated ones see the same orders for a frame."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
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
from popexd.coordinator.settings import PlannerSettings
from popexd.lab.conveyor import scene
from popexd.plan import Tier
from popexd.profile import INPUT, CodecCost
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
            for effect in effects:
                if isinstance(effect, ev.Run | ev.Ship | ev.Answer | ev.Forget):
                    self.orders[effect.key].append(kind_of(effect))
                if isinstance(effect, ev.Answer) and effect.fallback is not None:
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

    def see(self, count: int) -> None:
        """Publish pictures one by one, each when the one before is done with."""
        for index in range(count):
            done = sum("forget" in orders for orders in list(self.orders.values()))
            self.camera.publish("popexd-data/lab/box/frames/c", scene(index, 11, (160, 120)).jpeg(), qos=1)
            until(lambda done=done: sum("forget" in o for o in list(self.orders.values())) > done, "the frame")


def simulated(daemon: Daemon, mode: str, spoil: Callable[[Workers], None] = lambda _workers: None) -> AgentWorld:
    """Play as many frames in the simulator, on the daemon's own graph and under its plan."""
    planner = daemon.agent.loop.brain.world.planner
    made, graph = planner.decision, planner.profiled
    assert made is not None
    if made.cut != "output":
        codec = made.form["codec"]
        dear = {point: {"f32": CodecCost(1e6, 20.0, 20.0)} for point in (INPUT, *graph.names[:-1])}
        graph = replace(graph, codecs={**dear, made.cut: {codec: graph.codec_cost(made.cut, codec)}})
    settings = Settings(PlannerSettings(mode=mode, deadline_seconds=30.0))
    world = AgentWorld(Conditions(graph, settings, 20e6, 0.001), random.Random(1))
    world.all_up()
    world.schedule(3.0)
    world.clock.run(5.0)
    assert world.decision is not None
    assert world.decision.by_quality.keys() == made.by_quality.keys()
    for quality in (None, *made.by_quality):
        here, there = world.decision.of(quality), made.of(quality)
        assert (here.plan.tiers, here.form["codec"]) == (there.plan.tiers, there.form["codec"])
        assert {n for n, c in here.plan.exits.items() if c.runs} == {n for n, c in there.plan.exits.items() if c.runs}
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


@pytest.mark.parametrize("mode", ["cloud", "device"])
def test_a_frame_goes_the_same_way_in_both(cache: Path, mode: str) -> None:
    """For each exit that a frame of a class can leave at there is one sequence of orders, and it is the same one."""
    with Daemon(cache, mode) as daemon:
        daemon.wait_for_a_plan(mode)
        daemon.see(FRAMES)
        # A machine that is busy with something else may make a frame late; that is not the way meant here.
        real = by_answer({key: orders for key, orders in daemon.orders.items() if key not in daemon.fell_back})
        world = simulated(daemon, mode)
    played = by_answer(world.effects)
    assert all(len(sequences) == 1 for sequences in (*real.values(), *played.values()))
    assert real.keys() & played.keys()
    for answer in real.keys() & played.keys():
        assert real[answer] == played[answer]
    assert all(answer.endswith(mode) for answer in real)


def deaf(workers: Workers) -> None:
    """Let nobody listen, and nobody say so."""
    for worker in workers.members:
        workers.kill(worker)


def test_when_nobody_listens_both_finish_here(cache: Path) -> None:
    """The presence says that there is a worker, the broker that nobody takes the message."""
    with Daemon(cache, "cloud") as daemon:
        daemon.wait_for_a_plan("cloud")
        world = simulated(daemon, "cloud", deaf)
        for undo in daemon.worker._undo:
            undo()
        daemon.see(1)
        (real,) = daemon.orders.values()
    played = next(sequence for sequence in world.effects.values() if any("ship" in order for order in sequence))
    assert real == played
    assert [order.split()[0] for order in real] == ["run", "ship", "run", "answer", "forget"]
    assert Tier.DEVICE.label in real[-2]
