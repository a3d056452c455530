"""The daemon's own brain among simulated compute, link, broker and workers; faults are drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from popexd.coordinator import events as ev
from popexd.coordinator.brain import Coordinator, Settings
from popexd.coordinator.planning import PlannerSettings
from popexd.plan import Tier
from popexd.simulation import model
from popexd.simulation.clock import Clock
from popexd.simulation.network import Faults, SimulatedLink
from popexd.validation import FINAL

_REPLY_BYTES = 500
_BROKEN = b"broken"


@dataclass
class SimulatedWorker:
    """One stateless worker: takes messages in turn, answers, can crash, stop and come back."""

    name: str
    alive: bool = False
    stopped: bool = False
    free_at: float = 0.0
    era: int = 0
    waiting: list[Any] = field(default_factory=list)


class BrokenPromiseError(AssertionError):
    """An invariant does not hold; the seed replays it."""


class AgentWorld:
    """One seed's world; `run` plays it to the end and `check` says whether every promise was kept."""

    def __init__(self, seed: int, trace: bool = False) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.clock = Clock()
        self.graph = model.graph(self.chance)
        self.deadline_seconds = 2.0
        dwell = self.chance.choice([0.5, 2.0])
        settings = Settings(PlannerSettings(deadline_seconds=self.deadline_seconds, dwell_seconds=dwell), 3.0)
        self.brain = Coordinator(lambda profiles: model.assemble(self.graph, profiles), settings, boot="s")
        rate = 10 ** self.chance.uniform(5.5, 8)
        self.up = SimulatedLink(self.clock, self.chance, rate, self.chance.uniform(0.0005, 0.05))
        self.down = SimulatedLink(self.clock, self.chance, 10 * rate, self.up.delay_seconds)
        self.workers = [SimulatedWorker(f"w{index}") for index in range(self.chance.choice([1, 1, 2, 3]))]
        self.connected = False
        self.turn = 0
        self.running: int | None = None
        self.samples: dict[int, int] = {}
        self.tier_segments = dict.fromkeys(self.graph.names)
        self.answers: dict[int, ev.Answer] = {}
        self.decisions: list[ev.Decision] = []
        self.published = 0
        self.drained = False
        self.trace: list[str] | None = [] if trace else None
        self._wake_at = float("inf")

    # ------------------------------------------------------------------------------------------ the shell

    def tell(self, event: ev.Event) -> None:
        """Hand an event to the brain and carry out what it orders."""
        self._note(f"> {event}")
        self._carry_out(self.brain.handle(event, self.clock.now))

    def _carry_out(self, effects: list[ev.Effect]) -> None:
        for effect in effects:
            self._note(f"    < {effect}")
            if isinstance(effect, ev.Run):
                self._compute(effect)
            elif isinstance(effect, ev.Ship):
                self._publish(effect)
            elif isinstance(effect, ev.SendProbe):
                self._probe(effect)
            elif isinstance(effect, ev.Answer):
                self._answered(effect)
            elif isinstance(effect, ev.Decided):
                self.decisions.append(effect.decision)
            elif isinstance(effect, ev.Drained):
                self.drained = True
        wake_at = self.brain.next_wakeup()
        if wake_at < self._wake_at or self._wake_at <= self.clock.now:
            self._wake_at = wake_at
            if wake_at < float("inf"):
                self.clock.at(wake_at, self._wake)

    def _wake(self) -> None:
        if self.brain.next_wakeup() <= self.clock.now:
            self._wake_at = float("inf")
            self.tell(ev.Wakeup())

    def _note(self, line: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.clock.now:9.4f} {line[:200]}")

    def _compute(self, run: ev.Run) -> None:
        if self.running is not None:
            raise BrokenPromiseError(f"two orders at once: {self.running} and {run.key}")
        self.running = run.key
        sample = self.samples.setdefault(run.key, self.chance.randrange(self.graph.validation.confidence.shape[1]))  # type: ignore[union-attr]
        noise = self.chance.uniform(0.9, 1.3)
        decode = 0.003 * noise if run.decode else 0.0
        by_name = self.graph.by_name
        exits = {branch.name: branch for branch in self.graph.exits}
        device = noise * sum(by_name[name].seconds[Tier.DEVICE] for name in run.segments)
        if run.exit in exits:
            device += noise * exits[run.exit].seconds[Tier.DEVICE]
        encode = 0.0005 * noise if run.codec not in (None, "camera") else 0.0
        unusable = run.payload == _BROKEN and (run.decode or run.codec != "camera")
        event: ev.Event
        if unusable:
            event = ev.RunFailed(run.key, True, "decode")
        elif self.chance.random() < 0.002:
            event = ev.RunFailed(run.key, False, "compute", "simulated")
        else:
            event = ev.RunDone(
                run.key,
                decode,
                device,
                encode,
                self._classified(sample, run.exit) if run.exit is not None else None,
                model.FRAME_BYTES if run.payload is not None else None,
                None if run.codec is None else self._shipment(run.codec),
            )

        def done() -> None:
            self.running = None
            self.tell(event)

        self.clock.after(decode + device + encode + 0.0001, done)

    def _shipment(self, codec: str) -> int:
        return model.FRAME_BYTES + 700 if codec == "camera" else int(self.chance.uniform(1_500, 12_000))

    def _classified(self, sample: int, left_at: str) -> ev.Classified:
        table = self.graph.validation
        assert table is not None
        row = table.exits.index(left_at)
        return ev.Classified(sample * 3 + row, f"{sample}-{left_at}", float(table.confidence[row][sample]))

    def _answered(self, answer: ev.Answer) -> None:
        if answer.key in self.answers:
            raise BrokenPromiseError(f"frame {answer.key} answered twice")
        self.answers[answer.key] = answer
        expected = self._classified(self.samples[answer.key], answer.exit)
        if answer.classified != expected:
            raise BrokenPromiseError(f"frame {answer.key}: {answer.classified}, expected {expected}")
        timing = answer.timing
        parts = [timing.queue, timing.decode, timing.device, timing.encode, timing.transfer, timing.edge, timing.cloud]
        if sum(part or 0.0 for part in parts) > timing.total + 1e-6 or min(part or 0.0 for part in parts) < 0:
            raise BrokenPromiseError(f"frame {answer.key}: parts exceed the total: {timing}")

    # ------------------------------------------------------------------------------------------ broker and workers

    def _publish(self, ship: ev.Ship) -> None:
        if not self.connected:
            self.clock.after(0.0001, lambda: self.tell(ev.ShipmentEnded(ship.key, ship.attempt, "disconnected")))
            return
        size = self.brain.flow.frames[ship.key].shipment_bytes if ship.key in self.brain.flow.frames else 5_000
        if self.chance.random() < 0.01:
            self.clock.after(0.0001, lambda: self.tell(ev.ShipmentEnded(ship.key, ship.attempt, "dropped")))
            return
        self.up.send(size, lambda: self._brokered(ship, size))

    def _brokered(self, ship: ev.Ship, size: int) -> None:
        members = [worker for worker in self.workers if worker.alive]
        outcome = "delivered" if members else "no_subscribers"
        self.down.send(60, lambda: self.tell(ev.ShipmentEnded(ship.key, ship.attempt, outcome)))
        if members:
            self.turn += 1
            self._work(members[self.turn % len(members)], ship, size)

    def _work(self, worker: SimulatedWorker, ship: ev.Ship, size: int) -> None:
        if worker.stopped:
            worker.waiting.append((ship, size))
            return
        arrived, era = self.clock.now, worker.era
        compute = sum(self.graph.by_name[name].seconds[Tier.CLOUD] for name in ship.route[0].segments)
        compute *= self.chance.uniform(0.9, 1.5)
        start = max(worker.free_at, self.clock.now)
        worker.free_at = start + 0.002 + compute
        failed = self.chance.random() < 0.01
        said = None if failed else self._classified(self.samples[ship.key], FINAL)
        seconds = {"queue": start - arrived, "decode": 0.002, "compute": compute}

        def finished() -> None:
            if worker.era != era or not worker.alive:
                return
            reply = ev.Replied(
                ship.key,
                ship.attempt,
                worker.name,
                Tier.CLOUD,
                size,
                seconds,
                said,
                FINAL,
                "compute" if failed else None,
            )
            self.down.send(_REPLY_BYTES, lambda: self.tell(reply))

        self.clock.at(worker.free_at, finished)

    def _probe(self, probe: ev.SendProbe) -> None:
        if not self.connected:
            return

        def echo() -> None:
            if any(worker.alive and not worker.stopped for worker in self.workers):
                self.down.send(200, lambda: self.tell(ev.ProbeReturned(probe.sequence, 0.0)))

        self.up.send(probe.bytes + 150, echo)

    def connect(self) -> None:
        """Reach the uplink's broker; presence is retained there."""
        if self.connected:
            return
        self.connected = True
        self.tell(ev.UplinkChanged(True))
        for worker in self.workers:
            if worker.alive:
                self._present(worker)

    def disconnect(self) -> None:
        """Lose the uplink's broker with all that is under way."""
        if self.connected:
            self.connected = False
            self.up.drop()
            self.down.drop()
            self.tell(ev.UplinkChanged(False, "simulated"))

    def _present(self, worker: SimulatedWorker) -> None:
        event = ev.WorkerChanged(worker.name, Tier.CLOUD, worker.alive, "profile" if worker.alive else None)
        if self.connected:
            self.down.send(300, lambda: self.tell(event))

    def start_worker(self, worker: SimulatedWorker) -> None:
        """Let a worker come up."""
        if not worker.alive:
            worker.alive, worker.stopped, worker.free_at = True, False, self.clock.now
            self._present(worker)

    def kill_worker(self, worker: SimulatedWorker) -> None:
        """Let a worker die with what it has; its last will is published."""
        if worker.alive:
            worker.alive, worker.stopped = False, False
            worker.era += 1
            worker.waiting.clear()
            self._present(worker)

    def stop_worker(self, worker: SimulatedWorker) -> None:
        """Stop a worker as SIGSTOP does: nobody is told."""
        worker.stopped = worker.alive

    def resume_worker(self, worker: SimulatedWorker) -> None:
        """Let a stopped worker go on with what has piled up."""
        if worker.stopped:
            worker.stopped = False
            waiting, worker.waiting = worker.waiting, []
            for ship, size in waiting:
                self._work(worker, ship, size)

    # ------------------------------------------------------------------------------------------ the play

    def _frame(self, camera: str, usable: bool) -> None:
        self.published += 1
        payload = b"frame" if usable else _BROKEN
        self.tell(ev.FrameReceived(camera, payload, f"{camera}-{self.published}"))

    def plan_play(self, seconds: float) -> None:
        """Draw frames and faults for a play of this length."""
        chance = self.chance
        for camera in range(chance.choice([1, 1, 2, 4])):
            at, gap = chance.uniform(0, 0.5), 1 / chance.choice([2, 5, 15])
            while at < seconds:
                usable = chance.random() > 0.03
                self.clock.at(at, partial(self._frame, f"c{camera}", usable))
                at += chance.expovariate(1 / gap)
        for what, period in (("probe", 3.0), ("replan", 5.0), ("metrics", 10.0)):
            at = chance.uniform(0, period)
            while at < seconds:
                self.clock.at(at, partial(self.tell, ev.Due(what)))
                at += period
        self.clock.at(chance.choice([0.0, 0.0, chance.uniform(0, seconds / 2)]), self.connect)
        for worker in self.workers:
            self.clock.at(chance.choice([0.0, chance.uniform(0, seconds / 2)]), partial(self.start_worker, worker))
        for _ in range(chance.randrange(7)):
            self._plan_fault(chance.uniform(0, seconds), chance.expovariate(0.5))

    def _plan_fault(self, at: float, lasting: float) -> None:
        worker = self.chance.choice(self.workers)
        rate = 10 ** self.chance.uniform(5.3, 8)
        faults = Faults(self.chance.uniform(0, 0.3), self.chance.uniform(0, 0.3), self.chance.uniform(0, 0.3), 1.0)
        kinds: list[tuple[Callable[[], None], Callable[[], None]]] = [
            (partial(self._cut, True), partial(self._cut, False)),
            (self.disconnect, self.connect),
            (partial(self.kill_worker, worker), partial(self.start_worker, worker)),
            (partial(self.stop_worker, worker), partial(self.resume_worker, worker)),
            (partial(self._pace, rate), partial(self._pace, self.up.bits_per_second)),
            (partial(self._spoil, faults), partial(self._spoil, Faults())),
            (partial(self._pin, "device"), partial(self._pin, "auto")),
        ]
        begin, end = self.chance.choice(kinds)
        self.clock.at(at, begin)
        self.clock.at(at + lasting, end)

    def _cut(self, cut: bool) -> None:
        if cut:
            self.up.cut = self.down.cut = True
        else:
            self.up.restore()
            self.down.restore()

    def _pace(self, bits_per_second: float) -> None:
        self.up.bits_per_second = bits_per_second

    def _pin(self, mode: str) -> None:
        self.tell(ev.RequestReceived("set", 1, {"mode": mode}))

    def _spoil(self, faults: Faults) -> None:
        self.up.faults = self.down.faults = faults

    def run(self, seconds: float = 8.0) -> None:
        """Play, then drain: everything taken is to be answered whatever is still broken."""
        self._carry_out(self.brain.start(0.0))
        self.plan_play(seconds)
        self.clock.run(seconds)
        self.tell(ev.Drain())
        self.clock.run(seconds + 3 * self.deadline_seconds)
        self.check()

    def check(self) -> None:
        """Raise unless every promise was kept.

        Raises:
            BrokenPromiseError: which promise was not.

        """
        counts = self.brain.statistics
        if not self.drained:
            raise BrokenPromiseError(f"not drained; still owed: {list(self.brain.flow.frames)}")
        if counts.received != self.published:
            raise BrokenPromiseError(f"{self.published} frames published, {counts.received} received")
        if counts.received != counts.taken + counts.dropped.total() + counts.rejected.total():
            raise BrokenPromiseError(
                f"received {counts.received}, but taken {counts.taken}, {counts.dropped}, {counts.rejected}"
            )
        if counts.taken != counts.answered or counts.answered != len(self.answers):
            raise BrokenPromiseError(f"taken {counts.taken}, answered {counts.answered}, answers {len(self.answers)}")
        late = [a for a in self.answers.values() if a.timing.total > self.deadline_seconds + 2.0]
        if late:
            raise BrokenPromiseError(f"frame {late[0].key} took {late[0].timing.total:.2f} s")


def play(seed: int, trace: bool = False) -> AgentWorld:
    """Play one seed.

    Raises:
        BrokenPromiseError: a promise was broken; the same seed breaks it again.

    """
    world = AgentWorld(seed, trace)
    try:
        world.run()
    except BrokenPromiseError as error:
        lines = "" if world.trace is None else "\n" + "\n".join(world.trace)
        raise BrokenPromiseError(f"seed {seed}: {error}{lines}") from error
    return world
