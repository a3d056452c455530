"""Good examples to begin from: one of everything that is read from outside."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from popexd import bundle as bundles
from popexd.plan import Tier
from popexd.profile_file import graph_to_json
from popexd.protocol.codec import encode, image
from popexd.protocol.messages import WorkerProfile, WorkerState
from popexd.protocol.replies import ProbeReply, Reply, probe
from popexd.protocol.tensors import Stage, TensorMessage
from popexd.runtime import background
from popexd.runtime.background import MachineProfile

ROOT = Path(__file__).resolve().parents[2]
BOOT = "b00t"
ARRAY = b"\x93NUMPY"
BUNDLE = bundles.load()


@cache
def machine() -> MachineProfile:
    """A machine that takes a millisecond for everything."""
    return MachineProfile(
        fingerprint=BUNDLE.fingerprint,
        machine="fuzz",
        threads=1,
        segments={segment.name: 0.001 for segment in BUNDLE.segments},
        exits={branch.name: 0.001 for branch in BUNDLE.exits},
        frame_seconds=0.001,
        frame_bytes=20_000,
        encode={cut: dict.fromkeys(table, 0.001) for cut, table in BUNDLE.codecs.items()},
        decode={cut: dict.fromkeys(table, 0.001) for cut, table in BUNDLE.codecs.items()},
    )


@cache
def frames() -> list[bytes]:
    """Small pictures of every kind, as cameras send them and wrapped."""
    pixels = np.random.default_rng(7).integers(0, 255, (24, 32, 3), np.uint8)
    found = []
    for mode, kind, options in (
        ("RGB", "JPEG", {"quality": 40}),
        ("L", "JPEG", {"progressive": True}),
        ("CMYK", "JPEG", {}),
        ("RGB", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("P", "PNG", {}),
        ("I;16", "PNG", {}),
        ("RGB", "WEBP", {"quality": 40}),
        ("RGBA", "WEBP", {"lossless": True}),
    ):
        stream = io.BytesIO()
        picture = Image.fromarray(pixels)
        converted = Image.fromarray(pixels[:, :, 0].astype(np.uint16) << 8) if mode == "I;16" else picture.convert(mode)
        converted.save(stream, kind, **options)
        found.append(stream.getvalue())
    text = base64.b64encode(found[0])
    found += [text, b"data:image/jpeg;base64," + text, b'{"image": "' + text + b'"}', b'{"data": "data:x;base64,aa"}']
    return found


@cache
def tensors() -> list[bytes]:
    """Messages with every kind of codec."""
    values = np.maximum(np.random.default_rng(3).normal(size=(1, 4, 6, 6)), 0).astype(np.float32)
    codecs = ("f32", "f16+zstd", "q8", "q8c+zstd", "q4", "q2c")
    found = [message({"pool1": encode(values, codec)}) for codec in codecs]
    found.append(message({"input": image(frames()[0], "camera")}))
    found.append(message({"left": encode(values, "q8"), "right": encode(values[:, :2], "q4c")}))
    return found


def message(encoded: dict[str, object]) -> bytes:
    """A tensor message with these tensors."""
    return TensorMessage(
        frame_id=f"{BOOT}-1",
        device="pi",
        fingerprint=BUNDLE.fingerprint,
        plan_id="p-1",
        attempt=1,
        route=(
            Stage(Tier.EDGE, ("pool2",), "q8+zstd", {"b1": 0.9}),
            Stage(Tier.CLOUD, tuple(segment.name for segment in BUNDLE.segments[2:])),
        ),
        deadline_seconds=1.5,
        tensors=encoded,  # type: ignore[arg-type]
        camera="gate",
        seconds={"device": 0.01},
    ).to_bytes()


@cache
def replies() -> list[bytes]:
    """A worker's answers, good and bad."""
    good = Reply(
        frame_id=f"{BOOT}-1",
        device="pi",
        plan_id="p-1",
        attempt=1,
        worker="w1",
        tier="cloud",
        status="ok",
        class_index=1,
        label=BUNDLE.classes[1],
        confidence=0.9,
        exit="final",
        logits=[0.1] * len(BUNDLE.classes),
        seconds={"queue": 0.001, "decode": 0.001, "compute": 0.002},
        bytes=4_000,
    )
    bad = good.model_copy(update={"status": "error", "error": "late", "class_index": None, "label": None})
    return [good.to_bytes(), bad.to_bytes(), ProbeReply(seq=1, size_bytes=100, worker="w1").to_bytes()]


@cache
def requests() -> list[bytes]:
    """Everything that may be asked."""
    asked: list[dict[str, object]] = [
        {},
        {"transaction": "t"},
        {"transaction": 7, "mode": "device"},
        {"transaction": "t", "thresholds": {"b1": 0.5}, "objective": "bytes", "solver": "shortest-path"},
        {"transaction": "t", "min_accuracy": 0.9, "deadline_seconds": 1.0, "dwell_seconds": 0, "min_agreement": 1},
    ]
    return [json.dumps(each).encode() for each in asked]


@cache
def workers() -> list[bytes]:
    """A worker's presence and profile."""
    state = WorkerState(state="online", worker="w1", tier="cloud", models={BUNDLE.name: BUNDLE.fingerprint})
    profile = WorkerProfile(worker="w1", tier="cloud", models={BUNDLE.fingerprint: machine().to_json()})
    return [state.to_bytes(), profile.to_bytes()]


def probes() -> list[bytes]:
    """Sized payloads."""
    return [probe(1, 200, "pi"), probe(2, 10)]


def configurations() -> list[bytes]:
    """What examples/ shows."""
    return [path.read_bytes() for path in sorted((ROOT / "examples").glob("*.toml"))]


@cache
def profiles() -> list[bytes]:
    """A profile file with everything in it, and a small one."""
    whole = background.graph(BUNDLE, machine(), {Tier.CLOUD: machine()})
    data = graph_to_json(whole)
    if "joint" in data:  # the table is long, and one row is like another
        data["joint"] = {
            "exits": data["joint"]["exits"],
            **{key: {name: row[:4] for name, row in data["joint"][key].items()} for key in ("confidence", "correct")},
        }
    layer = {"name": "v1", "after": ["input"], "seconds": {"device": 0.01, "cloud": 0.001}, "output_bytes": 50}
    branch = {"name": "b1", "after": "v1", "seconds": {"device": 0.005}, "probability": 0.5}
    small = {"schema": "popexd/profile/1", "model": "toy", "input_bytes": 100, "layers": [layer], "exits": [branch]}
    return [json.dumps(small).encode(), json.dumps(data).encode()]


@cache
def descriptions() -> list[bytes]:
    """A bundle's description, shortened."""
    facts = json.loads((bundles.DEFAULT_FOLDER / "bundle.json").read_text())
    facts.pop("training", None)
    facts["codecs"] = {cut: dict(list(table.items())[:2]) for cut, table in list(facts["codecs"].items())[:2]}
    return [json.dumps(facts).encode()]


@cache
def tables() -> list[bytes]:
    """A validation table, and one array of it, which is put into its place."""
    return [archive(), array(np.full((len(BUNDLE.exits) + 1, 4), 0.5, np.float32))]


def archive(**replaced: bytes) -> bytes:
    """A validation table of four samples, of which some arrays are these bytes."""
    exits = np.array([*(branch.name for branch in BUNDLE.exits), "final"])
    shape = (len(exits), 4)
    arrays = {
        "exits": exits,
        "confidence": np.full(shape, 0.5, np.float32),
        "correct": np.ones(shape, bool),
        "predicted": np.zeros(shape, np.uint8),
        "label": np.zeros(4, np.uint8),
        "quality": np.array(["sharp"] * 4),
    }
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as made:
        for name, values in arrays.items():
            made.writestr(f"{name}.npy", replaced.get(name) or array(values))
    return stream.getvalue()


def array(values: np.ndarray[Any, Any]) -> bytes:
    """One array as numpy writes it."""
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()
