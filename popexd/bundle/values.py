"""What a bundle is in memory: plain values, checked where they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from popexd.criteria import Criterion
from popexd.quality import QualityEstimator

INPUT = "input"
FINAL = "final"


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What the first segment takes: uint8 RGB [1, height, width, channels]."""

    height: int
    width: int
    channels: int


@dataclass(frozen=True, slots=True)
class SegmentSpec:
    """One stretch of the main branch between cut points: takes the tensors named in `after`, gives one of `shape`."""

    name: str
    file: Path
    after: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class ExitVariant:
    """What a side branch has of its own for frames of one quality class; None: as for any other frame.

    `file` is an expert branch, tuned for that distortion.
    """

    threshold: float | None = None
    temperature: float | None = None
    file: Path | None = None


_USUAL = ExitVariant()


@dataclass(frozen=True, slots=True)
class ExitSpec:
    """A side branch: logits [1, classes] from the output of segment `after`, divided by `temperature` before softmax.

    It answers by its criterion: where the confidence is at least `threshold`, or where the entropy is below it.
    `by_quality` is what differs for a quality class.
    """

    name: str
    after: str
    file: Path
    temperature: float
    threshold: float
    criterion: Criterion
    by_quality: Mapping[str, ExitVariant] = field(default_factory=dict)

    def temperature_for(self, quality: str | None) -> float:
        """Return the temperature for frames of a quality class."""
        own = self.by_quality.get(quality or "", _USUAL).temperature
        return self.temperature if own is None else own

    def threshold_for(self, quality: str | None) -> float:
        """Return the threshold for frames of a quality class, in the criterion's unit."""
        own = self.by_quality.get(quality or "", _USUAL).threshold
        return self.threshold if own is None else own


@dataclass(frozen=True)
class ValidationTable:
    """What every exit said about the held-out frames.

    `exits` ends with "final"; `confidence`, `correct`, `predicted` are [exits, samples]; `label`, `quality` [samples].
    `entropy` (nats) is [exits, samples], `seen`, the class that the quality estimator says, and `photo`, the same
    number for all frames made of one photo, are [samples]; None: not there.
    """

    exits: tuple[str, ...]
    confidence: npt.NDArray[np.float32]
    correct: npt.NDArray[np.bool_]
    predicted: npt.NDArray[np.uint8]
    label: npt.NDArray[np.uint8]
    quality: npt.NDArray[np.str_]
    entropy: npt.NDArray[np.float32] | None = None
    seen: npt.NDArray[np.str_] | None = None
    photo: npt.NDArray[np.uint64] | None = None

    @property
    def samples(self) -> int:
        """The number of held-out frames."""
        return int(self.confidence.shape[1])

    def certainty(self, criteria: Mapping[str, Criterion]) -> npt.NDArray[np.floating]:
        """Return how certain every exit was of every sample, [exits, samples], in 0..1, by the criterion of each."""
        if self.entropy is None or all(criterion.name == "confidence" for criterion in criteria.values()):
            return self.confidence
        rows = zip(self.exits, self.confidence, self.entropy, strict=True)
        return np.stack([criteria.get(name, Criterion()).certainty(*measured) for name, *measured in rows])


@dataclass(frozen=True)
class Bundle:
    """A verified model bundle.

    `quality_shares` is how large a part of a camera's frames is expected to be seen in each image-quality class; empty
    where the validation table's own shares are it. `codecs` maps a cut ("input" or a segment) and a codec to measured
    mean bytes, accuracy and agreement with the uncoded answers; `facts` is bundle.json as read.
    """

    name: str
    folder: Path
    fingerprint: str
    classes: tuple[str, ...]
    input: InputSpec
    segments: tuple[SegmentSpec, ...]
    exits: tuple[ExitSpec, ...]
    codecs: Mapping[str, Mapping[str, Mapping[str, float]]]
    facts: Mapping[str, Any] = field(repr=False)
    final_temperature: float = 1.0
    quality: QualityEstimator | None = None
    quality_shares: Mapping[str, float] = field(default_factory=dict)

    @property
    def thresholds(self) -> dict[str, float]:
        """The default threshold of every side branch, in its criterion's unit."""
        return {exit_.name: exit_.threshold for exit_ in self.exits}

    @property
    def criteria(self) -> dict[str, Criterion]:
        """What every side branch goes by."""
        return {exit_.name: exit_.criterion for exit_ in self.exits}

    @property
    def quality_names(self) -> tuple[str, ...]:
        """The image-quality classes that frames are told to be of; none where the model does not tell."""
        return () if self.quality is None else self.quality.classes

    def bounds(self, quality: str | None = None) -> dict[str, float]:
        """Return from which certainty on every side branch answers frames of a quality class by default."""
        return {exit_.name: exit_.criterion.bound(exit_.threshold_for(quality)) for exit_ in self.exits}

    @cached_property
    def validation(self) -> ValidationTable:
        """The validation table, read on first use. Raises BundleError."""
        from popexd.bundle.reading import read_validation

        return read_validation(self)
