"""The agent as its main thread sees it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from agent.compute import Compute
from agent.daemon import Daemon
from agent.render import status
from agent.runtime import Agent
from popexd.bundle import load
from popexd.config import Limits, as_toml, load_agent
from popexd.coordinator.events import Notice, RequestReceived, Run, RunDone, RunFailed
from popexd.errors import ConfigurationError, InputError
from popexd.lab.conveyor import scene
from popexd.runtime.segments import SegmentRunner, Tensors


class StuckRunner(SegmentRunner):
    """Does not come back until it is let go."""

    entered, released = threading.Event(), threading.Event()

    def run(self, tensors: Tensors, segments: object) -> Tensors:
        """Wait."""
        self.entered.set()
        self.released.wait(120)
        return {"pool1": np.zeros((1, 1), np.float32)}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """An agent without a broker, started, and its file."""
    path = tmp_path / "agent.toml"
    path.write_text(as_toml({"mqtt": {"port": 9, "device": "box"}, "runtime": {"threads": 1}}))
    one = Daemon(Agent(load_agent(path)), path)
    one.start()
    yield one
    assert one.stop()


def moves(beat: object, seconds: float = 60.0) -> bool:
    """Tell whether a pulse changes in time."""
    assert callable(beat)
    first, pause = beat(), threading.Event()
    for _ in range(int(seconds * 20)):
        pause.wait(0.05)
        if beat() != first:
            return True
    return False


def test_idle_is_progress_too(daemon: Daemon) -> None:
    """Loop and compute move with nothing to do; of a broker that is not there nothing is expected."""
    pulses = daemon.pulses()

    assert moves(pulses["loop"].beat)
    assert moves(pulses["compute"].beat)
    assert moves(pulses["schedule"].beat)
    assert pulses["site"].beat() is None
    assert "uplink" not in pulses
    assert daemon.status().endswith("; no connection to the broker")


def test_a_stuck_order_stops_the_pulse() -> None:
    """However often one looks: nothing piles up behind it either."""
    posted: list[RunDone | RunFailed] = []
    runner = StuckRunner(load("default"), 1)
    compute = Compute(runner, Limits(), 1.0, posted.append)
    compute.start()
    compute.order(Run(1, ("pool1",), decode=True, payload=scene(1, 2, (160, 120)).jpeg()))
    assert runner.entered.wait(60)

    assert not moves(compute.heartbeat, 1.0)
    runner.released.set()
    assert moves(compute.heartbeat)
    compute.stop()
    assert [each.key for each in posted] == [1]


def test_a_reload_changes_the_plan_and_names_what_waits(daemon: Daemon, tmp_path: Path) -> None:
    """Thresholds at once, the broker at the next start."""
    tables = {"mqtt": {"port": 10, "device": "box"}, "planner": {"mode": "device", "thresholds": {"b1": 0.3}}}
    (tmp_path / "agent.toml").write_text(as_toml({**tables, "runtime": {"threads": 1}}))

    assert daemon.reload() == "needs a restart: mqtt.port"
    planner = daemon.agent.loop.brain.world.planner
    assert moves(lambda: planner.settings.mode == "device") or planner.settings.mode == "device"
    assert planner.settings.thresholds == {"b1": 0.3}


@pytest.mark.parametrize(
    ("text", "said"),
    [("[planner]\nsolver = 'gess'\n", "gess"), ("[planner]\nthresholds = {b9 = 0.5}\n", "b9"), ("[", "not TOML")],
)
def test_a_bad_file_changes_nothing(daemon: Daemon, tmp_path: Path, text: str, said: str) -> None:
    """What was in force stays so."""
    before = daemon.agent.config
    (tmp_path / "agent.toml").write_text(text)

    with pytest.raises((ConfigurationError, InputError), match=said):
        daemon.reload()
    assert daemon.agent.config is before


def test_what_an_operator_has_to_see_is_logged_as_a_warning(daemon: Daemon) -> None:
    """`journalctl -p warning` shows what was refused, why and to whom, and that frames are not what they were."""
    loop = daemon.agent.loop
    with capture_logs() as lines:
        for effect in loop.brain.handle(RequestReceived("set", None, {"mode": "nope"}, "boss"), time.monotonic()):
            assert isinstance(effect, Notice)
            loop._notice(effect, time.monotonic())
        loop._notice(Notice("drift.detected", {"signal": "quality"}), time.monotonic())

    refused, drift = (line for line in lines if line["event"] in ("request.rejected", "drift.detected"))
    assert (refused["log_level"], refused["verb"], refused["asked_by"]) == ("warning", "set", "boss")
    assert "nope" in refused["detail"]
    assert drift["log_level"] == "warning"


def test_the_status_line_has_shares_of_what_was_answered_between_two_reports() -> None:
    """Exits by name, and how much was finished elsewhere."""
    before = {"exits": {"b1": 10}, "tiers": {"device": 10}}
    now = {"exits": {"b1": 40, "final": 10}, "tiers": {"device": 42, "cloud": 8}}

    assert status("door", None, before, now) == "door; exits b1 75%, final 25%; offloaded 20%"
    assert status("door", None, now, now) == "door; no frames lately"
