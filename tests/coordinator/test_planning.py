"""Which plan is in force, and when another takes its place."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popexd.coordinator import events as ev
from popexd.coordinator.brain import Settings
from popexd.coordinator.choosing import Known
from popexd.coordinator.settings import PlannerSettings
from popexd.errors import InputError
from popexd.latency import predict
from popexd.network import Link, NetworkState
from popexd.plan import ExitChoice, Plan
from tests.graphs import random_chain

from .makers import CLOUD, DEVICE, EDGE, Bench, cloud, graph, planner

# ---------------------------------------------------------------------------------------- the choice


def test_the_cut_moves_with_the_link() -> None:
    """A fast link takes the camera's frame, a slower one a tensor, a slow one nothing."""
    cuts = []
    for rate in (50e6, 10e6, 0.1e6):
        made = planner().consider(cloud(rate), "link", 0.0)
        assert made is not None
        cuts.append((made.cut, made.form["codec"]))
    assert cuts == [("input", "camera"), ("v1", "q8+zstd"), ("output", None)]


@pytest.mark.parametrize("rate", [50e6, 10e6, 0.1e6])
def test_jitter_moves_the_percentile_and_not_the_plan(rate: float) -> None:
    """Where mean seconds are to be small; where the 95th percentile is, jitter is a reason to stay on the device."""
    steady, jittery = (Known({CLOUD: "profile"}, Link(rate, 0.02, jitter_seconds=jitter)) for jitter in (0.0, 0.03))
    first, second = planner().consider(steady, "test", 0.0), planner().consider(jittery, "test", 0.0)
    assert first is not None
    assert second is not None
    assert first.plans == second.plans
    assert first.prediction.seconds == second.prediction.seconds
    assert (first.prediction.p95_seconds < second.prediction.p95_seconds) is (first.cut != "output")
    far = planner(objective="p95").consider(
        Known({CLOUD: "profile"}, Link(rate, 0.02, jitter_seconds=0.5)), "test", 0.0
    )
    assert far is not None
    assert far.cut == "output"


def test_without_workers_or_link_the_device_decides_alone() -> None:
    """A worker without a known link is as good as none, and the other way round."""
    for known in (Known(), Known({CLOUD: "profile"}), Known({}, Link(50e6))):
        made = planner().consider(known, "start", 0.0)
        assert made is not None
        assert (made.cut, set(made.plan.tiers.values())) == ("output", {DEVICE})


@pytest.mark.parametrize(("mode", "tier"), [("device", DEVICE), ("edge", EDGE), ("cloud", CLOUD), ("auto", EDGE)])
def test_a_mode_pins_where_frames_are_finished(mode: str, tier: object) -> None:
    """With an edge as quick as the cloud `auto` may take either; a pinned mode takes its own."""
    made = planner(graph(speed={EDGE: 21.0, CLOUD: 20.0}), mode=mode).consider(
        Known({EDGE: "e", CLOUD: "c"}, Link(50e6, 0.005)), "start", 0.0
    )
    assert made is not None
    assert max(made.plan.tiers.values()) is tier
    runs = [exit_["runs"] for exit_ in made.form["exits"].values()]
    assert mode != "cloud" or not any(runs)


def test_a_pinned_tier_that_is_not_there_leaves_the_device() -> None:
    """Somebody has to answer."""
    made = planner(mode="edge").consider(cloud(50e6), "start", 0.0)
    assert made is not None
    assert made.cut == "output"
    assert any(choice.runs for choice in made.plan.exits.values())


def test_accuracy_and_agreement_are_kept() -> None:
    """What the settings forbid is not chosen, however quick."""
    free, strict = planner(), planner(min_accuracy=0.99)
    assert any(choice.runs for choice in free.consider(Known(), "start", 0.0).plan.exits.values())  # type: ignore[union-attr]
    made = strict.consider(Known(), "start", 0.0)
    assert made is not None
    assert made.prediction.accuracy is not None
    assert made.prediction.accuracy >= 0.99


def test_where_the_constraints_leave_nothing_the_device_does_it_all_and_says_so_once() -> None:
    """The best accuracy there is, and one notice, not one at every look."""
    model = graph()
    wrong = model.validation
    assert wrong is not None
    wrong.correct[:] = False
    bench = Bench(model, min_accuracy=0.5)
    assert bench.decision.cut == "output"
    assert not any(choice.runs for choice in bench.decision.plan.exits.values())
    for _ in range(5):
        bench.tell(ev.Due("replan"), after=2.0)
    assert len(bench.notices("plan.infeasible")) == 1
    bench.asked("set", min_accuracy=None)
    bench.asked("set", min_accuracy=0.5)
    assert len(bench.notices("plan.infeasible")) == 2


def test_a_packet_limit_is_kept() -> None:
    """The camera's frame does not fit through the broker, so a tensor goes."""
    made = planner().consider(cloud(50e6, limit=10_000), "start", 0.0)
    assert made is not None
    assert made.cut == "v1"


@pytest.mark.parametrize("fields", [{"solver": "shortest-path", "objective": "bytes"}, {"thresholds": {"b9": 0.5}}])
def test_settings_that_cannot_work_are_refused_at_the_start(fields: dict[str, object]) -> None:
    """A bad configuration is fatal when the daemon starts, not when the link changes for the first time."""
    with pytest.raises(InputError):
        planner(**fields)


def test_settings_that_cannot_work_leave_the_old_ones_in_force() -> None:
    """Over a request, or a configuration that is read again: the brain goes on as it was."""
    bench = Bench()
    answer = bench.asked("set", solver="shortest-path", objective="bytes")
    assert answer is not None
    assert "shortest-path" in (answer.error or "")
    assert bench.brain.world.planner.settings.solver == "joint"
    bench.tell(ev.Reconfigured(Settings(PlannerSettings(solver="shortest-path", objective="bytes"), 7.0)))
    assert bench.brain.world.planner.settings.solver == "joint"
    assert bench.brain.world.uplink.interval_seconds == 7.0
    assert bench.notices("settings.rejected")
    bench.tell(ev.Due("replan"), after=5.0)


@given(st.integers(0, 10_000), st.floats(4.5, 8.5), st.floats(0, 0.3), st.sampled_from([0.0, 0.9]))
@settings(max_examples=150, deadline=None)
def test_the_choice_is_never_behind_the_simple_ones(
    seed: int, rate: float, round_trip: float, agreement: float
) -> None:
    """By its own prediction: not behind the device alone, nor behind sending the camera's frame to the cloud."""
    rng = random.Random(seed)
    whole = random_chain(rng, rng.randint(2, 7), rng.randint(0, 3), (DEVICE, CLOUD), rich=True)
    known = Known({CLOUD: "profile"}, Link(10**rate, round_trip))
    made = planner(whole, min_agreement=agreement).consider(known, "start", 0.0)
    assert made is not None
    priced = planner(whole).graph(known.profiles, 0.0)
    network = NetworkState(known.uplink)
    off = {branch.name: ExitChoice(False) for branch in priced.exits}
    device_only = Plan(dict.fromkeys(priced.names, DEVICE), off, {})
    rivals = [predict(device_only, priced, network)]
    for codec in priced.codec_names("input"):
        if priced.codec_cost("input", codec).agreement >= agreement:
            sent = Plan(dict.fromkeys(priced.names, CLOUD), off, {DEVICE.label: codec})
            rivals.append(predict(sent, priced, network))
    assert made.prediction.seconds <= min(rival.seconds for rival in rivals) + 1e-9


@given(st.integers(0, 10_000), st.lists(st.floats(4.8, 8.2), min_size=2, max_size=12))
@settings(max_examples=60, deadline=None)
def test_what_stays_in_force_is_never_behind_by_more_than_the_hysteresis(seed: int, rates: list[float]) -> None:
    """However the link wanders, once the dwell time is over the plan in force is within 5 % or 2 ms of the best."""
    rng = random.Random(seed)
    whole = random_chain(rng, 4, 2, (DEVICE, CLOUD), rich=True)
    chosen = planner(whole, min_agreement=0.0, dwell_seconds=1.0)
    for step, rate in enumerate(rates):
        known = Known({CLOUD: "profile"}, Link(10**rate, 0.02))
        chosen.consider(known, "link", 10.0 * step)
        assert chosen.decision is not None
        best = planner(whole, min_agreement=0.0).consider(known, "start", 0.0)
        assert best is not None
        now = chosen.decision.prediction.seconds
        assert now - best.prediction.seconds <= max(0.05 * now, 0.002) + 1e-9


# ---------------------------------------------------------------------------------------- switching


def test_a_small_gain_is_no_reason_to_switch() -> None:
    """The plan in force stands, at today's price, and nothing is published."""
    chosen = planner()
    before = chosen.consider(cloud(10e6), "start", 0.0)
    rates = [rate * 1e6 for rate in range(10, 40)]
    switched = next(
        rate
        for rate in rates
        if (chosen.consider(cloud(rate), "look", rate) or before) is not before
        and chosen.decision is not None
        and chosen.decision.cut == "input"
    )
    best_from = next(rate for rate in rates if planner().consider(cloud(rate), "x", 0.0).cut == "input")  # type: ignore[union-attr]
    assert switched > best_from


def test_within_the_dwell_time_only_a_plan_that_got_worse_is_left() -> None:
    """And then at once, if it is a change; merely measuring again does not hurry."""
    for urgent, better, switches in [(False, False, False), (True, False, True), (True, True, False)]:
        chosen = planner(dwell_seconds=5.0)
        chosen.consider(Known(), "start", 0.0)
        chosen.consider(cloud(10e6), "found", 10.0, urgent=True)
        assert chosen.decision is not None
        plan_id = chosen.decision.plan_id
        chosen.consider(cloud(200e6 if better else 0.05e6), "link", 11.0, urgent=urgent)
        assert (chosen.decision.plan_id != plan_id) is switches
        chosen.consider(cloud(200e6 if better else 0.05e6), "look", 15.5)
        assert chosen.decision.plan_id != plan_id


def test_the_first_offload_does_not_wait() -> None:
    """The plan of the start was no switch."""
    chosen = planner(dwell_seconds=60.0)
    chosen.consider(Known(), "start", 0.0)
    chosen.consider(cloud(10e6), "found", 0.1)
    assert chosen.decision is not None
    assert chosen.decision.cut == "v1"


def test_a_plan_that_cannot_be_carried_out_is_left_at_once() -> None:
    """Worker gone, link gone, packet too large: no dwell time, no gain to weigh."""
    for known in (Known({}, Link(50e6, 0.02)), Known({CLOUD: "profile"}), cloud(50e6, limit=5_000)):
        chosen = planner(dwell_seconds=60.0)
        chosen.consider(cloud(50e6), "start", 0.0)
        made = chosen.consider(known, "gone", 0.1)
        assert made is not None
        assert made.cut in ("output", "v1")


def test_a_plan_that_breaks_the_constraints_by_what_was_learnt_is_left() -> None:
    """Live frames leave earlier than the table's did, so early answers are wrong more often than is allowed."""
    model = graph(easy=0.3)
    table = model.validation
    assert table is not None
    table.correct[0, ::2] = False
    chosen = planner(model, min_accuracy=0.8, dwell_seconds=60.0)
    made = chosen.consider(Known(), "start", 0.0)
    assert made is not None
    assert made.plan.runs("b1")
    assert chosen.qualities.rates(None) is not None
    for index in range(400):
        chosen.qualities.rates(None).add("b1", index * 0.1)
    made = chosen.consider(Known(), "schedule", 41.0)
    assert made is not None
    assert not made.plan.runs("b1")


def test_many_minutes_on_a_steady_noisy_link_see_no_flapping() -> None:
    """At most one switch per dwell time right where two plans cost the same; few at all where the noise is small."""
    for seed, dwell, noise in ((1, 0.5, 0.1), (2, 2.0, 0.1), (3, 10.0, 0.1), (4, 0.5, 0.03)):
        chance = random.Random(seed)
        tie = next(r * 1e5 for r in range(100, 400) if planner().consider(cloud(r * 1e5), "x", 0.0).cut == "input")  # type: ignore[union-attr]
        chosen, switches = planner(dwell_seconds=dwell), []
        chosen.consider(cloud(tie), "start", 0.0)
        for step in range(1, 300):
            now = 0.2 * step
            before = chosen.decision
            chosen.consider(cloud(tie * chance.gauss(1, noise), 0.02 * chance.gauss(1, noise)), "look", now)
            assert before is not None
            assert chosen.decision is not None
            if before.plan_id != chosen.decision.plan_id:
                switches.append(now)
        assert all(later - earlier >= dwell for earlier, later in pairwise(switches))
        assert noise > 0.05 or len(switches) <= 3
