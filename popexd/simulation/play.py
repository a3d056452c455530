"""A play: a world, cameras and faults drawn from a seed, and the promises that are to hold whatever happens."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from statistics import median

from popexd.coordinator import events as ev
from popexd.coordinator.brain import Settings
from popexd.coordinator.settings import PlannerSettings
from popexd.latency import Prediction
from popexd.network import Link, NetworkState
from popexd.plan import Tier
from popexd.simulation import model
from popexd.simulation.agent_world import AgentWorld, BrokenPromiseError, Conditions
from popexd.simulation.network import Faults
from popexd.solvers import Problem, solve

DEADLINE_SECONDS = 2.0
PROBE_SECONDS = 3.0
_SETTLED_SECONDS = 2.0


def conditions(chance: random.Random, calm: bool = False, qualities: bool = False) -> Conditions:
    """Draw what a world is like; a calm one has a steady link and parts that never fail."""
    tiers = chance.choice([(Tier.CLOUD,), (Tier.CLOUD,), (Tier.CLOUD,) * 2, (Tier.CLOUD,) * 3, (Tier.EDGE, Tier.CLOUD)])
    limit = chance.choice([None, None, None, 15_000])
    # On this model both find the same plans, but only the daemon's own searches under constraints; it takes longer.
    solver = "joint" if limit is not None or chance.random() < 0.2 else "popex-optional"
    dwell = chance.choice([0.5, 2.0])
    planner = PlannerSettings(solver=solver, deadline_seconds=DEADLINE_SECONDS, dwell_seconds=dwell)
    delay = chance.uniform(0.0005, 0.05)
    return Conditions(
        graph=model.graph(chance, edge=Tier.EDGE in tiers, qualities=qualities),
        settings=Settings(planner, probe_interval_seconds=PROBE_SECONDS),
        bits_per_second=10 ** chance.uniform(5.5, 8),
        delay_seconds=delay,
        jitter_seconds=delay * chance.choice([0.0, 0.3]),
        workers=tiers,
        failures=0.0 if calm else 0.01,
        max_packet_bytes=limit,
    )


_TELL_QUALITY = (3, 5, 9)


class Play:
    """One seed; every fifth is calm: nothing fails, and the brain has no excuse. In some frames' quality is told."""

    def __init__(self, seed: int, trace: bool = False) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.calm = seed % 5 == 0
        drawn = conditions(self.chance, self.calm, qualities=seed % 10 in _TELL_QUALITY)
        self.world = AgentWorld(drawn, self.chance, trace)
        self.seconds = 8.0
        self.load = 0.0
        self.slowest = 1.0

    def run(self) -> None:
        """Play, then drain: everything taken is to be answered whatever is still broken.

        Raises:
            BrokenPromiseError: a promise was broken; the same seed breaks it again.

        """
        world = self.world
        self._cameras()
        world.schedule(PROBE_SECONDS)
        if self.calm:
            world.all_up()
        else:
            self._faults()
        world.clock.run(self.seconds)
        world.tell(ev.Drain())
        world.clock.run(self.seconds + 3 * DEADLINE_SECONDS)
        self.check()

    # ------------------------------------------------------------------------------------------ what happens

    def _cameras(self) -> None:
        chance, world = self.chance, self.world
        for camera in range(chance.choice([1, 1, 2, 4])):
            at, gap = chance.uniform(0, 0.5), 1 / chance.choice([2, 5, 15])
            self.load += 1 / gap
            while at < self.seconds:
                size = None if chance.random() < 0.03 else model.FRAME_BYTES
                world.clock.at(at, partial(world.frame, f"c{camera}", size))
                at += gap if self.calm else chance.expovariate(1 / gap)

    def _faults(self) -> None:
        chance, world, seconds = self.chance, self.world, self.seconds
        world.clock.at(chance.choice([0.0, 0.0, chance.uniform(0, seconds / 2)]), world.connect)
        for worker in world.workers.members:
            at = chance.choice([0.0, chance.uniform(0, seconds / 2)])
            world.clock.at(at, partial(world.start_worker, worker))
        for _ in range(chance.randrange(7)):
            self._fault(chance.uniform(0, seconds), chance.expovariate(0.5))

    def _fault(self, at: float, lasting: float) -> None:
        chance, world = self.chance, self.world
        worker = chance.choice(world.workers.members)
        rate = 10 ** chance.uniform(5.3, 8)
        faults = Faults(chance.uniform(0, 0.3), chance.uniform(0, 0.3), chance.uniform(0, 0.3), 1.0)
        slower = chance.uniform(1, 4)
        kinds: list[tuple[Callable[[], None], Callable[[], None]]] = [
            (partial(self._cut, True), partial(self._cut, False)),
            (world.disconnect, world.connect),
            (partial(world.kill_worker, worker), partial(world.start_worker, worker)),
            (partial(world.workers.stop, worker), partial(world.workers.resume, worker)),
            (partial(self._pace, rate), partial(self._pace, world.conditions.bits_per_second)),
            (partial(self._spoil, faults), partial(self._spoil, Faults())),
            (partial(self._ask, {"mode": "device"}), partial(self._ask, {"mode": "auto"})),
            (partial(self._brake, slower), partial(self._brake, 1.0)),
        ]
        begin, end = chance.choice(kinds)
        world.clock.at(at, begin)
        world.clock.at(at + lasting, end)

    def _cut(self, cut: bool) -> None:
        for link in (self.world.up, self.world.down):
            if cut:
                link.cut = True
            else:
                link.restore()

    def _pace(self, bits_per_second: float) -> None:
        self.world.up.bits_per_second = bits_per_second

    def _spoil(self, faults: Faults) -> None:
        self.world.up.faults = self.world.down.faults = faults

    def _ask(self, fields: dict[str, str]) -> None:
        self.world.tell(ev.RequestReceived("set", 1, fields))

    def _brake(self, slowdown: float) -> None:
        self.world.device_slowdown = slowdown
        self.slowest = max(self.slowest, slowdown)

    def heal(self) -> None:
        """End every fault."""
        self._cut(False)
        self._pace(self.world.conditions.bits_per_second)
        self._spoil(Faults())
        self._brake(1.0)
        for worker in self.world.workers.members:
            self.world.workers.resume(worker)
        self.world.all_up()

    def best(self) -> Prediction:
        """Return what the best plan takes by the true figures of the world, were everything there."""
        world, planner = self.world, self.world.conditions.settings.planner
        tier = max(worker.tier for worker in world.workers.members)
        link = Link(world.conditions.bits_per_second, 2 * world.conditions.delay_seconds)
        problem = Problem(
            graph=world.graph,
            network=NetworkState(link, Link(1e15) if tier is Tier.EDGE else None),
            min_agreement=planner.min_agreement,
            max_packet_bytes=world.conditions.max_packet_bytes,
            tiers=frozenset({Tier.DEVICE, tier}),
        )
        return solve("joint", problem).prediction

    def alone(self) -> float:
        """Return what the device takes by itself, at its best."""
        problem = Problem(self.world.graph, NetworkState(None), tiers=frozenset({Tier.DEVICE}))
        return solve("joint", problem).prediction.seconds

    # ------------------------------------------------------------------------------------------ the promises

    def check(self) -> None:
        """Raise unless every promise was kept.

        Raises:
            BrokenPromiseError: which promise was not.

        """
        self._check_counts()
        self._check_deadline()
        if self.calm:
            self._check_switches()
            self._check_predictions()

    def _check_counts(self) -> None:
        world = self.world
        counts, figures = world.brain.statistics, world.brain.figures(world.clock.now)
        if not world.drained:
            raise BrokenPromiseError(f"not drained; still owed: {list(world.brain.flow.frames)}")
        if counts.received != world.published:
            raise BrokenPromiseError(f"{world.published} frames published, {counts.received} received")
        if counts.received != counts.taken + counts.dropped.total() + counts.rejected.total():
            raise BrokenPromiseError(
                f"received {counts.received}, but taken {counts.taken}, {counts.dropped}, {counts.rejected}"
            )
        if counts.taken != counts.answered or counts.answered != len(world.answers):
            raise BrokenPromiseError(f"taken {counts.taken}, answered {counts.answered}, answers {len(world.answers)}")
        for table in (figures["exits"], figures["tiers"]):
            if sum(table.values()) != counts.answered:
                raise BrokenPromiseError(f"answered {counts.answered}, but {table}")
        forgotten = [key for key in world.answers if world.effects[key][-1] != "forget"]
        if forgotten:
            raise BrokenPromiseError(f"never forgotten: {forgotten}")
        if world.handled > 100 * (self.seconds + 1) + 40 * world.published:
            raise BrokenPromiseError(f"{world.handled} events for {world.published} frames: the loop spins")

    def _check_deadline(self) -> None:
        """Where the device could keep the deadline by itself, a frame is never late for trying something better.

        A device that suddenly becomes slower than the rescue allows for, and has not learnt it yet, is excused.
        """
        world = self.world
        late = [a for a in world.answers.values() if a.timing.total - a.timing.queue > DEADLINE_SECONDS + 0.05]
        if late and self.slowest <= 1.15 and self._alone_seconds() < 0.3 * DEADLINE_SECONDS:
            raise BrokenPromiseError(f"frame {late[0].key} answered after {late[0].timing}")

    def _alone_seconds(self) -> float:
        graph = self.world.graph
        return sum(layer.seconds[Tier.DEVICE] for layer in graph.layers) + graph.input_seconds[Tier.DEVICE]

    def _check_switches(self) -> None:
        """On a steady link a plan stands for the dwell time at least."""
        dwell = self.world.conditions.settings.planner.dwell_seconds
        switches = switches_of(self.world.decisions)
        settled = [decision for decision in switches if decision.decided_at > _SETTLED_SECONDS]
        for before, after in pairwise(settled):
            if after.decided_at - before.decided_at < dwell:
                raise BrokenPromiseError(f"{before.plan_id} stood for less than the dwell time")

    def _check_predictions(self) -> None:
        """What is predicted comes about, where frames do not have to wait for each other."""
        world = self.world
        settled = [a for a in world.answers.values() if a.captured_at > _SETTLED_SECONDS and a.fallback is None]
        last = world.decisions[-1].prediction
        if len(settled) < 8 or self.load * max(last.bottleneck_seconds, last.device_seconds) > 0.4:
            return
        ratio = world.brain.figures(world.clock.now)["prediction_error"]["median_ratio"]
        typical = median(answer.timing.total for answer in settled)
        if not 0.7 <= ratio <= 1.4 and typical > 0.01:
            raise BrokenPromiseError(f"frames take {ratio:.2f} times what is predicted, {typical:.4f} s")


def switches_of(decisions: list[ev.Decision]) -> list[ev.Decision]:
    """Return the decisions that put another plan in force."""
    return [after for before, after in pairwise(decisions) if after.plan_id != before.plan_id]


def play(seed: int, trace: bool = False) -> Play:
    """Play one seed.

    Raises:
        BrokenPromiseError: a promise was broken; the same seed breaks it again.

    """
    drawn = Play(seed, trace)
    try:
        drawn.run()
    except BrokenPromiseError as error:
        lines = "" if drawn.world.trace is None else "\n" + "\n".join(drawn.world.trace)
        raise BrokenPromiseError(f"seed {seed}: {error}{lines}") from error
    return drawn
