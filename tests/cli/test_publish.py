"""`popexd publish` on a real broker, with an agent, without one, and with one that is gone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from broker.process import Broker
from popexd.bus.mqtt import MqttBus, MqttSettings
from popexd.protocol.topics import DeviceTopics
from tests.broker.site import Site, connected

from .conftest import TOPICS, AnsweringAgent, Run, online, result, state, until


def images(folder: Path, *contents: bytes) -> list[Path]:
    """Write files that are published as they are."""
    paths = [folder / f"{number}.jpg" for number, _ in enumerate(contents)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


def test_every_image_is_sent_as_it_is_and_its_answer_printed(
    broker: Broker, agent: AnsweringAgent, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In order, one line each, with a frame_id of its own."""
    paths = images(tmp_path, b"first", b"second")

    assert run("publish", *paths, "--port", broker.port, "--device", "bench") == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["image", "label", "confidence", "exit", "tier", "ms", "bytes"]
    assert first.split() == ["0.jpg", "washer", "0.910", "b1", "device", "12.3", "0"]
    assert second.split()[0] == "1.jpg"
    assert [frame.payload for frame in agent.frames] == [b"first", b"second"]
    assert len({dict(frame.user_properties)["frame_id"] for frame in agent.frames}) == 2


def test_json_prints_the_result_payload_line_by_line(
    broker: Broker, agent: AnsweringAgent, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the file beside it, a missing answer included."""
    paths = images(tmp_path, b"first", b"bad")

    assert run("publish", *paths, "--port", broker.port, "--device", "bench", "--json") == 1
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["schema"], first["label"], first["file"]) == ("popexd/result/1", "washer", str(paths[0]))
    assert second == {"file": str(paths[1]), "error": "input.rejected: type"}


def test_a_refused_image_is_told_at_once_and_the_next_one_goes(
    broker: Broker, agent: AnsweringAgent, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The agent's event ends the wait; the status is 1."""
    paths = images(tmp_path, b"bad", b"good")

    assert run("publish", *paths, "--port", broker.port, "--device", "bench") == 1
    captured = capsys.readouterr()
    assert "input.rejected: type" in captured.out.splitlines()[1]
    assert "washer" in captured.out.splitlines()[2]
    assert captured.err == "popexd: 1 of 2 unanswered; 0.jpg: input.rejected: type\n"


def test_an_agent_that_stays_silent_is_told_apart_from_none(
    broker: Broker, agent: AnsweringAgent, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is online: so the time ran out."""
    paths = images(tmp_path, b"mute")

    assert run("publish", *paths, "--port", broker.port, "--device", "bench", "--timeout-seconds", "2") == 1
    assert "no answer within 2 s" in capsys.readouterr().err


def test_without_an_agent_nobody_waits(
    broker: Broker, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The broker knows that nobody listens."""
    paths = images(tmp_path, b"first")

    assert run("publish", *paths, "--port", broker.port, "--device", "nobody", "--timeout-seconds", "60") == 1
    assert "no agent answers on site/nobody" in capsys.readouterr().err


def test_an_agent_that_went_offline_is_named_so(
    broker: Broker, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its retained state says why."""
    other = online(MqttBus(MqttSettings(port=broker.port)))
    other.retain(TOPICS.state, state(online=False))
    other.subscribe(TOPICS.frames("+"), lambda _: None)  # somebody else listens to frames, so only the state tells
    other.publish(TOPICS.results("publish"), result("someone else's"), qos=1)
    paths = images(tmp_path, b"first")

    try:
        assert run("publish", *paths, "--port", broker.port, "--device", "bench", "--timeout-seconds", "2") == 1
        assert "no agent answers on site/bench: it is offline (stopped)" in capsys.readouterr().err
    finally:
        other.publish(TOPICS.state, b"", qos=1, retain=True)
        other.stop()


def test_without_a_broker_the_line_says_where_it_was_sought(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1, one line."""
    paths = images(tmp_path, b"first")

    assert run("publish", *paths, "--port", "1") == 1
    assert capsys.readouterr().err == "popexd: cannot reach the broker: 127.0.0.1:1: Connection refused\n"


def test_an_account_that_may_not_read_answers_is_told_what_was_delivered(
    site: Site, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A camera's: the agent took the image, and status 0 says so; without an agent it is 1 as for others."""
    pi = DeviceTopics("site", "pi")
    home = site.folder.path / "clients" / "gate"
    words = ["publish", *images(tmp_path, b"first"), "--config", home / "popexd.toml", "--port", site.port]
    words += ["--camera", "gate"]

    assert run(*words) == 1
    assert "no agent answers on site/pi" in capsys.readouterr().err
    with connected(site.of("pi")) as agent:
        agent.retain(pi.state, state(online=True))
        frames: list[bytes] = []
        agent.subscribe(pi.frames("+"), lambda frame: frames.append(frame.payload))
        until(lambda: run(*words) == 0)
        assert b"first" in frames
        assert "delivered; this account may not read answers" in capsys.readouterr().out.splitlines()[-1]
        assert run(*words, "--json") == 0
        (line,) = capsys.readouterr().out.splitlines()
        assert json.loads(line) == {"file": str(tmp_path / "0.jpg"), "delivered": True}
