"""Events in any order and at any time, possible or not: the promises hold all the same."""

from __future__ import annotations

import random
from typing import Any

import pytest

from popexd.coordinator import events as ev
from popexd.validation import FINAL

from .makers import CLOUD, EDGE, FRAME_BYTES, Bench, graph, only

OUTCOMES = ["delivered", "no_subscribers", "too_large", "dropped", "stale", "disconnected", "refused"]
REQUESTS: list[dict[str, Any]] = [
    {"mode": "device"},
    {"mode": "cloud"},
    {"mode": "edge"},
    {"mode": "auto"},
    {"thresholds": {"b1": 0.2}},
    {"thresholds": {"b1": 1.01}},
    {"objective": "bytes"},
    {"objective": "seconds"},
    {"min_accuracy": 0.999},
    {"min_accuracy": None},
    {"deadline_seconds": 0.1},
    {"solver": "shortest-path"},
    {"solver": "joint"},
]
WEIGHTS = {
    "frame": 6.0,
    "run": 8.0,
    "fail": 0.4,
    "reply": 4.0,
    "ended": 1.5,
    "uplink": 0.3,
    "worker": 0.7,
    "probe": 6.0,
    "probed": 3.0,
    "due": 1.5,
    "set": 0.4,
    "late": 1.0,
    "strange": 1.0,
}


class Chaos(Bench):
    """A bench that does whatever a number says."""

    def __init__(self) -> None:
        super().__init__(graph(speed={EDGE: 5.0, CLOUD: 20.0}))
        self.running: ev.Run | None = None
        self.ships: list[ev.Ship] = []
        self.drained = 0
        self._note(self.log)

    def tell(self, event: ev.Event, after: float = 0.0) -> list[ev.Effect]:
        """Check what must hold after every single event."""
        if isinstance(event, ev.RunDone | ev.RunFailed) and self.running and event.key == self.running.key:
            self.running = None
        effects = super().tell(event, after)
        self._note(effects)
        assert self.brain.next_wakeup() > self.now
        return effects

    def _note(self, effects: list[ev.Effect]) -> None:
        for run in only(ev.Run, effects):
            assert self.running is None, "two orders at once"
            self.running = run
        self.ships += only(ev.Ship, effects)
        self.drained += len(only(ev.Drained, effects))

    def do(self, what: str, number: int) -> None:
        """Let one thing happen."""
        getattr(self, f"_{what}")(number)

    def _frame(self, number: int) -> None:
        self.frame(f"c{number % 4}")

    def _run(self, number: int) -> None:
        if self.running is not None:
            self.ran(self.running, 0.1 * number, seconds=0.01 * number, shipment_bytes=700 * (1 + number) ** 2)

    def _fail(self, number: int) -> None:
        if self.running is not None:
            self.tell(ev.RunFailed(self.running.key, number % 2 == 0, "decode" if number % 2 == 0 else "compute"))

    def _reply(self, number: int) -> None:
        if self.ships:
            ship = self.ships[-1 - number % min(3, len(self.ships))]
            known: dict[str, Any] = {"error": "tensors", "classified": None} if number > 7 else {}
            self.replied(ship, 0.0, exit="b2" if number == 7 else FINAL, tier=ship.tier, **known)

    def _ended(self, number: int) -> None:
        if self.ships:
            self.ended(self.ships[-1], OUTCOMES[number % len(OUTCOMES)])

    def _uplink(self, number: int) -> None:
        limit = [None, None, 30_000, 3_000][number % 4]
        self.tell(ev.UplinkChanged(number % 3 > 0, "fuzz", limit))

    def _worker(self, number: int) -> None:
        self.worker(f"w{number % 3}", EDGE if number % 3 == 2 else CLOUD, number < 7)

    def _probe(self, number: int) -> None:
        sent = only(ev.SendProbe, self.log)
        if sent:
            self.tell(ev.ProbeReturned(sent[-1 - number % min(2, len(sent))].sequence, 0.0))

    def _probed(self, number: int) -> None:
        sent = only(ev.SendProbe, self.log)
        if sent:
            self.tell(ev.ProbeEnded(sent[-1 - number % min(3, len(sent))].sequence, OUTCOMES[max(0, number - 3)]))

    def _due(self, number: int) -> None:
        self.tell(ev.Due(["probe", "replan", "metrics"][number % 3]))

    def _set(self, number: int) -> None:
        self.tell(ev.RequestReceived("set", number, REQUESTS[(number * 7 + len(self.log)) % len(REQUESTS)]))

    def _late(self, number: int) -> None:
        self.wait(0.5 * number)

    def _strange(self, number: int) -> None:
        strangers: list[ev.Event] = [
            ev.RunDone(99_999),
            ev.RunFailed(99_999, True, "decode"),
            ev.Replied(99_999, 3, "w", CLOUD, 0, {"compute": -1e9}, ev.Classified(0, "", 0.0)),
            ev.ShipmentEnded(99_999, 1, "dropped"),
            ev.ProbeReturned(99_999, 1e9),
            ev.SpeedMeasured(1e6),
            ev.ReplyRejected("json"),
            ev.RequestReceived("status", "t"),
            ev.FramesSkipped("c", 2),
            ev.InputRejected("empty"),
        ]
        self.tell(strangers[number])

    def finish(self) -> None:
        """Drain: whatever is still out is never answered."""
        self.tell(ev.Drain())
        for _ in range(500):
            if self.running is not None:
                self.ran(self.running, 0.5, shipment_bytes=FRAME_BYTES)
            elif self.brain.flow.frames:
                self.wait(1.0)
            else:
                break
        assert self.drained == 1
        self.at_rest()


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_whatever_happens_every_frame_taken_is_answered_once(first: int) -> None:
    """No exception, one order at a time, no wake-up in the past, and in the end the counts agree."""
    shipped, fallbacks = 0, set()
    for seed in range(first, first + 100):
        chance, chaos = random.Random(seed), Chaos()
        chaos.do("uplink", 4)
        chaos.do("worker", 0)
        for what in chance.choices(list(WEIGHTS), list(WEIGHTS.values()), k=chance.randrange(20, 300)):
            chaos.now += chance.choice([0.0, 0.3, 3.0]) if chance.random() < 0.1 else chance.choice([0.001, 0.01])
            chaos.do(what, chance.randrange(10))
        chaos.finish()
        shipped += len(chaos.ships)
        fallbacks |= chaos.counts["fallbacks"].keys()
    assert shipped > 20
    assert len(fallbacks) > 6
