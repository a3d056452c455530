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
from popexd.validation import Validation

ANY = None
"""In place of a class's name: frames whose class is not known."""

_FEWEST_SAMPLES = 30
"""A class with fewer in the validation table is planned for with the rest."""


class Qualities:
    """The classes of a model's frames, with what frames have taught about each."""

    def __init__(self, table: Validation | None) -> None:
        self._table = table
        self._samples: dict[str, NDArray[np.bool_]] = {}
        self._rates: dict[str | None, ExitRates] = {}
        self.mix: QualityMix | None = None
        if table is None:
            return
        large = {name: own for name, own in table.qualities.items() if own.sum() >= _FEWEST_SAMPLES}
        self._samples = large if len(large) > 1 else {}
        self._rates[ANY] = ExitRates(table.exits, table.confidence)
        for name, own in self._samples.items():
            self._rates[name] = ExitRates(table.exits, table.confidence[:, own])
        if self._samples:
            self.mix = QualityMix({name: float(table.mass[own].sum()) for name, own in self._samples.items()})

    @property
    def names(self) -> tuple[str, ...]:
        """The classes that have plans of their own."""
        return tuple(self._samples)

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
        own = {name: self._rates[name].weights(now) for name in self._samples}
        weights = self._joined(own, table, now) if looks else self._rates[ANY].weights(now)
        found: dict[str | None, LayerGraph] = {
            ANY: replace(graph, validation=table.weighed(weights), thresholds=self._strictest(graph))
        }
        ready = opened(graph) if self._samples else graph
        for name, of_class in own.items():
            each = ready.of_quality(name)
            assert each.validation is not None
            found[name] = replace(each, validation=each.validation.weighed(of_class))
        return found

    def _joined(self, own: Mapping[str, NDArray[np.float64]], table: Validation, now: float) -> NDArray[np.float64]:
        weights = np.zeros(table.confidence.shape[1])
        for name, share in self.shares(now).items():
            weights[self._samples[name]] = share * own[name] / own[name].sum()
        return weights

    def _strictest(self, graph: LayerGraph) -> dict[str, float]:
        own = [graph.quality_thresholds.get(name, {}) for name in self._samples]
        return {
            branch: max([bound, *(thresholds.get(branch, bound) for thresholds in own)])
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
