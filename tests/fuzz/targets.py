"""Everything that reads what comes from outside, each as a function of bytes.

A target returns whatever the bytes are; what it may raise is caught in it, and anything else is a fault.
"""

from __future__ import annotations

import base64
import contextlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from agent import render
from agent.inlet import Inlet
from agent.mailbox import FrameArrived
from broker.accounts import BrokerFolder
from broker.audit import Audit
from cloud_worker.engine import Engine
from popexd import bundle as bundles
from popexd import logs
from popexd.bundle import reading as bundle_reading
from popexd.bus.base import Message
from popexd.config import load_agent, load_worker
from popexd.coordinator import events as ev
from popexd.coordinator.brain import Coordinator
from popexd.errors import (
    BundleError,
    ConfigurationError,
    FrameRejected,
    MessageRejected,
    ProfileError,
)
from popexd.plan import Tier
from popexd.profile_file import load_graph
from popexd.protocol import codec, tensors
from popexd.protocol.replies import parse_probe
from popexd.protocol.tensors import TensorLimits, TensorMessage
from popexd.protocol.topics import REQUEST_VERBS, DeviceTopics
from popexd.runtime import background, frames
from popexd.runtime.segments import SegmentRunner

from . import seeds

TOPICS = DeviceTopics("site", "pi")
# Small, so that what is about to be allocated would be seen; the order of checks is the same.
FRAMES = frames.FrameLimits(frame_bytes=200_000, frame_pixels=250_000)
TENSORS = TensorLimits(message_bytes=400_000, elements=500_000)


@dataclass(frozen=True)
class Target:
    """A function, what to begin from, and whether that is JSON text, which is changed node by node too."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    is_json: bool = False


def frame(data: bytes) -> None:
    """A camera's payload: told apart, bounded, decoded."""
    with contextlib.suppress(FrameRejected):
        found = frames.sniff(data, FRAMES)
        assert found.width * found.height <= FRAMES.frame_pixels
        pixels = frames.load_image(found.data, 16, 16, FRAMES.frame_pixels)
        assert (pixels.shape, pixels.dtype) == ((1, 16, 16, 3), np.uint8)


def wrapped_frame(data: bytes) -> None:
    """The same as base64, as a data URI and in JSON."""
    text = base64.b64encode(data)
    for payload in (text, b"data:image/png;base64," + text, b'{"image": "' + text + b'"}'):
        frame(payload)


def tensor(data: bytes) -> None:
    """A tensor message as it came, and with a checksum that is right, as a malicious sender would have it."""
    for payload in (data, sealed(data)):
        with contextlib.suppress(MessageRejected):
            message = TensorMessage.from_bytes(payload, TENSORS)
            for name, encoded in message.tensors.items():
                assert name
                if codec.is_feature_codec(encoded.codec):
                    with contextlib.suppress(MessageRejected):
                        decoded = codec.decode(encoded, TENSORS.elements)
                        assert decoded.size <= TENSORS.elements
                        assert decoded.shape == encoded.shape


def sealed(data: bytes) -> bytes:
    """The message with its checksum made right, where it can still be read that far."""
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        metadata = header["__metadata__"]
        chunks = sorted(
            (name, data[8 + length :][slice(*entry["data_offsets"])])
            for name, entry in header.items()
            if name != "__metadata__"
        )
        metadata["crc32"] = tensors._crc32(metadata, chunks)
        text = json.dumps(header, separators=(",", ":")).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return data
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


@cache
def engine() -> Engine:
    """A worker of the edge that holds the default model."""
    runner = SegmentRunner(seeds.BUNDLE, 1)
    return Engine({seeds.BUNDLE.fingerprint: runner}, "e1", Tier.EDGE, TENSORS, FRAMES)


def worker(data: bytes) -> None:
    """A whole worker: whatever comes, one outcome, never `internal`."""
    outcome = engine().handle(sealed(data), 0.0)
    assert getattr(outcome, "reason", "") != "internal", outcome


@cache
def agent() -> tuple[Inlet, Coordinator]:
    """An agent's ears and brain, with a worker known to it."""
    brain = Coordinator(lambda remote: background.graph(seeds.BUNDLE, seeds.machine(), remote), boot=seeds.BOOT)
    brain.start(0.0)
    brain.handle(ev.UplinkChanged(True, "", 1_000_000), 0.0)
    inlet = Inlet(TOPICS, seeds.BOOT, seeds.BUNDLE)
    return inlet, brain


def _told(data: bytes, *topics: str) -> None:
    """Hand a payload to the agent on these topics, in turn, and write down what it has to say."""
    inlet, brain = agent()
    readers = {
        "reply": inlet.reply,
        "probe-reply": inlet.probe_reply,
        "state": inlet.worker_state,
        "profile": inlet.worker_profile,
    }
    for topic in topics:
        leaf = topic.rsplit("/", 1)[-1]
        for event in readers.get(leaf, inlet.request)(Message(topic, data)):
            for effect in brain.handle(event, _tick()):
                _written(effect)


def _written(effect: Any) -> None:
    """Turn an effect into the bytes that would be published."""
    if isinstance(effect, ev.Respond):
        assert len(render.response(effect).to_bytes()) < 100_000
    elif isinstance(effect, ev.Notice):
        assert len(render.event(effect, 0.0).to_bytes()) < 100_000
    elif isinstance(effect, ev.Decided):
        render.decision(effect.decision, seeds.BUNDLE.name).to_bytes()
    elif isinstance(effect, ev.Report):
        render.metrics(effect.figures, 0.0, 0.0).to_bytes()


_now = [1.0]


def _tick() -> float:
    _now[0] += 0.01
    return _now[0]


def reply(data: bytes) -> None:
    """A worker's answer, and a probe's."""
    _told(data, TOPICS.reply("pi"), TOPICS.probe_reply("pi"))


def request(data: bytes) -> None:
    """Every verb there is, and one there is not."""
    _told(data, *(TOPICS.request(verb) for verb in (*REQUEST_VERBS, "dance")))


def worker_words(data: bytes) -> None:
    """A worker's presence and its profile, which the planner then works with."""
    _told(data, TOPICS.worker("w1", "state"), TOPICS.worker("w1", "profile"))
    inlet, brain = agent()
    for event in inlet.worker_state(Message(TOPICS.worker("w1", "state"), seeds.workers()[0])):
        brain.handle(event, _tick())
    _told(data, TOPICS.worker("w1", "profile"))


def arrival(data: bytes) -> None:
    """What a frame's message carries beside the frame: camera, frame id, correlation data."""
    inlet, _ = agent()
    text = data.decode(errors="replace")
    with contextlib.suppress(FrameRejected):
        for event in inlet.frame(
            FrameArrived(
                Message(TOPICS.frames(text), b"", correlation_data=data, user_properties=(("frame_id", text),)), 0
            )
        ):
            assert isinstance(event, ev.FrameReceived | ev.InputRejected | ev.FramesSkipped)


def echo(data: bytes) -> None:
    """A sized payload, at the worker's end."""
    with contextlib.suppress(MessageRejected):
        assert parse_probe(data).size_bytes == len(data)


@cache
def folder() -> Path:
    """A folder for files, as long as the process lives."""
    made = tempfile.mkdtemp(prefix="popexd-fuzz-")
    return Path(made)


def configuration(data: bytes) -> None:
    """A configuration file, as the agent and a worker read it."""
    file = folder() / "settings.toml"
    file.write_bytes(data)
    for load in (load_agent, load_worker):
        with contextlib.suppress(ConfigurationError):
            load(file)


def profile(data: bytes) -> None:
    """A profile file."""
    file = folder() / "profile.json"
    file.write_bytes(data)
    with contextlib.suppress(ProfileError):
        load_graph(file)


def description(data: bytes) -> None:
    """A bundle's description, beside the files of the default bundle."""
    place = folder() / "bundle"
    if not place.exists():
        place.mkdir()
        for each in (*seeds.BUNDLE.folder.glob("segments"), *seeds.BUNDLE.folder.glob("*.npz")):
            (place / each.name).symlink_to(each)
    (place / "bundle.json").write_bytes(data)
    with contextlib.suppress(BundleError):
        bundles.load(place)
    with contextlib.suppress(BundleError, ValueError):
        bundle_reading.described(seeds.BUNDLE.folder, json.loads(data)) if data[:1] == b"{" else None


def table(data: bytes) -> None:
    """A bundle's validation table."""
    place = folder() / "table"
    place.mkdir(exist_ok=True)
    if data.startswith(seeds.ARRAY):
        data = seeds.archive(confidence=data)
    (place / "table.npz").write_bytes(data)
    loaded = replace(seeds.BUNDLE, folder=place, facts={"validation": {"file": "table.npz"}})
    with contextlib.suppress(BundleError):
        found = bundle_reading.read_validation(loaded)
        assert found.samples > 0


def register(data: bytes) -> None:
    """A broker's own register, which somebody may have edited."""
    place = folder() / "broker"
    place.mkdir(exist_ok=True)
    (place / "broker.json").write_bytes(data)
    with contextlib.suppress(ConfigurationError):
        BrokerFolder(place).read()


def broker_log(data: bytes) -> None:
    """Lines of Mosquitto's log, parts of which clients write."""
    audit = Audit()
    for line in data.decode(errors="replace").splitlines():
        audit.read(line)


def log_lines() -> list[bytes]:
    """What Mosquitto writes."""
    lines = (
        b"1: New connection from 10.0.0.9:1 on port 8883.\n"
        b"1: New client connected from 10.0.0.9:1 as c (p5, c1, k60, u'pi').\n"
        b"1: Denied PUBLISH from c (d0, q1, r0, m2, 'a/b', ... (1 bytes))\n"
        b"1: Received SUBSCRIBE from c\n1: \ta/# (QoS 1)\n1: c 1 a/#\n"
    )
    return [lines]


def registers() -> list[bytes]:
    """What `popexd broker init` and `add` write."""
    user = {"name": "pi", "role": "agent", "tier": None, "devices": [], "cameras": []}
    account = {"user": user, "serials": [1], "expires": "2030-01-01T00:00:00+00:00"}
    place = {"site": "s", "host": "0.0.0.0", "port": 8883, "names": ["a"], "websockets_port": None, "revoked": [7]}
    return [json.dumps({"schema": "popexd/broker/1", **place, "accounts": {"pi": account}}).encode()]


TARGETS: dict[str, Target] = {
    "frame": Target(frame, seeds.frames),
    "wrapped-frame": Target(wrapped_frame, seeds.frames),
    "arrival": Target(arrival, lambda: [b"gate", "tür".encode()]),
    "tensor": Target(tensor, seeds.tensors),
    "worker": Target(worker, seeds.tensors),
    "probe": Target(echo, seeds.probes),
    "reply": Target(reply, seeds.replies, is_json=True),
    "request": Target(request, seeds.requests, is_json=True),
    "worker-words": Target(worker_words, seeds.workers, is_json=True),
    "configuration": Target(configuration, seeds.configurations),
    "profile": Target(profile, seeds.profiles, is_json=True),
    "description": Target(description, seeds.descriptions, is_json=True),
    "table": Target(table, seeds.tables),
    "register": Target(register, registers, is_json=True),
    "broker-log": Target(broker_log, log_lines),
}


def prepare() -> None:
    """Keep the log of what is refused to ourselves: a fault is an exception."""
    logs.configure("error")
