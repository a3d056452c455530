"""Whatever value stands at a key of the configuration: it can be carried out, or one line says what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from popexd.bounds import BOUNDS
from popexd.bus.configured import mqtt_settings
from popexd.config import AgentConfig, Broker, WorkerConfig, as_toml, load_agent, load_worker, masked
from popexd.coordinator.settings import PlannerSettings
from popexd.errors import ConfigurationError, InputError

LONGEST_LINE = 400
PROGRAMS: dict[type[BaseModel], Callable[[Path | None], Any]] = {AgentConfig: load_agent, WorkerConfig: load_worker}


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [*os.environ]:
        if variable.startswith("POPEXD_") or variable == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(variable)


def table(kind: type[BaseModel], section: str) -> type[BaseModel]:
    """The model of a section."""
    annotation: Any = kind.model_fields[section].annotation
    return Broker if section == "uplink" else annotation


KEYS = [
    (kind, section, key)
    for kind in PROGRAMS
    for section in kind.model_fields
    for key in table(kind, section).model_fields
]
NUMBERS = [
    (kind, section, key)
    for kind, section, key in KEYS
    if f"{section.replace('uplink', 'mqtt')}.{key}" in BOUNDS and key != "thresholds"  # a table of them
]


def quoted(text: str) -> str:
    """A TOML string of any characters: every one by its number."""
    return '"' + "".join(f"\\U{ord(each):08x}" for each in text) + '"'


texts = st.text(max_size=40) | st.sampled_from(
    ["~nosuchuser/x", "~", "a\0b", "..", "a" * 300, "a" * 5000, "/" + "b" * 300, "/dev/null/x", "\x1b[31m", "ß" * 200]
)
numbers = (
    st.floats().map(str)
    | st.integers().map(str)
    | st.sampled_from(["1e300", "1e-300", "5e-324", "-0.0", "1e400", "9" * 400, "9" * 5000, "0x" + "f" * 5000, "1e-9"])
)
scalars = texts.map(quoted) | numbers | st.sampled_from(["true", "false", "1979-05-27", "07:32:00"])
values = scalars | st.lists(scalars, max_size=3).map(lambda items: f"[{', '.join(items)}]") | texts.map(
    lambda name: f"{{{quoted(name)} = 0.5}}"
)  # fmt: skip


def judged(load: Callable[[Path | None], Any], path: Path | None) -> Any:
    """The configuration, or None where a line that anyone can read says why not."""
    try:
        return load(path)
    except ConfigurationError as error:
        line = str(error)
        assert line
        assert not any(unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") for each in line), repr(line)
        assert len(line) <= LONGEST_LINE + len(str(path)), line
        return None


def carried_out(config: Any) -> None:
    """Do with every value what the programs do with it at their start."""
    for broker in (config.mqtt, getattr(config, "uplink", None)):
        if broker is not None:
            mqtt_settings(broker)
            os.path.lexists(broker.ca_file or "/")
    for seconds in (config.metrics.interval_seconds, config.metrics.window_seconds):
        assert timedelta(seconds=seconds) > timedelta(0)
    os.path.lexists(config.runtime.cache_folder)
    if isinstance(config, AgentConfig):
        PlannerSettings(**config.planner.model_dump())


@pytest.mark.parametrize(("kind", "section", "key"), KEYS, ids=lambda each: getattr(each, "__name__", each))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=values)
@example(value=quoted("~nosuchuser/x"))
@example(value=quoted("a\0b"))
@example(value="1e300")
@example(value="1e-9")
@example(value="9" * 5000)
@example(value="0x" + "f" * 5000)
def test_any_value_is_carried_out_or_refused_in_one_line(
    tmp_path: Path, kind: type[BaseModel], section: str, key: str, value: str
) -> None:
    """What is accepted works and is printed so that it is read the same again."""
    path = tmp_path / "given.toml"
    path.write_text(f"[{section}]\n{key} = {value}\n", encoding="utf-8")
    load = PROGRAMS[kind]
    config = judged(load, path)
    if config is None:
        return
    carried_out(config)
    printed = tmp_path / "printed.toml"
    printed.write_text(as_toml(masked(config)), encoding="utf-8")
    assert load(printed) == config


@contextmanager
def variable(name: str, value: bytes) -> Iterator[None]:
    """Set one variable of the environment to any bytes it may hold."""
    os.environb[name.encode()] = value
    try:
        yield
    finally:
        del os.environb[name.encode()]


@pytest.mark.parametrize(("kind", "section", "key"), KEYS, ids=lambda each: getattr(each, "__name__", each))
@settings(max_examples=10, deadline=None)
@given(value=st.binary(max_size=20) | texts.map(str.encode) | numbers.map(str.encode))
@example(value=b"/\xff")
@example(value=b"[" * 100_000)
@example(value=b"~nosuchuser/x")
@example(value=b"9" * 5000)
def test_any_variable_is_carried_out_or_refused_in_one_line(
    kind: type[BaseModel], section: str, key: str, value: bytes
) -> None:
    """The environment is no other door."""
    with variable(f"POPEXD_{section}__{key}".upper(), value.replace(b"\0", b"0")):
        config = judged(PROGRAMS[kind], None)
    if config is not None:
        carried_out(config)
        as_toml(masked(config)).encode()


@pytest.mark.parametrize("value", [b"[" * 100_000, b'{"a":' * 100_000, b"{", b"\xff", b"9" * 5000, b"null"])
@pytest.mark.parametrize("section", ["mqtt", "planner", "planner__thresholds"])
def test_a_whole_section_from_the_environment_is_one_line_at_most(section: str, value: bytes) -> None:
    """JSON in a variable may be nested, broken or no table."""
    with variable(f"POPEXD_{section}".upper(), value):
        judged(load_agent, None)


@pytest.mark.parametrize(("kind", "section", "key"), NUMBERS, ids=lambda each: getattr(each, "__name__", each))
def test_every_number_has_bounds_and_both_are_allowed(
    tmp_path: Path, kind: type[BaseModel], section: str, key: str
) -> None:
    """The least and the greatest value are accepted, and nothing beyond."""
    least, most = BOUNDS[f"{section.replace('uplink', 'mqtt')}.{key}"]
    whole = table(kind, section).model_fields[key].annotation is int
    path = tmp_path / "given.toml"
    for value, good in ((least, True), (most, True), (least - 1, False), (most * 2 + 1, False)):
        path.write_text(f"[{section}]\n{key} = {int(value) if whole else value}\n", encoding="utf-8")
        assert (judged(PROGRAMS[kind], path) is not None) is good, value


def test_thresholds_have_bounds_too(tmp_path: Path) -> None:
    """Each value of the table."""
    path = tmp_path / "given.toml"
    for value, good in ((0, True), (12, True), (-0.1, False), (12.1, False), ("1e300", False)):
        path.write_text(f"[planner.thresholds]\nb1 = {value}\n", encoding="utf-8")
        assert (judged(load_agent, path) is not None) is good, value


@pytest.mark.parametrize("words", [("agent", "check"), ("agent", "run"), ("worker", "run")], ids=" ".join)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[mqtt]\npassword_file = "~nosuchuser/x"\n', "mqtt.password_file = "),
        ('[mqtt]\nusername = "a\\u0000"\n', "mqtt.username = "),
        ("[metrics]\ninterval_seconds = 1e300\n", "metrics.interval_seconds = 1e+300: expected less than"),
        ("[metrics]\ninterval_seconds = 1e-9\n", "metrics.interval_seconds = 1e-09: expected greater than"),
        ("[limits]\nframe_bytes = " + "9" * 5000 + "\n", "not TOML"),
    ],
    ids=["home", "null", "long", "spinning", "digits"],
)
def test_no_program_starts_with_a_value_that_it_cannot_carry_out(
    tmp_path: Path, words: tuple[str, str], text: str, said: str
) -> None:
    """One line and exit status 2, from whichever command."""
    path = tmp_path / "given.toml"
    path.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "popexd.cli", *words, "--config", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)

    assert (ended.returncode, ended.stdout) == (2, ""), ended.stderr
    assert ended.stderr.startswith(f"popexd: {path}: {said}"), ended.stderr
    assert ended.stderr.count("\n") == 1


def test_no_number_is_without_bounds() -> None:
    """A key that is added gets a line in the table."""
    free = [
        f"{section}.{key}"
        for kind, section, key in KEYS
        if table(kind, section).model_fields[key].annotation in (int, float, float | None, int | None)
        if (kind, section, key) not in NUMBERS
    ]
    assert not free
    assert {f"{section}.{key}" for _, section, key in KEYS} >= set(BOUNDS)


@pytest.mark.parametrize("key", ["min_accuracy", "min_agreement", "deadline_seconds", "dwell_seconds"])
def test_a_request_has_the_same_bounds_as_the_file(key: str) -> None:
    """`request/set` takes what the file takes."""
    least, most = BOUNDS[f"planner.{key}"]
    for value in (least, most):
        assert getattr(PlannerSettings().updated({key: value}, {}), key) == value
    for value in (least - 1e-6, most + 1e-6):
        with pytest.raises(InputError, match="expected a number from"):
            PlannerSettings().updated({key: value}, {})
