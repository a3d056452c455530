"""Messages in: what becomes of names, of presence, and of what cannot be used."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.inlet import Inlet, frame_key
from agent.mailbox import FrameArrived
from popexd.bundle import load
from popexd.bus import Message
from popexd.coordinator import events as ev
from popexd.errors import MessageRejected
from popexd.plan import Tier
from popexd.protocol.messages import WorkerProfile, WorkerState
from popexd.protocol.topics import DeviceTopics

TOPICS = DeviceTopics("lab", "box")
BUNDLE = load("default")
MINE = {BUNDLE.name: BUNDLE.fingerprint}


def inlet() -> Inlet:
    """Make an inlet of a start called `boot`."""
    return Inlet(TOPICS, "boot", BUNDLE)


def state(worker: str = "w1", **over: Any) -> Message:
    """Make a worker's presence."""
    fields = {"state": "online", "worker": worker, "tier": "cloud", "models": MINE}
    return Message(TOPICS.worker(worker, "state"), WorkerState.model_validate({**fields, **over}).to_bytes())


def profile(worker: str = "w1", **over: Any) -> Message:
    """Make a worker's profile: a machine that takes a second for everything."""
    seconds = {
        "fingerprint": BUNDLE.fingerprint,
        "machine": "m",
        "threads": 1,
        "segments": {segment.name: 1.0 for segment in BUNDLE.segments},
        "exits": {branch.name: 1.0 for branch in BUNDLE.exits},
        "frame_seconds": 1.0,
        "frame_bytes": 1000,
    }
    models = {BUNDLE.fingerprint: {**seconds, **over}}
    payload = WorkerProfile(worker=worker, tier="cloud", models=models).to_bytes()
    return Message(TOPICS.worker(worker, "profile"), payload)


def changed(events: list[ev.Event]) -> ev.WorkerChanged:
    """The one change of a worker."""
    (event,) = events
    assert isinstance(event, ev.WorkerChanged)
    return event


def test_a_frames_key_goes_out_and_comes_back() -> None:
    """With the token of this start in front."""
    assert frame_key("boot", "boot-12") == 12
    assert frame_key("a-b", "a-b-3") == 3


@pytest.mark.parametrize(
    "text", ["", "12", "-12", "boot", "boot-", "boot--1", "boot-1x", "boot-¹", "other-12", "boot-" + "1" * 19, "BOOT-1"]
)
def test_a_key_of_another_start_is_a_strangers(text: str) -> None:
    """As is anything that is no key at all."""
    with pytest.raises(MessageRejected, match="stranger"):
        frame_key("boot", text)


@settings(deadline=None)
@given(st.text())
def test_any_text_is_a_key_or_a_strangers(text: str) -> None:
    """Nothing else ever happens."""
    with contextlib.suppress(MessageRejected):
        assert frame_key("boot", text) >= 0


@pytest.mark.parametrize(
    ("properties", "correlation", "expected"),
    [
        ((("frame_id", "a"),), b"b", "a"),
        ((("frame_id", ""),), b"b", "b"),
        ((("other", "a"),), b"b", "b"),
        ((), "Größe".encode(), "Größe"),
        ((), b"\xff", None),
        ((), b"", None),
        ((), None, None),
        ((("frame_id", "x" * 257),), None, None),
        ((), b"x" * 257, None),
        ((("frame_id", "x" * 256),), None, "x" * 256),
    ],
)
def test_the_property_wins_then_correlation_that_is_text(
    properties: tuple[tuple[str, str], ...], correlation: bytes | None, expected: str | None
) -> None:
    """Without either, or with one too long, the agent makes a name; correlation data stay as they are."""
    message = Message(TOPICS.frames("c"), b"...", 1, False, correlation, properties)
    (event,) = inlet().frame(FrameArrived(message, 0))

    assert event == ev.FrameReceived("c", b"...", expected, correlation)


def test_frames_that_were_pushed_out_are_told_first() -> None:
    """And all frames of a camera that cannot be answered are rejected one by one."""
    assert inlet().frame(FrameArrived(Message(TOPICS.frames("c"), b""), 3)) == [
        ev.FramesSkipped("c", 3),
        ev.FrameReceived("c", b"", None, None),
    ]
    rejected = inlet().frame(FrameArrived(Message(TOPICS.frames("no name"), b""), 2))
    assert [type(event) for event in rejected] == [ev.InputRejected] * 3


@pytest.mark.parametrize("profile_first", [True, False])
def test_state_and_profile_may_come_in_either_order(profile_first: bool) -> None:
    """The worker is known once it is there, and its seconds as soon as they are."""
    box = inlet()
    if profile_first:
        assert box.worker_profile(profile()) == []
        found = changed(box.worker_state(state()))
    else:
        assert changed(box.worker_state(state())).profile is None
        found = changed(box.worker_profile(profile()))

    assert (found.worker, found.tier, found.online) == ("w1", Tier.CLOUD, True)
    assert found.profile.segments.keys() == {segment.name for segment in BUNDLE.segments}


@pytest.mark.parametrize("gone", [state(state="offline"), state(models={"m": "other"}), Message("a/w1/state", b"")])
def test_a_worker_that_goes_is_told_with_the_tier_it_had(gone: Message) -> None:
    """Offline, without our model, or its retained state taken back."""
    box = inlet()
    box.worker_state(state(tier="edge"))

    lost = changed(box.worker_state(gone))
    assert (lost.worker, lost.tier, lost.online) == ("w1", Tier.EDGE, False)


def test_what_a_worker_serves_instead_of_our_model_is_told() -> None:
    """With names and fingerprints of both sides, however many it says it has; one that is gone serves nothing."""
    box = inlet()
    other = {BUNDLE.name: "f" * 64}

    assert changed(box.worker_state(state(models=other))).instead == {"models": other, "expected": MINE}
    many = changed(box.worker_state(state(models={f"m{index}" + 500 * "x": 500 * "f" for index in range(500)}))).instead
    assert many is not None
    assert len(str(many)) < 6_000
    assert changed(box.worker_state(state(state="offline", models=other))).instead is None
    assert changed(box.worker_state(state(models={**other, "mine": BUNDLE.fingerprint}))).instead is None


def test_nonsense_from_a_worker_that_is_there_leaves_it_there() -> None:
    """Its next profile still counts."""
    box = inlet()
    box.worker_state(state())

    assert box.worker_state(Message(TOPICS.worker("w1", "state"), b"{")) == [ev.ReplyRejected("worker-json")]
    assert changed(box.worker_profile(profile())).online


def test_a_profile_that_turns_bad_is_forgotten() -> None:
    """The next presence comes without one."""
    box = inlet()
    box.worker_state(state())
    box.worker_profile(profile())

    assert box.worker_profile(profile(frame_seconds=-1)) == [ev.ReplyRejected("worker-profile")]
    assert changed(box.worker_state(state())).profile is None
