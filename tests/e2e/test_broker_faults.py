"""Brokers that die, come back, come late, or hang behind a dead link: every taken frame is answered, exactly once."""

from __future__ import annotations

import pytest

from popexd.lab.conveyor import scene
from popexd.protocol.messages import DecisionPayload, MetricsPayload

from .rig import BUSY, PATIENCE_SECONDS, TENSORS, TOPICS, Rig, photo, until

# What an answer may take that nobody finishes but the device: several deadlines, as the machine may be busy.
SOON_SECONDS = 15.0


def test_a_dead_uplink_broker_costs_no_answer(rig: Rig) -> None:
    """The uplink's broker is killed with frames in flight and comes back: the device answers, then the cloud again."""
    site, uplink = rig.broker(), rig.broker()
    watch, far = rig.watch(site.port), rig.watch(uplink.port, TENSORS, "popexd/#")
    worker = rig.program("worker", rig.worker_tables(uplink.port))
    rig.agent(rig.agent_tables(site.port, uplink.port))
    watch.cut_is("input")

    worker.pause()
    for index in range(3):
        watch.send(f"c{index}", photo(index), f"cut-off-{index}")
    far.shipped(1)
    uplink.kill()
    worker.resume()
    metrics = watch.at_rest(3)
    assert metrics.tiers == {"device": 3}
    assert metrics.fallbacks
    watch.cut_is("output")
    watch.send("c0", photo(5), "during")
    assert watch.answer("during").fallback is None

    uplink.start()
    watch.planned("input")
    watch.at_rest(4 + watch.finished("cloud", "after", photo(6))[1])


def test_answers_survive_a_restart_of_the_sites_broker(rig: Rig) -> None:
    """Answers given while the site's broker is down arrive once it is back, and so does the retained set."""
    site, uplink = rig.broker(), rig.broker()
    link = rig.link(site)
    watch, far = rig.watch(site.port), rig.watch(uplink.port, TENSORS)
    worker = rig.program("worker", rig.worker_tables(uplink.port, runtime={"slowdown": 100.0}))
    agent = rig.agent(rig.agent_tables(link.port, uplink.port, planner={"deadline_seconds": 10.0}))
    watch.cut_is("input")

    worker.pause()
    for index in range(3):
        watch.send(f"c{index}", photo(index), f"kept-{index}")
    far.shipped(1)
    watch.until(lambda: watch.metrics().frames.received == 3, "all three being here")
    # The agent finds the broker again only after we have: it remembers no subscription of ours.
    link.cut()
    site.kill()
    worker.resume()
    until(lambda: agent.loop.brain.statistics.answered, "an answer while nobody could hear it")
    site.start()
    watch.bus.wait_connected(PATIENCE_SECONDS)
    before = len(watch.messages(TOPICS.state))
    link.restore()

    assert watch.at_rest(3).frames.answered == 3
    watch.until(lambda: len(watch.messages(TOPICS.state)) > before, "the state being told again")
    late = rig.watch(site.port)
    late.until(lambda: late.agent_is("online"), "the retained state")
    late.until(lambda: late.last(TOPICS.decision, DecisionPayload), "the retained decision")
    late.until(lambda: late.last(TOPICS.metrics, MetricsPayload), "the retained metrics")
    watch.send("c0", photo(6), "after")
    watch.answer("after")
    watch.at_rest(4)


def test_one_broker_for_everything_may_die_too(rig: Rig) -> None:
    """With a single broker, agent and worker find each other again after it was killed."""
    broker = rig.broker()
    watch = rig.watch(broker.port)
    rig.worker(rig.worker_tables(broker.port))
    rig.agent(rig.agent_tables(broker.port))
    watch.cut_is("input")
    sent = watch.finished("cloud", "before", photo(0))[1]

    broker.kill()
    broker.start()
    watch.bus.wait_connected(PATIENCE_SECONDS)
    watch.planned("input")
    watch.at_rest(sent + watch.finished("cloud", "after", photo(1))[1])


def test_an_agent_does_not_wait_for_a_broker(rig: Rig) -> None:
    """Neither broker is there at the start: the agent is up at once, and each broker is used as it comes."""
    site, uplink = rig.broker(started=False), rig.broker(started=False)
    agent = rig.agent(rig.agent_tables(site.port, uplink.port))
    worker = rig.worker(rig.worker_tables(uplink.port))
    assert not agent.buses.site.connected
    assert not worker.bus.connected

    site.start()
    watch = rig.watch(site.port)
    watch.until(lambda: watch.agent_is("online"), "the agent")
    watch.send("c0", photo(0), "first")
    assert watch.answer("first").tier == "device"

    uplink.start()
    watch.cut_is("input")
    watch.at_rest(1 + watch.finished("cloud", "second", photo(1))[1])


@pytest.mark.parametrize("what", ["link", "broker"])
def test_a_stalled_uplink_costs_time_but_no_answer(rig: Rig, what: str) -> None:
    """Nothing flows and nothing closes: answers keep coming within the deadline, and the cloud is used again later."""
    site, uplink = rig.broker(), rig.broker()
    link = rig.link(uplink)
    watch = rig.watch(site.port)
    rig.worker(rig.worker_tables(uplink.port))
    rig.agent(rig.agent_tables(site.port, link.port))
    watch.cut_is("input")
    sent = watch.finished("cloud", "before", photo(0))[1]

    stall, restore = (link.cut, link.restore) if what == "link" else (uplink.pause, uplink.resume)
    stall()
    for index in range(8):
        watch.send(f"c{index % 4}", photo(index), f"stalled-{index}")
        if index % 2:
            watch.answer(f"stalled-{index}")
    metrics = watch.at_rest(sent + 8)
    assert metrics.tiers["device"] >= 7
    assert all(answers[0].seconds.total < SOON_SECONDS for answers in watch.results().values())
    watch.cut_is("output")
    watch.until(lambda: watch.events("uplink.lost"), "the outage being told")

    restore()
    watch.planned("input")
    watch.at_rest(sent + 8 + watch.finished("cloud", "after", photo(9))[1])


def test_a_frame_too_large_for_the_uplink_is_finished_here(rig: Rig) -> None:
    """The far broker takes small packets only: no answer is missing, and the connection is never lost over it."""
    site, uplink = rig.broker(), rig.broker(max_packet_bytes=20_000)
    watch = rig.watch(site.port)
    rig.worker(rig.worker_tables(uplink.port))
    agent, connections = rig.agent(rig.agent_tables(site.port, uplink.port)), list[bool]()
    watch.until(lambda: watch.events("worker.found"), "the worker")
    watch.until(lambda: (made := watch.decision()) is not None and made.cut != "output", "a plan for the cloud")

    agent.buses.uplink.on_connection(lambda connected, _: connections.append(connected))
    large = scene(0, 5, (640, 480)).jpeg()
    assert len(large) > 25_000
    sent = 0
    for index in range(3):
        sent += 1 + watch.finished("cloud", f"small-{index}", photo(0))[1]
        watch.send("c0", large, f"large-{index}")
        assert watch.answer(f"large-{index}").fallback in ("too-large", None)

    metrics = watch.at_rest(sent)
    assert agent.buses.uplink.connected
    assert connections == []
    assert set(metrics.fallbacks) <= {"too-large", *BUSY}
    assert metrics.tiers["cloud"] >= 3
