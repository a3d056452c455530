"""The daemon's own brain among simulated compute, link, broker and workers, on a virtual clock."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from popexd.coordinator import events as ev
from popexd.coordinator.brain import Coordinator, Settings
from popexd.coordinator.corrections import ENVELOPE_BYTES
from popexd.plan import Tier
from popexd.profile import INPUT, LayerGraph
from popexd.simulation import model
from popexd.simulation.clock import Clock
from popexd.simulation.network import SimulatedLink
from popexd.simulation.workers import SimulatedWorker, Workers
from popexd.validation import Validation

_REPLY_BYTES = 500
_PRESENCE_BYTES = 300
BROKEN = b"broken"


class BrokenPromiseError(AssertionError):
    """An invariant does not hold; the seed replays it."""


@dataclass(frozen=True)
class Conditions:
    """What a world is like before anything happens in it; `noise` is by how much times vary, up and down."""

    graph: LayerGraph
    settings: Settings = field(default_factory=Settings)
    bits_per_second: float = 10e6
    delay_seconds: float = 0.01
    jitter_seconds: float = 0.0
    workers: tuple[Tier, ...] = (Tier.CLOUD,)
    noise: tuple[float, float] = (0.9, 1.3)
    failures: float = 0.0
    max_packet_bytes: int | None = None


class AgentWorld:
    """Carries out what the brain orders, and raises `BrokenPromiseError` as soon as a promise is broken."""

    def __init__(self, conditions: Conditions, chance: random.Random, trace: bool = False) -> None:
        self.conditions = conditions
        self.chance = chance
        self.graph = conditions.graph
        self.clock = Clock()
        self.device_slowdown = 1.0
        self.brain = Coordinator(lambda known: model.assemble(self.graph, known), conditions.settings, boot="s")
        rate, delay = conditions.bits_per_second, conditions.delay_seconds
        self.up = SimulatedLink(self.clock, chance, rate, delay, conditions.jitter_seconds)
        self.down = SimulatedLink(self.clock, chance, 10 * rate, delay)
        members = [SimulatedWorker(f"w{index}", tier) for index, tier in enumerate(conditions.workers)]
        self.workers = Workers(self.clock, chance, self.graph, self._classified, members)
        self.workers.failures = conditions.failures
        self.connected = False
        self.announced: dict[str, Tier] = {}
        self.answers: dict[int, ev.Answer] = {}
        self.answered_at: dict[int, float] = {}
        self.decisions: list[ev.Decision] = []
        self.effects: dict[int, list[str]] = {}
        self.notices: Counter[str] = Counter()
        self.published = 0
        self.handled = 0
        self.drained = False
        self.trace: list[str] | None = [] if trace else None
        self._running: int | None = None
        self._samples: dict[int, int] = {}
        self._sizes: dict[int, int] = {}
        self._decoded: set[int] = set()
        self._at: dict[int, str] = {}
        self._shipments: dict[int, tuple[str, str, int]] = {}
        self._wake_at = float("inf")
        self._carry_out(self.brain.start(0.0))

    # ------------------------------------------------------------------------------------------ the shell

    def tell(self, event: ev.Event) -> None:
        """Hand an event to the brain and carry out what it orders."""
        self.handled += 1
        self._note("> ", event)
        self._carry_out(self.brain.handle(event, self.clock.now))

    def _carry_out(self, effects: list[ev.Effect]) -> None:
        for effect in effects:
            self._note("    < ", effect)
            if isinstance(effect, ev.Run | ev.Ship | ev.Answer | ev.Forget):
                self.effects.setdefault(effect.key, []).append(kind_of(effect))
            match effect:
                case ev.Run():
                    self._compute(effect)
                case ev.Ship():
                    self._publish(effect)
                case ev.SendProbe():
                    self._probe(effect)
                case ev.Answer():
                    self._answered(effect)
                case ev.Notice():
                    self.notices[effect.event] += 1
                case ev.Decided():
                    self._decided(effect.decision)
                case ev.Drained():
                    self.drained = True
        self._set_alarm()

    def _set_alarm(self) -> None:
        wake_at = self.brain.next_wakeup()
        if wake_at < self._wake_at or self._wake_at <= self.clock.now:
            self._wake_at = wake_at
            if wake_at < float("inf"):
                self.clock.at(wake_at, partial(self._wake, wake_at))

    def _wake(self, instant: float) -> None:
        if instant != self._wake_at:
            return
        self._wake_at = float("inf")
        if self.brain.next_wakeup() > self.clock.now:
            self._set_alarm()
            return
        self.tell(ev.Wakeup())
        if self.brain.next_wakeup() <= self.clock.now:
            raise BrokenPromiseError("a wake-up that is due again at once: the loop would spin")

    def _note(self, mark: str, what: ev.Event | ev.Effect) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.clock.now:9.4f} {mark}{str(what)[:300]}")

    # ------------------------------------------------------------------------------------------ compute

    def _compute(self, run: ev.Run) -> None:
        if self._running is not None:
            raise BrokenPromiseError(f"two orders at once: {self._running} and {run.key}")
        self._running = run.key
        if run.payload is not None:
            self._samples[run.key] = self.chance.randrange(self._table.confidence.shape[1])
            self._sizes[run.key] = 0 if run.payload == BROKEN else int(run.payload)
            self._at[run.key] = INPUT
        noise = self.device_slowdown * self.chance.uniform(*self.conditions.noise)
        event, seconds = self._outcome(run, noise)

        def done() -> None:
            self._running = None
            self.tell(event)

        self.clock.after(seconds + 0.0001, done)

    def _outcome(self, run: ev.Run, noise: float) -> tuple[ev.Event, float]:
        opening = noise * self.graph.input_seconds.get(Tier.DEVICE, 0.0)
        if self._sizes[run.key] == 0 and (run.decode or run.codec != "camera"):
            return ev.RunFailed(run.key, True, "decode"), opening
        if self.chance.random() < 0.2 * self.conditions.failures:
            return ev.RunFailed(run.key, False, "compute", "simulated"), opening
        decode = opening if run.decode else 0.0
        exits = {branch.name: branch for branch in self.graph.exits}
        device = sum(self.graph.by_name[name].seconds[Tier.DEVICE] for name in run.segments)
        device += exits[run.exit].seconds[Tier.DEVICE] if run.exit in exits else 0.0
        self._at[run.key] = run.segments[-1] if run.segments else self._at[run.key]
        encode, shipment = self._encoded(run)
        done = ev.RunDone(
            key=run.key,
            decode_seconds=decode,
            device_seconds=noise * device,
            encode_seconds=noise * encode,
            classified=None if run.exit is None else self._classified(run.key, run.exit),
            image_bytes=None if run.payload is None else max(1, self._sizes[run.key]),
            shipment_bytes=shipment,
            quality=self._quality(run),
        )
        return done, decode + noise * (device + encode)

    def _quality(self, run: ev.Run) -> str | None:
        if run.decode:
            self._decoded.add(run.key)
        known = self._table.quality is not None and run.key in self._decoded
        return str(self._table.quality[self._samples[run.key]]) if known else None  # type: ignore[index]

    def _encoded(self, run: ev.Run) -> tuple[float, int | None]:
        if run.codec is None:
            return 0.0, None
        cut = self._at[run.key]
        cost = self.graph.codec_cost(cut, run.codec)
        if run.codec == "camera":
            encode, size = 0.0, self._sizes[run.key]
        else:
            opening = self.graph.input_seconds.get(Tier.DEVICE, 0.0) if cut == INPUT else 0.0
            encode, size = max(0.0, cost.encode_seconds - opening), int(cost.bytes * self.chance.uniform(0.85, 1.15))
        self._shipments[run.key] = (cut, run.codec, size + ENVELOPE_BYTES)
        return encode, size + ENVELOPE_BYTES

    @property
    def _table(self) -> Validation:
        assert self.graph.validation is not None
        return self.graph.validation

    def _classified(self, key: int, left_at: str) -> ev.Classified:
        sample, row = self._samples[key], self._table.exits.index(left_at)
        return ev.Classified(sample * 10 + row, f"{sample}-{left_at}", float(self._table.confidence[row][sample]))

    # ------------------------------------------------------------------------------------------ what comes out

    def _answered(self, answer: ev.Answer) -> None:
        if answer.key in self.answers:
            raise BrokenPromiseError(f"frame {answer.key} answered twice")
        self.answers[answer.key] = answer
        self.answered_at[answer.key] = self.clock.now
        expected = self._classified(answer.key, answer.exit)
        if answer.classified != expected:
            raise BrokenPromiseError(f"frame {answer.key}: {answer.classified}, expected {expected}")
        timing = answer.timing
        parts = [timing.queue, timing.decode, timing.device, timing.encode, timing.transfer, timing.edge, timing.cloud]
        if sum(part or 0.0 for part in parts) > timing.total + 1e-6 or min(part or 0.0 for part in parts) < 0:
            raise BrokenPromiseError(f"frame {answer.key}: parts exceed the total: {timing}")

    def _decided(self, decision: ev.Decision) -> None:
        self._check_feasible(decision)
        self.decisions.append(decision)

    def _check_feasible(self, decision: ev.Decision) -> None:
        above = {tier for plan in decision.plans.values() for tier in plan.tiers.values()} - {Tier.DEVICE}
        absent = above - set(self.announced.values())
        if absent or (above and not self.connected):
            raise BrokenPromiseError(f"{decision.plan_id} needs {sorted(above)}, there are {self.announced}")
        limit = self.conditions.max_packet_bytes
        if above and limit is not None and decision.prediction.packet_bytes > limit:
            raise BrokenPromiseError(f"{decision.plan_id} sends {decision.prediction.packet_bytes}, {limit} may be")

    def _tell_presence(self, event: ev.UplinkChanged | ev.WorkerChanged) -> None:
        self.tell(event)
        assert self.decision is not None
        self._check_feasible(self.decision)

    @property
    def decision(self) -> ev.Decision | None:
        """The decision in force."""
        return self.brain.world.planner.decision

    # ------------------------------------------------------------------------------------------ broker and workers

    def _publish(self, ship: ev.Ship) -> None:
        cut, codec, size = self._shipments[ship.key]

        def ended(outcome: str) -> Callable[[], None]:
            return partial(self.tell, ev.ShipmentEnded(ship.key, ship.attempt, outcome))

        if not self.connected:
            self.clock.after(0.0001, ended("disconnected"))
            return
        if self.chance.random() < self.conditions.failures:
            self.clock.after(0.0001, ended("dropped"))
            return

        def brokered() -> None:
            there = self.workers.take(ship, cut, size, codec, self._reply)
            self.down.send(60, ended("delivered" if there else "no_subscribers"))

        self.up.send(size, brokered)

    def _reply(self, reply: ev.Replied) -> None:
        if self.connected:
            self.down.send(_REPLY_BYTES, partial(self.tell, reply))

    def _probe(self, probe: ev.SendProbe) -> None:
        def ended(outcome: str) -> Callable[[], None]:
            return partial(self.tell, ev.ProbeEnded(probe.sequence, outcome))

        if not self.connected:
            self.clock.after(0.0001, ended("disconnected"))
            return

        def brokered() -> None:
            there = self.workers.listening(probe.tier)
            self.down.send(60, ended("delivered" if there else "no_subscribers"))
            if self.workers.echoes(probe.tier):
                self.down.send(200, partial(self.tell, ev.ProbeReturned(probe.sequence, 0.0)))

        self.up.send(probe.bytes + 150, brokered)

    def connect(self) -> None:
        """Reach the uplink's broker; presence is retained there."""
        if self.connected:
            return
        self.connected = True
        self.tell(ev.UplinkChanged(True, max_packet_bytes=self.conditions.max_packet_bytes))
        for worker in self.workers.members:
            if worker.alive:
                self._present(worker)

    def disconnect(self) -> None:
        """Lose the uplink's broker with all that is under way."""
        if self.connected:
            self.connected = False
            self.announced.clear()
            self.up.drop()
            self.down.drop()
            self._tell_presence(ev.UplinkChanged(False, "simulated"))

    def _present(self, worker: SimulatedWorker) -> None:
        event = ev.WorkerChanged(worker.name, worker.tier, worker.alive, "profile" if worker.alive else None)

        def heard() -> None:
            if event.online:
                self.announced[event.worker] = event.tier
            else:
                self.announced.pop(event.worker, None)
            self._tell_presence(event)

        if self.connected:
            self.down.send_in_order(_PRESENCE_BYTES, heard)

    def start_worker(self, worker: SimulatedWorker) -> None:
        """Let a worker come up; it says so."""
        if not worker.alive:
            self.workers.start(worker)
            self._present(worker)

    def kill_worker(self, worker: SimulatedWorker) -> None:
        """Let a worker die; its last will is published."""
        if worker.alive:
            self.workers.kill(worker)
            self._present(worker)

    def all_up(self) -> None:
        """Let everything there is be there."""
        self.connect()
        for worker in self.workers.members:
            self.start_worker(worker)

    # ------------------------------------------------------------------------------------------ cameras and schedule

    def frame(self, camera: str, frame_bytes: int | None = model.FRAME_BYTES) -> None:
        """Let a camera publish a frame; None is one that cannot be decoded."""
        self.published += 1
        payload = BROKEN if frame_bytes is None else str(frame_bytes).encode()
        self.tell(ev.FrameReceived(camera, payload, f"{camera}-{self.published}"))

    def every(self, seconds: float, action: Callable[[], None], begin: float = 0.0) -> None:
        """Let something happen again and again."""

        def happen() -> None:
            self.clock.after(seconds, happen)
            action()

        self.clock.at(self.clock.now + begin, happen)

    def schedule(self, probe_seconds: float, replan_seconds: float = 2.0, metrics_seconds: float = 10.0) -> None:
        """Let the schedule's jobs run."""
        for what, period in (("probe", probe_seconds), ("replan", replan_seconds), ("metrics", metrics_seconds)):
            self.every(period, partial(self.tell, ev.Due(what)), begin=period * self.chance.random())


def kind_of(effect: ev.Run | ev.Ship | ev.Answer | ev.Forget) -> str:
    """Name what was ordered for a frame, without what differs from run to run."""
    match effect:
        case ev.Run():
            then = [part for part in (effect.exit, effect.codec) if part is not None]
            return f"run {'+'.join(effect.segments) or '-'} {' '.join(then)}".strip()
        case ev.Ship():
            return f"ship {effect.tier.label} {'+'.join(effect.route[0].segments)}"
        case ev.Answer():
            seen = f" {effect.quality}" if effect.quality is not None else ""
            return f"answer {effect.exit}{seen} {effect.tier.label}"
    return "forget"
