"""Makers of the brain's tests: a small model, and a brain whose world is the test itself."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from popexd.coordinator import events as ev
from popexd.coordinator.brain import Coordinator, Settings
from popexd.coordinator.choosing import Known
from popexd.coordinator.planning import Planner
from popexd.coordinator.settings import PlannerSettings
from popexd.network import Link
from popexd.plan import Tier
from popexd.profile import INPUT, CodecCost, Exit, Layer, LayerGraph
from popexd.simulation.model import assemble
from popexd.validation import FINAL, Validation

DEVICE, EDGE, CLOUD = Tier
E = TypeVar("E")

FRAME_BYTES = 20_000
TENSOR_BYTES = 2_000
SURE, UNSURE = 0.95, 0.4


def graph(
    device_seconds: Sequence[float] = (0.02, 0.04, 0.04),
    speed: Mapping[Tier, float] | None = None,
    easy: float = 0.3,
) -> LayerGraph:
    """A chain of three layers with branches after the first two; the share `easy` leaves at each.

    At 10 Mbit/s shipping after v1 is best, at 50 the camera's frame, below 0.2 nothing.
    """
    speed = speed or {EDGE: 4.0, CLOUD: 20.0}
    names = ("v1", "v2", "v3")

    def times(seconds: float) -> dict[Tier, float]:
        return {DEVICE: seconds, **{tier: seconds / factor for tier, factor in speed.items()}}

    layers = tuple(
        Layer(name, (before,), times(seconds), 40_000)
        for name, before, seconds in zip(names, (INPUT, *names), device_seconds, strict=False)
    )
    sure = np.linspace(0, 1, 100) < easy
    confidence = np.where(np.array([sure, ~sure & (np.linspace(0, 1, 100) < 2 * easy), sure | ~sure]), SURE, UNSURE)
    codecs = {
        INPUT: {"camera": CodecCost(FRAME_BYTES, 0.0, 0.004)},
        "v1": {"q8+zstd": CodecCost(TENSOR_BYTES, 0.001, 0.0005)},
        "v2": {"q8+zstd": CodecCost(TENSOR_BYTES, 0.001, 0.0005)},
    }
    return LayerGraph(
        model="bench",
        input_bytes=150_000,
        layers=layers,
        exits=(Exit("b1", "v1", times(0.001)), Exit("b2", "v2", times(0.001))),
        codecs=codecs,
        input_seconds={DEVICE: 0.005},
        validation=Validation(("b1", "b2", FINAL), confidence, confidence > 0.5, None),
        thresholds={"b1": 0.8, "b2": 0.8},
    )


class Bench:
    """A brain on a bench: `tell` hands it an event, the test plays compute, link and workers."""

    def __init__(self, model: LayerGraph | None = None, **settings: Any) -> None:
        planner = {key: settings.pop(key) for key in tuple(settings) if key in PlannerSettings.__dataclass_fields__}
        self.graph = model or graph()
        self.brain = Coordinator(
            lambda known: assemble(self.graph, known), Settings(PlannerSettings(**planner), **settings), boot="t"
        )
        self.now = 100.0
        self.numbers = itertools.count(1)
        self.log: list[ev.Effect] = list(self.brain.start(self.now))

    # ---------------------------------------------------------------------------------------- telling

    def tell(self, event: ev.Event, after: float = 0.0) -> list[ev.Effect]:
        """Hand over an event `after` seconds later; return the effects."""
        self.now += after
        effects = self.brain.handle(event, self.now)
        self.log += effects
        return effects

    def wait(self, seconds: float) -> list[ev.Effect]:
        """Let time pass, with the wake-ups that the brain asks for and nothing else."""
        end, effects = self.now + seconds, []
        for _ in range(10_000):
            wakeup = self.brain.next_wakeup()
            if wakeup > end:
                break
            self.now = max(self.now, wakeup)
            effects += self.tell(ev.Wakeup())
        else:
            raise AssertionError("the loop spins")
        self.now = end
        return effects

    def connected(self, max_packet_bytes: int | None = None) -> Bench:
        """Reach the broker, find a cloud worker there."""
        self.tell(ev.UplinkChanged(True, max_packet_bytes=max_packet_bytes))
        self.worker("w1")
        return self

    def worker(self, name: str, tier: Tier = CLOUD, online: bool = True, profile: Any = "profile") -> list[ev.Effect]:
        """Let a worker come or go."""
        return self.tell(ev.WorkerChanged(name, tier, online, profile if online else None))

    def measured(self, bits_per_second: float = 10e6, round_trip: float = 0.02) -> Bench:
        """Answer the probes that are out, and those that follow, as such a link would."""
        for _ in range(40):
            probe = next((effect for effect in reversed(self.log) if isinstance(effect, ev.SendProbe)), None)
            if probe is None or self.brain.world.uplink._probe is None:
                break
            seconds = round_trip + 8 * probe.bytes / bits_per_second
            self.tell(ev.ProbeReturned(probe.sequence, 0.0), after=seconds)
        return self

    def offloading(self, bits_per_second: float = 10e6, round_trip: float = 0.02) -> Bench:
        """Connect, measure, and let any dwell time pass."""
        self.connected().measured(bits_per_second, round_trip).wait(3.0)
        assert self.brain.world.planner.ways.usual.route, "the plan ships nothing"
        self.log.clear()
        return self

    def frame(self, camera: str = "c", frame_id: str | None = None, payload: bytes | None = None) -> list[ev.Effect]:
        """Let a camera publish a frame; each has bytes of its own."""
        number = next(self.numbers)
        return self.tell(ev.FrameReceived(camera, payload or b"frame %d" % number, frame_id or f"f{number}"))

    def ran(
        self,
        run: ev.Run,
        said: float | None = None,
        seconds: float = 0.02,
        shipment_bytes: int = TENSOR_BYTES,
        label: int = 3,
    ) -> list[ev.Effect]:
        """Carry out an order, an exit answering with confidence `said`."""
        classified = None if run.exit is None else ev.Classified(label, "nut", 1.0 if said is None else said)
        return self.tell(
            ev.RunDone(
                key=run.key,
                decode_seconds=0.005 if run.decode else 0.0,
                device_seconds=seconds if run.segments else 0.0,
                encode_seconds=0.001 if run.codec else 0.0,
                classified=classified,
                image_bytes=FRAME_BYTES if run.payload is not None else None,
                shipment_bytes=None if run.codec is None else shipment_bytes,
            ),
            after=(seconds if run.segments else 0.0) + 0.005 * run.decode + 0.001 * bool(run.codec),
        )

    def shipped(self, camera: str = "c", shipment_bytes: int = TENSOR_BYTES) -> ev.Ship:
        """Let a frame come that no branch is sure of; return its shipment."""
        effects = self.frame(camera)
        while not (ships := only(ev.Ship, effects)):
            (run,) = only(ev.Run, effects)
            effects = self.ran(
                run, said=UNSURE if run.exit not in (None, FINAL) else None, shipment_bytes=shipment_bytes
            )
        return ships[0]

    def replied(self, ship: ev.Ship, after: float = 0.03, **fields: Any) -> list[ev.Effect]:
        """Let a worker answer a shipment."""
        known: dict[str, Any] = {
            "worker": "w1",
            "tier": CLOUD,
            "message_bytes": TENSOR_BYTES,
            "seconds": {"queue": 0.0, "decode": 0.0005, "compute": 0.004},
            "classified": ev.Classified(5, "bolt", 0.9),
            "plan_id": ship.plan_id,
        }
        return self.tell(ev.Replied(ship.key, ship.attempt, **{**known, **fields}), after=after)

    def ended(self, ship: ev.Ship, outcome: str) -> list[ev.Effect]:
        """Let the bus say what became of a shipment."""
        return self.tell(ev.ShipmentEnded(ship.key, ship.attempt, outcome))

    def asked(self, verb: str, transaction: str | None = "t1", **fields: Any) -> ev.Respond | None:
        """Send a request; return the response."""
        found = only(ev.Respond, self.tell(ev.RequestReceived(verb, transaction, fields)))
        return found[0] if found else None

    # ---------------------------------------------------------------------------------------- looking

    @property
    def decision(self) -> ev.Decision:
        """The decision in force."""
        decision = self.brain.world.planner.decision
        assert decision is not None
        return decision

    @property
    def counts(self) -> dict[str, Any]:
        """The metrics."""
        return dict(self.brain.figures(self.now))

    def answers(self) -> list[ev.Answer]:
        """Every answer so far."""
        return only(ev.Answer, self.log)

    def notices(self, event: str) -> list[Mapping[str, Any]]:
        """The fields of the notices of this name so far."""
        return [notice.fields for notice in only(ev.Notice, self.log) if notice.event == event]

    def decided(self) -> list[ev.Decision]:
        """Every decision published so far."""
        return [effect.decision for effect in only(ev.Decided, self.log)]

    def at_rest(self) -> None:
        """Check what holds whenever nothing is under way."""
        frames = self.counts["frames"]
        assert not self.brain.flow.frames
        assert frames["received"] == frames["taken"] + frames["dropped"] + frames["rejected"]
        assert frames["taken"] == frames["answered"] == len({answer.key for answer in self.answers()})


def only(kind: type[E], effects: Sequence[Any]) -> list[E]:
    """Return the effects of one kind."""
    return [effect for effect in effects if isinstance(effect, kind)]


def first(kind: type[E], effects: Sequence[Any]) -> E:
    """Return the one effect of a kind."""
    (found,) = only(kind, effects)
    return found


def cheaper(model: LayerGraph, **seconds: float) -> LayerGraph:
    """Return the graph with other device seconds for some layers."""
    layers = tuple(
        replace(layer, seconds={**layer.seconds, DEVICE: seconds.get(layer.name, layer.seconds[DEVICE])})
        for layer in model.layers
    )
    return replace(model, layers=layers)


def planner(model: LayerGraph | None = None, **chosen: object) -> Planner:
    """A planner that knows a model."""
    whole = model or graph()
    return Planner(lambda known: assemble(whole, known), PlannerSettings(**chosen), "p", lambda: 0.0)  # type: ignore[arg-type]


def cloud(bits_per_second: float, round_trip: float = 0.02, limit: int | None = None) -> Known:
    """A cloud worker behind this link."""
    return Known({CLOUD: "profile"}, Link(bits_per_second, round_trip), limit)
