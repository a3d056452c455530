"""Runs a bundle's segments and side branches; the only door to onnxruntime.

A plan is a choice of which segments run where, so switching plans costs nothing here: every segment is a session of its
own, loaded once. Their thread pools must not spin: with the default, each session's threads burn the cores that the
next one needs (a chain of eight took 14 ms instead of 1.4).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from popexd.bundle import FINAL, INPUT, Bundle
from popexd.criteria import Criterion, entropy, softmax
from popexd.errors import BundleError, PopexdError

Tensors = Mapping[str, NDArray[Any]]
_MOST_SCHEDULES = 1000


class InferenceError(PopexdError):
    """A segment cannot run on what it was given."""


class Classification(NamedTuple):
    """What an exit says: the class, how sure it is of it (calibrated, 1/classes…1), its float32 logits [classes].

    `certainty` is what its bound is compared with: the confidence, or what its entropy (nats) comes to.
    """

    class_index: int
    confidence: float
    logits: NDArray[np.float32]
    entropy: float
    certainty: float


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Schedule(NamedTuple):
    """What a call of `run` comes to: given tensors it reads, segments in order and as a set, what it returns."""

    read: tuple[str, ...]
    steps: tuple[str, ...]
    made: frozenset[str]
    needed: tuple[str, ...]


class _Station(NamedTuple):
    """One loaded file, bound to the places of the tensors it reads and writes."""

    session: onnxruntime.InferenceSession
    binding: onnxruntime.IOBinding


class SegmentRunner:
    """All segments and branches of a bundle, ready to run; for one thread at a time.

    `threads` is set once for all sessions, 0 for all cores. `executions` counts runs by segment and branch: the plain
    proof of what did run, and that nothing ran after an exit.

    Raises
    ------
    BundleError
        A file is not what the bundle says.
    """

    def __init__(self, bundle: Bundle, threads: int = 0) -> None:
        self.bundle = bundle
        self.threads = threads or available_cores()
        self.executions: Counter[str] = Counter()
        self._specs = {segment.name: segment for segment in bundle.segments}
        self._exit_specs = {exit_.name: exit_ for exit_ in bundle.exits}
        self._order = {name: index for index, name in enumerate(self._specs)}
        self._last = bundle.segments[-1].name
        self._forms: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            segment.name: (segment.shape, np.dtype(segment.dtype)) for segment in bundle.segments
        }
        self._forms[INPUT] = ((1, bundle.input.height, bundle.input.width, bundle.input.channels), np.dtype(np.uint8))
        # Every tensor has one place in memory, which its producer writes and its readers read: no copies in between.
        self._places = {name: _place(*form) for name, form in self._forms.items()}
        self._places |= {exit_.name: _place((1, len(bundle.classes)), np.dtype(np.float32)) for exit_ in bundle.exits}
        self._stations = self._load(_options(self.threads))
        self._schedules: dict[tuple[tuple[str, ...], frozenset[str]], _Schedule] = {}

    def _load(self, options: onnxruntime.SessionOptions) -> dict[str, _Station]:
        stations = {}
        for segment in self.bundle.segments:
            place = self._places[segment.name]
            stations[segment.name] = _station(segment.file, segment.after, segment.name, self._places, place, options)
        for exit_ in self.bundle.exits:
            place = self._places[exit_.name]
            stations[exit_.name] = _station(exit_.file, (exit_.after,), None, self._places, place, options)
            for quality, variant in exit_.by_quality.items():
                if variant.file is not None:
                    expert = _station(variant.file, (exit_.after,), None, self._places, place, options)
                    stations[_expert(exit_.name, quality)] = expert
        return stations

    def run(self, tensors: Tensors, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Run the segments `names` (in the bundle's order, whatever order is given) on `tensors`.

        Returns the tensors that are needed from here on to reach the last segment's output, given ones included; the
        last segment's output itself once it is there.

        Raises
        ------
        InferenceError
            An unknown segment, a missing tensor, or one of another shape or type than the bundle's.
        """
        for name, tensor in tensors.items():
            self._check(name, tensor)
        schedule = self._schedule(tuple(names), frozenset(tensors))
        for name in schedule.read:
            self._places[name].update_inplace(tensors[name])
        for name in schedule.steps:
            self._execute(name)
        # The place is written again by the next frame: what leaves here is a copy.
        return {
            name: np.array(self._places[name].numpy()) if name in schedule.made else tensors[name]
            for name in schedule.needed
        }

    def classify(self, exit_name: str, tensor: NDArray[Any], quality: str | None = None) -> Classification:
        """Run the branch `exit_name` on the output of the segment it hangs on; "final" takes the last segment's output.

        `quality` is the frame's class where it is known: the branch's expert for it answers if there is one.

        Raises
        ------
        InferenceError
            An unknown branch, a tensor that does not fit, or logits that are not finite.
        """
        if exit_name == FINAL:
            self._check(self._last, tensor)
            return classification(tensor, self.bundle.final_temperature, exit_name)
        spec = self._exit_specs.get(exit_name)
        if spec is None:
            raise InferenceError(f"no exit {exit_name!r} in bundle {self.bundle.name}")
        self._check(spec.after, tensor)
        self._places[spec.after].update_inplace(tensor)
        expert = quality is not None and quality in spec.by_quality and spec.by_quality[quality].file is not None
        self._execute(_expert(exit_name, quality) if expert else exit_name)
        logits = np.array(self._places[exit_name].numpy())
        return classification(logits, spec.temperature_for(quality), exit_name, spec.criterion)

    def close(self) -> None:
        """Free every session; running anything afterwards is an InferenceError."""
        self._stations.clear()

    def _execute(self, name: str) -> None:
        station = self._stations.get(name)
        if station is None:
            raise InferenceError(f"{name}: the runner is closed")
        self.executions[name] += 1
        try:
            station.session.run_with_iobinding(station.binding)
        except Exception as error:  # onnxruntime's errors have no ancestor of their own
            raise InferenceError(f"{name}: {_first_line(error)}") from error

    def _check(self, name: str, tensor: NDArray[Any]) -> None:
        form = self._forms.get(name)
        if form is None:
            raise InferenceError(f"no segment {name!r} in bundle {self.bundle.name}")
        if (tensor.shape, tensor.dtype) != form:
            found = f"{tensor.dtype} {tensor.shape}"
            raise InferenceError(f"{name}: a tensor of {found}, expected {form[1]} {form[0]}")

    def _schedule(self, names: tuple[str, ...], given: frozenset[str]) -> _Schedule:
        """Put the segments in order, and find what is live at the end.

        Live is what whatever must still run reads: found by walking back from the last segment's output.
        """
        known = self._schedules.get((names, given))
        if known is not None:
            return known
        for name in names:
            if name not in self._specs:
                raise InferenceError(f"no segment {name!r} in bundle {self.bundle.name}")
        steps = sorted(set(names), key=self._order.__getitem__)
        there, read = set(given), set()
        for name in steps:
            for parent in self._specs[name].after:
                if parent not in there:
                    raise InferenceError(f"{name}: tensor {parent!r} is missing, there are {', '.join(sorted(there))}")
                read.add(parent)
            there.add(name)
        needed, wanted = set(), [self._last]
        while wanted:
            name = wanted.pop()
            if name in there:
                needed.add(name)
            elif name != INPUT:
                wanted.extend(self._specs[name].after)
        schedule = _Schedule(tuple(read - set(steps)), tuple(steps), frozenset(steps), tuple(needed))
        if len(self._schedules) < _MOST_SCHEDULES:
            self._schedules[names, given] = schedule
        return schedule


def classification(
    logits: NDArray[Any], temperature: float = 1.0, exit_name: str = FINAL, criterion: Criterion | None = None
) -> Classification:
    """Turn logits [1, classes] into a class and its calibrated confidence. Raises InferenceError where not finite."""
    row: NDArray[np.float32] = logits.reshape(-1).astype(np.float32, copy=False)
    if not np.isfinite(row).all():
        raise InferenceError(f"{exit_name}: the logits are not finite")
    class_index = int(row.argmax())
    likely = softmax(row, temperature)
    confidence, nats = float(likely[class_index]), float(entropy(likely))
    certainty = confidence if criterion is None else float(criterion.certainty(confidence, nats))
    return Classification(class_index, confidence, row, nats, certainty)


def _expert(exit_name: str, quality: str | None) -> str:
    """Name the branch tuned for a quality class; no segment's name holds an @."""
    return f"{exit_name}@{quality}"


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _place(shape: tuple[int, ...], dtype: np.dtype[Any]) -> onnxruntime.OrtValue:
    return onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype.type)


def _station(
    file: Path,
    inputs: tuple[str, ...],
    output: str | None,
    places: Mapping[str, onnxruntime.OrtValue],
    destination: onnxruntime.OrtValue,
    options: onnxruntime.SessionOptions,
) -> _Station:
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no ancestor of their own
        raise BundleError(f"{file}: cannot be loaded: {_first_line(error)}, expected an ONNX model") from error
    takes = [tensor.name for tensor in session.get_inputs()]
    gives = [tensor.name for tensor in session.get_outputs()]
    if sorted(takes) != sorted(inputs) or len(gives) != 1 or gives[0] != (output or gives[0]):
        expected = f"{', '.join(inputs)} in and {output or 'logits'} out"
        raise BundleError(f"{file}: has {', '.join(takes)} in and {', '.join(gives)} out, expected {expected}")
    binding = session.io_binding()
    for name in inputs:
        binding.bind_ortvalue_input(name, places[name])
    binding.bind_ortvalue_output(gives[0], destination)
    return _Station(session, binding)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
