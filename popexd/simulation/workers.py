"""Workers behind a shared subscription: stateless, each one message at a time; they die, stop and come back."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from popexd.coordinator.events import Classified, Replied, Ship
from popexd.plan import Tier
from popexd.profile import LayerGraph
from popexd.simulation.clock import Clock
from popexd.validation import FINAL

_FAILURES = 0.01


@dataclass
class SimulatedWorker:
    """One worker; `era` counts its lives."""

    name: str
    tier: Tier = Tier.CLOUD
    alive: bool = False
    stopped: bool = False
    free_at: float = 0.0
    era: int = 0
    waiting: list[Callable[[], None]] = field(default_factory=list)


class Workers:
    """All workers there may be; `classify` knows what a frame is at an exit.

    Arguments:
        clock: the world's.
        chance: where the world's randomness comes from.
        graph: what layers and codecs take.
        classify: (key of a frame, exit) to what the exit says.
        members: who they are.

    """

    def __init__(
        self,
        clock: Clock,
        chance: random.Random,
        graph: LayerGraph,
        classify: Callable[[int, str], Classified],
        members: list[SimulatedWorker],
    ) -> None:
        self.members = members
        self.slowdown = 1.0
        self.failures = _FAILURES
        self._clock = clock
        self._chance = chance
        self._graph = graph
        self._classify = classify
        self._turn = 0

    def listening(self, tier: Tier) -> list[SimulatedWorker]:
        """Return who has a subscription for the messages of a tier."""
        return [worker for worker in self.members if worker.alive and worker.tier is tier]

    def take(self, ship: Ship, cut: str, size: int, codec: str, reply: Callable[[Replied], None]) -> bool:
        """Give a message to the next worker in turn; tell whether there is one."""
        members = self.listening(ship.tier)
        if not members:
            return False
        self._turn += 1
        self._work(members[self._turn % len(members)], ship, cut, size, codec, reply)
        return True

    def echoes(self, tier: Tier) -> bool:
        """Tell whether the next worker in turn echoes a probe."""
        members = self.listening(tier)
        self._turn += 1
        return bool(members) and not members[self._turn % len(members)].stopped

    def _work(
        self, worker: SimulatedWorker, ship: Ship, cut: str, size: int, codec: str, reply: Callable[[Replied], None]
    ) -> None:
        if worker.stopped:
            worker.waiting.append(lambda: self._work(worker, ship, cut, size, codec, reply))
            return
        arrived, era = self._clock.now, worker.era
        stage = ship.route[0]
        decode = self._graph.codec_cost(cut, codec).decode_seconds
        compute = sum(self._graph.by_name[name].seconds[worker.tier] for name in stage.segments)
        left_at = FINAL
        for branch in self._graph.exits:
            if branch.name in stage.exits:
                compute += branch.seconds[worker.tier]
                if self._classify(ship.key, branch.name).confidence >= stage.exits[branch.name] and left_at == FINAL:
                    left_at = branch.name
        noise = self.slowdown * self._chance.uniform(0.9, 1.3)
        start = max(worker.free_at, self._clock.now)
        worker.free_at = start + noise * (decode + compute)
        said = None if self._chance.random() < self.failures else self._classify(ship.key, left_at)
        seconds = {"queue": start - arrived, "decode": noise * decode, "compute": noise * compute}

        def finished() -> None:
            if worker.era == era and worker.alive:
                error = "compute" if said is None else None
                name, tier = worker.name, worker.tier
                plan_id = ship.plan_id
                reply(Replied(ship.key, ship.attempt, name, tier, size, seconds, said, left_at, error, plan_id))

        self._clock.at(worker.free_at, finished)

    def start(self, worker: SimulatedWorker) -> None:
        """Let a worker come up."""
        worker.alive, worker.stopped, worker.free_at = True, False, self._clock.now

    def kill(self, worker: SimulatedWorker) -> None:
        """Let a worker die with what it has."""
        worker.alive, worker.stopped = False, False
        worker.era += 1
        worker.waiting.clear()

    @staticmethod
    def stop(worker: SimulatedWorker) -> None:
        """Stop a worker as SIGSTOP does: nobody is told."""
        worker.stopped = worker.alive

    @staticmethod
    def resume(worker: SimulatedWorker) -> None:
        """Let a stopped worker go on with what has piled up."""
        worker.stopped = False
        waiting, worker.waiting = worker.waiting, []
        for work in waiting:
            work()
