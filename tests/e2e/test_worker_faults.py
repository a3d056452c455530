"""Workers that die, stall, come late or come back: every taken frame is answered, exactly once."""

from __future__ import annotations

from agent.runtime import Agent
from popexd.protocol.messages import WorkerMetrics

from .rig import TENSORS, TOPICS, Rig, Watch, photo, until

# Frames do not wait for a probe that wants to cross alone.
RARELY = {"interval_seconds": 3600.0}
# What an answer may take that nobody finishes but the device: several deadlines, as the machine may be busy.
SOON_SECONDS = 15.0


def measured(agent: Agent) -> None:
    """Wait until no probe is under way."""
    until(lambda: not agent.loop.brain.world.uplink.probing, "the link being measured")


def answered(watch: Watch, worker: str) -> int:
    """How many tensors a worker has answered."""
    return watch.worker_metrics(worker).tensors.answered


def test_frames_of_a_killed_worker_are_finished_here(rig: Rig) -> None:
    """A worker dies with frames in flight; the device answers them, and a worker that comes back is used again."""
    broker = rig.broker()
    watch, tensors = rig.watch(broker.port), rig.watch(broker.port, TENSORS)
    worker = rig.program("worker", rig.worker_tables(broker.port))
    rig.agent(rig.agent_tables(broker.port))
    watch.cut_is("input")

    worker.pause()
    for index in range(3):
        watch.send(f"c{index}", photo(index), f"doomed-{index}")
    tensors.shipped(1)
    worker.kill()

    metrics = watch.at_rest(3)
    assert metrics.frames.answered == 3
    assert metrics.tiers == {"device": 3}
    assert metrics.fallbacks
    watch.until(lambda: watch.events("worker.lost"), "the loss being told")
    watch.until(lambda: watch.worker_is("w1", "offline"), "the last will")
    watch.cut_is("output")

    rig.program("worker", rig.worker_tables(broker.port))
    watch.planned("input")
    watch.at_rest(3 + watch.finished("cloud", "later", photo(7))[1])


def test_frames_of_a_killed_worker_are_retried_on_the_other(rig: Rig) -> None:
    """Two workers share the load; what the dead one had, the other answers."""
    broker = rig.broker()
    watch, tensors = rig.watch(broker.port), rig.watch(broker.port, TENSORS)
    tables = rig.worker_tables(broker.port, "other", runtime={"slowdown": 60.0})
    rig.worker(tables)
    agent = rig.agent(rig.agent_tables(broker.port, planner={"deadline_seconds": 10.0}, probe=RARELY))
    watch.cut_is("input")
    sent = 0

    def send(camera: str) -> str:
        nonlocal sent
        sent += 1
        watch.send(camera, photo(0), f"f{sent}")
        return f"f{sent}"

    # On a busy machine the agent may doubt the link just then and finish by itself, which is as right: so more than one
    # worker has to die if need be.
    for name in ("doomed-1", "doomed-2", "doomed-3", "doomed-4"):
        doomed = rig.program("worker", {**tables, "worker": {"name": name}})
        while watch.last(TOPICS.worker(name, "metrics"), WorkerMetrics) is None or not answered(watch, name):
            watch.answer(send("c0"))
        measured(agent)

        # Each of the two is given one of two, so one is left with whom will never answer.
        doomed.pause()
        passed = len(tensors.messages(TENSORS))
        shared = [send(f"c{index}") for index in range(2)]
        tensors.shipped(passed + 2)
        doomed.kill()
        watch.at_rest(sent)
        watch.until(lambda name=name: watch.worker_is(name, "offline"), "the last will")  # type: ignore[misc]
        answers = [watch.answer(frame_id) for frame_id in shared]
        if [answer.tier for answer in answers] == ["cloud", "cloud"]:
            break
    assert [answer.tier for answer in answers] == ["cloud", "cloud"]
    assert max(answer.bytes_sent for answer in answers) >= 2 * len(photo(0))
    assert {event["worker"] for event in watch.events("worker.lost")} >= {name}


def test_a_stalled_worker_costs_time_but_no_answer(rig: Rig) -> None:
    """A worker that hangs with its connection open: answers keep the deadline, its late replies change nothing."""
    broker = rig.broker()
    watch, tensors = rig.watch(broker.port), rig.watch(broker.port, TENSORS)
    worker = rig.program("worker", rig.worker_tables(broker.port))
    rig.agent(rig.agent_tables(broker.port))
    watch.cut_is("input")

    worker.pause()
    for index in range(6):
        watch.send(f"c{index % 3}", photo(index), f"stalled-{index}")
        watch.answer(f"stalled-{index}")
    tensors.shipped(1)
    metrics = watch.at_rest(6)
    assert metrics.tiers == {"device": 6}
    assert all(answers[0].seconds.total < SOON_SECONDS for answers in watch.results().values())
    worker.resume()

    watch.until(lambda: watch.worker_metrics("w1").tensors.answered >= 1, "the late replies")
    watch.planned("input")
    watch.at_rest(6 + watch.finished("cloud", "after", photo(9))[1])


def test_a_tier_that_hangs_leaves_the_other_in_use(rig: Rig) -> None:
    """The cloud's worker stops dead with its connection open: the edge's takes over, and nobody calls it an outage."""
    broker = rig.broker()
    watch = rig.watch(broker.port)
    far = rig.program("worker", rig.worker_tables(broker.port, "far"))
    near = {"worker": {"name": "near", "tier": "edge"}, "runtime": {"slowdown": 20.0}}
    rig.worker(rig.worker_tables(broker.port, "near", **near))
    rig.agent(rig.agent_tables(broker.port, planner={"mode": "auto"}, runtime={"slowdown": 60.0}))
    watch.until(lambda: len(watch.events("worker.found")) >= 2, "both workers")
    watch.cut_is("input")
    sent = watch.finished("cloud", "before", photo(0))[1]

    far.pause()
    sent += watch.finished("edge", "meanwhile", photo(1))[1]
    assert {"cloud"} == {event["tier"] for event in watch.events("tier.lost")}
    assert watch.ask("status").data["uplink"]["suspect"] == ["cloud"]  # type: ignore[index]
    assert not watch.events("uplink.lost")

    far.resume()
    watch.until(lambda: watch.events("tier.restored"), "the cloud being back")
    sent += watch.finished("cloud", "after", photo(2))[1]
    watch.at_rest(sent)


def test_one_of_two_workers_that_hangs_leaves_the_other_in_use(rig: Rig) -> None:
    """What falls to the one that hangs is asked for again; the tier stays in use."""
    broker = rig.broker()
    watch = rig.watch(broker.port)
    rig.worker(rig.worker_tables(broker.port, "well"))
    hung = rig.program("worker", rig.worker_tables(broker.port, "hung"))
    rig.agent(rig.agent_tables(broker.port, planner={"deadline_seconds": 5.0}))
    watch.until(lambda: len(watch.events("worker.found")) >= 2, "both workers")
    watch.cut_is("input")

    hung.pause()
    sent = sum(watch.finished("cloud", f"f{index}", photo(index))[1] for index in range(6))
    watch.at_rest(sent)
    assert not watch.events("uplink.lost")
    assert {event["worker"] for event in watch.events("worker.lost")} <= {"hung"}


def test_an_agent_does_not_wait_for_a_worker(rig: Rig) -> None:
    """No worker at all: the device answers; the first one that comes takes over."""
    broker = rig.broker()
    watch = rig.watch(broker.port)
    rig.agent(rig.agent_tables(broker.port))
    watch.until(lambda: watch.agent_is("online"), "the agent")
    watch.send("c0", photo(0), "alone")
    alone = watch.answer("alone")
    assert (alone.tier, alone.fallback) == ("device", None)

    rig.worker(rig.worker_tables(broker.port))
    watch.cut_is("input")
    watch.at_rest(1 + watch.finished("cloud", "together", photo(1))[1])


def test_a_worker_that_is_stopped_answers_what_it_has(rig: Rig) -> None:
    """SIGTERM: what has arrived is answered, the retained state says offline, the exit status is 0."""
    broker = rig.broker()
    watch, tensors = rig.watch(broker.port), rig.watch(broker.port, TENSORS)
    worker = rig.program("worker", rig.worker_tables(broker.port, runtime={"slowdown": 60.0}))
    agent = rig.agent(rig.agent_tables(broker.port, planner={"deadline_seconds": 10.0}, probe=RARELY))
    watch.cut_is("input")
    measured(agent)

    for index in range(3):
        watch.send(f"c{index}", photo(index), f"owed-{index}")
    tensors.shipped(2)
    watch.until(lambda: watch.worker_metrics("w1").tensors.received, "the first being done")
    assert worker.terminate() == 0, worker.log

    assert watch.at_rest(3).frames.answered == 3
    counts = watch.worker_metrics("w1").tensors
    assert counts.received == counts.answered >= 2
    state = watch.messages(TOPICS.worker("w1", "state"))[-1]
    assert b'"offline"' in state.payload
    assert b'"stopped"' in state.payload
