"""What differs from one image-quality class to the next: which samples count, which thresholds, how many frames.

A blurred frame leaves a branch more rarely, and is more often wrong where it does: so each class has its own exit
shares, its own thresholds, and may have its own plan (image quality as a condition of the partition: POPEX, SBRC 2020).
Frames whose class is not known go by the strictest of the thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from popexd.estimators import ExitRates, QualityMix
from popexd.plan import Tier
from popexd.profile import INPUT, LayerGraph

ANY = None
"""In place of a class's name: frames whose class is not known."""

_FEWEST_SAMPLES = 30
"""A class with fewer in the validation table keeps its own thresholds, but is counted on all samples."""


_PRIOR_FRAMES = 20.0
"""What the table counts for in a class's exit shares: less than in those of all, as each class sees fewer frames."""


class Qualities:
    """The classes that a model's frames are told to be of, with what frames have taught about each."""

    def __init__(self, graph: LayerGraph) -> None:
        self._samples: dict[str, NDArray[np.bool_]] = {}
        self._rates: dict[str | None, ExitRates] = {}
        self.mix: QualityMix | None = None
        table = graph.validation
        if table is None:
            return
        self._rates[ANY] = ExitRates(table.exits, table.confidence)
        names = sorted({*table.qualities, *graph.quality_thresholds})
        if len(names) < 2:
            return
        self._samples = {name: own for name, own in table.qualities.items() if own.sum() >= _FEWEST_SAMPLES}
        for name in names:
            own = self._samples.get(name, slice(None))
            self._rates[name] = ExitRates(table.exits, table.confidence[:, own], prior_frames=_PRIOR_FRAMES)
        self.mix = QualityMix({name: table.share_of(name) for name in names})

    @property
    def names(self) -> tuple[str, ...]:
        """The classes that have plans of their own."""
        return () if self.mix is None else tuple(self.mix.prior)

    def shares(self, now: float) -> dict[str, float]:
        """Return how large a part of the frames is of each class."""
        return {} if self.mix is None else self.mix.shares(now)

    def rates(self, quality: str | None) -> ExitRates | None:
        """Return what is learnt of the exits of frames of a class."""
        return self._rates.get(quality, self._rates.get(ANY))

    def use(self, quality: str | None, thresholds: Mapping[str, float], now: float) -> None:
        """Say which exits run from now on for frames of a class, and from which certainty they answer."""
        if quality in self._rates:
            self._rates[quality].use(thresholds, now)

    def saw(self, quality: str | None, now: float) -> None:
        """Take in the class of a frame."""
        if self.mix is not None and quality is not None:
            self.mix.add(quality, now)

    def graphs(self, graph: LayerGraph, looks: bool, now: float) -> dict[str | None, LayerGraph]:
        """Return the graph as frames of any class find it, and as those of each class do once they are decoded.

        `looks` says that frames are told apart now, so that the classes know best what any frame is like.
        """
        table = graph.validation
        if table is None or not self._rates:
            return {ANY: graph}
        own = {name: self._rates[name].weights(now) for name in self.names}
        weights = self._joined(own, table.mass.size, now) if looks else self._rates[ANY].weights(now) * table.mass
        found: dict[str | None, LayerGraph] = {ANY: graph.for_frames(table.weighed(weights), self._strictest(graph))}
        ready = opened(graph) if own else graph
        for name, of_class in own.items():
            samples = table.of_quality(name, of_class) if name in self._samples else table.weighed(of_class)
            thresholds = {**graph.thresholds, **graph.quality_thresholds.get(name, {})}
            found[name] = ready.for_frames(samples, thresholds)
        return found

    def _joined(self, own: Mapping[str, NDArray[np.float64]], samples: int, now: float) -> NDArray[np.float64]:
        weights = np.zeros(samples)
        for name, share in self.shares(now).items():
            weights[self._samples.get(name, slice(None))] += share * own[name] / own[name].sum()
        return weights

    def _strictest(self, graph: LayerGraph) -> dict[str, float]:
        return {
            branch: max([bound, *(own.get(branch, bound) for own in graph.quality_thresholds.values())])
            for branch, bound in graph.thresholds.items()
        }


def opened(graph: LayerGraph) -> LayerGraph:
    """Return the graph for a frame that the device has decoded already."""
    decode = graph.input_seconds.get(Tier.DEVICE, 0.0)
    codecs = {
        codec: cost if codec == "camera" else replace(cost, encode_seconds=max(0.0, cost.encode_seconds - decode))
        for codec, cost in graph.codecs.get(INPUT, {}).items()
    }
    by_point = {**graph.codecs, INPUT: codecs} if codecs else graph.codecs
    return replace(graph, input_seconds={**graph.input_seconds, Tier.DEVICE: 0.0}, codecs=by_point)
