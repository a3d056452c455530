"""Agents that are killed with frames in their hands: the next start answers every one of them, and none twice."""

from __future__ import annotations

import random
import threading
from functools import partial

import pytest

from popexd.protocol.messages import MetricsPayload

from .rig import PATIENCE_SECONDS, TENSORS, TOPICS, Rig, Watch, photo, until

SLOWLY = {"slowdown": 150.0}
VERY_SLOWLY = {"slowdown": 5000.0}


def named(prefix: str, count: int) -> list[str]:
    """Frame ids, one for each camera `c<n>`."""
    return [f"{prefix}-{index}" for index in range(count)]


def publish(watch: Watch, names: list[str]) -> None:
    """Publish one frame per camera, and return when the broker has them."""
    arrived = threading.Semaphore(0)
    for index, name in enumerate(names):
        watch.bus.publish(
            TOPICS.frames(f"c{index}"),
            photo(index),
            qos=1,
            user_properties=[("frame_id", name)],
            on_done=lambda _: arrived.release(),
        )
    for _ in names:
        assert arrived.acquire(timeout=PATIENCE_SECONDS)


def answered_once(watch: Watch, names: list[str]) -> None:
    """Wait until all have an answer; none has two different ones then, nor when the agent's books balance."""
    watch.until(lambda: set(names) <= set(watch.results()), f"answers to {names}")

    def balanced() -> bool:
        frames = watch.metrics().frames
        return frames.taken == frames.answered and frames.received == frames.taken + frames.dropped + frames.rejected

    watch.until(balanced, "an agent that owes nothing")
    assert {name: len(watch.results()[name]) for name in names} == dict.fromkeys(names, 1)


def answered(watch: Watch, least: int) -> bool:
    """Whether so many frames have an answer."""
    return len(watch.results()) >= least


def taken_since(watch: Watch, heard: int) -> bool:
    """Whether an agent that was started since has the frame in hand."""
    later = watch.payloads(TOPICS.metrics, MetricsPayload)[heard:]
    return any(each.frames.taken and not each.frames.answered for each in later)


@pytest.fixture
def watch(rig: Rig) -> Watch:
    """The ear on a broker of the test's own."""
    return rig.watch(rig.broker().port, "popexd/#", TENSORS)


def port(watch: Watch) -> int:
    """The broker that a watch listens to."""
    return watch.bus.settings.port


def test_killed_before_it_has_looked_at_them(rig: Rig, watch: Watch) -> None:
    """The frames lie in the socket of a process that is stopped; its next start counts each of them once."""
    tables = rig.agent_tables(port(watch), planner={"mode": "device"})
    agent = rig.program("agent", tables)
    watch.until(lambda: watch.agent_is("online"), "the agent")
    agent.pause()
    names = named("unseen", 6)
    publish(watch, names)
    agent.kill()
    rig.program("agent", tables)

    answered_once(watch, names)
    watch.until(lambda: watch.metrics().frames.received == len(names), "each being counted")
    assert watch.metrics().frames.answered == len(names)


@pytest.mark.parametrize("seed", range(4))
def test_killed_while_it_computes(rig: Rig, watch: Watch, seed: int) -> None:
    """One frame is being computed and the others wait, at whatever instant it comes."""
    tables = rig.agent_tables(port(watch), planner={"mode": "device", "deadline_seconds": 30.0}, runtime=SLOWLY)
    agent = rig.program("agent", tables)
    watch.until(lambda: watch.agent_is("online"), "the agent")
    names = named("computing", 6)
    publish(watch, names)
    threading.Event().wait(random.Random(seed).uniform(0.0, 1.0))
    agent.kill()
    rig.program("agent", tables)

    answered_once(watch, names)


def test_killed_while_a_worker_has_them(rig: Rig, watch: Watch) -> None:
    """The worker's reply comes to nobody; the next start ships the frames once more."""
    worker = rig.program("worker", rig.worker_tables(port(watch)))
    tables = rig.agent_tables(port(watch), planner={"deadline_seconds": 30.0})
    agent = rig.program("agent", tables)
    watch.cut_is("input")
    worker.pause()
    names = named("shipped", 3)
    publish(watch, names)
    watch.shipped(1)
    agent.kill()
    worker.resume()
    rig.program("agent", tables)

    answered_once(watch, names)


def test_killed_again_and_again_among_frames(rig: Rig, watch: Watch) -> None:
    """Each camera sends its next frame when the one before is answered; kills come at any instant, by seed."""
    chance, tables = random.Random(7), rig.agent_tables(port(watch), planner={"mode": "device"})
    agent = rig.program("agent", tables)
    watch.until(lambda: watch.agent_is("online"), "the agent")
    stopped = threading.Event()

    def camera(index: int) -> None:
        number = 0
        while not stopped.is_set():
            number += 1
            watch.send(f"c{index}", photo(number % 8), f"c{index}-{number}")
            sent[index] = number
            watch.answer(f"c{index}-{number}")

    sent = dict.fromkeys(range(5), 0)
    cameras = [threading.Thread(target=camera, args=(index,), daemon=True) for index in sent]
    for thread in cameras:
        thread.start()
    for _ in range(6):
        watch.until(partial(answered, watch, len(watch.results()) + 20), "answers after a start")
        threading.Event().wait(chance.uniform(0.0, 0.05))
        agent.kill()
        agent = rig.program("agent", tables)
    stopped.set()
    for thread in cameras:
        thread.join(PATIENCE_SECONDS)

    answered_once(watch, [f"c{index}-{number}" for index, last in sent.items() for number in range(1, last + 1)])


def test_frames_of_the_time_between_are_answered_too(rig: Rig, watch: Watch) -> None:
    """The newest of a camera; the broker kept them for an agent that said no farewell, and for no other."""
    tables = rig.agent_tables(port(watch), planner={"mode": "device"})
    agent = rig.program("agent", tables)
    watch.until(lambda: watch.agent_is("online"), "the agent")
    agent.kill()
    watch.until(lambda: watch.agent_is("offline"), "its will")
    publish(watch, ["crashed"])
    agent = rig.program("agent", tables)
    answered_once(watch, ["crashed"])

    assert agent.terminate() == 0
    publish(watch, ["stopped"])
    agent = rig.program("agent", tables)
    watch.until(lambda: watch.agent_is("online"), "the agent")
    watch.send("c0", photo(1), "afterwards")
    watch.answer("afterwards")
    assert "stopped" not in watch.results()


def test_a_frame_that_kills_is_given_up(rig: Rig, watch: Watch) -> None:
    """It is tried by so many starts and then rejected; what came with it is answered by then."""
    tables = rig.agent_tables(port(watch), planner={"mode": "device", "deadline_seconds": 30.0}, runtime=VERY_SLOWLY)
    names = ["deadly"]
    agent = rig.program("agent", tables)
    watch.until(lambda: watch.agent_is("online"), "the agent")
    publish(watch, names)
    for _ in range(4):
        watch.until(partial(taken_since, watch, len(watch.messages(TOPICS.metrics))), "the frame being taken")
        agent.kill()
        agent = rig.program("agent", tables)

    rejected = watch.until(lambda: watch.events("input.rejected"), "the frame being given up")
    assert rejected[0]["reason"] == "fatal"
    assert agent.running
    until(lambda: watch.metrics().frames.rejected == 1, "the count")
    assert watch.results() == {}


def test_frames_in_hand_never_hold_back_newer_ones(rig: Rig, watch: Watch) -> None:
    """Many more cameras wait than a broker sends unacknowledged: all frames come in, and requests are answered."""
    tables = rig.agent_tables(
        port(watch), planner={"mode": "device", "deadline_seconds": 300.0}, runtime={"slowdown": 5000.0}
    )
    agent = rig.program("agent", tables)
    watch.until(lambda: watch.agent_is("online"), "the agent")
    for number in range(3):
        publish(watch, named(f"round-{number}", 40))
    watch.until(lambda: watch.metrics().frames.received == 120, "every frame being looked at")

    frames = watch.metrics().frames
    assert (frames.taken, frames.answered) == (1, 0)
    assert frames.dropped_by_reason == {"newer": 120 - 1 - 40}
    assert watch.ask("status").status == "ok"
    assert agent.running
