"""Profile files: `popexd/profile/1` as JSON, read by hand so that each error names the field and what was expected."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from popexd.criteria import CRITERIA, Criterion
from popexd.errors import InputError, ProfileError
from popexd.plan import Tier
from popexd.power import Power
from popexd.profile import CodecCost, Exit, Layer, LayerGraph
from popexd.validation import Validation

SCHEMA = "popexd/profile/1"
MAX_BYTES = 64_000_000

T = TypeVar("T")


def load_graph(path: Path) -> LayerGraph:
    """Read the profile file at `path`.

    Raises:
        ProfileError: it cannot be read, is not JSON, or not a profile.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ProfileError(f"{path}: {path.stat().st_size} bytes, expected at most {MAX_BYTES}")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ProfileError(f"{path}: {error.strerror or error}, expected a profile file") from error
    except UnicodeDecodeError as error:
        raise ProfileError(f"{path}: not text, expected a profile file as JSON") from error
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ProfileError(f"{path}: line {error.lineno}: {error.msg}, expected JSON") from error
    except (ValueError, RecursionError) as error:
        raise ProfileError(f"{path}: {error}, expected JSON of a sensible size") from error
    return read_graph(data, str(path))


def read_graph(data: object, where: str) -> LayerGraph:
    """Read the form of a profile file from parsed JSON; `where` names it in errors.

    Raises:
        ProfileError: one line with `where`, the field and what was expected.
    """
    try:
        return _Fields(data, "").graph()
    except ProfileError as error:
        raise ProfileError(f"{where}: {error}") from error


class _Fields:
    """One JSON object of the file, and the path that leads to it."""

    def __init__(self, data: object, path: str) -> None:
        self.path = path
        if not isinstance(data, dict):
            self.fail("", data, "an object")
        self.data: dict[str, Any] = data

    def name(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path and key else self.path or key

    def fail(self, key: str, value: object, expected: str) -> NoReturn:
        shown = "missing" if value is None else _shown(value)
        place = self.name(key)
        raise ProfileError(f"{place}: {shown}, expected {expected}" if place else f"{shown}, expected {expected}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self.data.get(key, default)
        if not isinstance(value, str):
            self.fail(key, value, "a text")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.data.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fail(key, value, "a number")
        try:
            return float(value)
        except OverflowError:
            self.fail(key, value, "a number of a sensible size")

    def optional_number(self, key: str) -> float | None:
        return None if self.data.get(key) is None else self.number(key)

    def items(self, key: str, default: list[object] | None = None) -> list[Any]:
        value = self.data.get(key, default)
        if not isinstance(value, list):
            self.fail(key, value, "a list")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        values = self.items(key)
        for index, value in enumerate(values):
            if not isinstance(value, str):
                self.fail(f"{key}[{index}]", value, "a name")
        return tuple(values)

    def numbers(self, key: str) -> list[float]:
        values = self.items(key)
        for index, value in enumerate(values):
            if isinstance(value, bool) or not isinstance(value, int | float):
                self.fail(f"{key}[{index}]", value, "a number")
        return values

    def truths(self, key: str) -> list[bool]:
        values = self.items(key)
        for index, value in enumerate(values):
            if value not in (True, False):
                self.fail(f"{key}[{index}]", value, "true or false")
        return values

    def inner(self, key: str) -> _Fields:
        return _Fields(self.data[key], self.name(key)) if key in self.data else _Fields({}, self.name(key))

    def each(self, key: str, default: list[object] | None = None) -> list[_Fields]:
        return [_Fields(item, self.name(f"{key}[{i}]")) for i, item in enumerate(self.items(key, default))]

    def table(self, read: Callable[[_Fields, str], T]) -> dict[str, T]:
        return {key: read(self, key) for key in self.data}

    def times(self, key: str) -> dict[Tier, float]:
        inner = self.inner(key)
        seconds: dict[Tier, float] = {}
        for label in inner.data:
            try:
                seconds[Tier.of(label)] = inner.number(label)
            except ProfileError:
                raise
            except InputError as error:
                raise ProfileError(f"{inner.path}: {error}") from error
        return seconds

    def graph(self) -> LayerGraph:
        schema = self.data.get("schema")
        if schema != SCHEMA:
            self.fail("schema", schema, repr(SCHEMA))
        given = self.each("exits", [])
        exits = tuple(fields.exit() for fields in given)
        bounds = {branch.name: fields.bounds(branch.criterion) for branch, fields in zip(exits, given, strict=True)}
        qualities = {quality for by_quality in bounds.values() for quality in by_quality if quality}
        return LayerGraph(
            model=self.text("model", "unnamed"),
            input_bytes=self.number("input_bytes"),
            layers=tuple(fields.layer() for fields in self.each("layers")),
            exits=exits,
            codecs=self.inner("codecs").table(lambda points, point: points.inner(point).table(_codec_cost)),
            input_seconds=self.times("input_seconds"),
            result_bytes=self.number("result_bytes", 0.0),
            validation=self.inner("joint").validation() if "joint" in self.data else None,
            thresholds=_only(bounds, ""),
            power=self.inner("power").power(),
            quality_thresholds={quality: _only(bounds, quality) for quality in sorted(qualities)},
        )

    def layer(self) -> Layer:
        return Layer(self.text("name"), self.texts("after"), self.times("seconds"), self.number("output_bytes"))

    def exit(self) -> Exit:
        probability = self.number("probability", 0.0)
        return Exit(self.text("name"), self.text("after"), self.times("seconds"), probability, self.criterion())

    def criterion(self) -> Criterion:
        name, classes = self.text("criterion", "confidence"), self.number("classes", 2.0)
        if name not in CRITERIA:
            self.fail("criterion", name, f"one of {', '.join(CRITERIA)}")
        if not (2 <= classes <= 1_000_000 and classes == int(classes)):
            self.fail("classes", classes, "a whole number of 2 or more")
        return Criterion(name, int(classes))

    def bounds(self, criterion: Criterion) -> dict[str, float]:
        """Read the thresholds, as bounds of the certainty: by quality class, "" for what is said of any frame."""
        by_quality = self.inner("threshold_by_quality")
        found = {quality: criterion.bound(by_quality.number(quality)) for quality in by_quality.data}
        usual = self.optional_number("threshold")
        return found if usual is None else {**found, "": criterion.bound(usual)}

    def power(self) -> Power:
        usual = Power()
        return Power(
            self.number("compute_watts", usual.compute_watts), self.number("transmit_watts", usual.transmit_watts)
        )

    def validation(self) -> Validation:
        confidence, correct = self.inner("confidence"), self.inner("correct")
        exits = self.texts("exits")
        rows = [confidence.numbers(name) for name in exits]
        right = [correct.truths(name) for name in exits]
        for name, row, marks in zip(exits, rows, right, strict=True):
            for path, values in ((f"confidence.{name}", row), (f"correct.{name}", marks)):
                if len(values) != len(rows[0]):
                    raise ProfileError(
                        f"{self.name(path)}: {len(values)} samples, expected {len(rows[0])} as in the first row"
                    )
        weights = self.numbers("weights") if self.data.get("weights") is not None else None
        quality = self.texts("quality") if self.data.get("quality") is not None else None
        return Validation(exits, rows, right, weights, quality)


def _only(bounds: Mapping[str, Mapping[str, float]], quality: str) -> dict[str, float]:
    return {name: by_quality[quality] for name, by_quality in bounds.items() if quality in by_quality}


def _codec_cost(table: _Fields, codec: str) -> CodecCost:
    fields = table.inner(codec)
    return CodecCost(
        bytes=fields.number("bytes"),
        encode_seconds=fields.number("encode_seconds", 0.0),
        decode_seconds=fields.number("decode_seconds", 0.0),
        accuracy=fields.optional_number("accuracy"),
        agreement=fields.number("agreement", 1.0),
    )


def _shown(value: object) -> str:
    """A JSON value as one short line of text."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    try:
        text = repr(value)
    except ValueError:  # an integer longer than Python prints
        return "a huge number"
    return text if len(text) <= 40 else f"{text[:37]}..."


def graph_to_json(graph: LayerGraph) -> dict[str, Any]:
    """The form of a profile file; optional fields only where they say something."""
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "model": graph.model,
        "input_bytes": graph.input_bytes,
        "layers": [
            {
                "name": layer.name,
                "after": list(layer.after),
                "seconds": _labelled(layer.seconds),
                "output_bytes": layer.output_bytes,
            }
            for layer in graph.layers
        ],
    }
    if graph.exits:
        data["exits"] = [_exit_to_json(graph, branch) for branch in graph.exits]
    if graph.codecs:
        data["codecs"] = {
            point: {codec: _cost_to_json(cost) for codec, cost in table.items()}
            for point, table in graph.codecs.items()
        }
    if graph.input_seconds:
        data["input_seconds"] = _labelled(graph.input_seconds)
    if graph.result_bytes:
        data["result_bytes"] = graph.result_bytes
    if graph.power != Power():
        data["power"] = asdict(graph.power)
    if graph.validation is not None:
        data["joint"] = _validation_to_json(graph.validation)
    return data


def _labelled(seconds: Mapping[Tier, float]) -> dict[str, float]:
    return {tier.label: seconds[tier] for tier in sorted(seconds)}


def _exit_to_json(graph: LayerGraph, branch: Exit) -> dict[str, Any]:
    data: dict[str, Any] = {
        "name": branch.name,
        "after": branch.after,
        "seconds": _labelled(branch.seconds),
        "probability": branch.probability,
    }
    if branch.criterion.name != "confidence":
        data |= {"criterion": branch.criterion.name, "classes": branch.criterion.classes}
    if branch.name in graph.thresholds:
        data["threshold"] = branch.criterion.threshold(graph.thresholds[branch.name])
    by_quality = {
        quality: branch.criterion.threshold(own[branch.name])
        for quality, own in graph.quality_thresholds.items()
        if branch.name in own
    }
    return {**data, "threshold_by_quality": by_quality} if by_quality else data


def _cost_to_json(cost: CodecCost) -> dict[str, float]:
    data = {"bytes": cost.bytes, "encode_seconds": cost.encode_seconds, "decode_seconds": cost.decode_seconds}
    if cost.accuracy is not None:
        data["accuracy"] = cost.accuracy
    return {**data, "agreement": cost.agreement}


def _validation_to_json(table: Validation) -> dict[str, Any]:
    def rows(values: Sequence[Sequence[Any]]) -> dict[str, list[Any]]:
        return {name: list(row) for name, row in zip(table.exits, values, strict=True)}

    data: dict[str, Any] = {
        "exits": list(table.exits),
        "confidence": rows(table.confidence.tolist()),
        "correct": rows(table.correct.tolist()),
    }
    if table.weights is not None:
        data["weights"] = table.weights.tolist()
    if table.quality is not None:
        data["quality"] = table.quality.tolist()
    return data
