"""Seconds of a vertex from what it is: one linear model per kind, fitted to networks measured on this machine."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from popexd.training.timing import Timing
from popexd.training.vertices import Network, Vertex

TAUGHT_BY = ("resnet18", "vgg11", "mobilenet_v2", "googlenet", "squeezenet1_0", "mnasnet1_0")
"""Networks that are measured to predict another."""

LEAST_VERTICES = 6
"""A kind with fewer measured vertices is predicted as any kind is."""

LEAST_SECONDS = 5e-6
"""Shorter ones are the interpreter's own time more than the layer's."""

Column = NDArray[np.float64]


def features(vertex: Vertex) -> tuple[float, ...]:
    """What its time depends on: a constant, multiply-adds, numbers read, numbers written, parameters.

    Edgent's Table I has input maps, filter sizes and sizes in and out; multiply-adds join the first two.
    """
    return (
        1.0,
        float(vertex.multiply_adds),
        float(vertex.input_numbers),
        float(vertex.output_numbers),
        float(vertex.parameters),
    )


@dataclass(frozen=True)
class LayerTimes:
    """Coefficients per kind, none negative; `any` for kinds that were not met often enough."""

    coefficients: Mapping[str, Column]

    @classmethod
    def fitted(cls, timings: Iterable[Timing]) -> LayerTimes:
        """Fit by least squares of the relative error, so that short layers count as much as long ones."""
        rows: dict[str, list[tuple[tuple[float, ...], float]]] = defaultdict(list)
        for timing in timings:
            for vertex in timing.network.vertices:
                seconds = timing.seconds[vertex.name]
                if seconds > LEAST_SECONDS:
                    rows[vertex.kind].append((features(vertex), seconds))
                    rows["any"].append((features(vertex), seconds))
        return cls({kind: _fit(each) for kind, each in rows.items() if len(each) >= LEAST_VERTICES})

    def seconds(self, vertex: Vertex) -> float:
        """Predict one vertex."""
        known = self.coefficients.get(vertex.kind, self.coefficients["any"])
        return float(known @ np.array(features(vertex)))

    def all_seconds(self, network: Network) -> dict[str, float]:
        """Predict every vertex."""
        return {vertex.name: self.seconds(vertex) for vertex in network.vertices}


def _fit(rows: Sequence[tuple[tuple[float, ...], float]]) -> Column:
    from scipy.optimize import nnls

    matrix, seconds = np.array([row for row, _ in rows]), np.array([time for _, time in rows])
    scale = np.maximum(matrix.max(axis=0), 1e-30)
    found, _ = nnls(matrix / scale / seconds[:, None], np.ones(len(rows)), maxiter=1000)
    return np.asarray(found / scale, dtype=np.float64)


@dataclass(frozen=True)
class Trust:
    """How far predictions are from measurements, each network predicted from the others.

    Attributes:
        by_kind: mean absolute error of single vertices, as a share, by kind.
        overall: over all vertices.
        whole: by network, sum of its predicted vertices over its measured run, less one.
    """

    by_kind: Mapping[str, float]
    overall: float
    whole: Mapping[str, float]


def trust(timings: Sequence[Timing]) -> Trust:
    """Leave out one network at a time, fit to the others, and compare."""
    errors: dict[str, list[float]] = defaultdict(list)
    whole = {}
    for timing in timings:
        times = LayerTimes.fitted(other for other in timings if other is not timing)
        predicted = times.all_seconds(timing.network)
        for vertex in timing.network.vertices:
            actual = timing.seconds[vertex.name]
            if actual > LEAST_SECONDS:
                errors[vertex.kind].append(abs(predicted[vertex.name] / actual - 1))
        whole[timing.network.name] = sum(predicted.values()) / timing.fronts[timing.network.vertices[-1].name] - 1
    return Trust(
        {kind: statistics.fmean(each) for kind, each in sorted(errors.items())},
        statistics.fmean(error for each in errors.values() for error in each),
        whole,
    )
