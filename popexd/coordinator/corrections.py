"""What running frames teach about the profile: this machine now, this camera, these workers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace

from popexd.estimators import RunningMedian
from popexd.plan import Tier
from popexd.profile import INPUT, CodecCost, Exit, Layer, LayerGraph

_FEWEST = 5
"""A correction counts from this many samples on."""

_MEMORY_SECONDS = 300.0
"""What no frame has shown for so long is forgotten: who was slow then may be quick again, and only trying tells."""

ENVELOPE_BYTES = 900
"""What a tensor message has beyond its tensors: envelope, topic, properties, packet headers."""


class Corrections:
    """Medians of what was measured, applied to the profile before every solve.

    The profile's seconds were measured on an idle machine; heat, neighbours, a worker's other clients and a camera's
    own resolution show only in the frames themselves.
    """

    def __init__(self) -> None:
        self._medians: dict[Hashable, RunningMedian] = {}
        self._told_at: dict[Hashable, float] = {}

    def _add(self, key: Hashable, value: float, now: float) -> None:
        if now - self._told_at.get(key, now) > _MEMORY_SECONDS:
            del self._medians[key]
        self._medians.setdefault(key, RunningMedian()).add(value)
        self._told_at[key] = now

    def _value(self, key: Hashable, now: float, fewest: int = _FEWEST) -> float | None:
        known = self._medians.get(key)
        if known is None or len(known) < fewest or now - self._told_at[key] > _MEMORY_SECONDS:
            return None
        return known.value

    def compute(self, tier: Tier, measured_seconds: float, profiled_seconds: float, now: float) -> None:
        """Take in how long segments took on a tier against the profile's sum for them."""
        if profiled_seconds > 0:
            self._add(tier, min(20.0, max(0.05, measured_seconds / profiled_seconds)), now)

    def decoded(self, seconds: float, now: float) -> None:
        """Take in the seconds to open, decode and resize one frame here."""
        self._add("decode", seconds, now)

    def camera_frame(self, image_bytes: int, now: float) -> None:
        """Take in the bytes of a camera's frame."""
        self._add("camera", image_bytes, now)

    def encoded(self, cut: str, codec: str, seconds: float, shipment_bytes: int, now: float) -> None:
        """Take in the seconds to encode at a cut, and the bytes that came out, envelope included."""
        self._add(("encode", cut, codec), seconds, now)
        self._add(("bytes", cut, codec), shipment_bytes, now)

    def far_decoded(self, cut: str, codec: str, seconds: float, now: float) -> None:
        """Take in the seconds a worker took to decode what was shipped."""
        self._add(("far", cut, codec), seconds, now)

    def far_queued(self, seconds: float, now: float) -> None:
        """Take in the seconds a message waited at a worker, for which others may be the reason."""
        self._add("queue", seconds, now)

    def scales(self, now: float) -> dict[Tier, float]:
        """Return measured over profiled seconds per tier, where enough frames have shown it."""
        known = {tier: self._value(tier, now) for tier in Tier}
        return {tier: scale for tier, scale in known.items() if scale is not None}

    def decode_seconds(self, graph: LayerGraph, now: float) -> float:
        """Return what it takes to decode a frame on the device."""
        known = self._value("decode", now)
        return graph.input_seconds.get(Tier.DEVICE, 0.0) if known is None else known

    def apply(self, graph: LayerGraph, now: float) -> LayerGraph:
        """Return the graph with what has been learnt."""
        scale = self.scales(now)
        decode = self.decode_seconds(graph, now)
        layers: tuple[Layer, ...] = tuple(
            replace(layer, seconds=_scaled(layer.seconds, scale)) for layer in graph.layers
        )
        exits: tuple[Exit, ...] = tuple(
            replace(branch, seconds=_scaled(branch.seconds, scale)) for branch in graph.exits
        )
        seconds = {**graph.input_seconds, Tier.DEVICE: decode}
        return replace(
            graph, layers=layers, exits=exits, codecs=self._codecs(graph, decode, now), input_seconds=seconds
        )

    def _codecs(self, graph: LayerGraph, decode: float, now: float) -> dict[str, dict[str, CodecCost]]:
        """Correct every codec; at the input all but `camera` decode the frame first, which takes `decode` now."""
        slower = decode - graph.input_seconds.get(Tier.DEVICE, 0.0)
        known = {key: self._value(key, now) for key in self._medians}
        queue = known.get("queue") or 0.0
        found: dict[str, dict[str, CodecCost]] = {}
        for cut, options in graph.codecs.items():
            found[cut] = {}
            for name, cost in options.items():
                resized = cut == INPUT and name != "camera"
                encode, far = known.get(("encode", cut, name)), known.get(("far", cut, name))
                if encode is None:
                    encode_seconds = cost.encode_seconds + (slower if resized else 0.0)
                else:
                    encode_seconds = encode + (decode if resized else 0.0)
                size = self._camera(now) if name == "camera" else known.get(("bytes", cut, name))
                found[cut][name] = CodecCost(
                    cost.bytes + ENVELOPE_BYTES if size is None else size,
                    max(0.0, encode_seconds),
                    (cost.decode_seconds if far is None else far) + queue,
                    cost.accuracy,
                    cost.agreement,
                )
        return found

    def _camera(self, now: float) -> float | None:
        """Return the bytes of a camera's frame in its message."""
        camera = self._value("camera", now, fewest=1)
        return None if camera is None else camera + ENVELOPE_BYTES


def _scaled(seconds: Mapping[Tier, float], scale: Mapping[Tier, float]) -> dict[Tier, float]:
    return {tier: value * scale.get(tier, 1.0) for tier, value in seconds.items()}
