"""Frames in: every form that is accepted, every kind that is not, and what comes back with the answer."""

from __future__ import annotations

import pytest

from popexd.runtime import frames
from popexd.runtime.segments import Classification, SegmentRunner

from .pictures import BAD, GOOD, LATE, PNG
from .rig import BUSY, TOPICS, Rig, Watch, bundle, photo


@pytest.fixture(scope="module")
def watch(module_rig: Rig) -> Watch:
    """An agent and a worker that finishes what is sent on as it came; frames of at most 200 kB."""
    rig = module_rig
    broker = rig.broker()
    rig.worker(rig.worker_tables(broker.port))
    rig.agent(rig.agent_tables(broker.port, limits={"frame_bytes": 200_000}))
    watch = rig.watch(broker.port)
    watch.until(lambda: watch.agent_is("online"), "the agent")
    return watch


@pytest.fixture(params=["device", "cloud"])
def mode(request: pytest.FixtureRequest, watch: Watch) -> str:
    """Where frames are finished: decoded here, or sent on without a look."""
    watch.ask("set", mode=request.param)
    watch.cut_is({"device": "output", "cloud": "input"}[request.param])
    return str(request.param)


def heard(watch: Watch) -> int:
    """How many frames the agent has received; nothing is under way when this is asked."""
    said = watch.ask("status").data
    assert said is not None
    return int(said["frames"]["received"])


def rejections(watch: Watch, reason: str) -> int:
    """How many frames were rejected for a reason so far."""
    return watch.metrics().frames.rejected_by_reason.get(reason, 0)


@pytest.mark.parametrize("form", GOOD)
def test_every_form_of_a_picture_is_the_picture(watch: Watch, mode: str, form: str) -> None:
    """JPEG, PNG and WebP, as they are or as text: the answer is the model's on the decoded file."""
    payload, file = GOOD[form]
    received = heard(watch)
    answer, sent = watch.finished(mode, f"{form} {mode}", payload)

    if answer.exit == "final":
        said = whole(file)
        assert answer.class_index == said.class_index
        assert answer.confidence == pytest.approx(said.confidence, abs=1e-5)
    watch.at_rest(received + sent)


def whole(file: bytes) -> Classification:
    """What the whole model says of an image file."""
    runner = SegmentRunner(bundle(), 1)
    pixels = frames.load_image(file, bundle().input.height, bundle().input.width)
    names = [segment.name for segment in bundle().segments]
    return runner.classify("final", runner.run({"input": pixels}, names)[names[-1]])


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_frame_is_rejected_and_the_next_answered(watch: Watch, kind: str) -> None:
    """Told with its reason, counted by reason, never taken; the agent is there for the next one."""
    payload, reason = BAD[kind]
    received, rejected, told = heard(watch), rejections(watch, reason), len(watch.events("input.rejected"))
    watch.send("c0", payload, f"bad {kind}")
    events = watch.until(lambda: watch.events("input.rejected")[told:], "the rejection")
    watch.send("c0", photo(1), f"after {kind}")
    watch.answer(f"after {kind}")

    watch.at_rest(received + 2)
    assert (events[0]["reason"], events[0]["camera"], events[0]["frame_id"]) == (reason, "c0", f"bad {kind}")
    assert rejections(watch, reason) == rejected + 1
    assert f"bad {kind}" not in watch.results()


@pytest.mark.parametrize("kind", LATE)
def test_a_frame_that_proves_bad_later_was_never_taken(watch: Watch, mode: str, kind: str) -> None:
    """Sent on undecoded and refused by the worker, it moves from taken to rejected; here it is rejected at once."""
    payload, reason = LATE[kind]
    received, rejected = heard(watch), rejections(watch, reason)
    failed = len(watch.events("offload.failed"))
    watch.send("c1", payload, f"late {kind} {mode}")
    name = f"late {kind} {mode}"
    watch.until(lambda: name in [each.get("frame_id") for each in watch.events("input.rejected")], "the rejection")
    _, sent = watch.finished(mode, f"after {kind} {mode}", photo(2), "c1")

    watch.at_rest(received + 1 + sent)
    assert rejections(watch, reason) == rejected + 1
    reasons = [each["reason"] for each in watch.events("offload.failed")[failed:]]
    assert reasons == (["frame"] if mode == "cloud" else []) or set(reasons) & set(BUSY)
    assert f"late {kind} {mode}" not in watch.results()


@pytest.mark.parametrize("camera", ["two words", "-", "x" * 65, "ümlaut", ""])
def test_a_camera_that_cannot_be_answered_is_rejected(watch: Watch, camera: str) -> None:
    """A name that may not be part of a topic of ours."""
    received, rejected = heard(watch), rejections(watch, "camera")
    watch.send(camera, photo(0), "nobody")
    watch.send("c0", photo(1), f"after {camera}")
    watch.answer(f"after {camera}")

    watch.at_rest(received + 2)
    assert rejections(watch, "camera") == rejected + 1
    assert watch.events("input.rejected")[-1]["reason"] == "camera"


@pytest.mark.parametrize(
    ("frame_id", "correlation", "expected"),
    [
        ("from the property", b"from the correlation", "from the property"),
        (None, b"4711", "4711"),
        (None, "Förderband".encode(), "Förderband"),
        (None, b"\x00\x00\x00\x01", "\x00\x00\x00\x01"),
        (None, b"line\nbreak", "line\nbreak"),
        (None, b"\xff\xfe\x00", None),
        (None, b"", None),
        (None, b"x" * 60_000, None),
        ("named", b"\xff\xfe\x01", "named"),
        (None, None, None),
    ],
)
def test_what_a_frame_is_called_comes_back(
    watch: Watch, frame_id: str | None, correlation: bytes | None, expected: str | None
) -> None:
    """The user property wins, then correlation data that is text; else the agent makes a name. The data come back."""
    received, before = heard(watch), set(watch.results())
    watch.send("c2", photo(0), frame_id, correlation_data=correlation)
    (called,) = watch.until(lambda: set(watch.results()) - before, "the answer")
    message = watch.messages(TOPICS.results("c2"))[-1]

    assert called == expected if expected is not None else called not in (None, "")
    assert message.correlation_data == correlation
    assert dict(message.user_properties).get("frame_id", called) == called
    watch.at_rest(received + 1)


def test_the_same_frame_twice_is_one_frame(watch: Watch) -> None:
    """A broker may deliver again what it was not thanked for: one answer, and the copy is counted as dropped."""
    received, dropped = heard(watch), watch.metrics().frames.dropped
    watch.send("c3", PNG, "once")
    watch.answer("once")
    watch.send("c3", PNG, "once")
    watch.at_rest(received + 2)

    assert watch.metrics().frames.dropped == dropped + 1
    assert len(watch.results()["once"]) == 1


def test_a_flood_of_bad_frames_is_counted_to_the_last(watch: Watch) -> None:
    """Events are thinned out, counts never; the agent answers in between."""
    received, rejected, told = heard(watch), rejections(watch, "type"), len(watch.events("input.rejected"))
    for number in range(200):
        watch.send(f"flood-{number}", b"not a picture", f"flood-{number}")
    watch.send("c0", photo(3), "after the flood")
    watch.answer("after the flood")

    watch.at_rest(received + 201)
    assert rejections(watch, "type") == rejected + 200
    assert len(watch.events("input.rejected")) - told < 200
