"""Who does not answer is not trusted: the link where not even the broker does, else the tier and nobody beside it."""

from __future__ import annotations

from popexd.coordinator import events as ev
from popexd.coordinator.trust import Trust

from .makers import CLOUD, EDGE, Bench, only


def fail(bench: Bench, camera: str, delivered: bool) -> None:
    """Ship a frame that is never answered; the device finishes it."""
    ship = bench.shipped(camera)
    if delivered:
        bench.ended(ship, "delivered")
    while bench.brain.flow.frames:
        for run in only(ev.Run, bench.wait(0.1)):
            bench.ran(run)


def test_a_silent_tier_costs_the_other_nothing() -> None:
    """The cloud hangs, the broker does not: the edge takes over, on the link that was measured before."""
    bench = Bench()
    bench.tell(ev.UplinkChanged(True))
    bench.worker("e1", EDGE)
    bench.worker("w1", CLOUD)
    bench.measured().wait(3.0)
    for camera in "ab":
        fail(bench, camera, delivered=True)
    assert bench.notices("tier.lost") == [{"tier": "cloud", "reason": "no answer"}]
    assert not bench.notices("uplink.lost")
    assert bench.brain.world.uplink.link is not None
    assert EDGE in bench.decision.plan.tiers.values()
    assert CLOUD not in bench.decision.plan.tiers.values()
    assert bench.shipped("c").tier is EDGE


def test_a_silent_link_is_nobodys_fault() -> None:
    """Not even the broker takes what is sent: that is an outage, and no tier is blamed."""
    bench = Bench().offloading()
    for camera in "ab":
        fail(bench, camera, delivered=False)
    assert bench.notices("uplink.lost") == [{"reason": "no answer"}]
    assert not bench.notices("tier.lost")


def test_a_probe_that_reaches_the_broker_and_nobody_else_blames_the_tier() -> None:
    """Idle, with a worker that hangs: two probes tell it; the link stays what it was."""
    bench = Bench().offloading()
    for _ in range(2):
        bench.asked("probe")
        for probe in only(ev.SendProbe, bench.log):
            bench.tell(ev.ProbeEnded(probe.sequence, "delivered"))
        bench.wait(3.5)
    assert bench.notices("tier.lost") == [{"tier": "cloud", "reason": "no answer"}]
    assert bench.brain.world.uplink.usable


def test_a_broker_that_takes_a_ping_ends_an_outage() -> None:
    """Whoever may answer then: that the link is back is known before."""
    bench = Bench().offloading()
    for camera in "ab":
        fail(bench, camera, delivered=False)
    bench.tell(ev.ProbeEnded(only(ev.SendProbe, bench.log)[-1].sequence, "delivered"))
    assert bench.notices("uplink.restored") == [{}]
    assert bench.brain.world.uplink.usable


def test_a_suspect_tier_is_pinged_until_it_answers() -> None:
    """Ever more slowly, and what it had sat on says nothing of the link."""
    bench = Bench().offloading()
    before = bench.brain.world.uplink.link
    ship = bench.shipped("a")
    bench.ended(ship, "delivered")
    bench.wait(5.0)
    for run in only(ev.Run, bench.log):
        bench.tell(ev.RunDone(run.key, classified=ev.Classified(3, "nut", 1.0)))
    fail(bench, "b", delivered=True)
    assert bench.notices("tier.lost")
    bench.log.clear()
    pings = only(ev.SendProbe, bench.wait(60.0))
    assert 10 <= len(pings) <= 40
    bench.replied(ship, seconds={})
    assert bench.notices("tier.restored") == [{"tier": "cloud"}]
    bench.measured()
    after = bench.brain.world.uplink.link
    assert before is not None
    assert after is not None
    assert 0.5 < after.bits_per_second / before.bits_per_second < 2


def test_a_worker_that_comes_is_asked_at_once() -> None:
    """A suspect tier gets another worker: no reason to wait for the next ping."""
    bench = Bench().offloading()
    for camera in "ab":
        fail(bench, camera, delivered=True)
    bench.wait(30.0)
    assert only(ev.SendProbe, bench.worker("w2"))


def test_the_last_worker_takes_its_tiers_shame_along() -> None:
    """The one that hung is gone; who comes next is trusted."""
    bench = Bench().offloading()
    for camera in "ab":
        fail(bench, camera, delivered=True)
    bench.worker("w1", online=False)
    bench.worker("w2")
    assert not bench.brain.world.trust.suspects
    assert bench.brain.world.profiles()


def test_of_several_workers_more_have_to_be_silent() -> None:
    """One of two hangs: two silences in a row may both be its own, three hardly."""
    trust = Trust()
    assert not trust.unanswered(CLOUD, 0.0, 2, 1.0)
    assert not trust.unanswered(CLOUD, 1.0, 2, 2.0)
    trust.heard(CLOUD, 2.5)
    for at in (3.0, 4.0):
        assert not trust.unanswered(CLOUD, at, 2, at + 1)
    assert trust.unanswered(CLOUD, 5.0, 2, 6.0)


def test_what_one_of_two_workers_sat_on_says_nothing_of_the_link() -> None:
    """It hangs, the other answers all the while; its late answers change no estimate."""
    bench = Bench().offloading()
    bench.worker("w2")
    bench.measured()
    before = bench.brain.world.uplink.link
    late = []
    for camera in "abcdef":
        ship = bench.shipped(camera)
        bench.ended(ship, "delivered")
        late.append(ship)
        again = []
        while bench.brain.flow.frames and not again:
            effects = bench.wait(max(0.0, bench.brain.next_wakeup() - bench.now))
            again = only(ev.Ship, effects)
            for run in only(ev.Run, effects):
                bench.ran(run)
        for ship in again:
            bench.ended(ship, "delivered")
            bench.replied(ship, after=0.0261)
    assert any(ship.attempt == 2 for ship in only(ev.Ship, bench.log))
    for ship in late:
        bench.replied(ship, after=0.001, seconds={})
    after = bench.brain.world.uplink.link
    assert not bench.notices("tier.lost")
    assert before is not None
    assert after is not None
    assert 0.5 < after.bits_per_second / before.bits_per_second < 2


def test_where_the_cloud_hangs_from_the_start_the_edge_is_measured_at_once() -> None:
    """The highest tier measures the link; when it is lost the next one does, not when the schedule says so."""
    bench = Bench()
    bench.tell(ev.UplinkChanged(True))
    bench.worker("w1", CLOUD)
    bench.worker("e1", EDGE)
    while not bench.notices("tier.lost"):
        bench.tell(ev.ProbeEnded(only(ev.SendProbe, bench.log)[-1].sequence, "delivered"))
        bench.wait(3.5)
    answered: set[int] = set()
    while probes := [p for p in only(ev.SendProbe, bench.log) if p.tier is EDGE and p.sequence not in answered]:
        answered.add(probes[0].sequence)
        bench.tell(ev.ProbeReturned(probes[0].sequence, 0.0), after=0.02 + 8 * probes[0].bytes / 10e6)
    assert bench.brain.world.uplink.link is not None
    assert EDGE in bench.decision.plan.tiers.values()


def test_a_tier_that_its_last_worker_left_for_another_is_asked_no_more() -> None:
    """A worker of the same name comes back as one of the edge: nobody of the cloud is there to be suspected."""
    bench = Bench().offloading()
    for camera in "ab":
        fail(bench, camera, delivered=True)
    assert bench.notices("tier.lost")
    bench.worker("w1", EDGE)
    bench.log.clear()
    bench.wait(30.0)
    assert CLOUD not in [probe.tier for probe in only(ev.SendProbe, bench.log)]
    assert not bench.brain.world.trust.suspects
