"""`popexd doctor`: whose configuration it is given, and what is wrong with it before a broker is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from broker.process import free_port

from .conftest import Run


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("box", "[worker]\n", "worker"),
        ("box", "[model]\nbundles = ['default']\n", "worker"),
        ("worker-cloud", "[mqtt]\nsite = 'site'\n", "worker"),
        ("worker-cloud", "[planner]\n", "agent"),
        ("box", "[mqtt]\ndevice = 'pi'\n", "agent"),
        ("box", "", "agent"),
    ],
)
def test_whose_configuration_it_is_follows_from_its_keys_and_then_from_its_name(
    examine: Any, tmp_path: Path, name: str, text: str, kind: str
) -> None:
    """A worker's file need not have the table of that name."""
    file = tmp_path / f"{name}.toml"
    file.write_text(text)

    found = examine("--config", file, "--port", free_port())
    assert found.the("configuration")["says"].endswith(f"a valid {kind}'s")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--config", "/nowhere/agent.toml"], "/nowhere/agent.toml: No such file or directory, expected"),
        (["--config", "/dev/null/agent.toml"], "/dev/null/agent.toml: Not a directory, expected"),
        (["--host", "a..b"], "--host = 'a..b': expected the name or address"),
        (["--host", ""], "--host = ''"),
    ],
)
def test_what_cannot_be_looked_at_is_bad_usage(
    run: Run, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    """One line and status 2, before anything else is said."""
    assert run("doctor", *words) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert said in told.err


@pytest.mark.parametrize("name", ["nothing.pem", "agent.toml", ""])
def test_an_authority_that_is_missing_or_none_is_a_finding(examine: Any, tmp_path: Path, name: str) -> None:
    """With what to do; so is a folder in its place."""
    file = tmp_path / "agent.toml"
    file.write_text(f'[mqtt]\nport = {free_port()}\nca_file = "{tmp_path / name}"\n')
    found = examine("--config", file)

    assert found.status == 1
    assert found.the("certificate")["level"] == "fail"
    assert found.the("broker")["level"] == "fail"
    assert str(tmp_path / name) in found.the("broker")["says"]
    assert "ca_file" in found.the("broker")["do"]


def test_what_cannot_be_planned_by_is_a_finding(examine: Any, tmp_path: Path) -> None:
    """The agent would refuse it at its start."""
    file = tmp_path / "agent.toml"
    file.write_text("[planner]\nsolver = 'ddnn'\nobjective = 'p95'\n")
    found = examine("--config", file, "--port", free_port())

    assert found.the("planner")["level"] == "fail"
    assert "planner.objective: 'p95'" in found.the("planner")["says"]


@pytest.mark.parametrize("text", ["[mqtt]\nport = 'x'\n", "[nonsense]\n", "not toml", "[worker]\ntier = 'moon'\n"])
def test_a_wrong_configuration_is_a_finding_not_an_end(examine: Any, tmp_path: Path, text: str) -> None:
    """The machine is looked at before."""
    file = tmp_path / "agent.toml"
    file.write_text(text)
    found = examine("--config", file)

    assert found.status == 1
    assert found.the("configuration")["level"] == "fail"
    assert "agent check" not in found.the("configuration")["do"], "it would say the same"
    assert found.the("memory")["level"] == "ok"


def test_a_configuration_that_others_can_change_fails(examine: Any, tmp_path: Path) -> None:
    """Whoever writes it decides which broker gets the password."""
    file = tmp_path / "agent.toml"
    file.write_text("")
    file.chmod(0o666)

    assert examine("--config", file, "--port", free_port()).the("configuration")["level"] == "fail"
