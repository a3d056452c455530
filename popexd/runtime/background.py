"""The Background step: what this machine needs for each segment, branch and codec, and the planner's graph made of it.

Measured once (about a second), kept per model and machine; a worker publishes its own as part of its profile.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Self, TypeVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import popexd
from popexd.bundle import FINAL, INPUT, Bundle
from popexd.errors import MessageRejected
from popexd.plan import Tier
from popexd.profile import CodecCost, Exit, Layer, LayerGraph
from popexd.protocol.codec import Encoded, decode, encode, image, is_image_codec
from popexd.protocol.tensors import Stage, TensorMessage
from popexd.runtime.frames import encode_image, load_image, sniff
from popexd.runtime.segments import SegmentRunner, available_cores
from popexd.validation import Validation

T = TypeVar("T")
Seconds = Annotated[float, Field(ge=0, le=3600)]
ByCodec = dict[str, dict[str, Seconds]]

RESULT_BYTES = 550.0
"""A reply of a model with a handful of classes."""

_FEWEST_ROUNDS = 3


class MachineProfile(BaseModel):
    """Median seconds of one machine for one model.

    `frame_seconds` is to decode and resize the reference camera frame of `frame_bytes`; `encode` and `decode` go by cut
    ("input" or a segment) and codec, message included, at "input" without `frame_seconds`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    fingerprint: str
    machine: str = Field(max_length=200, description="processor, cores, threads, runtime")
    threads: int = Field(ge=1)
    segments: dict[str, Seconds]
    exits: dict[str, Seconds]
    frame_seconds: Seconds
    frame_bytes: int = Field(ge=0)
    encode: ByCodec = Field(default_factory=dict)
    decode: ByCodec = Field(default_factory=dict)

    @classmethod
    def even(cls, bundle: Bundle, seconds: float) -> Self:
        """Return the profile of a machine that takes as long for each part: where nothing is measured, or need be."""
        return cls(
            fingerprint=bundle.fingerprint,
            machine="none",
            threads=1,
            segments=dict.fromkeys((segment.name for segment in bundle.segments), seconds),
            exits=dict.fromkeys((branch.name for branch in bundle.exits), seconds),
            frame_seconds=seconds,
            frame_bytes=1,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the profile as JSON data."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Read a profile that this or another machine measured. Raises MessageRejected with the reason `profile`."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise MessageRejected("profile", f"{where[:80]}: {first['msg']}") from error

    def slowed(self, factor: float) -> Self:
        """Return the profile of a machine that takes `factor` times as long for everything."""

        def times(table: Mapping[str, float]) -> dict[str, float]:
            return {name: seconds * factor for name, seconds in table.items()}

        return self.model_copy(
            update={
                "segments": times(self.segments),
                "exits": times(self.exits),
                "frame_seconds": self.frame_seconds * factor,
                "encode": {cut: times(table) for cut, table in self.encode.items()},
                "decode": {cut: times(table) for cut, table in self.decode.items()},
            }
        )

    def covers(self, bundle: Bundle) -> bool:
        """Tell whether this is about `bundle`, and complete."""
        return (
            self.fingerprint == bundle.fingerprint
            and self.segments.keys() >= {segment.name for segment in bundle.segments}
            and self.exits.keys() >= {exit_.name for exit_ in bundle.exits}
        )


def measure(
    runner: SegmentRunner, bundle: Bundle, budget_seconds: float = 1.2, slowdown: float = 1.0
) -> MachineProfile:
    """Measure this machine: medians over as many rounds as fit into `budget_seconds`, three at least, after a warm-up.

    A round runs the whole chain as a frame does, so that every segment meets the caches as it finds them in use.
    """
    begun = time.perf_counter()
    bench = _Bench(runner, bundle)
    bench.chain({})
    chain: dict[str, list[float]] = {}
    _repeat(lambda: bench.chain(chain), begun, 0.55 * budget_seconds, 40)
    rest: dict[str, list[float]] = {}
    _repeat(lambda: bench.codecs(rest), begun, budget_seconds, 12)
    profile = MachineProfile(
        fingerprint=bundle.fingerprint,
        machine=machine(runner.threads),
        threads=runner.threads,
        segments={segment.name: median(chain[segment.name]) for segment in bundle.segments},
        exits={exit_.name: median(chain[exit_.name]) for exit_ in bundle.exits},
        frame_seconds=median(rest["frame"]),
        frame_bytes=len(bench.file),
        encode=bench.table(rest, "encode"),
        decode=bench.table(rest, "decode"),
    )
    return profile.slowed(slowdown) if slowdown != 1 else profile


def measured_once(
    runner: SegmentRunner, bundle: Bundle, folder: Path, budget_seconds: float = 1.2, slowdown: float = 1.0
) -> MachineProfile:
    """Return what was measured here before for this model, machine and number of threads, else measure and keep it.

    A cache that cannot be read, or is not what it should be, counts as none; one that cannot be written is no fault.
    """
    key = hashlib.sha256(machine(runner.threads).encode()).hexdigest()[:12]
    path = folder / f"profile-{bundle.fingerprint[:16]}-{key}.json"
    profile = _cached(path, bundle)
    if profile is None:
        profile = measure(runner, bundle, budget_seconds)
        with contextlib.suppress(OSError):
            _write(path, json.dumps(profile.to_json(), indent=1))
    return profile.slowed(slowdown) if slowdown != 1 else profile


def graph(
    bundle: Bundle,
    device: MachineProfile,
    remote: Mapping[Tier, MachineProfile],
    camera_bytes: float | None = None,
    frame_seconds: float | None = None,
    envelope_bytes: float = 0.0,
) -> LayerGraph:
    """Assemble the planner's graph from the device's profile and those of the tiers that are there.

    `camera_bytes` and `frame_seconds` are the live averages of a camera frame's size and of decoding it on the device
    (by default the bundle's or the reference frame's); the other tiers' decoding is scaled alike. `envelope_bytes` are
    added to each codec's. A remote profile that is not about the whole bundle is left out.
    """
    tiers = {Tier.DEVICE: device, **{tier: profile for tier, profile in remote.items() if profile.covers(bundle)}}
    pixels = bundle.input.height * bundle.input.width * bundle.input.channels
    table = bundle.validation
    # Without an estimator no frame is ever told to be of a class.
    seen = None if bundle.quality is None else table.seen
    weights = None if seen is None else _expected(seen, bundle.quality_shares)
    return LayerGraph(
        model=bundle.name,
        input_bytes=4.0 * pixels,
        layers=tuple(
            Layer(
                segment.name,
                segment.after,
                {tier: profile.segments[segment.name] for tier, profile in tiers.items()},
                float(np.prod(segment.shape)) * 4,
            )
            for segment in bundle.segments
        ),
        exits=tuple(
            Exit(
                exit_.name,
                exit_.after,
                {tier: profile.exits[exit_.name] for tier, profile in tiers.items()},
                criterion=exit_.criterion,
            )
            for exit_ in bundle.exits
        ),
        codecs=_codecs(bundle, tiers, camera_bytes, frame_seconds, envelope_bytes),
        input_seconds={Tier.DEVICE: device.frame_seconds if frame_seconds is None else frame_seconds},
        result_bytes=RESULT_BYTES,
        validation=Validation(table.exits, table.certainty(bundle.criteria), table.correct, weights, seen),
        thresholds=bundle.bounds(),
        quality_thresholds={name: bundle.bounds(name) for name in bundle.quality_names},
    )


def _expected(seen: NDArray[np.str_], shares: Mapping[str, float]) -> NDArray[np.float64] | None:
    """Weigh samples so that their classes have the shares that a camera is expected to show; None: they have them."""
    if not shares:
        return None
    weights = np.zeros(seen.shape)
    for name, share in shares.items():
        own = seen == name
        weights[own] = share / max(1, own.sum())
    return weights if weights.sum() > 0 else None


@functools.cache
def machine(threads: int) -> str:
    """Describe what the seconds depend on besides the model: processor, cores, threads and software."""
    return (
        f"{_processor()}, {available_cores()} cores, {threads} threads, "
        f"onnxruntime {onnxruntime.__version__}, popexd {popexd.__version__}"
    )


class _Bench:
    """A frame's way through a model, one stop after the other with a stopwatch."""

    def __init__(self, runner: SegmentRunner, bundle: Bundle) -> None:
        self.runner = runner
        self.bundle = bundle
        self.file = reference_frame()
        self.outputs: dict[str, NDArray[Any]] = {}
        cuts = {INPUT: ("camera", "f32"), **{segment.name: ("f32",) for segment in bundle.segments[:-1]}}
        self.names = {cut: sorted({*always, *bundle.codecs.get(cut, ())}) for cut, always in cuts.items()}

    def load(self, file: bytes) -> NDArray[np.uint8]:
        return load_image(sniff(file).data, self.bundle.input.height, self.bundle.input.width)

    def chain(self, times: dict[str, list[float]]) -> None:
        """Run every segment and branch once."""
        outputs: dict[str, NDArray[Any]] = {INPUT: self.load(self.file)}
        for segment in self.bundle.segments:
            tensors = {parent: outputs[parent] for parent in segment.after}
            outputs |= _timed(times, segment.name, functools.partial(self.runner.run, tensors, [segment.name]))
            for exit_ in self.bundle.exits:
                if exit_.after == segment.name:
                    branch = functools.partial(self.runner.classify, exit_.name, outputs[segment.name])
                    _timed(times, exit_.name, branch)
        _timed(times, FINAL, lambda: self.runner.classify(FINAL, outputs[self.bundle.segments[-1].name]))
        self.outputs = outputs

    def codecs(self, times: dict[str, list[float]]) -> None:
        """Decode a camera frame once, and encode and decode every tensor once with every codec of the bundle."""
        _timed(times, "frame", lambda: self.load(self.file))
        for cut, names in self.names.items():
            for codec in names:
                payload = _timed(times, f"encode {cut} {codec}", functools.partial(self.ship, cut, codec))
                _timed(times, f"decode {cut} {codec}", functools.partial(self.unpack, cut, payload))

    def ship(self, cut: str, codec: str) -> bytes:
        tensor = self.outputs[cut]
        if codec == "camera":
            encoded = image(self.file, codec)
        elif is_image_codec(codec):
            encoded = image(encode_image(tensor, codec), codec)
        else:
            encoded = encode(tensor, codec)
        return _message({cut: encoded}, self.bundle).to_bytes()

    def unpack(self, cut: str, payload: bytes) -> NDArray[Any]:
        encoded = TensorMessage.from_bytes(payload).tensors[cut]
        return self.load(encoded.data) if is_image_codec(encoded.codec) else decode(encoded)

    def table(self, times: Mapping[str, list[float]], way: str) -> ByCodec:
        return {
            cut: {codec: median(times[f"{way} {cut} {codec}"]) for codec in names} for cut, names in self.names.items()
        }


def reference_frame(width: int = 640, height: int = 480) -> bytes:
    """Return a JPEG file as a camera may send it: soft shapes and some noise, always the same."""
    random = np.random.default_rng(0)
    few = random.integers(40, 216, (1, height // 40, width // 40, 3), dtype=np.uint8)
    soft = load_image(encode_image(few, "jpeg-100"), height, width)
    noise = random.integers(0, 8, soft.shape, dtype=np.uint8)
    return encode_image(soft + noise, "jpeg-90")


def _timed(times: dict[str, list[float]], name: str, work: Callable[[], T]) -> T:
    begun = time.perf_counter()
    result = work()
    times.setdefault(name, []).append(time.perf_counter() - begun)
    return result


def _repeat(work: Callable[[], None], begun: float, budget_seconds: float, most: int) -> None:
    for done in range(most):
        if done >= _FEWEST_ROUNDS and time.perf_counter() - begun > budget_seconds:
            return
        work()


def _message(tensors: Mapping[str, Encoded], bundle: Bundle) -> TensorMessage:
    route = (Stage(Tier.CLOUD, tuple(segment.name for segment in bundle.segments)),)
    return TensorMessage("reference", "device", bundle.fingerprint, "plan", 0, route, 1.0, tensors)


def _codecs(
    bundle: Bundle,
    tiers: Mapping[Tier, MachineProfile],
    camera_bytes: float | None,
    frame_seconds: float | None,
    envelope_bytes: float,
) -> dict[str, dict[str, CodecCost]]:
    device = tiers[Tier.DEVICE]
    receivers = [profile for tier, profile in tiers.items() if tier is not Tier.DEVICE] or [device]
    frame = device.frame_seconds if frame_seconds is None else frame_seconds
    scale = frame / device.frame_seconds if device.frame_seconds > 0 else 1.0
    raw_bytes = {INPUT: bundle.input.height * bundle.input.width * bundle.input.channels * 4.0}
    raw_bytes |= {segment.name: float(np.prod(segment.shape)) * 4 for segment in bundle.segments}
    found: dict[str, dict[str, CodecCost]] = {}
    for cut, encode_seconds in device.encode.items():
        for codec, seconds in encode_seconds.items():
            far = [profile.decode.get(cut, {}).get(codec) for profile in receivers]
            known = [value for value in far if value is not None]
            if cut not in raw_bytes or len(known) < len(far):
                continue
            facts = bundle.codecs.get(cut, {}).get(codec, {})
            size, sending, receiving = facts.get("bytes", raw_bytes[cut]), seconds, max(known)
            if codec == "camera":
                size = camera_bytes or facts.get("bytes", float(device.frame_bytes))
                sending, receiving = 0.0, receiving * scale
            elif cut == INPUT:
                sending += frame
            if codec == "f32":
                size = raw_bytes[cut]
            found.setdefault(cut, {})[codec] = CodecCost(
                bytes=size + envelope_bytes,
                encode_seconds=sending,
                decode_seconds=receiving,
                accuracy=facts.get("accuracy"),
                agreement=facts.get("agreement", 1.0),
            )
    return found


def _processor() -> str:
    """Name the processor as precisely as the system does."""
    for path, key in (("/proc/device-tree/model", None), ("/proc/cpuinfo", "model name"), ("/proc/cpuinfo", "Model")):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = Path(path).read_text(encoding="utf-8")
            lines = text.splitlines() if key else [text]
            for line in lines:
                if key is None or line.split(":")[0].strip() == key:
                    return line.split(":")[-1].strip(" \0\n")[:80]
    return platform.processor() or platform.machine()


def _cached(path: Path, bundle: Bundle) -> MachineProfile | None:
    try:
        profile = MachineProfile.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, MessageRejected):
        return None
    return profile if profile.covers(bundle) else None


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
