"""How an agent ends: told to stop, it answers what it owes and says farewell; killed, its last will speaks."""

from __future__ import annotations

import threading

from agent.runtime import Agent
from popexd.config import AgentConfig
from popexd.protocol.messages import AgentState

from .rig import PATIENCE_SECONDS, TENSORS, TOPICS, Rig, Watch, photo


def farewell(watch: Watch) -> AgentState:
    """Wait until the retained state says offline, and return it."""
    watch.until(lambda: watch.agent_is("offline"), "the agent being offline")
    state = watch.last(TOPICS.state, AgentState)
    assert state is not None
    return state


def test_told_to_stop_it_answers_what_it_owes(rig: Rig) -> None:
    """SIGTERM with frames at a worker: they are answered, both brokers hear `offline`, the exit status is 0."""
    site, uplink = rig.broker(), rig.broker()
    watch, far = rig.watch(site.port), rig.watch(uplink.port, TENSORS, "popexd/#")
    worker = rig.program("worker", rig.worker_tables(uplink.port))
    agent = rig.program("agent", rig.agent_tables(site.port, uplink.port))
    watch.cut_is("input")

    worker.pause()
    for index in range(3):
        watch.send(f"c{index}", photo(index), f"owed-{index}")
    far.shipped(1)
    assert agent.terminate() == 0, agent.log

    assert farewell(watch).reason == "stopped"
    assert farewell(far).reason == "stopped"
    frames = watch.metrics().frames
    assert frames.taken == frames.answered == len(watch.results()) >= 1
    assert frames.received == frames.taken + frames.dropped + frames.rejected
    assert set(frames.dropped_by_reason) <= {"shutdown"}
    assert all(len(answers) == 1 for answers in watch.results().values())


def test_killed_its_last_will_speaks(rig: Rig) -> None:
    """SIGKILL: both brokers say `offline` on its behalf; started again it is online and answers."""
    site, uplink = rig.broker(), rig.broker()
    watch, far = rig.watch(site.port), rig.watch(uplink.port)
    rig.worker(rig.worker_tables(uplink.port))
    tables = rig.agent_tables(site.port, uplink.port)
    agent = rig.program("agent", tables)
    watch.cut_is("input")
    watch.send("c0", photo(0), "first")
    watch.answer("first")
    assert watch.agent_is("online")
    assert far.agent_is("online")

    agent.kill()
    assert farewell(watch).reason == "connection lost"
    assert farewell(far).reason == "connection lost"

    rig.program("agent", tables)
    watch.planned("input")
    _, sent = watch.finished("cloud", "second", photo(1))
    assert watch.agent_is("online")
    assert len(watch.results()) == 1 + sent


def test_a_fault_of_its_own_ends_it(rig: Rig) -> None:
    """A half-changed state is not to be trusted: whoever runs the agent is told, and the broker hears `offline`."""
    broker = rig.broker()
    watch = rig.watch(broker.port)
    failed = threading.Event()
    agent = Agent(AgentConfig.model_validate(rig.agent_tables(broker.port)), on_failure=failed.set)
    agent.start()
    watch.until(lambda: watch.agent_is("online"), "the agent")
    agent._mailbox.post(object())

    assert failed.wait(PATIENCE_SECONDS)
    assert not agent.stop()
    farewell(watch)
