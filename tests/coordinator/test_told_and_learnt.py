"""What is told of a plan, and what is learnt for the next one."""

from __future__ import annotations

import pytest

from popexd.coordinator import events as ev
from popexd.coordinator.brain import Coordinator
from popexd.simulation.model import assemble

from .makers import CLOUD, Bench, cheaper, cloud, first, graph, only, planner

# ---------------------------------------------------------------------------------------- publishing


@pytest.mark.parametrize("mode", ["auto", "device", "cloud"])
def test_an_unchanged_decision_is_published_once(mode: str) -> None:
    """Looking again every two seconds says nothing new, whatever the mode."""
    bench = Bench(mode=mode).connected().measured()
    bench.wait(3.0)
    bench.log.clear()
    for _ in range(30):
        bench.tell(ev.Due("replan"), after=2.0)
    assert not bench.decided()


def test_a_link_that_moved_by_a_fifth_is_worth_telling() -> None:
    """The plan keeps its name; who watches sees what it is expected to take now."""
    for mode in ("auto", "device"):
        chosen = planner(mode=mode)
        before = chosen.consider(cloud(5e6), "start", 0.0)
        assert before is not None
        assert chosen.consider(cloud(4.7e6), "look", 10.0) is None
        told = chosen.consider(cloud(3e6), "look", 20.0)
        assert told is not None
        assert (told.plan_id, told.network["device"].bits_per_second) == (before.plan_id, 3e6)


def test_a_plan_that_stays_for_the_dwell_time_is_told_at_todays_price() -> None:
    """Though a better one is known: the published link is never an old one."""
    chosen = planner(dwell_seconds=60.0)
    chosen.consider(cloud(10e6), "start", 0.0)
    chosen.consider(cloud(0.1e6), "link", 1.0, urgent=True)
    told = chosen.consider(cloud(50e6), "link", 2.0, urgent=True)
    assert told is not None
    assert (told.cut, told.network["device"].bits_per_second) == ("output", 50e6)


def test_frames_are_compared_with_todays_expectation() -> None:
    """A small drift is not published, but it is what frames are measured against."""
    chosen = planner()
    before = chosen.consider(cloud(5e6), "start", 0.0)
    assert before is not None
    assert chosen.consider(cloud(4.7e6), "look", 10.0) is None
    assert chosen.decision is not None
    assert chosen.decision.prediction.seconds > before.prediction.seconds


def test_a_decision_says_what_it_rests_on() -> None:
    """Reason, alternatives, link; the plan in the form of files and messages."""
    bench = Bench().offloading()
    made = bench.decision
    assert made.solver == "joint"
    assert made.objective == "seconds"
    assert {"device-only", "camera-jpeg-to-cloud"} <= {name for name, _ in made.alternatives}
    assert min(seconds for _, seconds in made.alternatives) >= made.prediction.seconds - 1e-9
    assert made.form["tiers"] == {"v1": "device", "v2": "cloud", "v3": "cloud"}
    assert made.network["device"].bits_per_second == pytest.approx(10e6, rel=0.1)
    assert made.plan_id.startswith("t-")


# ---------------------------------------------------------------------------------------- what is learnt


def test_a_device_that_slows_down_gives_more_away() -> None:
    """Three times slower mid-way, by heat or a neighbour: within a few frames the plan moves to the cloud."""
    bench = Bench(cheaper(graph(), v1=0.01, v2=0.02, v3=0.02)).connected().measured(1e6, 0.05)
    bench.wait(3.0)
    assert bench.decision.cut == "output"
    for _ in range(20):
        runs = only(ev.Run, bench.frame())
        while runs:
            device = sum({"v1": 0.01, "v2": 0.02, "v3": 0.02}[name] for name in runs[0].segments)
            runs = only(ev.Run, bench.ran(runs[0], 0.4 if runs[0].exit != "final" else None, seconds=6 * device))
            bench.wait(0.05)
        bench.tell(ev.Due("replan"))
        bench.tell(ev.Replied(0, 1, "w1", CLOUD, 0, {}))
    assert bench.decision.cut != "output"


def test_a_camera_that_sends_larger_frames_is_not_sent_on() -> None:
    """The size of its frames is measured, not assumed."""
    bench = Bench().offloading(50e6)
    assert bench.decision.form["codec"] == "camera"
    for _ in range(20):
        run = first(ev.Run, bench.frame())
        effects = bench.tell(ev.RunDone(run.key, image_bytes=150_000, shipment_bytes=150_900), after=0.001)
        bench.replied(first(ev.Ship, effects), after=0.05)
        bench.wait(0.2)
    bench.tell(ev.Due("replan"), after=3.0)
    assert bench.decision.cut == "v1"


def test_a_worker_with_a_queue_is_given_less() -> None:
    """Others use it too; what a message waits there counts like work."""
    bench = Bench().offloading(10e6)
    for _ in range(12):
        bench.replied(bench.shipped(), after=0.15, seconds={"queue": 0.12, "decode": 0.0005, "compute": 0.004})
        bench.wait(0.3)
    bench.tell(ev.Due("replan"), after=3.0)
    assert bench.decision.cut == "output"


def test_what_was_learnt_long_ago_is_tried_again() -> None:
    """A worker that was slow once may be quick again, and only trying tells."""
    bench = Bench().offloading(10e6)
    for _ in range(12):
        bench.replied(bench.shipped(), after=0.15, seconds={"queue": 0.12, "decode": 0.0005, "compute": 0.004})
        bench.wait(0.3)
    bench.tell(ev.Due("replan"), after=3.0)
    assert bench.decision.cut == "output"
    bench.tell(ev.Due("replan"), after=400.0)
    assert bench.decision.cut != "output"


def test_live_exit_shares_decide_the_next_plan() -> None:
    """Frames here leave at b1 nearly always, unlike the table's: then shipping pays no more."""
    bench = Bench().offloading(1.2e6)
    assert bench.decision.plan.runs("b1")
    share = bench.decision.prediction.exit_probabilities["b1"]
    for _ in range(150):
        bench.ran(first(ev.Run, bench.frame()), 0.99)
    bench.tell(ev.Due("replan"), after=3.0)
    assert bench.decision.prediction.exit_probabilities["b1"] > max(0.75, share + 0.3)


def test_frames_of_an_older_plan_do_not_count_for_the_new_ones_exits() -> None:
    """They were asked other questions."""
    bench = Bench().offloading()
    run = first(ev.Run, bench.frame())
    bench.asked("set", thresholds={"b1": 0.5})
    bench.ran(run, 0.99)
    rates = bench.brain.world.planner.qualities.rates(None)
    assert rates is not None
    assert not rates._left


def test_a_rescued_frame_counts_where_it_was_asked() -> None:
    """It passed b1 and was finished here: that is a frame which b1 did not answer."""
    bench = Bench().offloading()
    bench.ran(first(ev.Run, bench.ended(bench.shipped(), "dropped")))
    rates = bench.brain.world.planner.qualities.rates(None)
    assert rates is not None
    assert [left_at for left_at, _ in rates._left] == ["final"]
    run = first(ev.Run, bench.frame())
    bench.ran(first(ev.Run, bench.tell(ev.RunFailed(run.key, False, "compute"))))
    assert len(rates._left) == 1


def test_a_speed_test_is_enough_to_begin_with() -> None:
    """Until the path itself is measured."""
    bench = Bench()
    bench.connected()
    bench.tell(ev.SpeedMeasured(50e6))
    assert bench.decision.network["device"].source == "speedtest"
    assert bench.decision.cut == "input"


def test_no_clock_is_needed_to_plan() -> None:
    """Without a timer a decision reports that solving took no time."""
    brain = Coordinator(lambda known: assemble(graph(), known))
    assert first(ev.Decided, brain.start(0.0)).decision.solve_seconds == 0.0
