"""The simulator's own parts: clock, link, workers."""

from __future__ import annotations

import random

import pytest

from popexd.coordinator.events import Classified, Replied, Ship
from popexd.plan import Tier
from popexd.protocol.tensors import Stage
from popexd.simulation import model
from popexd.simulation.clock import Clock
from popexd.simulation.network import Faults, SimulatedLink
from popexd.simulation.workers import SimulatedWorker, Workers
from popexd.validation import FINAL


def link(bits_per_second: float = 1e6, delay: float = 0.01, jitter: float = 0.0) -> tuple[Clock, SimulatedLink]:
    """A link and its clock."""
    clock = Clock()
    return clock, SimulatedLink(clock, random.Random(1), bits_per_second, delay, jitter)


def test_the_clock_lets_things_happen_in_order() -> None:
    """By instant, and what was planned first among equals; never in the past."""
    clock, seen = Clock(), []
    for name, at in [("late", 2.0), ("b", 1.0), ("c", 1.0), ("early", -5.0)]:
        clock.at(at, lambda name=name: seen.append((name, clock.now)))  # type: ignore[misc]
    clock.run(1.5)
    assert seen == [("early", 0.0), ("b", 1.0), ("c", 1.0)]
    assert clock.now == 1.5
    clock.after(0.1, lambda: seen.append(("soon", clock.now)))
    clock.run(3.0)
    assert [name for name, _ in seen[3:]] == ["soon", "late"]


def test_a_link_carries_one_message_after_the_other() -> None:
    """Each takes its bytes' time, then the delay."""
    clock, wire = link()
    arrived: list[float] = []
    for _ in range(3):
        wire.send(12_500, lambda: arrived.append(clock.now))
    clock.run(9.0)
    assert arrived == pytest.approx([0.11, 0.21, 0.31])


def test_jitter_delays_and_never_reorders() -> None:
    """As on a connection that keeps order."""
    clock, wire = link(1e9, jitter=0.05)
    arrived: list[int] = []
    for number in range(50):
        wire.send(100, lambda number=number: arrived.append(number))  # type: ignore[misc]
    clock.run(9.0)
    assert arrived == list(range(50))


def test_a_cut_link_holds_what_it_carries() -> None:
    """It comes when the cut is over."""
    clock, wire = link()
    arrived: list[float] = []
    wire.send(12_500, lambda: arrived.append(clock.now))
    clock.run(0.05)
    wire.cut = True
    wire.send(12_500, lambda: arrived.append(clock.now))
    clock.run(5.0)
    assert arrived == []
    wire.restore()
    clock.run(9.0)
    assert len(arrived) == 2
    assert min(arrived) >= 5.0


def test_a_broken_connection_loses_what_it_carries() -> None:
    """And what comes after it does not wait for it."""
    clock, wire = link()
    arrived: list[float] = []
    wire.send(125_000, lambda: arrived.append(clock.now))
    clock.run(0.05)
    wire.drop()
    wire.send(12_500, lambda: arrived.append(clock.now))
    clock.run(9.0)
    assert arrived == pytest.approx([0.16])


def test_faults_lose_and_double_all_but_what_is_sent_in_order() -> None:
    """By their shares, and only what may be lost."""
    clock, wire = link(1e9)
    wire.faults = Faults(lost=0.3, twice=0.2, held=0.2, held_seconds=0.5)
    plain, ordered = [], []
    for number in range(1_000):
        wire.send(10, lambda number=number: plain.append(number))  # type: ignore[misc]
        wire.send_in_order(10, lambda number=number: ordered.append(number))  # type: ignore[misc]
    clock.run(9.0)
    assert ordered == list(range(1_000))
    assert 600 < len(set(plain)) < 800
    assert len(plain) > len(set(plain))
    assert plain != sorted(plain)


def crew(*tiers: Tier) -> tuple[Clock, Workers]:
    """Workers who never fail."""
    clock, chance = Clock(), random.Random(1)
    members = [SimulatedWorker(f"w{index}", tier) for index, tier in enumerate(tiers)]
    workers = Workers(clock, chance, model.graph(chance, edge=True), lambda _key, _at: Classified(1, "x", 0.9), members)
    workers.failures = 0.0
    return clock, workers


def shipment(tier: Tier = Tier.CLOUD) -> Ship:
    """The last two layers of a frame."""
    return Ship(1, 1, tier, (Stage(tier, ("v2", "v3"), None, {}),), "p", 2.0)


def test_workers_of_a_tier_take_turns_and_say_what_it_took() -> None:
    """Queue, decoding, computing; the message's size; what the frame is."""
    clock, workers = crew(Tier.CLOUD, Tier.CLOUD, Tier.EDGE)
    replies: list[Replied] = []
    assert not workers.take(shipment(), "v1", 500, "q8+zstd", replies.append)
    for worker in workers.members:
        workers.start(worker)
    for _ in range(4):
        assert workers.take(shipment(), "v1", 500, "q8+zstd", replies.append)
    clock.run(1.0)
    assert sorted(reply.worker for reply in replies) == ["w0", "w0", "w1", "w1"]
    assert all(reply.exit == FINAL and reply.classified is not None for reply in replies)
    assert max(reply.seconds["queue"] for reply in replies) > 0


def test_a_dead_worker_takes_its_work_along_and_a_stopped_one_keeps_it() -> None:
    """Nothing is heard of the first; the second answers when it goes on."""
    clock, workers = crew(Tier.CLOUD)
    (worker,) = workers.members
    replies: list[Replied] = []
    workers.start(worker)
    workers.take(shipment(), "v1", 500, "q8+zstd", replies.append)
    workers.kill(worker)
    clock.run(1.0)
    workers.start(worker)
    workers.stop(worker)
    workers.take(shipment(), "v1", 500, "q8+zstd", replies.append)
    clock.run(2.0)
    assert replies == []
    assert not workers.echoes(Tier.CLOUD)
    workers.resume(worker)
    clock.run(3.0)
    assert len(replies) == 1
    assert workers.echoes(Tier.CLOUD)


def test_an_edge_worker_asks_the_exits_on_its_way() -> None:
    """Where one is sure the answer is its, and its name is told."""
    clock, workers = crew(Tier.EDGE)
    workers.start(workers.members[0])
    replies: list[Replied] = []
    ship = Ship(1, 1, Tier.EDGE, (Stage(Tier.EDGE, ("v1", "v2", "v3"), None, {"b1": 0.95, "b2": 0.8}),), "p", 2.0)
    workers.take(ship, "input", 500, "camera", replies.append)
    clock.run(1.0)
    assert replies[0].exit == "b2"
