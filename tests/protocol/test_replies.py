"""Replies and probes: everything comes back, and what is wrong is refused."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import numpy as np
import pytest

from popexd.errors import MessageRejected
from popexd.protocol.replies import ProbeReply, Reply, Sender, parse_probe, probe

LOGITS = np.random.default_rng(0).normal(size=8).astype(np.float32)


def answer(**changed: Any) -> Reply:
    """Make a valid reply, some fields replaced."""
    fields: dict[str, Any] = {
        "frame_id": "7",
        "device": "bench-3",
        "plan_id": "p-12",
        "attempt": 1,
        "worker": "w1",
        "tier": "cloud",
        "status": "ok",
        "class_index": 2,
        "label": "nut",
        "confidence": 0.875,
        "exit": "final",
        "logits": [float(value) for value in LOGITS],
        "seconds": {"queue": 0.001, "compute": 0.01},
        "bytes": 1234,
    }
    return Reply(**(fields | changed))


def test_a_reply_comes_back_with_exact_logits() -> None:
    """Float32 logits survive JSON bit for bit."""
    sent = answer()
    got = Reply.from_bytes(sent.to_bytes())

    assert got == sent
    assert got.logits is not None
    np.testing.assert_array_equal(np.array(got.logits, np.float32), LOGITS)
    assert json.loads(sent.to_bytes())["schema"] == "popexd/reply/1"


def test_an_error_reply_names_frame_and_reason() -> None:
    """A refusal turns into a reply to its sender, its detail cut to a line."""
    sender = Sender("bench-3", "cam-1/№ 7", "p-12", 1)
    reply = Reply.from_bytes(Reply.failure(sender, "w1", "cloud", "fingerprint", "x" * 1000).to_bytes())

    assert (reply.status, reply.error, reply.frame_id, reply.attempt) == ("error", "fingerprint", "cam-1/№ 7", 1)
    assert (reply.device, reply.plan_id, len(reply.detail or "")) == ("bench-3", "p-12", 200)
    assert Reply.failure(Sender("d", "f"), "w1", "edge", "busy").detail is None


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "json"),
        (b"\xff\xfe", "json"),
        (b"[]", "json"),
        (b"[" * 100_000, "json"),
        (b'{"schema":"popexd/reply/2"}', "schema"),
        (b'{"schema":"popexd/reply/1"}', "field"),
        (answer().to_bytes().replace(b"0.875", b"NaN"), "field"),
        (answer().to_bytes().replace(b"0.875", b"1.5"), "field"),
        (b" " * 2_000_000, "too-large"),
    ],
)
def test_a_bad_reply_is_refused(payload: bytes, reason: str) -> None:
    """Replies from outside are checked like everything else."""
    with pytest.raises(MessageRejected) as caught:
        Reply.from_bytes(payload)

    assert caught.value.reason == reason


@pytest.mark.parametrize("size", [0, 100, 4096, 1_000_000])
def test_a_probe_has_the_size_asked_for(size: int) -> None:
    """A probe is as long as asked (its header's length at least) and says who sent it."""
    payload = probe(7, size, "bench-3")
    got = parse_probe(payload)

    assert len(payload) == max(size, got.size_bytes)
    assert (got.seq, got.device, got.size_bytes) == (7, "bench-3", len(payload))


def test_a_probe_cannot_be_compressed() -> None:
    """A link that compresses would be measured too fast; a probe gives it nothing to compress."""
    assert len(zlib.compress(probe(1, 100_000), 9)) > 99_000


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\n",
        b"x" * 5000,
        b'{"schema":"popexd/probe/2","seq":1}\n',
        b'{"schema":"popexd/probe/1","seq":"1"}\n',
        b'{"schema":"popexd/probe/1","seq":true}\n',
        b'{"schema":"popexd/probe/1","seq":1,"device":"a/b"}\n',
        b'{"schema":"popexd/probe/1","seq":1,"device":3}\n',
        base64.b64encode(b"noise" * 50),
    ],
)
def test_a_bad_probe_is_refused(payload: bytes) -> None:
    """What is no probe is refused with MessageRejected."""
    with pytest.raises(MessageRejected):
        parse_probe(payload)


def test_a_probe_reply_comes_back() -> None:
    """The worker says what arrived and how long it held it."""
    sent = ProbeReply(seq=7, size_bytes=4096, worker="w1", seconds=0.0002)

    assert ProbeReply.from_bytes(sent.to_bytes()) == sent
