"""The tensor message: live tensors of one frame and their envelope, as bytes and back.

A tensor message is a safetensors file: the envelope in its metadata, the encoded tensors as its data. It comes from
outside, so the header is read here, bounded and checked, before anything is allocated; nothing is ever unpickled.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Json, ValidationError
from safetensors.numpy import save

from popexd.errors import MessageRejected
from popexd.plan import Tier
from popexd.protocol.codec import DTYPES, MAX_AXES, MAX_ELEMENTS, Encoded, is_feature_codec, is_image_codec
from popexd.protocol.nesting import nested_deeper
from popexd.protocol.replies import Probe, ProbeReply, Reply, Sender, parse_probe, probe
from popexd.protocol.topics import valid_name

__all__ = [
    "DEFAULT_LIMITS",
    "ENVELOPE_BYTES",
    "SCHEMA",
    "Probe",
    "ProbeReply",
    "Reply",
    "Sender",
    "Stage",
    "TensorLimits",
    "TensorMessage",
    "TensorRejected",
    "parse_probe",
    "probe",
]

SCHEMA = "popexd/tensor/1"
ENVELOPE_BYTES = 700.0
"""About what a message of one tensor has beyond the tensor: header, envelope and MQTT's own."""


@dataclass(frozen=True, slots=True)
class TensorLimits:
    """What a tensor message may hold at most; all checked before allocation."""

    message_bytes: int = 16_000_000
    header_bytes: int = 256_000
    tensors: int = 64
    elements: int = MAX_ELEMENTS


DEFAULT_LIMITS = TensorLimits()


@dataclass(frozen=True, slots=True)
class Stage:
    """One tier's part of the route still ahead.

    `segments` run in order, then what is still needed goes on encoded with `codec` (None where this tier answers).
    `exits` are the branches that run in this stage, with their thresholds.
    """

    tier: Tier
    segments: tuple[str, ...]
    codec: str | None = None
    exits: Mapping[str, float] = field(default_factory=dict)


class TensorRejected(MessageRejected):
    """A tensor message is refused; `sender` is known where its envelope could be read that far."""

    def __init__(self, reason: str, detail: str = "", sender: Sender | None = None) -> None:
        super().__init__(reason, detail)
        self.sender = sender


@dataclass(frozen=True, slots=True)
class TensorMessage:
    """The live tensors of one frame on their way to the next tier.

    `deadline_seconds` is the time left when it was sent; `quality` is the frame's image-quality class where it is
    known; `seconds` is what tiers before this one spent, by part, for the reply; `tensors` maps segment names, or
    "input", to their encoded tensors.
    """

    frame_id: str
    device: str
    fingerprint: str
    plan_id: str
    attempt: int
    route: tuple[Stage, ...]
    deadline_seconds: float
    tensors: Mapping[str, Encoded]
    camera: str | None = None
    quality: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def sender(self) -> Sender:
        """Whom to answer."""
        return Sender(self.device, self.frame_id, self.plan_id, self.attempt)

    def to_bytes(self) -> bytes:
        """Return the message as a safetensors payload."""
        arrays: dict[str, NDArray[Any]] = {}
        entries: dict[str, dict[str, Any]] = {}
        for name, tensor in self.tensors.items():
            arrays[name] = np.frombuffer(tensor.data, np.uint8)
            entries[name] = {"codec": tensor.codec, "dtype": tensor.dtype, "shape": tensor.shape}
            if tensor.scale.size == 1:
                entries[name] |= {"scale": float(tensor.scale[0]), "zero": float(tensor.zero[0])}
            elif tensor.scale.size:
                arrays[f"{name}#scale"], arrays[f"{name}#zero"] = tensor.scale, tensor.zero
        metadata = {
            "schema": SCHEMA,
            "frame_id": self.frame_id,
            "device": self.device,
            "fingerprint": self.fingerprint,
            "plan_id": self.plan_id,
            "attempt": str(self.attempt),
            "deadline_milliseconds": repr(self.deadline_seconds * 1000),
            "route": _json([_stage_entry(stage) for stage in self.route]),
            "tensors": _json(entries),
        }
        if self.camera is not None:
            metadata["camera"] = self.camera
        if self.quality is not None:
            metadata["quality"] = self.quality
        if self.seconds:
            metadata["seconds"] = _json(dict(self.seconds))
        metadata["crc32"] = _crc32(metadata, ((name, arrays[name].data) for name in sorted(arrays)))
        return save(arrays, metadata)

    @classmethod
    def from_bytes(cls, payload: bytes, limits: TensorLimits = DEFAULT_LIMITS) -> TensorMessage:
        """Parse and check a message from outside; its tensors stay encoded.

        Raises
        ------
        TensorRejected
            With the reason `too-large`, `truncated`, `header`, `schema`, `crc`, `fingerprint`, `codec` or `envelope`.
        """
        metadata, chunks = _read(payload, limits)
        sender = _salvage(metadata)
        try:
            return _message(metadata, chunks, limits)
        except TensorRejected as rejected:
            raise TensorRejected(rejected.reason, rejected.detail, sender) from rejected


def _checked(valid: Any, what: str) -> AfterValidator:
    def check(value: str) -> str:
        if not valid(value):
            raise ValueError(f"{value[:40]!r} is no {what}")
        return value

    return AfterValidator(check)


_Name = Annotated[str, _checked(valid_name, "name")]
_Codec = Annotated[str, _checked(is_feature_codec, "tensor codec")]
_AnyCodec = Annotated[str, _checked(lambda name: is_feature_codec(name) or is_image_codec(name), "codec")]
_Text = Annotated[str, Field(min_length=1, max_length=256), _checked(lambda text: text.isprintable(), "printable text")]
_Token = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _StageEntry(BaseModel):
    model_config = ConfigDict(strict=True)
    tier: Literal["edge", "cloud"]
    segments: list[_Name] = Field(min_length=1, max_length=1024)
    codec: _Codec | None = None
    exits: dict[_Name, Annotated[float, Field(allow_inf_nan=False)]] = Field(default_factory=dict, max_length=64)


class _TensorEntry(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    codec: _AnyCodec
    dtype: Annotated[str, _checked(DTYPES.__contains__, "type of tensor")]
    shape: list[Annotated[int, Field(ge=0, le=1 << 40)]] = Field(max_length=MAX_AXES)
    scale: float | None = None
    zero: float | None = None


class _Envelope(BaseModel):
    frame_id: _Text
    device: _Name
    fingerprint: _Token
    plan_id: _Token
    attempt: int = Field(ge=0, le=1000)
    deadline_milliseconds: float = Field(ge=0, le=3_600_000, allow_inf_nan=False)
    route: Json[Annotated[list[_StageEntry], Field(min_length=1, max_length=2)]]
    tensors: Json[dict[_Name, _TensorEntry]]
    camera: _Name | None = None
    quality: _Name | None = None
    seconds: Json[Annotated[dict[_Name, _Seconds], Field(max_length=32)]] = Field(default_factory=dict)


def _stage_entry(stage: Stage) -> dict[str, Any]:
    entry: dict[str, Any] = {"tier": stage.tier.label, "segments": stage.segments, "codec": stage.codec}
    return entry | {"exits": dict(stage.exits)} if stage.exits else entry


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _crc32(metadata: Mapping[str, str], chunks: Iterable[tuple[str, bytes | memoryview]]) -> str:
    """CRC-32 over the metadata (sorted, less the crc itself) and every tensor's name and bytes, by name; as hex."""
    crc = zlib.crc32(_json(sorted((key, value) for key, value in metadata.items() if key != "crc32")).encode())
    for name, data in chunks:
        crc = zlib.crc32(data, zlib.crc32(name.encode(), crc))
    return f"{crc:08x}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _read(payload: bytes, limits: TensorLimits) -> tuple[dict[str, str], dict[str, tuple[str, memoryview]]]:
    """Read the safetensors layout: 8 bytes of header length, a JSON header, data; return metadata and typed chunks."""
    if len(payload) > limits.message_bytes:
        raise TensorRejected("too-large", f"{len(payload)} bytes, expected at most {limits.message_bytes}")
    if len(payload) < 8:
        raise TensorRejected("truncated", f"{len(payload)} bytes")
    length = int.from_bytes(payload[:8], "little")
    if length > limits.header_bytes:
        raise TensorRejected("header", f"a header of {length} bytes, expected at most {limits.header_bytes}")
    if 8 + length > len(payload):
        raise TensorRejected("truncated", f"{len(payload)} bytes with a header of {length}")
    if nested_deeper(payload[8 : 8 + length]):
        raise TensorRejected("header", "nested too deeply")
    try:
        header = json.loads(payload[8 : 8 + length], object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise TensorRejected("header", f"not JSON: {str(error)[:80]}") from error
    metadata = header.pop("__metadata__", None) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise TensorRejected("header", "expected an object with __metadata__ of strings")
    return metadata, _chunks(header, memoryview(payload)[8 + length :], limits, _salvage(metadata))


def _chunks(
    header: dict[str, Any], data: memoryview, limits: TensorLimits, sender: Sender | None
) -> dict[str, tuple[str, memoryview]]:
    """Cut the data section; the entries must tile it without gap or overlap."""
    if len(header) > 3 * limits.tensors:
        raise TensorRejected("header", f"{len(header)} entries, expected at most {3 * limits.tensors}", sender)
    spans = []
    for name, entry in header.items():
        if not name.isascii():
            raise TensorRejected("header", "a name that is not ASCII", sender)
        match entry:
            case {"dtype": "U8" | "F32" as dtype, "shape": [int(count)], "data_offsets": [int(begin), int(end)]}:
                if count < 0 or end - begin != count * (4 if dtype == "F32" else 1):
                    raise TensorRejected("header", f"{name[:40]!r}: shape and offsets disagree", sender)
                spans.append((begin, end, name, dtype))
            case _:
                raise TensorRejected("header", f"{name[:40]!r}: expected a flat U8 or F32 entry", sender)
    position, chunks = 0, {}
    for begin, end, name, dtype in sorted(spans):
        if begin != position:
            raise TensorRejected("header", f"{name[:40]!r} does not follow its neighbour", sender)
        chunks[name] = (dtype, data[begin:end])
        position = end
    if position != len(data):
        reason = "truncated" if position > len(data) else "header"
        raise TensorRejected(reason, f"{len(data)} bytes of data, expected {position}", sender)
    return chunks


def _salvage(metadata: Mapping[str, str]) -> Sender | None:
    """Read as much of the envelope as an error reply needs."""
    device, frame_id = metadata.get("device", ""), metadata.get("frame_id", "")
    if not valid_name(device) or not 0 < len(frame_id) <= 256 or not frame_id.isprintable():
        return None
    plan_id, attempt = metadata.get("plan_id", ""), metadata.get("attempt", "")
    known = plan_id.isascii() and plan_id.isprintable() and len(plan_id) <= 128
    number = int(attempt) if attempt.isascii() and attempt.isdecimal() and len(attempt) < 5 else 0
    return Sender(device, frame_id, plan_id if known else "", number)


def _message(
    metadata: dict[str, str], chunks: dict[str, tuple[str, memoryview]], limits: TensorLimits
) -> TensorMessage:
    if metadata.get("schema") != SCHEMA:
        raise TensorRejected("schema", f"{metadata.get('schema', '')[:80]!r}, expected {SCHEMA!r}")
    if metadata.get("crc32") != _crc32(metadata, ((name, chunks[name][1]) for name in sorted(chunks))):
        raise TensorRejected("crc", "the checksum does not match")
    try:
        envelope = _Envelope.model_validate(metadata)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = [str(part) for part in first["loc"]]
        reason = next((key for key in ("fingerprint", "codec") if key in where), "envelope")
        raise TensorRejected(reason, f"{'.'.join(where)[:80]}: {first['msg']}") from error
    tiers = [stage.tier for stage in envelope.route]
    if tiers not in (["edge"], ["cloud"], ["edge", "cloud"]):
        raise TensorRejected("envelope", "a route runs from edge to cloud")
    return TensorMessage(
        frame_id=envelope.frame_id,
        device=envelope.device,
        fingerprint=envelope.fingerprint,
        plan_id=envelope.plan_id,
        attempt=envelope.attempt,
        route=tuple(
            Stage(Tier.of(stage.tier), tuple(stage.segments), stage.codec, stage.exits) for stage in envelope.route
        ),
        deadline_seconds=envelope.deadline_milliseconds / 1000,
        tensors=_tensors(envelope.tensors, chunks, limits),
        camera=envelope.camera,
        quality=envelope.quality,
        seconds=envelope.seconds,
    )


def _tensors(
    entries: Mapping[str, _TensorEntry], chunks: dict[str, tuple[str, memoryview]], limits: TensorLimits
) -> dict[str, Encoded]:
    if not 0 < len(entries) <= limits.tensors:
        raise TensorRejected("envelope", f"{len(entries)} tensors, expected 1 to {limits.tensors}")
    tensors = {}
    elements = 0
    for name, entry in entries.items():
        dtype, data = chunks.pop(name, ("", memoryview(b"")))
        if dtype != "U8":
            raise TensorRejected("envelope", f"{name}: no U8 entry holds its bytes")
        size = 1
        for side in entry.shape:
            size *= max(side, 1)
        elements += size
        if elements > limits.elements:
            raise TensorRejected("too-large", f"more than {limits.elements} elements")
        parameters = [_parameter(f"{name}#{key}", getattr(entry, key), chunks) for key in ("scale", "zero")]
        tensors[name] = Encoded(data.tobytes(), entry.codec, entry.dtype, tuple(entry.shape), *parameters)
    if chunks:
        raise TensorRejected("envelope", f"{next(iter(chunks))[:40]!r} belongs to no tensor")
    return tensors


def _parameter(name: str, single: float | None, chunks: dict[str, tuple[str, memoryview]]) -> NDArray[np.float32]:
    dtype, data = chunks.pop(name, ("F32", memoryview(b"")))
    if dtype != "F32" or (single is not None and len(data)):
        raise TensorRejected("envelope", f"{name}: expected one number, or one F32 entry")
    if single is not None:
        with np.errstate(over="ignore"):
            return np.array([single], np.float64).astype(np.float32)
    return np.frombuffer(data.tobytes(), "<f4")
