"""What comes back from a worker, and the sized probes that measure the very path tensors take."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from popexd.errors import MessageRejected
from popexd.protocol.payload import Payload, TierName, parse_json
from popexd.protocol.topics import valid_name

PROBE_SCHEMA = "popexd/probe/1"
MAX_PROBE_HEADER_BYTES = 512


@dataclass(frozen=True, slots=True)
class Sender:
    """Whom an error reply goes to, and about which attempt at which frame."""

    device: str
    frame_id: str
    plan_id: str = ""
    attempt: int = 0


class Reply(Payload):
    """A worker's answer about one attempt at one frame; `seconds` and `bytes` by part, as the worker measured them."""

    SCHEMA: ClassVar[str] = "popexd/reply/1"
    frame_id: str
    device: str
    plan_id: str = ""
    attempt: int = 0
    worker: str
    tier: TierName
    status: Literal["ok", "error"]
    error: str | None = Field(default=None, description="a short stable reason, with status error")
    detail: str | None = None
    class_index: int | None = Field(default=None, ge=0)
    label: str | None = None
    confidence: float | None = Field(default=None, ge=0, le=1)
    exit: str | None = Field(default=None, description="a side branch's name, or 'final'")
    logits: list[float] | None = None
    seconds: dict[str, float] = Field(default_factory=dict)
    bytes: int = Field(default=0, ge=0, description="bytes of the tensor message this answers")

    @classmethod
    def failure(cls, sender: Sender, worker: str, tier: TierName, error: str, detail: str = "") -> Reply:
        """Tell a device that its frame cannot be finished here."""
        return cls(
            frame_id=sender.frame_id,
            device=sender.device,
            plan_id=sender.plan_id,
            attempt=sender.attempt,
            worker=worker,
            tier=tier,
            status="error",
            error=error,
            detail=detail[:200] or None,
        )


class ProbeReply(Payload):
    """What arrived of a probe, and how long the worker held it."""

    SCHEMA: ClassVar[str] = "popexd/probe-reply/1"
    seq: int
    size_bytes: int = Field(ge=0)
    worker: str = ""
    seconds: float = Field(default=0.0, ge=0)


@dataclass(frozen=True, slots=True)
class Probe:
    """A sized payload as it arrived; `device` is whom to answer."""

    seq: int
    size_bytes: int
    device: str | None = None


def probe(seq: int, size: int, device: str | None = None) -> bytes:
    """Return a payload of `size` bytes (at least its header's) that no link can compress."""
    header = json.dumps({"schema": PROBE_SCHEMA, "seq": seq, "device": device}).encode() + b"\n"
    return header + hashlib.shake_256(header).digest(max(0, size - len(header)))


def parse_probe(payload: bytes) -> Probe:
    """Read a probe's header. Raises MessageRejected with the reason `probe`, `json` or `schema`."""
    header, newline, _ = payload[:MAX_PROBE_HEADER_BYTES].partition(b"\n")
    if not newline:
        raise MessageRejected("probe", "no header line")
    data = parse_json(header)
    if data.get("schema") != PROBE_SCHEMA:
        raise MessageRejected("schema", f"{str(data.get('schema'))[:80]!r}, expected {PROBE_SCHEMA!r}")
    seq, device = data.get("seq"), data.get("device")
    if type(seq) is not int or not (device is None or (isinstance(device, str) and valid_name(device))):
        raise MessageRejected("probe", "expected a number `seq` and a name `device`")
    return Probe(seq, len(payload), device)
