"""One message at a time: what a worker makes of it, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cloud_worker.engine import Answered, Engine, Forwarded, Refused
from popexd.plan import Tier
from popexd.protocol import codec
from popexd.protocol.codec import Encoded
from popexd.protocol.tensors import Stage, TensorLimits, TensorMessage
from popexd.runtime.background import MachineProfile
from popexd.runtime.frames import FrameLimits

from .messages import bundle, frame, message, names, rest, runner, whole


def engine(tier: Tier = Tier.CLOUD, *, frame_bytes: int = 8_000_000) -> Engine:
    """A worker's engine with the default model."""
    limits = TensorLimits(message_bytes=2_000_000)
    return Engine({bundle().fingerprint: runner()}, "w1", tier, limits, FrameLimits(frame_bytes=frame_bytes))


def slow(seconds: float) -> MachineProfile:
    """Make the profile of a machine that takes so long for every segment and branch, and to decode f32 at pool2."""
    return MachineProfile(
        fingerprint=bundle().fingerprint,
        machine="slow",
        threads=1,
        segments=dict.fromkeys(names(), seconds),
        exits={branch.name: seconds for branch in bundle().exits},
        frame_seconds=seconds,
        frame_bytes=1000,
        decode={"pool2": {"f32": seconds}},
    )


def answered(made: TensorMessage, queue_seconds: float = 0.0) -> Answered:
    """Hand a message over; it must be answered."""
    outcome = engine().handle(made.to_bytes(), queue_seconds)
    assert isinstance(outcome, Answered), outcome
    return outcome


def refused(payload: bytes, by: Engine | None = None, queue_seconds: float = 0.0) -> Refused:
    """Hand bytes over; they must be refused."""
    outcome = (by or engine()).handle(payload, queue_seconds)
    assert isinstance(outcome, Refused), outcome
    return outcome


@pytest.mark.parametrize("cut", ["input", *[segment.name for segment in bundle().segments[:-1]]])
def test_any_cut_gives_the_whole_models_logits(cut: str) -> None:
    """At codec f32 nothing is lost, wherever the model is cut."""
    reply = answered(message(cut)).reply

    np.testing.assert_array_equal(np.asarray(reply.logits, np.float32), whole())
    assert reply.class_index == int(whole().argmax())
    assert reply.label == bundle().classes[int(whole().argmax())]
    assert (reply.exit, reply.tier, reply.worker) == ("final", "cloud", "w1")


def test_the_cameras_own_bytes_give_the_whole_models_logits() -> None:
    """The worker decodes as the device would."""
    reply = answered(message("input", "camera")).reply

    np.testing.assert_array_equal(np.asarray(reply.logits, np.float32), whole())


@pytest.mark.parametrize(("cut", "name"), [("input", "jpeg-90"), ("input", "webp-75"), ("pool5", "q8+zstd")])
def test_other_codecs_come_close(cut: str, name: str) -> None:
    """Lossy codecs change the logits a little."""
    reply = answered(message(cut, name)).reply

    assert reply.logits is not None
    assert np.abs(np.asarray(reply.logits, np.float32) - whole()).max() < 0.2 * np.abs(whole()).max()


def test_a_reply_names_the_frame_and_accounts_for_the_time() -> None:
    """Frame, plan and attempt come back; seconds by part; the size of what arrived."""
    made = message(attempt=2, plan_id="boot-7")
    reply = answered(made, queue_seconds=0.25).reply

    assert (reply.frame_id, reply.device, reply.plan_id, reply.attempt) == ("boot-1", "box", "boot-7", 2)
    assert reply.bytes == len(made.to_bytes())
    assert reply.seconds.keys() == {"queue", "decode", "compute"}
    assert reply.seconds["queue"] == 0.25
    assert reply.seconds["compute"] > 0


def test_a_slower_machine_takes_what_its_profile_says() -> None:
    """The laboratory's brake: each part lasts as long as there, and is told so; a branch that answers ends it early."""
    limits = TensorLimits(message_bytes=2_000_000)
    paces = {bundle().fingerprint: slow(0.02)}
    braked = Engine({bundle().fingerprint: runner()}, "w1", Tier.CLOUD, limits, FrameLimits(), paces)

    outcome = braked.handle(message("pool2").to_bytes(), 0.0)
    assert isinstance(outcome, Answered)
    assert outcome.reply.seconds["decode"] >= 0.02
    assert outcome.reply.seconds["compute"] >= 0.02 * len(rest("pool2"))

    route = (Stage(Tier.CLOUD, rest("pool2"), exits={"b3": 0.0}),)
    sooner = braked.handle(message("pool2", route=route).to_bytes(), 0.0)
    assert isinstance(sooner, Answered)
    assert sooner.reply.seconds["compute"] >= 2 * 0.02


def test_a_stage_stops_at_an_exit_that_is_sure() -> None:
    """A branch of the stage whose confidence suffices answers, and nothing runs after it."""
    route = (Stage(Tier.CLOUD, rest("input"), exits={"b1": 0.0}),)
    runs = runner().executions["conv3"]
    reply = answered(message("input", route=route)).reply

    assert reply.exit == "b1"
    assert runner().executions["conv3"] == runs


def test_a_stage_goes_on_past_an_exit_that_is_not() -> None:
    """Asked and unsure, it leaves the answer to the end."""
    route = (Stage(Tier.CLOUD, rest("input"), exits={"b1": 1.01, "b3": 1.01}),)

    assert answered(message("input", route=route)).reply.exit == "final"


def test_the_edge_sends_on_what_the_cloud_needs() -> None:
    """The next stage's message holds the live tensor, the rest of the route, and what the edge spent."""
    route = (Stage(Tier.EDGE, ("conv3", "conv4"), "f32"), Stage(Tier.CLOUD, rest("conv4")))
    onward = engine(Tier.EDGE).handle(message("pool2", route=route).to_bytes(), 0.0)

    assert isinstance(onward, Forwarded)
    assert (onward.tier, onward.model) == (Tier.CLOUD, bundle().name)
    assert list(onward.message.tensors) == ["conv4"]
    assert onward.message.route == route[1:]
    assert onward.message.seconds.keys() == {"edge"}
    assert onward.message.deadline_seconds < 30
    reply = answered(onward.message).reply
    np.testing.assert_array_equal(np.asarray(reply.logits, np.float32), whole())
    assert "edge" in reply.seconds


def test_the_edge_may_answer_itself() -> None:
    """An exit on the edge ends the journey."""
    route = (Stage(Tier.EDGE, ("conv3", "conv4"), "f32", {"b3": 0.0}), Stage(Tier.CLOUD, rest("conv4")))
    outcome = engine(Tier.EDGE).handle(message("pool2", route=route).to_bytes(), 0.0)

    assert isinstance(outcome, Answered)
    assert (outcome.reply.exit, outcome.reply.tier) == ("b3", "edge")


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (message(fingerprint="f" * 64), "fingerprint"),
        (message(route=(Stage(Tier.EDGE, rest("pool2")),)), "route"),
        (message(route=(Stage(Tier.CLOUD, ("conv3",)),)), "route"),
        (message(route=(Stage(Tier.CLOUD, (*rest("pool2"), "conv9")),)), "route"),
        (message(route=(Stage(Tier.CLOUD, (*rest("pool2"), "fc8")),)), "route"),
        (message(route=(Stage(Tier.CLOUD, rest("conv3")),)), "tensors"),
        (message(tensors={"pool5": message("pool5").tensors["pool5"]}), "tensors"),
        (message(tensors={"conv9": message("pool5").tensors["pool5"]}), "tensors"),
        (message("input", "camera", tensors={"input": codec.image(b"no image", "camera")}), "frame"),
        (message("input", "camera", tensors={"input": codec.image(frame()[:800], "camera")}), "frame"),
        (message("input", "camera", tensors={"pool1": codec.image(frame(), "camera")}), "tensors"),
    ],
)
def test_a_message_that_cannot_be_carried_out_is_told_to_its_sender(made: TensorMessage, reason: str) -> None:
    """Refused with a reason, and an error reply about the very attempt."""
    outcome = refused(made.to_bytes())

    assert outcome.reason == reason
    assert outcome.reply is not None
    assert (outcome.reply.status, outcome.reply.error, outcome.reply.frame_id) == ("error", reason, "boot-1")
    assert outcome.reply.attempt == 1


def test_a_tensor_that_is_not_finite_is_refused() -> None:
    """Logits that are no numbers are no answer."""
    poison = np.full((1, 64, 13, 13), np.nan, np.float32)
    outcome = refused(message(tensors={"pool2": codec.encode(poison, "f32")}).to_bytes())

    assert outcome.reason == "tensors"


def test_a_compressed_tensor_is_bounded_before_it_is_unpacked() -> None:
    """Claiming more elements than allowed, or holding more than claimed, costs no memory."""
    small = codec.encode(np.zeros((1, 64, 13, 13), np.float32), "f32+zstd")
    bomb = codec.encode(np.zeros((1, 64, 1300, 130), np.float32), "f32+zstd")
    huge = Encoded(bomb.data, "f32+zstd", "float32", (1 << 20, 1 << 20))
    lying = Encoded(bomb.data, "f32+zstd", small.dtype, small.shape)

    assert refused(message(tensors={"pool2": huge}).to_bytes()).reason == "too-large"
    assert refused(message(tensors={"pool2": lying}).to_bytes()).reply is not None


def test_a_message_that_came_too_late_is_refused() -> None:
    """Nobody waits for it any more."""
    assert refused(message(deadline_seconds=0.1).to_bytes(), queue_seconds=0.2).reason == "late"


def test_a_cameras_frame_keeps_the_frame_limits() -> None:
    """What a device may not take in, a worker does not either."""
    assert refused(message("input", "camera").to_bytes(), engine(frame_bytes=500)).reason == "frame"


@pytest.mark.parametrize("kind", ["empty", "random", "truncated", "header only", "oversize", "flipped", "pickle"])
def test_bytes_that_are_no_message_are_refused(kind: str) -> None:
    """By reason; told to the sender only where the envelope could be read."""
    good = message().to_bytes()
    flipped = bytearray(good)
    flipped[-100] ^= 1
    payload, reason, known = {
        "empty": (b"", "truncated", False),
        "random": (np.random.default_rng(1).bytes(4000), "header", False),
        "truncated": (good[: len(good) // 2], "truncated", True),
        "header only": (good[:400], "truncated", False),
        "oversize": (good + bytes(2_000_000), "too-large", False),
        "flipped": (bytes(flipped), "crc", True),
        "pickle": (b"\x80\x04\x95\x20\x00\x00\x00\x00\x00\x00\x00cos\nsystem\n.", "header", False),
    }[kind]
    outcome = refused(payload)

    assert outcome.reason == reason
    assert (outcome.reply is not None) is known


def test_every_prefix_of_a_message_is_refused() -> None:
    """Wherever it is cut off, nothing is raised and nothing is answered."""
    good = message("fc7").to_bytes()
    by = engine()

    assert all(isinstance(by.handle(good[:length], 0.0), Refused) for length in range(0, len(good), 7))


def test_a_changed_byte_anywhere_is_noticed() -> None:
    """Flipped bits never lead to an answer from other numbers."""
    good = message("fc7").to_bytes()
    by = engine()
    for place in range(0, len(good), 5):
        damaged = bytearray(good)
        damaged[place] ^= 0x10
        outcome = by.handle(bytes(damaged), 0.0)
        assert isinstance(outcome, Refused), place


def test_several_tensors_at_once_are_taken() -> None:
    """A message may hold more than the stage reads."""
    made = message()
    both = replace(made, tensors={**made.tensors, **message("pool1").tensors})
    reply = answered(both).reply

    np.testing.assert_array_equal(np.asarray(reply.logits, np.float32), whole())
    assert set(names()) >= set(both.tensors)
