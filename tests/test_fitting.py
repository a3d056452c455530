"""One judge of what an agent is told to plan by: `agent check`, the start, a reload and `request/set` agree."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from agent.daemon import Daemon
from agent.runtime import Agent
from popexd import bundle as bundles
from popexd.bundle import Bundle
from popexd.cli.main import main
from popexd.config import AgentConfig, as_toml, load_agent
from popexd.coordinator.brain import Coordinator
from popexd.coordinator.events import RequestReceived, Respond
from popexd.errors import ConfigurationError
from popexd.fitting import planner_settings
from popexd.runtime import background
from popexd.solvers import MODES, NAMES, OBJECTIVES

COMBINATIONS = [
    {"solver": solver, "objective": objective, "mode": mode}
    for solver, objective, mode in product(NAMES, OBJECTIVES, MODES)
]
NEVER = {"solver": "ddnn", "objective": "p95"}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The one that ships with the package."""
    return bundles.load()


def refusal(bundle: Bundle, planner: dict[str, Any]) -> str | None:
    """What the judge says, None if nothing is wrong."""
    try:
        planner_settings(AgentConfig.model_validate({"planner": planner}), bundle)
    except ConfigurationError as error:
        return str(error)
    return None


def write(folder: Path, planner: dict[str, Any]) -> Path:
    """An agent's file, without a broker."""
    path = folder / "agent.toml"
    path.write_text(as_toml({"mqtt": {"port": 9}, "runtime": {"threads": 1}, "planner": planner}), encoding="utf-8")
    return path


def brain(bundle: Bundle) -> Coordinator:
    """A brain with the model, and nobody else there."""
    machine = background.MachineProfile(
        fingerprint=bundle.fingerprint,
        machine="slow",
        threads=1,
        segments={segment.name: 0.01 for segment in bundle.segments},
        exits={branch.name: 0.001 for branch in bundle.exits},
        frame_seconds=0.005,
        frame_bytes=20_000,
    )
    made = Coordinator(lambda remote: background.graph(bundle, machine, remote))
    made.start(0.0)
    return made


def test_some_fit_and_some_do_not(bundle: Bundle) -> None:
    """The judge has something to say, and names the key."""
    said = [refusal(bundle, each) for each in COMBINATIONS]

    assert None in said
    for line in filter(None, said):
        assert line.startswith(("planner.objective: ", "planner.solver: ")), line
    assert refusal(bundle, {}) is None
    assert refusal(bundle, NEVER) is not None
    assert refusal(bundle, {"thresholds": {"b9": 0.5}}) is not None


def test_a_request_is_judged_as_the_configuration_is(bundle: Bundle) -> None:
    """Whatever the file may say, `request/set` may say, and nothing else."""
    one = brain(bundle)
    for number, fields in enumerate(COMBINATIONS):
        before = one.world.planner.settings
        effects = one.handle(RequestReceived("set", f"t{number}", fields), float(number))
        (said,) = [each for each in effects if isinstance(each, Respond)]
        assert (said.error is not None) is (refusal(bundle, fields) is not None), fields
        assert (one.world.planner.settings == before) or said.error is None


@pytest.mark.parametrize(
    "planner", [{}, NEVER, {"solver": "edgent", "objective": "bytes"}, {"thresholds": {"b9": 0.5}}]
)
def test_check_and_start_agree(
    bundle: Bundle, tmp_path: Path, planner: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """What `agent check` passes starts; what it refuses does not, with the same line."""
    path = write(tmp_path, planner)
    with pytest.raises(SystemExit) as ended:
        main(["agent", "check", "--config", str(path)])
    line = capsys.readouterr().err
    assert (ended.value.code == 2) is (refusal(bundle, planner) is not None)

    agent = Agent(load_agent(path))
    if ended.value.code:
        with pytest.raises(ConfigurationError) as refused:
            agent.start()
        assert str(refused.value) in line
        assert f"{path}: planner." in line
    else:
        agent.start()
        assert agent.stop()


def test_a_bundle_that_is_not_there_is_told_with_file_and_key(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the check, by the start, and by a reload, which changes nothing: the restart would fail."""
    path = write(tmp_path, {})
    daemon = Daemon(Agent(load_agent(path)), path)
    daemon.start()
    before = daemon.agent.config
    path.write_text(as_toml({"mqtt": {"port": 9}, "model": {"bundle": "nosuch"}, "planner": {"mode": "device"}}))
    with pytest.raises(ConfigurationError, match=r"agent\.toml: model\.bundle: nosuch: "):
        daemon.reload()
    assert daemon.agent.config is before
    assert daemon.stop()
    for verb in ("check", "run"):
        with pytest.raises(SystemExit) as ended:
            main(["agent", verb, "--config", str(path)])
        assert ended.value.code
        assert f"{path}: model.bundle: nosuch: no such folder" in capsys.readouterr().err


def test_a_reload_that_cannot_be_planned_by_is_refused(tmp_path: Path) -> None:
    """It is not reported as done, and what was in force stays so."""
    path = write(tmp_path, {})
    daemon = Daemon(Agent(load_agent(path)), path)
    daemon.start()
    before = daemon.agent.config
    write(tmp_path, NEVER)
    with pytest.raises(ConfigurationError, match=r"planner\.objective: 'p95'"):
        daemon.reload()
    assert daemon.agent.config is before
    assert daemon.stop()
