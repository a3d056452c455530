"""The link estimator on synthetic links."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popexd.estimators import LinkEstimator, LinkSample

from .links import KINDS, PING, Traffic, TrueLink, any_link, probes, varied

SEEDS = range(60)


def fed(link: TrueLink, *sizes: int, seed: int = 0) -> LinkEstimator:
    """Return an estimator that has seen these messages cross, one a second."""
    chance, estimator = random.Random(seed), LinkEstimator()
    for at, size in enumerate(sizes):
        estimator.add(LinkSample(size, link.crossing(chance, size), float(at)))
    return estimator


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("jitter", [0.0, 0.1])
def test_a_steady_link_is_known_within_a_half(kind: str, jitter: float) -> None:
    """Passive samples of varied sizes, small messages and pings, or probes alone: each tells the rate."""
    off = []
    for seed in SEEDS:
        chance = random.Random(seed)
        traffic = Traffic(any_link(chance, jitter), KINDS[kind], chance)
        traffic.go_on(60)
        rate = traffic.estimator.rate(0.5)
        assert rate is not None
        off.append(abs(math.log(rate / traffic.link.bits_per_second)))
        assert 0.5 < traffic.published < 2
    assert sorted(off)[int(0.97 * len(off))] < math.log(1.5)


@pytest.mark.parametrize("kind", ["small and pings", "probes"])
@pytest.mark.parametrize("jitter", [0.02, 0.1, 0.3])
def test_the_jitter_is_known_within_a_factor_of_one_and_a_half(kind: str, jitter: float) -> None:
    """That of the round trip, whose law is exponential here: its mean is its standard deviation. The rate is steady."""
    off = []
    for seed in SEEDS:
        chance = random.Random(seed)
        link = replace(any_link(chance, jitter), unsteady=0.0)
        traffic = Traffic(link, KINDS[kind], chance)
        traffic.go_on(80)
        known = traffic.estimator.link()
        assert known is not None
        off.append(abs(math.log(known.jitter_seconds / (jitter * link.round_trip))))
    assert sorted(off)[int(0.9 * len(off))] < math.log(1.5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_steady_link_has_no_jitter_to_speak_of(kind: str) -> None:
    """Nor has one whose rate has just changed, nor one that holds a single message up for a second."""
    for seed in SEEDS:
        chance = random.Random(seed)
        traffic = Traffic(any_link(chance, 0.0), KINDS[kind], chance)
        traffic.go_on(60)
        at_first = traffic.estimator.link()
        traffic.becomes(rate=0.2)
        traffic.go_on(20)
        size = KINDS[kind](chance, traffic.link, 2)
        traffic.now += 1
        traffic.estimator.add(LinkSample(size, traffic.link.crossing(chance, size) + 1.0, traffic.now))
        after = traffic.estimator.link()
        assert at_first is not None
        assert after is not None
        assert max(at_first.jitter_seconds, after.jitter_seconds) < 0.1 * traffic.link.round_trip


@pytest.mark.parametrize("kind", ["small and pings", "probes"])
def test_pings_tell_the_round_trip(kind: str) -> None:
    """With small messages among the others the round trip is known within a quarter, jitter's mean included."""
    for seed in SEEDS:
        chance = random.Random(seed)
        traffic = Traffic(any_link(chance), KINDS[kind], chance)
        traffic.go_on(60)
        assert 0.9 < traffic.estimator.round_trip_seconds / traffic.link.round_trip < 1.35


def test_the_published_rate_is_a_low_one() -> None:
    """Plans are made for the slower part of what an unsteady link does."""
    traffic = Traffic(TrueLink(5e6, 0.02, 0.1, 0.2), varied, random.Random(1))
    traffic.go_on(100)
    low, middle, high = (traffic.estimator.rate(quantile) for quantile in (0.25, 0.5, 0.75))
    assert low is not None
    assert middle is not None
    assert high is not None
    assert low < middle < high
    assert traffic.published == pytest.approx(low / traffic.link.bits_per_second)


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_a_change_of_the_rate_by_five_is_noticed_by_the_second_or_third_sample(factor: float) -> None:
    """It takes no more, be it a fall or a rise, and the estimate is right again with the next few."""
    late = off = 0
    for seed in SEEDS:
        chance = random.Random(seed)
        traffic = Traffic(any_link(chance, 0.05), varied, chance)
        traffic.go_on(40)
        traffic.becomes(rate=factor)
        noticed = traffic.go_on(12)
        late += not noticed or noticed[0] > 3
        off += not 0.5 < traffic.published < 2
    assert late <= 0.05 * len(SEEDS)
    assert off <= 0.05 * len(SEEDS)


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_probes_alone_notice_a_change_with_their_second_or_third_sized_one(factor: float) -> None:
    """The pings in between, as usual as ever, do not acquit the rate."""
    for seed in SEEDS:
        chance = random.Random(seed)
        traffic = Traffic(any_link(chance, 0.02), probes, chance)
        traffic.go_on(30)
        traffic.becomes(rate=factor)
        noticed = traffic.go_on(15)
        assert noticed
        assert noticed[0] <= 9
        assert 0.5 < traffic.published < 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("jitter", [0.02, 0.1])
def test_a_steady_noisy_link_never_seems_to_change(kind: str, jitter: float) -> None:
    """A false alarm costs what was learnt: there is at most one in 6,000 messages, twenty minutes at five a second."""
    alarms = 0
    for seed in range(6):
        chance = random.Random(seed)
        traffic = Traffic(any_link(chance, jitter), KINDS[kind], chance)
        traffic.go_on(10)
        alarms += len(traffic.go_on(3_000))
    assert alarms <= 3


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_a_change_of_the_round_trip_alone_leaves_the_rate_known(factor: float) -> None:
    """Pings tell it apart from a change of the rate."""
    for seed in SEEDS:
        chance = random.Random(seed)
        traffic = Traffic(any_link(chance, 0.02), probes, chance)
        traffic.go_on(30)
        traffic.becomes(round_trip=factor)
        noticed = traffic.go_on(12)
        assert noticed
        assert noticed[0] <= 3
        assert 0.6 < traffic.published < 1.6
        assert traffic.estimator.round_trip_seconds == pytest.approx(traffic.link.round_trip, rel=0.3, abs=0.001)


def test_nothing_is_known_before_a_message_that_tells() -> None:
    """Pings say nothing of the rate, and a few kilobytes nothing on a fast link far away."""
    link = TrueLink(100e6, 0.05)
    assert fed(link, PING, PING, PING).link() is None
    assert fed(link, PING, PING, 4_096).link() is None
    known = fed(link, PING, PING, 4_096, 16_384, 65_536).link()
    assert known is not None
    assert 0.6 < known.bits_per_second / 100e6 < 1.7


def test_a_link_of_gigabits_is_known_to_be_fast() -> None:
    """Where even the largest probe takes no time, that is all there is to know."""
    known = fed(TrueLink(1e9, 0.001), PING, PING, 4_096, 16_384, 65_536).link()
    assert known is not None
    assert known.bits_per_second > 100e6


def test_small_messages_never_push_out_what_the_probe_said() -> None:
    """Hundreds of tensors that say little of the rate leave the estimate to the one probe that does."""
    chance, link = random.Random(3), TrueLink(20e6, 0.04, 0.05)
    traffic = Traffic(link, lambda *_: 2_000, chance)
    for size in (PING, PING, 65_536):
        traffic.estimator.add(LinkSample(size, link.crossing(chance, size), 0.0))
    traffic.go_on(500)
    assert 0.7 < traffic.published < 1.4


def test_messages_that_say_little_are_not_taken_for_a_measurement() -> None:
    """The schedule asks when the rate was last told; tiny tensors do not tell it, though a fall shows in them."""
    link = TrueLink(20e6, 0.04)
    estimator = fed(link, PING, PING, 65_536, 2_000, 2_000)
    assert estimator.rate_told_at == 2.0
    assert estimator.round_trip_told_at == 1.0
    slow = TrueLink(0.2e6, 0.04)
    estimator.add(LinkSample(2_000, slow.crossing(random.Random(0), 2_000), 5.0))
    assert estimator.rate_told_at == 2.0
    assert estimator.in_doubt


def test_a_fall_is_seen_through_tiny_tensors() -> None:
    """A message that took no time to speak of on the fast link takes its time on the slow one."""
    link = TrueLink(20e6, 0.04, 0.03)
    traffic = Traffic(link, lambda *_: 2_000, random.Random(4))
    for size in (PING, PING, 65_536):
        traffic.estimator.add(LinkSample(size, link.crossing(random.Random(0), size), 0.0))
    traffic.go_on(30)
    traffic.becomes(rate=0.01)
    assert traffic.go_on(3)
    assert 0.5 < traffic.published < 2


def test_an_unanswered_message_bounds_the_rate() -> None:
    """Two of them make a change, and the first answer that comes is worth more than both."""
    estimator = fed(TrueLink(5e6, 0.02), PING, PING, 20_000, 20_000, 20_000)
    assert not estimator.add_unanswered(LinkSample(20_000, 1.0, 5.0))
    assert estimator.add_unanswered(LinkSample(20_000, 1.0, 6.0))
    bound = estimator.rate(0.5)
    assert bound == pytest.approx(8 * 20_000 / 0.98, rel=0.1)
    assert estimator.add(LinkSample(20_000, 1.62, 7.0))
    assert estimator.rate(0.5) == pytest.approx(1e5, rel=0.1)


def test_an_unanswered_message_that_could_not_be_back_yet_says_nothing() -> None:
    """Nor does one when nothing is known, nor a ping."""
    estimator = fed(TrueLink(5e6, 0.02), PING, PING, 20_000, 20_000, 20_000)
    for _ in range(5):
        assert not estimator.add_unanswered(LinkSample(20_000, 0.03, 5.0))
        assert not estimator.add_unanswered(LinkSample(PING, 9.0, 5.0))
    assert not LinkEstimator().add_unanswered(LinkSample(20_000, 9.0, 1.0))
    assert estimator.rate(0.5) == pytest.approx(5e6, rel=0.05)


def test_after_a_reset_nothing_is_left_of_the_old_link() -> None:
    """What comes back after an outage may be another link."""
    estimator = fed(TrueLink(5e6, 0.02), PING, PING, 20_000, 20_000, 20_000)
    estimator.reset()
    assert estimator.link() is None
    assert estimator.round_trip_seconds == 0.0
    link = TrueLink(0.5e6, 0.2)
    for at, size in enumerate((PING, PING, 20_000)):
        estimator.add(LinkSample(size, link.crossing(random.Random(0), size), 100.0 + at))
    known = estimator.link()
    assert known is not None
    assert known.bits_per_second == pytest.approx(0.5e6, rel=0.1)
    assert known.round_trip_seconds == pytest.approx(0.2, rel=0.05)


def test_an_absurd_measurement_does_not_lock_the_estimate() -> None:
    """When a rate was believed that no ping could have come at, usual messages soon correct it."""
    estimator = LinkEstimator()
    estimator.add(LinkSample(20_000, 20.0, 0.0))
    link, chance, changes = TrueLink(18e6, 0.02), random.Random(1), 0
    for at, size in enumerate((PING, PING, 2_048) * 4):
        changes += estimator.add(LinkSample(size, link.crossing(chance, size), 1.0 + at))
    assert changes <= 3
    known = estimator.link()
    assert known is not None
    assert known.bits_per_second > 1e6
    assert known.round_trip_seconds == pytest.approx(0.02, rel=0.2)


def test_a_speed_test_counts_until_the_path_itself_is_measured() -> None:
    """It measures another path: a start, no more."""
    estimator = LinkEstimator()
    estimator.add_speedtest(40e6, 1.0)
    known = estimator.link()
    assert known is not None
    assert (known.bits_per_second, known.source, known.measured_at) == (40e6, "speedtest", 1.0)
    link = TrueLink(5e6, 0.02)
    for at, size in enumerate((PING, PING, 20_000)):
        estimator.add(LinkSample(size, link.crossing(random.Random(0), size), 2.0 + at, "probe"))
    estimator.add_speedtest(40e6, 9.0)
    known = estimator.link()
    assert known is not None
    assert known.bits_per_second == pytest.approx(5e6, rel=0.05)
    assert (known.source, known.measured_at) == ("probe", 4.0)


@given(
    st.lists(
        st.tuples(
            st.integers(-5, 200_000),
            st.one_of(st.floats(1e-6, 100), st.sampled_from([0.0, -1.0, math.nan, math.inf])),
            st.floats(0, 300),
            st.booleans(),
        ),
        max_size=60,
    )
)
@settings(max_examples=200, deadline=None)
def test_no_samples_however_odd_break_it(samples: list[tuple[int, float, float, bool]]) -> None:
    """Zero, negative, infinite, in any order of size: the estimate is a link or none."""
    estimator, now = LinkEstimator(), 0.0
    for size, seconds, later, answered in samples:
        now += later
        sample = LinkSample(size, seconds, now)
        if answered:
            estimator.add(sample)
        elif sample.seconds > 0 and math.isfinite(sample.seconds) and size > 0:
            estimator.add_unanswered(sample)
        link = estimator.link()
        assert link is None or (link.bits_per_second > 0 and link.round_trip_seconds >= 0)
        assert estimator.round_trip_seconds >= 0


@pytest.mark.parametrize(("rate", "most"), [(18.8e6, 18), (100e6, 20), (3e9, 60)])
def test_a_busy_machine_is_seldom_taken_for_another_link(rate: float, most: int) -> None:
    """Every tenth message is held up for some 15 ms: that is no slower link, though two of them come in a row."""
    noticed = 0
    for seed in range(6):
        chance = random.Random(seed)
        link = TrueLink(rate, 0.0012 if rate > 1e9 else 0.01, 0.1)
        estimator, now = LinkEstimator(), 0.0
        for index in range(1_000):
            now += 0.2
            size = PING if index % 5 in (1, 3) else 65_536 if index % 5 == 4 else 20_000
            held = chance.expovariate(1 / 0.015) if chance.random() < 0.1 else 0.0
            noticed += estimator.add(LinkSample(size, link.crossing(chance, size) + held, now)) and index > 50
    assert noticed <= most


@pytest.mark.parametrize("rate", [5.5e6, 18.8e6])
def test_a_fall_on_a_busy_machine_is_noticed_all_the_same(rate: float) -> None:
    """It takes a sample or two more, not a minute."""
    for seed in range(6):
        chance = random.Random(seed)
        estimator, now, link = LinkEstimator(), 0.0, TrueLink(rate, 0.02, 0.1)
        for index in range(600):
            now += 0.2
            link = TrueLink(rate / 5, 0.02, 0.1) if index >= 500 else link
            size = PING if index % 5 in (1, 3) else 20_000
            held = chance.expovariate(1 / 0.015) if chance.random() < 0.1 else 0.0
            estimator.add(LinkSample(size, link.crossing(chance, size) + held, now))
            if index == 500 + 10:
                known = estimator.link()
                assert known is not None
                assert 0.5 <= known.bits_per_second / link.bits_per_second <= 2


def test_what_is_too_fast_to_tell_is_published_as_at_least_so_fast() -> None:
    """A machine talking to itself: 64 kB take a fraction of a millisecond, and what is measured is the machine."""
    for rate, told in [(20e9, False), (100e6, True)]:
        chance, link, estimator = random.Random(1), TrueLink(rate, 0.002, 0.1), LinkEstimator()
        for index in range(100):
            size = PING if index % 2 else 65_536
            estimator.add(LinkSample(size, link.crossing(chance, size), index * 0.2))
        published = estimator.link()
        assert published is not None
        assert published.at_least is not told
        assert published.bits_per_second <= 8 * 65_536 / 0.0005
