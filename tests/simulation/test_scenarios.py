"""Scenarios on the virtual clock: how soon the daemon's brain follows what happens to its world."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from popexd.coordinator import events as ev
from popexd.plan import Tier
from popexd.simulation.play import switches_of
from popexd.simulation.workers import SimulatedWorker

from .street import PROBE_SECONDS, Street, alexnet, photos_only

FALL_SECONDS, RECOVERY_SECONDS = 10.0, 15.0
LINKS = [(18.8e6, 0.002), (5.5e6, 0.02), (1.1e6, 0.04), (0.5e6, 0.05)]


def follows(street: Street, bits_per_second: float, within: float) -> None:
    """Change the rate: estimate and plan follow in time, and stay right."""
    street.pace(bits_per_second)
    after = street.settled_after(lambda: street.estimate_off() < 2, within + 5)
    assert after <= within, f"the estimate was off by {street.estimate_off():.1f} for {after:.1f} s"
    assert street.good(), f"{street.behind():.3f} s behind"


@pytest.mark.parametrize("fps", [2, 5, 10])
@pytest.mark.parametrize(("rate", "delay"), LINKS)
def test_a_fall_and_a_recovery_by_five_are_followed(rate: float, delay: float, fps: float) -> None:
    """Whether frames, tensors or nothing was being sent: the fall within 10 s, the recovery within 15."""
    street = Street(alexnet(), rate, delay, fps)
    street.run(20)
    assert street.estimate_off() < 1.5
    follows(street, rate / 5, FALL_SECONDS)
    follows(street, rate, RECOVERY_SECONDS)


@pytest.mark.parametrize("kilobytes", [20, 60, 110, 130, 180])
def test_large_photos_that_nearly_fill_the_link_are_no_excuse(kilobytes: int) -> None:
    """At 5 frames a second on 5.5 Mbit/s the link is never idle from 137 kB on."""
    size = 1_000 * kilobytes
    street = Street(photos_only(40, size), 5.5e6, 0.02, 5, size)
    street.run(20)
    assert street.world.decision is not None
    assert street.world.decision.cut == "input"
    assert street.estimate_off() < 1.2
    follows(street, 1.1e6, FALL_SECONDS)
    follows(street, 5.5e6, RECOVERY_SECONDS)
    assert street.world.decision.cut == "input"


def test_photos_of_all_sizes_are_no_excuse_either() -> None:
    """From 20 to 180 kB, each another."""
    chance = random.Random(5)
    street = Street(photos_only(), 5.5e6, 0.02, 5, lambda: chance.randrange(20_000, 180_000))
    street.run(20)
    follows(street, 1.1e6, FALL_SECONDS)
    follows(street, 5.5e6, RECOVERY_SECONDS)


def test_a_plan_that_ships_one_frame_in_ten_follows_too() -> None:
    """Nine leave early, and what is sent is small: probes tell what traffic does not."""
    street = Street(alexnet(early=0.9), 18.8e6, 0.01, 5)
    street.run(20)
    for rate, within in ((3.76e6, FALL_SECONDS), (18.8e6, RECOVERY_SECONDS), (1.1e6, FALL_SECONDS)):
        follows(street, rate, within)


def test_a_plan_that_ships_nothing_sees_the_link_get_better() -> None:
    """From 0.1 Mbit/s, where nothing is worth sending, upwards by five and five and on."""
    street = Street(alexnet(), 0.1e6, 0.03, 5)
    street.run(20)
    assert street.world.decision is not None
    assert street.world.decision.cut == "output"
    for rate in (0.5e6, 2.5e6, 12.5e6):
        follows(street, rate, RECOVERY_SECONDS)
    assert street.world.decision.cut != "output"


RISES = [(1.1e6, 5.5e6, 0.012), (0.5e6, 2.5e6, 0.04)]


@pytest.mark.parametrize("jitter", [0.0, 0.005, 0.02])
@pytest.mark.parametrize(("old", "new", "delay"), [*RISES, *((new, old, delay) for old, new, delay in RISES)])
def test_who_stays_at_home_decides_on_another_link_with_the_next_probe(
    old: float, new: float, delay: float, jitter: float
) -> None:
    """One scheduled probe and those that follow it at once: within its interval and a second, up or down."""
    waits = []
    for seed in range(6):
        street = Street(alexnet(8, early=0.9), old, delay, seed=seed, jitter_seconds=jitter)
        street.world.tell(ev.RequestReceived("set", 1, {"mode": "device"}))
        street.run(30 + 0.5 * seed)
        assert street.home
        waits.append(street.decided_after(new, 30))
    assert sum(wait <= PROBE_SECONDS + 1 for wait in waits) >= 5, waits


@pytest.mark.parametrize("jitter", [0.0, 0.02])
@pytest.mark.parametrize(("old", "new", "delay"), RISES)
def test_who_stays_at_home_hears_of_a_better_link_long_before_the_next_scheduled_probe(
    old: float, new: float, delay: float, jitter: float
) -> None:
    """At the default of thirty seconds, with bytes that the budget would not have held."""
    waits = []
    for seed in range(6):
        street = Street(alexnet(8, early=0.9), old, delay, seed=seed, jitter_seconds=jitter, probe_seconds=30)
        street.run(120 + seed)
        assert street.home
        waits.append(street.decided_after(new, 60))
    assert sum(wait <= 20 for wait in waits) >= 5, waits


def test_probing_more_often_costs_no_more_than_the_budget_gives_back() -> None:
    """An hour at home: many more probes than the schedule asks for, and the budget as full as it was."""
    street = Street(alexnet(8, early=0.9), 1.1e6, 0.012, fps=0.5, probe_seconds=30)
    street.run(60)
    budget = street.world.brain.world.uplink.budget
    spent, left = budget.spent, budget.left(street.now)
    street.run(3_600)
    assert street.home
    assert 2.5 * 120 * 2_048 < budget.spent - spent <= 0.75 * 50e6 * 3_600 / 86_400
    assert budget.left(street.now) >= 0.99 * left


def test_a_jittery_link_is_followed_as_well() -> None:
    """Up to 20 ms more or less on every message."""
    street = Street(alexnet(), 5.5e6, 0.02, 5, jitter_seconds=0.02, noise=(0.8, 1.5))
    street.run(20)
    follows(street, 1.1e6, FALL_SECONDS)
    follows(street, 5.5e6, RECOVERY_SECONDS)


@pytest.mark.parametrize(("rate", "jitter"), [(18.8e6, 0.01), (5.5e6, 0.02), (3.0e6, 0.03), (1.1e6, 0.05)])
def test_a_steady_link_sees_no_flapping_for_ten_minutes(rate: float, jitter: float) -> None:
    """At most one switch per dwell time and few at all, few probes, and predictions that come true."""
    street = Street(alexnet(), rate, 0.02, 5, jitter_seconds=jitter, noise=(0.8, 1.5), seed=3)
    street.run(600)
    switches = [decision.decided_at for decision in switches_of(street.world.decisions)][1:]
    assert all(later - earlier >= 2.0 for earlier, later in pairwise(switches))
    assert len(switches) <= 15
    assert len(street.world.decisions) <= 40
    figures = street.world.brain.figures(street.now)
    assert 0.85 <= figures["prediction_error"]["median_ratio"] <= 1.15
    assert figures["probe_bytes"] < 5_000_000
    assert street.world.brain.statistics.fallbacks.total() <= 5


@pytest.mark.parametrize("home", [True, False])
@pytest.mark.parametrize("jitter", [0.005, 0.02, 0.05])
def test_the_jitter_that_is_published_is_the_links(jitter: float, home: bool) -> None:
    """Told by probes alone or by shipments, within a factor of 1.5; it is spread evenly up to `jitter` one way."""
    ratios = []
    for seed in range(8):
        street = Street(alexnet(8 if home else 13), 3.0e6, 0.02, seed=seed, jitter_seconds=jitter)
        street.world.tell(ev.RequestReceived("set", 1, {"mode": "device" if home else "cloud"}))
        street.run(90)
        assert street.home is home
        assert street.estimate is not None
        ratios.append(street.estimate.jitter_seconds / (jitter / math.sqrt(12)))
    assert sum(1 / 1.5 < ratio < 1.5 for ratio in ratios) >= 7, ratios


def test_a_steady_link_is_published_without_jitter() -> None:
    """Though frames take longer one time than another: that is the device's and the worker's."""
    street = Street(alexnet(), 3.0e6, 0.02)
    street.run(60)
    assert street.estimate is not None
    assert street.estimate.jitter_seconds < 0.001


@pytest.mark.parametrize("slower", [13, 40, 120])
def test_an_outage_costs_no_answer_and_no_deadline(slower: float) -> None:
    """However slow the device: frames are answered in time while the link is away, and offloading comes back."""
    street = Street(alexnet(slower), 18.8e6, 0.01, 5)
    street.run(20)
    begin, before = street.now, len(street.world.answers)
    street.cut(True)
    street.run(30)
    alone = slower * 0.01 + 0.01
    assert len(street.world.answers) - before >= 0.8 * min(5.0, 1 / alone) * 30 - 2
    assert street.slowest_since(begin) <= 2.0
    street.cut(False)
    back = street.settled_after(lambda: street.world.decision is not None and street.world.decision.cut != "output", 6)
    assert back <= 3
    assert street.slowest_since(begin) <= 2.0
    assert street.estimate_off() < 2


def test_every_way_back_is_found() -> None:
    """The broker comes back, the worker is started again, or goes on after it was stopped."""
    street = Street(alexnet(), 18.8e6, 0.01, 5)
    world = street.world
    (worker,) = world.workers.members
    street.run(10)
    for go, come in [
        (world.disconnect, world.connect),
        (lambda: world.kill_worker(worker), lambda: world.start_worker(worker)),
        (lambda: world.workers.stop(worker), lambda: world.workers.resume(worker)),
    ]:
        go()
        street.run(20)
        assert world.decision is not None
        assert world.decision.cut == "output"
        come()
        back = street.settled_after(lambda: world.decision is not None and world.decision.cut != "output", 6)
        assert back <= 3
        street.run(5)
    assert street.slowest_since(0.0) <= 2.0


def test_a_device_that_slows_down_threefold_gives_its_work_away() -> None:
    """Heat, or a neighbour: measured by the frames themselves, within ten seconds."""
    street = Street(alexnet(8), 2e6, 0.03, 5)
    street.run(20)
    assert street.world.decision is not None
    assert street.world.decision.cut == "output"
    street.world.device_slowdown = 3.0
    street.run(10)
    assert street.world.decision.cut != "output"


def test_photos_that_grow_are_no_longer_sent() -> None:
    """Another resolution, eight times the bytes: within ten seconds something smaller goes."""
    street = Street(alexnet(), 18.8e6, 0.01, 5)
    street.run(20)
    assert street.world.decision is not None
    assert street.world.decision.form["codec"] == "camera"
    street.photo_bytes = 180_000
    street.run(10)
    assert street.world.decision.form["codec"] != "camera"


def test_a_saturated_link_is_kept_busy_and_no_more() -> None:
    """Frames wait in the inbox, where newer ones replace them, not in the pipe, where they grow old."""
    street = Street(photos_only(40, 180_000), 5.5e6, 0.02, 5, 180_000)
    street.run(20)
    begin, before = street.now, len(street.world.answers)
    street.run(40)
    transfer = 8 * 180_900 / 5.5e6
    assert (len(street.world.answers) - before) / 40 > 0.9 / transfer
    assert street.typical_seconds(begin) < 2.1 * (transfer + 0.05)


def test_two_workers_and_one_of_them_silent() -> None:
    """Every second message falls into a hole; the answers come all the same, in time, and nobody calls it an outage."""
    street = Street(alexnet(), 18.8e6, 0.01, 15)
    world = street.world
    second = type(world.workers.members[0])("w2")
    world.workers.members.append(second)
    world.start_worker(second)
    street.run(10)
    begin = street.now
    world.workers.stop(second)
    street.run(30)
    assert street.slowest_since(begin) <= 2.0
    assert world.notices["offload.retried"] > 10
    assert world.notices["uplink.lost"] <= 1


def test_pinned_to_the_cloud_it_stays_there() -> None:
    """Who pins knows better, even on a slow link."""
    street = Street(alexnet(), 0.5e6, 0.05, 2)
    street.run(5)
    street.world.tell(ev.RequestReceived("set", 1, {"mode": "cloud"}))
    street.run(20)
    assert street.world.decision is not None
    assert street.world.decision.cut != "output"
    assert street.slowest_since(10.0) <= 2.0


def staffed(seed: int = 1) -> Street:
    """A street with an edge worker half as fast as the one in the cloud."""
    graph = alexnet()
    layers = tuple(
        replace(layer, seconds={**layer.seconds, Tier.EDGE: 2 * layer.seconds[Tier.CLOUD]}) for layer in graph.layers
    )
    street = Street(replace(graph, layers=layers), 18.8e6, 0.01, 5, seed=seed)
    edge = SimulatedWorker("e1", Tier.EDGE)
    street.world.workers.members.append(edge)
    street.world.start_worker(edge)
    street.run(20)
    return street


def tiers(street: Street, since: float) -> Counter[Tier]:
    """Who answered, from an instant on."""
    world = street.world
    return Counter(answer.tier for key, answer in world.answers.items() if world.answered_at[key] > since)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("faster", [Tier.EDGE, Tier.CLOUD])
def test_a_tier_that_hangs_leaves_the_other_in_use(faster: Tier, seed: int) -> None:
    """Within seconds everything goes to the one that answers, on the link as it was measured; then back."""
    street = staffed(seed)
    world = street.world
    for worker in world.workers.members:
        if worker.tier is not faster:
            world.workers.stop(worker)
    street.run(15)
    begin = street.now
    street.run(20)
    assert set(tiers(street, begin)) == {faster}
    assert street.estimate_off() < 1.5
    assert not world.notices["uplink.lost"]
    for worker in world.workers.members:
        world.workers.resume(worker)
    street.run(15)
    begin = street.now
    street.run(10)
    assert Tier.CLOUD in tiers(street, begin)
    assert not world.brain.world.trust.suspects
    assert street.slowest_since(0.0) <= 2.0


def test_an_outage_blames_no_tier() -> None:
    """The link stalls under both: that is the uplink's, and both are used again when it is back."""
    street = staffed()
    street.cut(True)
    street.run(10)
    assert street.world.notices["uplink.lost"] == 1
    assert not street.world.notices["tier.lost"]
    street.cut(False)
    street.run(10)
    assert street.world.notices["uplink.restored"] == 1
    assert not street.home


@pytest.mark.parametrize("fps", [1, 2, 15])
def test_one_of_three_workers_that_hangs_disables_nobody(fps: float) -> None:
    """The others answer; what fell into the hole is asked for again, and its late answers say nothing of the link."""
    street = Street(alexnet(), 18.8e6, 0.01, fps)
    world = street.world
    for name in ("w2", "w3"):
        worker = SimulatedWorker(name, Tier.CLOUD)
        world.workers.members.append(worker)
        world.start_worker(worker)
    street.run(10)
    world.workers.stop(worker)
    begin = street.now
    street.run(40)
    assert world.notices["uplink.lost"] == world.notices["tier.lost"] == 0
    found = tiers(street, begin)
    assert found[Tier.CLOUD] > 0.6 * found.total()
    world.workers.resume(worker)
    street.run(5)
    assert street.estimate_off() < 1.5
