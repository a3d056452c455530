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
from popexd.criteria import softmax
from popexd.errors import BundleError, PopexdError

Tensors = Mapping[str, NDArray[Any]]
_Step = tuple[str, tuple[str, ...]]
_MOST_SCHEDULES = 1000


class InferenceError(PopexdError):
    """A segment cannot run on what it was given."""


class Classification(NamedTuple):
    """What an exit says: the class, how sure it is of it (calibrated, 1/classes…1), its float32 logits [classes]."""

    class_index: int
    confidence: float
    logits: NDArray[np.float32]


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
        options = _options(self.threads)
        self._after = {segment.name: segment.after for segment in bundle.segments}
        self._segments = {
            segment.name: _load(segment.file, segment.after, segment.name, options) for segment in bundle.segments
        }
        self._exits = {exit_.name: _load(exit_.file, (exit_.after,), None, options) for exit_ in bundle.exits}
        self._exit_specs = {exit_.name: exit_ for exit_ in bundle.exits}
        self._forms: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            segment.name: (segment.shape, np.dtype(segment.dtype)) for segment in bundle.segments
        }
        self._forms[INPUT] = ((1, bundle.input.height, bundle.input.width, bundle.input.channels), np.dtype(np.uint8))
        self._schedules: dict[tuple[tuple[str, ...], frozenset[str]], tuple[list[_Step], set[str]]] = {}
        self._last = bundle.segments[-1].name
        self._order = {segment.name: index for index, segment in enumerate(bundle.segments)}

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
        steps, needed = self._schedule(tuple(names), frozenset(tensors))
        live = dict(tensors)
        for name, spent in steps:
            live[name] = self._run_one(self._segments, name, self._after[name], live)
            # Freed at once, its memory is reused while it is warm.
            for parent in spent:
                del live[parent]
        return {name: tensor for name, tensor in live.items() if name in needed}

    def classify(self, exit_name: str, tensor: NDArray[Any]) -> Classification:
        """Run the branch `exit_name` on the output of the segment it hangs on; "final" takes the last segment's output.

        Raises
        ------
        InferenceError
            An unknown branch, a tensor that does not fit, or logits that are not finite.
        """
        if exit_name == FINAL:
            temperature = 1.0
            self._check(self._last, tensor)
            logits = tensor
        else:
            spec = self._exit_specs.get(exit_name)
            if spec is None:
                raise InferenceError(f"no exit {exit_name!r} in bundle {self.bundle.name}")
            temperature = spec.temperature
            self._check(spec.after, tensor)
            logits = self._run_one(self._exits, exit_name, (spec.after,), {spec.after: tensor})
        return classification(logits, temperature, exit_name)

    def close(self) -> None:
        """Free every session; running anything afterwards is an InferenceError."""
        self._segments.clear()
        self._exits.clear()

    def _run_one(
        self,
        sessions: Mapping[str, onnxruntime.InferenceSession],
        name: str,
        after: tuple[str, ...],
        tensors: Tensors,
    ) -> NDArray[Any]:
        try:
            feeds = {parent: tensors[parent] for parent in after}
            session = sessions[name]
        except KeyError as error:
            if name not in sessions:
                raise InferenceError(f"{name}: the runner is closed") from error
            raise InferenceError(
                f"{name}: tensor {error} is missing, there are {', '.join(sorted(tensors))}"
            ) from error
        self.executions[name] += 1
        try:
            output: NDArray[Any] = session.run(None, feeds)[0]
        except Exception as error:  # onnxruntime's errors have no ancestor of their own
            raise InferenceError(f"{name}: {_first_line(error)}") from error
        return output

    def _check(self, name: str, tensor: NDArray[Any]) -> None:
        form = self._forms.get(name)
        if form is None:
            raise InferenceError(f"no segment {name!r} in bundle {self.bundle.name}")
        if (tensor.shape, tensor.dtype) != form:
            found = f"{tensor.dtype} {tensor.shape}"
            raise InferenceError(f"{name}: a tensor of {found}, expected {form[1]} {form[0]}")

    def _schedule(self, names: tuple[str, ...], given: frozenset[str]) -> tuple[list[_Step], set[str]]:
        """Return the segments in order, each with the tensors that nobody reads after it, and what is live at the end.

        Live is what whatever must still run reads: found by walking back from the last segment's output.
        """
        known = self._schedules.get((names, given))
        if known is not None:
            return known
        try:
            ordered = sorted(set(names), key=self._order.__getitem__)
        except KeyError as error:
            raise InferenceError(f"no segment {error} in bundle {self.bundle.name}") from error
        there = {*given, *ordered}
        needed: set[str] = set()
        wanted = [self._last]
        while wanted:
            name = wanted.pop()
            if name in there or name == INPUT:
                needed.add(name)
            else:
                wanted.extend(self._after[name])
        steps: list[_Step] = []
        read_later = set(needed)
        for name in reversed(ordered):
            spent = tuple(parent for parent in self._after[name] if parent not in read_later)
            read_later.update(spent)
            steps.insert(0, (name, spent))
        if len(self._schedules) < _MOST_SCHEDULES:
            self._schedules[names, given] = steps, needed
        return steps, needed


def classification(logits: NDArray[Any], temperature: float = 1.0, exit_name: str = FINAL) -> Classification:
    """Turn logits [1, classes] into a class and its calibrated confidence. Raises InferenceError where not finite."""
    row: NDArray[np.float32] = logits.reshape(-1).astype(np.float32, copy=False)
    if not np.isfinite(row).all():
        raise InferenceError(f"{exit_name}: the logits are not finite")
    class_index = int(row.argmax())
    return Classification(class_index, float(softmax(row, temperature)[class_index]), row)


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _load(
    file: Path, inputs: tuple[str, ...], output: str | None, options: onnxruntime.SessionOptions
) -> onnxruntime.InferenceSession:
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no ancestor of their own
        raise BundleError(f"{file}: cannot be loaded: {_first_line(error)}, expected an ONNX model") from error
    takes = [tensor.name for tensor in session.get_inputs()]
    gives = [tensor.name for tensor in session.get_outputs()]
    if sorted(takes) != sorted(inputs) or len(gives) != 1 or gives[0] != (output or gives[0]):
        expected = f"{', '.join(inputs)} in and {output or 'logits'} out"
        raise BundleError(f"{file}: has {', '.join(takes)} in and {', '.join(gives)} out, expected {expected}")
    return session


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
