"""Settings: defaults, precedence, secrets, and one line for whatever is wrong."""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel, ValidationError

from popexd.config import (
    MASK,
    AgentConfig,
    Broker,
    Mode,
    Objective,
    Planner,
    WorkerConfig,
    as_toml,
    host_name,
    load_agent,
    load_worker,
    masked,
)
from popexd.coordinator.settings import PlannerSettings
from popexd.errors import ConfigurationError
from popexd.protocol.topics import valid_name
from popexd.solvers import MODES, NAMES, OBJECTIVES

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [*os.environ]:
        if variable.startswith("POPEXD_") or variable == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(variable)


def written(folder: Path, text: str, name: str = "agent.toml") -> Path:
    """Write a file and return its path."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_without_a_file_every_key_has_a_default() -> None:
    """Neither program needs a configuration on one machine."""
    agent, worker = load_agent(), load_worker()

    assert (agent.mqtt.host, agent.mqtt.port, agent.uplink) == ("127.0.0.1", 1883, None)
    assert (agent.planner.solver, agent.planner.deadline_seconds) == ("joint", 2.0)
    assert (worker.worker.tier, worker.model.names) == ("cloud", ("default",))
    assert agent.mqtt.device == worker.worker.name == host_name()


@pytest.mark.parametrize(
    ("host", "device"),
    [
        ("pi", "pi"),
        ("Kamera Süd.local", "Kamera-S-d"),
        ("", "device"),
        ("---", "device"),
        ("tier", "device"),
        ("workers.local", "device"),
        ("a" * 80, "a" * 64),
    ],
)
def test_any_host_name_becomes_a_topic_level(monkeypatch: pytest.MonkeyPatch, host: str, device: str) -> None:
    """Whatever the machine is called, the default name may stand in a topic."""
    monkeypatch.setattr("socket.gethostname", lambda: host)

    assert host_name() == device
    assert valid_name(device)


def test_environment_wins_over_file_and_file_over_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable replaces one key and leaves its neighbours as the file has them."""
    path = written(tmp_path, '[mqtt]\nhost = "file"\nport = 1111\n[planner]\nthresholds = {b1 = 0.5, b3 = 0.6}\n')
    monkeypatch.setenv("POPEXD_MQTT__HOST", "environment")
    monkeypatch.setenv("POPEXD_PLANNER__THRESHOLDS__B1", "0.7")
    monkeypatch.setenv("POPEXD_UPLINK__PORT", "2222")
    config = load_agent(path)

    assert (config.mqtt.host, config.mqtt.port, config.mqtt.site) == ("environment", 1111, "site")
    assert config.planner.thresholds == {"b1": 0.7, "b3": 0.6}
    assert config.uplink is not None
    assert config.uplink.port == 2222


def test_a_section_with_one_key_keeps_the_defaults_of_the_others(tmp_path: Path) -> None:
    """Each key stands alone."""
    for section, keys in masked(AgentConfig(uplink=Broker())).items():
        for key, value in keys.items():
            if value is not None:
                text = as_toml({section: {key: value}})
                assert load_agent(written(tmp_path, text)).model_copy(update={"uplink": None}) == AgentConfig()


def test_settings_made_in_code_read_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test or the demo builds is what it gets."""
    monkeypatch.setenv("POPEXD_MQTT__HOST", "environment")

    assert AgentConfig.model_validate({"mqtt": {"port": 1}}).mqtt.host == "127.0.0.1"


def test_one_environment_serves_agent_and_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A section or key that only the other program has is no error."""
    monkeypatch.setenv("POPEXD_MQTT__DEVICE", "gate")
    monkeypatch.setenv("POPEXD_MODEL__BUNDLES", '["a", "b"]')
    monkeypatch.setenv("POPEXD_WORKER__NAME", "w2")
    monkeypatch.setenv("POPEXD_PROBE__DAILY_BYTES", "5")

    assert load_agent().probe.daily_bytes == 5
    assert load_agent().mqtt.device == "gate"
    assert load_worker().worker.name == "w2"
    assert load_worker().model.names == ("a", "b")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[uplink]\nhst = "x"', ["uplink.hst", "unknown key", "did you mean 'host'"]),
        ("[mqqt]\nport = 1", ["mqqt", "unknown section", "did you mean 'mqtt'"]),
        ('[mqtt]\nport = "1883"', ["mqtt.port", "'1883'", "expected a valid integer"]),
        ("[mqtt]\nport = 99999", ["mqtt.port", "99999", "65535"]),
        ('[mqtt]\nsite = "a/b"', ["mqtt.site", "'a/b'", "expected 1-64 letters"]),
        ('[mqtt]\ndevice = "tier"', ["mqtt.device", "reserved"]),
        ('[mqtt]\npassword = "hunter2"', ["mqtt.password", "password_file"]),
        ('[mqtt]\ncert_file = "c"', ["mqtt", "cert_file and key_file together"]),
        ('[mqtt]\npassword_file = "/nowhere/at/all"', ["mqtt.password_file", "/nowhere/at/all", "expected"]),
        ('[planner]\nsolver = "jont"', ["planner.solver", "'jont'", "did you mean 'joint'"]),
        ("[planner]\nmin_accuracy = nan", ["planner.min_accuracy", "finite"]),
        ("[planner]\nthresholds = {b1 = 20}", ["planner.thresholds.b1", "less than or equal to 12"]),
        ("[probe]\ninterval_seconds = true", ["probe.interval_seconds", "expected a valid number"]),
        ("[probe]\ninterval_seconds = 1979-05-27", ["probe.interval_seconds", "expected a valid number"]),
        ("mqtt = 3", ["mqtt = 3", "expected a table"]),
        ("mqtt =", ["not TOML", "line 1"]),
        ("[worker]\nname = 'w1'", ["worker", "unknown section"]),
    ],
)
def test_what_is_wrong_in_the_file_is_said_in_one_line(tmp_path: Path, text: str, words: list[str]) -> None:
    """The line names the file, the key and what was expected, and repeats no password."""
    path = written(tmp_path, text + "\n")
    with pytest.raises(ConfigurationError) as caught:
        load_agent(path)

    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    assert "hunter2" not in line
    for word in words:
        assert word in line


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    """Absent or not text: the file and the fact, no traceback."""
    path = tmp_path / "agent.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"agent\.toml"):
        load_agent(path)


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("POPEXD_MQTT__PORT", "abc", "POPEXD_MQTT__PORT = 'abc': expected a valid integer"),
        ("POPEXD_MQTT__PROT", "1", "POPEXD_MQTT__PROT: unknown key, did you mean 'port'"),
        ("POPEXD_MQQT__PORT", "1", "POPEXD_MQQT__PORT: unknown section 'mqqt', did you mean 'mqtt'"),
        ("POPEXD_MQTT__PASSWORD", "hunter2", "expected password_file"),
        ("POPEXD_MQTT", "{", "expected JSON"),
    ],
)
def test_what_is_wrong_in_the_environment_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    """A mistyped variable is an error, not a value that is silently unused."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as caught:
        load_agent()

    assert words in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_variables_that_are_no_keys_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """POPEXD_DEBUG and its like belong to others."""
    monkeypatch.setenv("POPEXD_DEBUG", "1")

    assert load_agent() == AgentConfig()


def test_passwords_come_from_files_and_are_never_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line of the file is the password; neither repr, dump nor TOML of the settings shows it."""
    secret = written(tmp_path, "hunter2\nsecond line\n", "password")
    path = written(tmp_path, f'[mqtt]\nusername = "agent"\npassword_file = "{secret}"\n[uplink]\nhost = "far"\n')
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    written(credentials, "not this one", "mqtt_password")
    written(credentials, "swordfish", "uplink_password")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    config = load_agent(path)

    assert config.uplink is not None
    assert config.mqtt.password() == "hunter2"
    assert config.uplink.password() == "swordfish"
    shown = repr(config) + config.model_dump_json() + as_toml(masked(config))
    assert "hunter2" not in shown
    assert "swordfish" not in shown
    assert masked(config)["mqtt"]["password"] == masked(config)["uplink"]["password"] == MASK


def test_an_empty_password_file_is_an_error(tmp_path: Path) -> None:
    """It would otherwise look like a wrong password at the broker."""
    secret = written(tmp_path, "", "password")
    with pytest.raises(ConfigurationError, match="is empty, expected a password"):
        load_agent(written(tmp_path, f'[mqtt]\npassword_file = "{secret}"\n'))


@pytest.mark.parametrize(
    ("text", "encrypted"),
    [
        ("", False),
        ("port = 8883", True),
        ('ca_file = "ca"', True),
        ("port = 8883\ntls = false", False),
        ("tls = true", True),
    ],
)
def test_tls_follows_from_certificate_or_port_unless_said(tmp_path: Path, text: str, encrypted: bool) -> None:
    """`tls` is needed only to contradict the obvious."""
    assert load_agent(written(tmp_path, f"[mqtt]\n{text}\n")).mqtt.encrypted is encrypted


def test_a_worker_serves_one_bundle_or_several(tmp_path: Path) -> None:
    """`bundle` and `bundles` are two ways to say it, not to be mixed."""
    assert load_worker(written(tmp_path, '[model]\nbundle = "a"')).model.names == ("a",)
    assert load_worker(written(tmp_path, '[model]\nbundles = ["a", "b", "a"]')).model.names == ("a", "b")
    with pytest.raises(ConfigurationError, match="not both"):
        load_worker(written(tmp_path, '[model]\nbundle = "a"\nbundles = ["b"]'))


def test_what_check_prints_is_the_same_configuration(tmp_path: Path) -> None:
    """The printed TOML, saved and read again, gives the same settings."""
    path = written(
        tmp_path, '[mqtt]\nhost = "ü\\"x"\n[uplink]\n[planner]\nthresholds = {b1 = 0.9}\nmin_accuracy = 0.5\n'
    )
    config = load_agent(path)

    assert load_agent(written(tmp_path, as_toml(masked(config)), "printed.toml")) == config
    assert load_worker(written(tmp_path, as_toml(masked(load_worker())), "printed.toml")) == load_worker()


def test_the_planners_words_are_the_solvers_and_the_brains() -> None:
    """What the file accepts, the planner knows, with the same defaults."""
    assert set(get_args(Mode)) == set(MODES)
    assert set(get_args(Objective)) == set(OBJECTIVES)
    brain, file = PlannerSettings(), Planner()
    for field in fields(brain):
        assert getattr(file, field.name) == getattr(brain, field.name), field.name
    for name in NAMES:
        assert Planner(solver=name).solver == name


@pytest.mark.parametrize(("name", "kind"), [("agent.toml", AgentConfig), ("worker-cloud.toml", WorkerConfig)])
def test_the_examples_state_the_defaults_and_name_every_key(name: str, kind: type[BaseModel]) -> None:
    """The commented files users start from can neither age nor lie."""
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    load = load_agent if kind is AgentConfig else load_worker

    assert load(EXAMPLES / name) == load() == kind()
    for section, field in kind.model_fields.items():
        assert f"[{section}]" in text
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            for key in field.annotation.model_fields:
                assert re.search(rf"^(# )?{key} = ", text, re.MULTILINE), f"[{section}] {key}"


@pytest.mark.parametrize(("name", "kind"), [("agent.toml", AgentConfig), ("worker-cloud.toml", WorkerConfig)])
def test_the_keys_commented_out_in_the_examples_exist(name: str, kind: type[BaseModel]) -> None:
    """Removing any one # gives a valid configuration."""
    lines = (EXAMPLES / name).read_text(encoding="utf-8").splitlines()
    commented = [number for number, line in enumerate(lines) if re.match(r"# (\[|\w+ = )", line)]

    assert commented
    for number in commented:
        freed = {number, number - 1} if lines[number - 1].startswith("# [") else {number}
        changed = [line.removeprefix("# ") if index in freed else line for index, line in enumerate(lines)]
        table = tomllib.loads("\n".join(changed))
        try:
            kind.model_validate(table)
        except ValidationError as error:
            assert "together" in str(error), lines[number]  # noqa: PT017 only the pair of certificate and key may complain


@pytest.mark.parametrize("text", ["a = " + "[" * 50_000, "a = " + "{b=" * 50_000, ".".join(["a"] * 3_000) + " = 1"])
def test_a_file_nested_too_deeply_is_one_line(tmp_path: Path, text: str) -> None:
    """Nothing a user writes ends in a traceback."""
    file = tmp_path / "agent.toml"
    file.write_text(text)

    with pytest.raises(ConfigurationError) as raised:
        load_agent(file)
    assert len(str(raised.value).splitlines()) == 1
