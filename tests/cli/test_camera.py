"""`popexd camera`: the schedule, the sources, and frames on a real broker."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from broker.process import Broker
from popexd.bus.base import Message
from popexd.bus.mqtt import MqttBus, MqttSettings
from popexd.cli import camera as command
from popexd.cli import sources
from popexd.errors import InputError
from tests.broker.site import Site

from .conftest import TOPICS, Run, online, until

JPEG = b"\xff\xd8\xff\xe0picture\xff\xd9"


@pytest.fixture
def listener(broker: Broker) -> Iterator[list[Message]]:
    """Everything published as a frame of site/bench."""
    heard: list[Message] = []
    bus = MqttBus(MqttSettings(port=broker.port))
    bus.subscribe(TOPICS.frames("+"), heard.append)
    online(bus)
    yield heard
    bus.stop()


def folder(root: Path) -> Path:
    """Make a folder with two images, one of them deeper, and something else."""
    (root / "deep").mkdir()
    (root / "b.PNG").write_bytes(b"png")
    (root / "deep" / "c.jpeg").write_bytes(b"jpeg")
    (root / "notes.txt").write_text("no image")
    return root


def test_a_folders_files_are_published_as_they_are(
    broker: Broker, listener: list[Message], run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By name, each with a frame_id, then it ends with the counts."""
    words = ("--port", broker.port, "--device", "bench", "--camera", "gate", "--fps", "500", "--json")

    assert run("camera", "--source", folder(tmp_path), *words) == 0
    until(lambda: len(listener) == 2)
    assert [message.payload for message in listener] == [b"png", b"jpeg"]
    assert {message.topic for message in listener} == {TOPICS.frames("gate")}
    assert len({dict(message.user_properties)["frame_id"] for message in listener}) == 2
    counts = json.loads(capsys.readouterr().out)
    assert counts == {"topic": TOPICS.frames("gate"), "frames": 2, "bytes": 7, "lost": 0}


def test_a_folder_in_a_loop_ends_by_count(
    broker: Broker, listener: list[Message], run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many frames as asked for, the files again and again."""
    words = ("--port", broker.port, "--device", "bench", "--fps", "500", "--loop", "--count", "5")

    assert run("camera", "--source", folder(tmp_path), *words) == 0
    until(lambda: len(listener) == 5)
    assert "5 frames, 17 bytes to popexd-data/site/bench/frames/camera" in capsys.readouterr().err


def test_generated_frames_are_jpegs(broker: Broker, listener: list[Message], run: Run) -> None:
    """The demo's camera."""
    assert run("camera", "--port", broker.port, "--device", "bench", "--fps", "100", "--count", "2") == 0
    until(lambda: len(listener) == 2)
    assert all(message.payload.startswith(b"\xff\xd8") for message in listener)


def test_the_schedule_does_not_drift() -> None:
    """Each tick is counted from the start, however late the one before was used."""
    now = 100.0
    schedule = command.Schedule(10.0, lambda: now)
    waited = []
    for late in (0.0, 0.03, 0.01, 0.02):
        waited.append(schedule.wait_seconds())
        now += waited[-1] + late
        schedule.tick()

    assert waited == pytest.approx([0.0, 0.1, 0.07, 0.09])


def test_missed_ticks_are_left_out_not_made_up_for() -> None:
    """After a pause of two seconds no burst follows."""
    now = 0.0
    schedule = command.Schedule(10.0, lambda: now)
    schedule.tick()
    now = 2.05
    assert schedule.wait_seconds() == 0.0
    schedule.tick()
    assert schedule.wait_seconds() == pytest.approx(0.05)


def test_of_a_live_source_only_the_frames_that_are_due_are_taken() -> None:
    """What comes between two ticks is left out, so that nothing old is ever published."""
    taken = [float(frame) for frame in paced(number / 97 for number in range(970))]

    assert len(taken) == 101
    assert all(0.08 < later - earlier < 0.12 for earlier, later in pairwise(taken[1:]))


def test_a_live_source_at_just_the_rate_loses_nothing_to_jitter() -> None:
    """A frame that comes a little before its tick is that tick's frame."""
    arrivals = [number / 10 + (0.03 if number % 3 else -0.02) for number in range(1, 50)]

    assert len(paced(arrivals)) == len(arrivals)


def paced(arrivals: Iterable[float]) -> list[bytes]:
    """Let frames arrive live at these times, ten a second being wanted; return those taken, as their times."""
    now = 0.0

    def arriving() -> Iterator[bytes]:
        nonlocal now
        for now in arrivals:
            yield b"%.4f" % now

    return list(command._paced(arriving(), command.Schedule(10.0, lambda: now), live=True))


def test_an_empty_folder_is_an_input_error(tmp_path: Path) -> None:
    """With the endings that were looked for."""
    with pytest.raises(InputError, match=r"no image in it, expected files ending in \.jpg"):
        sources.frames(str(tmp_path), 1)


def test_a_stream_of_jpegs_is_cut_wherever_the_chunks_fall() -> None:
    """One byte at a time or all at once."""
    stream = JPEG + JPEG.replace(b"picture", b"another") + JPEG[:5]
    for size in (1, 3, len(JPEG), len(stream)):
        chunks = (stream[start : start + size] for start in range(0, len(stream), size))
        assert list(sources.split_jpegs(chunks)) == [JPEG, JPEG.replace(b"picture", b"another")]


def test_a_stream_without_pictures_is_bounded() -> None:
    """Whatever a server sends, memory is."""
    with pytest.raises(InputError, match="without the end of a JPEG"):
        list(sources.split_jpegs(b"\0" * 1_000_000 for _ in range(100)))


def program(folder: Path, text: str) -> None:
    """Write an ffmpeg that does this."""
    path = folder / "ffmpeg"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def only_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Leave no OpenCV and nothing on the PATH but this folder."""
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_a_stream_is_read_through_ffmpeg(only_path: Path) -> None:
    """Where OpenCV is absent; the arguments name source and rate."""
    program(only_path, 'printf "\\377\\330%s\\377\\331" "$*"')
    (jpeg,) = sources.frames("rtsp://camera/1", 5.0)

    assert b"-i rtsp://camera/1 -an -vf fps=5 " in jpeg


def test_what_ffmpeg_says_becomes_the_one_line(only_path: Path) -> None:
    """Its last line, without the address's password."""
    program(only_path, "echo rtsp://user:hunter2@camera: Connection refused >&2; exit 1")
    with pytest.raises(InputError) as caught:
        list(sources.frames("rtsp://user:hunter2@camera/1", 5.0))

    assert str(caught.value) == "--source rtsp://camera/1: rtsp://camera: Connection refused"


def test_without_ffmpeg_or_opencv_the_line_says_what_to_install(only_path: Path) -> None:
    """A clear line instead of an import error."""
    for source in ("/dev/null", "rtsp://user:hunter2@camera/1"):
        with pytest.raises(InputError, match=r"needs ffmpeg or OpenCV: apt install ffmpeg") as caught:
            sources.frames(source, 5.0)
        assert "hunter2" not in str(caught.value)


def test_a_broker_that_refuses_the_frames_is_told(site: Site, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Under another camera's name; at once, with status 1, and its own name goes through."""
    words = ("camera", "--config", site.folder.path / "clients" / "gate" / "popexd.toml", "--port", site.port)

    assert run(*words, "--camera", "other", "--fps", "50") == 1
    assert "the broker refuses frames on popexd-data/site/pi/frames/other" in capsys.readouterr().err
    assert run(*words, "--camera", "gate", "--count", "2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["lost"] == 0
