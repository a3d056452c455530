"""The uplink: measured by what crosses it, probed where that does not tell, lost and found again."""

from __future__ import annotations

from typing import Any

import pytest

from popexd.coordinator import events as ev
from popexd.coordinator.uplink import PING_BYTES, News, Uplink

from .makers import CLOUD, EDGE, Bench, first, graph, only


def probed(bench: Bench) -> list[int]:
    """The sizes of the probes so far."""
    return [probe.bytes for probe in only(ev.SendProbe, bench.log)]


def uplink(interval: float = 30.0, daily_bytes: int = 50_000_000) -> Uplink:
    """An uplink that is connected."""
    known = Uplink(interval, daily_bytes, 0.25)
    known.connection(True, None)
    return known


def drive(known: Uplink, begin: float, seconds: float, rate: float = 10e6, round_trip: float = 0.02) -> list[int]:
    """Answer its probes for a while; return their sizes."""
    now, sizes = begin, []
    while now < begin + seconds:
        sent = known.probes(CLOUD, now)
        if not sent:
            now += 0.1
            continue
        sizes.append(sent[0].bytes)
        now += round_trip + 8 * sent[0].bytes / rate
        known.probe_returned(sent[0].sequence, 0.0, now)
    return sizes


def test_a_train_measures_a_new_connection() -> None:
    """The round trip with pings, then the rate with ever larger probes until one tells."""
    bench = Bench()
    bench.connected().measured(100e6, 0.04)
    sizes = probed(bench)
    assert sizes[:4] == [PING_BYTES, PING_BYTES, PING_BYTES, 4_096]
    assert sizes[4:6] == [16_384, 65_536]
    link = bench.brain.world.uplink.link
    assert link is not None
    assert link.bits_per_second == pytest.approx(100e6, rel=0.2)
    assert link.round_trip_seconds == pytest.approx(0.04, rel=0.05)
    assert link.source == "probe"


def test_nothing_is_probed_without_somebody_to_answer() -> None:
    """Connected, but no worker: when one comes, the train goes."""
    bench = Bench()
    bench.tell(ev.UplinkChanged(True))
    bench.tell(ev.Due("probe"))
    bench.wait(5.0)
    assert not probed(bench)
    bench.worker("w1")
    assert probed(bench) == [PING_BYTES]


def test_the_highest_tier_answers_probes() -> None:
    """That is the farthest way a tensor takes."""
    bench = Bench(graph(speed={EDGE: 4.0, CLOUD: 20.0}))
    bench.tell(ev.UplinkChanged(True))
    bench.worker("e1", EDGE)
    bench.worker("w1", CLOUD)
    bench.measured()
    assert {probe.tier for probe in only(ev.SendProbe, bench.log)[1:]} == {CLOUD}


def test_one_probe_is_out_at_a_time_and_none_while_something_crosses() -> None:
    """A probe that queues measures the queue."""
    bench = Bench().offloading()
    ship = bench.shipped()
    bench.asked("probe")
    assert not probed(bench)
    bench.ended(ship, "delivered")
    assert probed(bench) == [PING_BYTES]
    bench.wait(0.01)
    assert probed(bench) == [PING_BYTES]


def test_a_probe_that_waits_gets_a_gap() -> None:
    """On a link that is never idle the next frame waits until the probe has crossed."""
    bench = Bench().offloading()
    ship = bench.shipped("a")
    bench.asked("probe")
    assert not only(ev.Run, bench.frame("b"))
    effects = bench.replied(ship)
    assert only(ev.SendProbe, effects)
    assert only(ev.Run, effects)


def test_traffic_that_tells_makes_probes_needless() -> None:
    """Sized probes are for links that nobody uses, or uses for little."""
    known = uplink(interval=3.0)
    drive(known, 0.0, 2.0)
    sizes: list[int] = []
    for step in range(30):
        now = 10.0 + step
        known.sent(step, 20_000, now)
        known.returned(step, 0.0, now + 0.036)
        if step % 3 == 0:
            known.due(now + 0.5)
            sizes += drive(known, now + 0.5, 0.3)
    assert set(sizes) == {PING_BYTES}
    assert 8 <= len(sizes) <= 12


@pytest.mark.parametrize("traffic", [0, 1_500])
def test_an_idle_link_is_probed_by_the_schedule(traffic: int) -> None:
    """One that carries tiny tensors as well: they say little of its rate."""
    known = uplink(interval=3.0)
    drive(known, 0.0, 2.0, 20e6, 0.04)
    sizes: list[int] = []
    for step in range(10):
        now = 10.0 + 3 * step
        if traffic:
            known.sent(step, traffic, now - 1)
            known.returned(step, 0.0, now - 1 + 0.04 + 8 * traffic / 20e6)
        known.due(now)
        sizes += drive(known, now, 1.0, 20e6, 0.04)
    assert len([size for size in sizes if size > PING_BYTES]) == 10


def test_probes_are_as_large_as_it_takes_and_not_larger() -> None:
    """About as much transfer as the round trip on a slow link, at most 64 kB on a fast one."""
    for rate, round_trip in [(0.3e6, 0.08), (5e6, 0.04), (200e6, 0.05)]:
        known = uplink(interval=3.0)
        drive(known, 0.0, 5.0, rate, round_trip)
        known.due(100.0)
        (size,) = {size for size in drive(known, 100.0, 2.0, rate, round_trip) if size > PING_BYTES}
        assert 2_048 <= size <= 65_536
        assert size in (2_048, 65_536) or 0.25 * round_trip < 8 * size / rate < 0.8 * round_trip


def test_the_budget_of_a_day_is_kept() -> None:
    """However often the schedule calls; when it runs low probes become smaller, then rarer."""
    known = uplink(interval=3.0, daily_bytes=400_000)
    sizes: list[int] = []
    for step in range(2_000):
        known.due(3.0 * step, force=True)
        sizes += drive(known, 3.0 * step, 0.5, 50e6, 0.03)
    assert sum(sizes) <= 100_000 + 0.75 * 400_000 * 6_000 / 86_400
    assert known.budget.spent == sum(sizes)
    assert any(2_048 <= size < 20_000 for size in sizes)
    assert known.link is not None


def early(bench: Bench, seconds: float, round_trip: float = 0.02) -> int:
    """How many sized probes go without the schedule."""
    before, end = len(probed(bench)), bench.now + seconds
    while bench.brain.next_wakeup() < end:
        bench.wait(bench.brain.next_wakeup() - bench.now)
        bench.measured(0.1e6, round_trip)
    return sum(size > PING_BYTES for size in probed(bench)[before:])


def test_a_link_that_could_become_worth_it_is_probed_early() -> None:
    """Between the schedule's probes, as often as the budget would overflow, while everything stays on the device."""
    bench = Bench().connected().measured(0.1e6)
    assert bench.decision.cut == "output"
    assert 10 <= early(bench, 100) <= 20


@pytest.mark.parametrize("settings", [{"mode": "device"}, {"objective": "bytes"}, {"probe_daily_bytes": 200_000}])
def test_a_link_that_no_plan_would_use_is_left_to_the_schedule(settings: dict[str, Any]) -> None:
    """Pinned to the device, or asked to send nothing; nor is it probed early with bytes that are needed later."""
    bench = Bench(**settings).connected().measured(0.1e6)
    assert bench.decision.cut == "output"
    assert early(bench, 100) <= 1


def test_a_round_trip_longer_than_the_device_takes_is_left_to_the_schedule() -> None:
    """No rate makes up for it."""
    bench = Bench().connected().measured(0.1e6, 0.5)
    assert bench.decision.cut == "output"
    assert early(bench, 60, 0.5) == 0


def test_probes_become_smaller_before_they_become_rarer() -> None:
    """None takes more than a hundredth of what is left, as long as that tells anything."""
    known = uplink(interval=3.0, daily_bytes=4_000_000)
    drive(known, 0.0, 2.0, 50e6, 0.03)
    for step in range(100):
        left = known.budget.left(10.0 + 3 * step)
        known.due(10.0 + 3 * step, force=True)
        sizes = drive(known, 10.0 + 3 * step, 0.2, 50e6, 0.03)
        assert max(sizes[:3]) <= max(4_096, left / 100)


def test_a_tiny_budget_and_a_tiny_packet_limit_still_tell_something() -> None:
    """The largest message there can be is believed, though it tells little."""
    for limit, budget in [(4_500, 50_000_000), (None, 30_000)]:
        known = Uplink(3.0, budget, 0.25)
        known.connection(True, limit)
        sizes = drive(known, 0.0, 2.0, 20e6, 0.05)
        known.due(100.0)
        sizes += drive(known, 100.0, 2.0, 20e6, 0.05)
        assert known.link is not None
        assert len(sizes) < 20
        assert limit is None or max(sizes) < limit


def test_a_link_that_nobody_can_make_out_is_not_flooded() -> None:
    """Whatever comes back, only so many trains go from one scheduled probe to the next."""
    known, chaos, sizes, now = uplink(interval=30.0), 0.01, [], 0.0
    while now < 29.0:
        sent = known.probes(CLOUD, now)
        if not sent:
            now += 0.05
            continue
        sizes.append(sent[0].bytes)
        chaos = 0.8 if chaos < 0.1 else 0.01
        now += chaos
        known.probe_returned(sent[0].sequence, 0.0, now)
        known.order_probe(now)
    assert len(sizes) < 60


def test_two_silences_and_then_nothing_for_a_while_are_an_outage() -> None:
    """A hiccup of half a second is none; what was unanswered before something was heard does not count."""
    known = uplink()
    drive(known, 0.0, 2.0)
    known.sent("a", 5_000, 10.0)
    known.sent("b", 5_000, 10.1)
    assert known.timed_out("a", 10.3) is News.NONE
    assert known.timed_out("b", 10.4) is News.NONE
    assert known.usable
    known.sent("c", 5_000, 10.5)
    assert known.timed_out("c", 10.8) is News.LOST
    assert not known.usable
    assert known.link is None


def test_an_answer_in_between_is_a_sign_of_life() -> None:
    """Only silences in a row make an outage."""
    known = uplink()
    drive(known, 0.0, 2.0)
    for step in range(20):
        known.sent(f"lost {step}", 5_000, 10.0 + step)
        known.sent(f"kept {step}", 5_000, 10.1 + step)
        known.returned(f"kept {step}", 0.0, 10.2 + step)
        assert known.timed_out(f"lost {step}", 10.9 + step) is News.NONE
    assert known.usable


def test_during_an_outage_pings_go_on_ever_more_slowly() -> None:
    """At once, then backing off to a few seconds; the first answer ends it."""
    bench = Bench(probe_interval_seconds=30.0).offloading()
    for camera in "ab":
        bench.shipped(camera)
        for run in only(ev.Run, bench.wait(0.5)):
            bench.ran(run)
    assert bench.notices("uplink.lost") == [{"reason": "no answer"}]
    bench.log.clear()
    begin = bench.now
    bench.wait(60.0)
    pings = probed(bench)
    assert set(pings) == {PING_BYTES}
    assert 10 <= len(pings) <= 40
    assert bench.now == begin + 60.0
    bench.measured()
    assert bench.notices("uplink.restored") == [{}]
    assert bench.decision.cut == "v1"


def test_pings_of_an_outage_need_no_budget() -> None:
    """Without them nobody would ever know that it is over."""
    known = Uplink(3.0, 0, 0.25)
    known.connection(True, None)
    known.lost(0.0)
    sent = known.probes(CLOUD, 0.0)
    assert [probe.bytes for probe in sent] == [PING_BYTES]
    assert known.probe_returned(sent[0].sequence, 0.0, 0.02) is News.RESTORED
    assert known.usable


def test_what_crossed_an_outage_says_nothing_of_the_rate() -> None:
    """Messages that were stuck for twenty seconds come back all at once: that is no slow link."""
    known = uplink()
    drive(known, 0.0, 2.0)
    for name in "abc":
        known.sent(name, 20_000, 10.0)
        known.timed_out(name, 11.0)
    assert known.suspect
    assert known.returned("a", 0.0, 30.0) is News.RESTORED
    assert known.returned("b", 0.0, 30.01) is News.NONE
    assert known.returned("c", 0.0, 30.02) is News.NONE
    assert known.link is None
    drive(known, 30.1, 2.0, 5e6, 0.04)
    assert known.link is not None
    assert known.link.bits_per_second == pytest.approx(5e6, rel=0.2)


def test_a_probes_late_echo_ends_an_outage_too() -> None:
    """It was given up, not forgotten."""
    known = uplink()
    drive(known, 0.0, 2.0)
    known.order_probe(10.0)
    (probe,) = known.probes(CLOUD, 10.0)
    assert known.overdue_probe(12.9) is None
    assert known.overdue_probe(13.1) == probe.sequence
    known.timed_out(("probe", probe.sequence), 13.1)
    known.lost(13.1)
    assert known.probe_returned(probe.sequence, 0.0, 14.0) is News.RESTORED


def test_an_echo_that_nobody_asked_for_is_nothing() -> None:
    """Nor is the same one twice."""
    known = uplink()
    (probe,) = known.probes(CLOUD, 0.0)
    assert known.probe_returned(77, 0.0, 0.1) is News.NONE
    assert known.heard_at < 0
    known.probe_returned(probe.sequence, 0.0, 0.1)
    assert known.probe_returned(probe.sequence, 0.0, 9.0) is News.NONE
    assert known.heard_at == 0.1


def test_a_new_connection_starts_from_nothing() -> None:
    """It may lead elsewhere: what was known, and what was under way, is void."""
    known = uplink()
    drive(known, 0.0, 2.0)
    known.sent("a", 5_000, 9.0)
    known.connection(False, None)
    assert known.link is None
    assert known.wakeup_at == float("inf")
    known.connection(True, 9_000)
    assert known.link is None
    assert known.returned("a", 0.0, 10.0) is News.NONE
    assert max(drive(known, 11.0, 2.0, 100e6)) <= 9_000 - 1_024


def test_a_fall_is_followed_at_once() -> None:
    """Late answers make the change; the plan follows in the same moment, and a probe makes sure."""
    bench = Bench().offloading(50e6)
    assert bench.decision.cut == "input"
    while not bench.decided():
        ship = first(ev.Ship, bench.ran(first(ev.Run, bench.frame()), shipment_bytes=20_900))
        bench.replied(ship, after=0.0245 + 8 * 20_900 / 5e6)
        bench.measured(5e6)
        assert len(bench.answers()) <= 3
    assert bench.decision.cut == "v1"
    assert bench.notices("link.changed")
    link = bench.brain.world.uplink.link
    assert link is not None
    assert link.bits_per_second == pytest.approx(5e6, rel=0.3)


def test_connection_changes_are_told_once() -> None:
    """A broker that stays away gives many reasons, and is lost once."""
    bench = Bench()
    bench.tell(ev.UplinkChanged(True))
    for reason in ("refused", "timed out", "refused"):
        bench.tell(ev.UplinkChanged(False, reason))
    assert bench.notices("uplink.connected") == [{"reason": ""}]
    assert bench.notices("uplink.lost") == [{"reason": "refused"}]
