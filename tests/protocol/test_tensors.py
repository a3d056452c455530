"""Tensor messages: everything comes back, and nothing from outside gets further than a refusal."""

from __future__ import annotations

import json
import pickle
import struct
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load

from popexd.errors import MessageRejected
from popexd.plan import Tier
from popexd.protocol.codec import CODECS, decode, encode, image
from popexd.protocol.tensors import (
    DEFAULT_LIMITS,
    Stage,
    TensorLimits,
    TensorMessage,
    TensorRejected,
)

FINGERPRINT = "ab" * 32
CLOUD = (Stage(Tier.CLOUD, ("fc6", "fc7", "fc8")),)
EDGE_AND_CLOUD = (Stage(Tier.EDGE, ("conv3",), "q8+zstd", {"b3": 0.9}), Stage(Tier.CLOUD, ("pool5", "fc6")))


def feature_map(shape: tuple[int, ...] = (1, 16, 6, 6), seed: int = 0) -> np.ndarray:
    """Make something like the output of a convolution and a ReLU."""
    return np.maximum(np.random.default_rng(seed).normal(size=shape), 0).astype(np.float32)


def message(codec: str = "q8+zstd", **changed: Any) -> TensorMessage:
    """Make a valid message, some fields replaced."""
    made = TensorMessage(
        frame_id="cam-1/№ 7",
        device="bench-3",
        fingerprint=FINGERPRINT,
        plan_id="p-12",
        attempt=1,
        route=CLOUD,
        deadline_seconds=1.25,
        tensors={"pool5": encode(feature_map(), codec)},
        camera="cam0",
    )
    return replace(made, **changed)


def refused(payload: bytes, limits: TensorLimits = DEFAULT_LIMITS) -> TensorRejected:
    """Return the refusal of a payload."""
    with pytest.raises(TensorRejected) as caught:
        TensorMessage.from_bytes(payload, limits)
    return caught.value


def rewritten(payload: bytes, crc: bool = True, header: dict[str, Any] | None = None, **metadata: Any) -> bytes:
    """Change the header of a valid payload; its checksum is made to match again unless `crc` is false."""
    length = int.from_bytes(payload[:8], "little")
    found = json.loads(payload[8 : 8 + length]) | (header or {})
    found["__metadata__"] = {k: v for k, v in (found["__metadata__"] | metadata).items() if v is not None}
    data = payload[8 + length :]
    if crc:
        plain = sorted((k, v) for k, v in found["__metadata__"].items() if k != "crc32")
        checksum = zlib.crc32(json.dumps(plain, separators=(",", ":")).encode())
        for name in sorted(set(found) - {"__metadata__"}):
            begin, end = found[name]["data_offsets"]
            checksum = zlib.crc32(data[begin:end], zlib.crc32(name.encode(), checksum))
        found["__metadata__"]["crc32"] = f"{checksum:08x}"
    text = json.dumps(found).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize("codec", CODECS)
def test_a_message_comes_back_as_it_was(codec: str) -> None:
    """Envelope, parameters and tensors survive the way through bytes, for every codec."""
    sent = message(codec, route=EDGE_AND_CLOUD, seconds={"edge": 0.25})
    got = TensorMessage.from_bytes(sent.to_bytes())

    assert replace(got, tensors={}) == replace(sent, tensors={})
    np.testing.assert_array_equal(decode(got.tensors["pool5"]), decode(sent.tensors["pool5"]))
    assert got.tensors["pool5"].size_bytes == sent.tensors["pool5"].size_bytes


def test_several_tensors_travel_together() -> None:
    """A cut with more than one live tensor is one message."""
    arrays = {name: feature_map(seed=seed) for seed, name in enumerate(("left", "right", "mid.1"))}
    sent = message(tensors={name: encode(array, "q8c" if name == "mid.1" else "f32") for name, array in arrays.items()})
    got = TensorMessage.from_bytes(sent.to_bytes())

    assert set(got.tensors) == set(arrays)
    assert all(np.array_equal(decode(got.tensors[name]), decode(sent.tensors[name])) for name in arrays)


def test_a_camera_frame_travels_as_it_is() -> None:
    """At the input cut the frame's own bytes are the tensor."""
    sent = message(tensors={"input": image(b"\xff\xd8\xff any bytes", "camera")}, camera=None)
    got = TensorMessage.from_bytes(sent.to_bytes())

    assert got.camera is None
    assert (got.tensors["input"].data, got.tensors["input"].codec) == (b"\xff\xd8\xff any bytes", "camera")


def test_the_payload_is_a_safetensors_file() -> None:
    """Anyone can open a captured message with the safetensors library."""
    sent = message("q8c")
    arrays = load(sent.to_bytes())

    assert set(arrays) == {"pool5", "pool5#scale", "pool5#zero"}
    assert arrays["pool5"].tobytes() == sent.tensors["pool5"].data


def test_the_envelope_is_small() -> None:
    """The envelope costs less than a kilobyte beside the tensor."""
    sent = message()

    assert len(sent.to_bytes()) - sent.tensors["pool5"].size_bytes < 1000


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "truncated"),
        (b"\x08\0\0", "truncated"),
        (b"\x08\0\0\0\0\0\0\0{}", "truncated"),
        (b"\x02\0\0\0\0\0\0\0{}", "header"),
        (b"\x02\0\0\0\0\0\0\0[]", "header"),
        (b"\x04\0\0\0\0\0\0\0null", "header"),
        (b"\xff" * 100, "header"),
        (b"\xff\xd8\xff\xe0" * 100, "header"),
        (pickle.dumps(Bomb(), protocol=5), "header"),
        (pickle.dumps(Bomb(), protocol=0), "header"),
        (struct.pack("<Q", 200_000) + b"[" * 200_000, "header"),
        (struct.pack("<Q", 200_000) + b'{"a":' * 40_000, "header"),
        (struct.pack("<Q", 32) + b'{"a":1,"a":1,"__metadata__":{}} ', "header"),
        (struct.pack("<Q", 24) + b'{"__metadata__":{"a":1}}', "header"),
    ],
)
def test_what_is_no_message_is_refused(payload: bytes, reason: str) -> None:
    """Empty, cut, foreign, pickled and deeply nested payloads are refused with a reason, and nothing is executed."""
    rejected = refused(payload)

    assert rejected.reason == reason
    assert rejected.sender is None


def test_a_larger_message_than_allowed_is_refused_unread() -> None:
    """The size limit comes before anything else."""
    payload = message().to_bytes()

    assert refused(payload, TensorLimits(message_bytes=len(payload) - 1)).reason == "too-large"


def test_more_elements_than_allowed_are_refused() -> None:
    """The number of elements is limited over all tensors together, before any is decoded."""
    sent = message(tensors={name: encode(feature_map(), "q2") for name in ("a", "b")})

    assert TensorMessage.from_bytes(sent.to_bytes(), TensorLimits(elements=2 * 576)).tensors
    assert refused(sent.to_bytes(), TensorLimits(elements=2 * 576 - 1)).reason == "too-large"
    assert refused(sent.to_bytes(), TensorLimits(tensors=1)).reason == "envelope"


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"schema": "popexd/tensor/2"}, "schema"),
        ({"schema": None}, "schema"),
        ({"fingerprint": "../../etc/passwd"}, "fingerprint"),
        ({"fingerprint": None}, "fingerprint"),
        ({"plan_id": ""}, "envelope"),
        ({"attempt": "-1"}, "envelope"),
        ({"attempt": "9" * 5000}, "envelope"),
        ({"deadline_milliseconds": "nan"}, "envelope"),
        ({"deadline_milliseconds": "-1"}, "envelope"),
        ({"route": "[]"}, "envelope"),
        ({"route": "["}, "envelope"),
        ({"route": "[" * 5000}, "envelope"),
        ({"route": '[{"tier":"device","segments":["fc6"]}]'}, "envelope"),
        ({"route": '[{"tier":"cloud","segments":[]}]'}, "envelope"),
        ({"route": '[{"tier":"cloud","segments":["../fc6"]}]'}, "envelope"),
        ({"route": '[{"tier":"cloud","segments":["a"]},{"tier":"edge","segments":["b"]}]'}, "envelope"),
        ({"route": '[{"tier":"edge","segments":["a"],"codec":"zip"}]'}, "codec"),
        ({"route": '[{"tier":"edge","segments":["a"],"exits":{"b1":NaN}}]'}, "envelope"),
        ({"tensors": "{}"}, "envelope"),
        ({"tensors": '{"pool5":{"codec":"zip","dtype":"float32","shape":[1]}}'}, "codec"),
        ({"tensors": '{"pool5":{"codec":"q8","dtype":"object","shape":[1]}}'}, "envelope"),
        ({"tensors": '{"pool5":{"codec":"q8","dtype":"float32","shape":[-1]}}'}, "envelope"),
        ({"tensors": '{"pool5":{"codec":"q8","dtype":"float32","shape":[1e3]}}'}, "envelope"),
        ({"tensors": '{"pool5":{"codec":"q8","dtype":"float32","shape":[1099511627776]}}'}, "too-large"),
        ({"tensors": '{"fc6":{"codec":"q8","dtype":"float32","shape":[1]}}'}, "envelope"),
        ({"tensors": '{"a/b":{"codec":"q8","dtype":"float32","shape":[1]}}'}, "envelope"),
        ({"seconds": '{"edge":-1}'}, "envelope"),
        ({"camera": "a/b"}, "envelope"),
    ],
)
def test_a_wrong_envelope_is_refused_and_its_sender_known(metadata: dict[str, str | None], reason: str) -> None:
    """Every field is checked; device and frame are salvaged, so that an error reply can be sent."""
    rejected = refused(rewritten(message().to_bytes(), **metadata))

    assert rejected.reason == reason
    assert rejected.sender is not None
    assert (rejected.sender.device, rejected.sender.frame_id) == ("bench-3", "cam-1/№ 7")


@pytest.mark.parametrize(
    "metadata", [{"device": "a/b"}, {"device": "+"}, {"device": None}, {"frame_id": ""}, {"frame_id": "x" * 300}]
)
def test_nobody_is_answered_under_a_wrong_name(metadata: dict[str, str | None]) -> None:
    """A device that cannot be part of a topic, or a frame without a usable id, has no sender to answer."""
    rejected = refused(rewritten(message().to_bytes(), **metadata))

    assert rejected.reason == "envelope"
    assert rejected.sender is None


def test_every_flipped_bit_is_noticed() -> None:
    """A single damaged byte anywhere never yields another message."""
    sent = message("q4c", route=EDGE_AND_CLOUD)
    payload = sent.to_bytes()
    length = int.from_bytes(payload[:8], "little")
    changed = 0
    for position in range(len(payload)):
        damaged = bytearray(payload)
        damaged[position] ^= 1 << position % 8
        try:
            got = TensorMessage.from_bytes(bytes(damaged))
        except MessageRejected:
            continue
        # Padding of the header, the case of a hexadecimal escape: the message is the same.
        assert position < 8 + length
        assert replace(got, tensors={}) == replace(sent, tensors={})
        np.testing.assert_array_equal(decode(got.tensors["pool5"]), decode(sent.tensors["pool5"]))
        changed += 1

    assert changed < 32


def test_a_wrong_checksum_is_refused() -> None:
    """Changed data, a changed envelope and a missing checksum are all told by the checksum."""
    payload = message().to_bytes()

    assert refused(payload[:-1] + bytes([payload[-1] ^ 1])).reason == "crc"
    assert refused(rewritten(payload, crc=False, plan_id="p-13")).reason == "crc"
    assert refused(rewritten(payload, crc=False, crc32=None)).reason == "crc"
    assert refused(payload[:-1] + bytes([payload[-1] ^ 1])).sender == message().sender


def test_every_truncation_is_refused() -> None:
    """A message cut anywhere is refused; from the end of the header on, its sender is known."""
    payload = message().to_bytes()
    length = int.from_bytes(payload[:8], "little")

    for end in range(len(payload)):
        rejected = refused(payload[:end])
        assert rejected.reason == "truncated"
        assert (rejected.sender is not None) == (end >= 8 + length)
    assert refused(payload + b"more").reason == "header"


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "U8", "shape": [5], "data_offsets": [0, 4]},
        {"dtype": "F64", "shape": [5], "data_offsets": [0, 40]},
        {"dtype": "U8", "shape": [-5], "data_offsets": [5, 0]},
        {"dtype": "U8", "shape": [1, 5], "data_offsets": [0, 5]},
        {"dtype": "U8", "shape": [5], "data_offsets": [10**18, 10**18 + 5]},
        {"dtype": "U8", "shape": ["5"], "data_offsets": [0, 5]},
        {"dtype": "U8"},
        [],
        None,
    ],
)
def test_data_sections_must_be_tiled(entry: Any) -> None:
    """Entries that overlap, leave gaps, lie outside or have another form are refused."""
    payload = message().to_bytes()

    assert refused(rewritten(payload, crc=False, header={"pool5": entry})).reason in ("header", "truncated")
    assert refused(rewritten(payload, crc=False, header={"extra": entry})).reason in ("header", "truncated")


def test_bytes_that_belong_to_no_tensor_are_refused() -> None:
    """A data entry that the envelope does not mention is refused."""
    empty = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}

    assert refused(rewritten(message().to_bytes(), header={"stowaway": empty})).reason == "envelope"


def test_unknown_metadata_is_ignored() -> None:
    """A newer sender may add fields."""
    assert TensorMessage.from_bytes(rewritten(message().to_bytes(), colour="blue")).plan_id == "p-12"


@given(st.binary(max_size=300))
def test_random_bytes_are_only_ever_refused(payload: bytes) -> None:
    """Nothing but MessageRejected comes out of random payloads."""
    for body in (payload, struct.pack("<Q", len(payload)) + payload):
        with pytest.raises(MessageRejected):
            TensorMessage.from_bytes(body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(["schema", "frame_id", "device", "fingerprint", "plan_id", "attempt", "route", "tensors"])


@given(
    st.dictionaries(keys, st.text(max_size=20) | json_values.map(json.dumps)), st.dictionaries(st.text(), json_values)
)
def test_random_envelopes_are_only_ever_refused(metadata: dict[str, str], header: dict[str, Any]) -> None:
    """A valid layout with arbitrary fields gives a message or MessageRejected, decoding its tensors too."""
    header.pop("__metadata__", None)
    payload = rewritten(message().to_bytes(), crc=not header, header=header, **metadata)
    try:
        got = TensorMessage.from_bytes(payload)
        for tensor in got.tensors.values():
            decode(tensor)
    except MessageRejected:
        return

    assert got.to_bytes()


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}", fullmatch=True)
floats = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=60),
    names,
    st.floats(0, 3600),
    st.lists(names, min_size=1, max_size=4, unique=True),
    st.dictionaries(names, floats, max_size=3),
)
def test_every_envelope_comes_back(
    frame_id: str, device: str, deadline_seconds: float, segments: list[str], exits: dict[str, float]
) -> None:
    """Any frame id, name, deadline and route survive the way through bytes."""
    route = (Stage(Tier.EDGE, tuple(segments), "q4", exits), Stage(Tier.CLOUD, ("fc8",)))
    sent = message(frame_id=frame_id, device=device, deadline_seconds=deadline_seconds, route=route)
    got = TensorMessage.from_bytes(sent.to_bytes())

    assert (got.frame_id, got.device, got.route) == (frame_id, device, route)
    assert got.deadline_seconds == pytest.approx(deadline_seconds)
