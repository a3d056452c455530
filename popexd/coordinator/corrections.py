"""What running frames teach about the profile: this machine now, this camera, these workers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from popexd.estimators import RunningMedian
from popexd.plan import Tier
from popexd.profile import CodecCost, Exit, Layer, LayerGraph

_FEWEST = 5
"""A correction counts from this many samples on."""

ENVELOPE_BYTES = 900
"""What a tensor message has beyond its tensors: envelope, topic, properties, packet headers."""


def _scaled(seconds: Mapping[Tier, float], scale: Mapping[Tier, float]) -> dict[Tier, float]:
    return {tier: value * scale.get(tier, 1.0) for tier, value in seconds.items()}


class Corrections:
    """Medians of measured over predicted, applied to the profile before every solve.

    The profile's seconds were measured on an idle machine; heat, neighbours and a camera's own resolution show only in
    the frames themselves.
    """

    def __init__(self) -> None:
        self._scale: defaultdict[Tier, RunningMedian] = defaultdict(RunningMedian)
        self._decode = RunningMedian()
        self._encode: defaultdict[str, RunningMedian] = defaultdict(RunningMedian)
        self._far_decode: defaultdict[str, RunningMedian] = defaultdict(RunningMedian)
        self._camera_bytes = RunningMedian(101)

    def compute(self, tier: Tier, measured_seconds: float, profiled_seconds: float) -> None:
        """Take in how long segments took on a tier against the profile's sum for them."""
        if profiled_seconds > 0:
            self._scale[tier].add(min(20.0, max(0.05, measured_seconds / profiled_seconds)))

    def decoded(self, seconds: float, image_bytes: int | None) -> None:
        """Take in the seconds to open, decode and resize one frame here, and its bytes."""
        self._decode.add(seconds)
        if image_bytes is not None:
            self._camera_bytes.add(image_bytes)

    def camera_frame(self, image_bytes: int) -> None:
        """Take in the bytes of a frame that was not decoded here."""
        self._camera_bytes.add(image_bytes)

    def encoded(self, cut: str, codec: str, seconds: float) -> None:
        """Take in the seconds to encode at a cut."""
        self._encode[f"{cut} {codec}"].add(seconds)

    def far_decoded(self, cut: str, codec: str, seconds: float) -> None:
        """Take in the seconds a worker took to decode what was shipped."""
        self._far_decode[f"{cut} {codec}"].add(seconds)

    @property
    def camera_bytes(self) -> float | None:
        """Median bytes of a camera frame; None before the first."""
        return self._camera_bytes.value

    def scales(self) -> dict[Tier, float]:
        """Return measured over profiled seconds per tier, where enough frames have shown it."""
        return {tier: median.value or 1.0 for tier, median in self._scale.items() if len(median) >= _FEWEST}

    def apply(self, graph: LayerGraph) -> LayerGraph:
        """Return the graph with what has been learnt."""
        scale = self.scales()
        profiled_decode = graph.input_seconds.get(Tier.DEVICE, 0.0)
        decode = self._decode.value if len(self._decode) >= _FEWEST else None
        decode = profiled_decode if decode is None else decode
        layers: tuple[Layer, ...] = tuple(
            replace(layer, seconds=_scaled(layer.seconds, scale)) for layer in graph.layers
        )
        exits: tuple[Exit, ...] = tuple(
            replace(branch, seconds=_scaled(branch.seconds, scale)) for branch in graph.exits
        )
        codecs = {
            cut: {name: self._codec(cut, name, cost, decode, profiled_decode) for name, cost in options.items()}
            for cut, options in graph.codecs.items()
        }
        return replace(
            graph,
            layers=layers,
            exits=exits,
            codecs=codecs,
            input_seconds={**graph.input_seconds, Tier.DEVICE: decode},
        )

    def _codec(self, cut: str, name: str, cost: CodecCost, decode: float, profiled_decode: float) -> CodecCost:
        encode, far = self._encode.get(f"{cut} {name}"), self._far_decode.get(f"{cut} {name}")
        encode_seconds, size = cost.encode_seconds, cost.bytes
        if name == "camera":
            size = self.camera_bytes or size
        elif cut == "input":
            encode_seconds += decode - profiled_decode
        if encode is not None and len(encode) >= _FEWEST:
            encode_seconds = (encode.value or 0.0) + (decode if cut == "input" and name != "camera" else 0.0)
        far_seconds = far.value if far is not None and len(far) >= _FEWEST else None
        return replace(
            cost,
            bytes=size + ENVELOPE_BYTES,
            encode_seconds=max(0.0, encode_seconds),
            decode_seconds=cost.decode_seconds if far_seconds is None else far_seconds,
        )
