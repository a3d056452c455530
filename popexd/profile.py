"""A measured model: layers with seconds per tier and output sizes, side branches, codecs; a checked DAG of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from popexd.criteria import Criterion
from popexd.errors import ProfileError
from popexd.plan import ExitChoice, Plan, Tier
from popexd.power import Power
from popexd.topology import topological
from popexd.validation import DEFAULT_THRESHOLD, FINAL, Independent, Outcomes, Validation

INPUT = "input"
"""What layers without a parent are `after`: the frame, which is on the device."""

RESERVED = frozenset({INPUT, "output", FINAL})


@dataclass(frozen=True, slots=True)
class Layer:
    """One vertex: seconds on each tier that can run it, and the bytes of its output as float32."""

    name: str
    after: tuple[str, ...]
    seconds: Mapping[Tier, float]
    output_bytes: float


@dataclass(frozen=True, slots=True)
class Exit:
    """A side branch after layer `after`; `probability` is P[answers | evaluated], used where there is no table.

    Thresholds everywhere are bounds of its certainty; `criterion` turns them into what people read and write.
    """

    name: str
    after: str
    seconds: Mapping[Tier, float]
    probability: float = 0.0
    criterion: Criterion = field(default_factory=Criterion)


@dataclass(frozen=True, slots=True)
class CodecCost:
    """What it takes to ship one tensor with one codec.

    Attributes:
        bytes: size of the encoded tensor.
        encode_seconds: all that the sending tier does to ship it beyond running layers; at `input` decoding and
            resizing the frame too (zero for `camera`, which sends the frame as it came).
        decode_seconds: all that a receiving tier does before its first layer.
        accuracy: of the final exit over the whole validation set when the network is cut here; None if unmeasured.
        agreement: share of samples whose answer stays the one of the uncut network.
    """

    bytes: float
    encode_seconds: float = 0.0
    decode_seconds: float = 0.0
    accuracy: float | None = None
    agreement: float = 1.0


@dataclass(frozen=True, eq=False)
class LayerGraph:
    """The checked DAG; `layers` come out in a topological order that keeps the given order where it can.

    Attributes:
        model: its name.
        input_bytes: size of the raw input.
        layers: in any order; `after` names layers or `input`.
        exits: side branches; they come out in the order in which they would be evaluated.
        codecs: by point (`input` or a layer) and codec. A point that is missing has only `f32` at its raw size.
        input_seconds: by tier, before the first layer (decoding, resizing the frame); paid iff the device runs a layer.
        result_bytes: size of the answer on its way back.
        validation: the per-sample table; with it exit shares are counted jointly, and `probability` is not used.
        thresholds: certainty from which each branch answers.
        quality_thresholds: the same for frames of an image-quality class, by class, where they differ.
        power: what the device draws.

    Raises:
        ProfileError: not a DAG, unknown or duplicate names, numbers out of range, times for a tier on some layers only.
    """

    model: str
    input_bytes: float
    layers: tuple[Layer, ...]
    exits: tuple[Exit, ...] = ()
    codecs: Mapping[str, Mapping[str, CodecCost]] = field(default_factory=dict)
    input_seconds: Mapping[Tier, float] = field(default_factory=dict)
    result_bytes: float = 0.0
    validation: Validation | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    power: Power = field(default_factory=Power)
    quality_thresholds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_numbers(self)
        _check_names(self)
        _check_exits(self)
        ordered = topological(self.layers)
        place = {layer.name: index for index, layer in enumerate(ordered)}
        object.__setattr__(self, "layers", ordered)
        object.__setattr__(self, "exits", tuple(sorted(self.exits, key=lambda branch: place[branch.after])))

    @classmethod
    def from_json(cls, data: object, where: str = "profile") -> LayerGraph:
        """Read the form of a profile file; `where` names it in errors.

        Raises:
            ProfileError: one line that names `where`, the field and what was expected.
        """
        from popexd.profile_file import read_graph

        return read_graph(data, where)

    @classmethod
    def load(cls, path: Path) -> LayerGraph:
        """Read a profile file.

        Raises:
            ProfileError: it cannot be read, is not JSON, or not a profile.
        """
        from popexd.profile_file import load_graph

        return load_graph(path)

    def to_json(self) -> dict[str, Any]:
        """The form of a profile file."""
        from popexd.profile_file import graph_to_json

        return graph_to_json(self)

    @cached_property
    def by_name(self) -> Mapping[str, Layer]:
        """Layers by name."""
        return {layer.name: layer for layer in self.layers}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Layer names in topological order."""
        return tuple(layer.name for layer in self.layers)

    @cached_property
    def tiers(self) -> frozenset[Tier]:
        """Tiers that can run the layers."""
        return frozenset(self.layers[0].seconds)

    @cached_property
    def children(self) -> Mapping[str, tuple[str, ...]]:
        """The layers that read each output, `input`'s included."""
        readers: dict[str, list[str]] = {INPUT: [], **{name: [] for name in self.names}}
        for layer in self.layers:
            for parent in layer.after:
                readers[parent].append(layer.name)
        return {name: tuple(those) for name, those in readers.items()}

    @cached_property
    def sinks(self) -> tuple[str, ...]:
        """The layers nobody reads: the network's end."""
        return tuple(name for name in self.names if not self.children[name])

    @cached_property
    def branches(self) -> Mapping[str, tuple[Exit, ...]]:
        """The side branches after each layer that has any."""
        found: dict[str, tuple[Exit, ...]] = {}
        for branch in self.exits:
            found[branch.after] = (*found.get(branch.after, ()), branch)
        return found

    @cached_property
    def is_chain(self) -> bool:
        """Whether every layer reads just the one before it."""
        before = (INPUT, *self.names)
        return all(layer.after == (parent,) for layer, parent in zip(self.layers, before, strict=False))

    def output_bytes(self, point: str) -> float:
        """Raw size of what leaves `point`, a layer or `input`."""
        return self.input_bytes if point == INPUT else self.by_name[point].output_bytes

    def codec_names(self, point: str) -> tuple[str, ...]:
        """Codecs that can ship what leaves `point`."""
        return tuple(self.codecs.get(point, ())) or ("f32",)

    def codec_cost(self, point: str, codec: str) -> CodecCost:
        """What shipping `point` with `codec` takes; `f32` is always there, at the raw size unless measured.

        Raises:
            ValueError: the point has no such codec.
        """
        known = self.codecs.get(point, {})
        if codec in known:
            return known[codec]
        if codec == "f32":
            return CodecCost(self.output_bytes(point))
        raise ValueError(f"{point!r} has no codec {codec!r}, expected one of: {', '.join(self.codec_names(point))}")

    def of_quality(self, name: str) -> LayerGraph:
        """The graph as frames of one image-quality class find it: their samples, their thresholds."""
        table = self.validation.of_quality(name) if self.validation is not None else None
        thresholds = {**self.thresholds, **self.quality_thresholds.get(name, {})}
        return replace(self, validation=table, thresholds=thresholds, quality_thresholds={})

    def for_frames(self, validation: Validation | None, thresholds: Mapping[str, float]) -> LayerGraph:
        """The same model, times and sizes, as frames like these samples find them; the `base` stays."""
        found = copy(self)  # with what is known already of the layers, which stays true
        found.__dict__.update(validation=validation, thresholds=thresholds, _base=self.base)
        _check_exits(found)
        return found

    @property
    def base(self) -> LayerGraph:
        """Whose layers, branches and codecs these are: this graph, unless `for_frames` made it of another."""
        found: LayerGraph = self.__dict__.get("_base", self)
        return found

    def codec_quality(self, point: str, codec: str) -> float:
        """Accuracy with `codec` at `point` as a share of that without any; at most 1, as a gain would be chance."""
        accuracy = self.codec_cost(point, codec).accuracy
        plain = self.codecs.get(point, {}).get("f32")
        reference = plain.accuracy if plain is not None else None
        if reference is None and self.validation is not None:
            reference = self.validation.final_accuracy
        return 1.0 if accuracy is None or not reference else min(1.0, accuracy / reference)

    def threshold(self, branch: str, choice: ExitChoice | None = None) -> float:
        """Certainty from which `branch` answers: the plan's, else the profile's, else the default."""
        if choice is not None and choice.threshold is not None:
            return choice.threshold
        return self.thresholds.get(branch, DEFAULT_THRESHOLD)

    def evaluation_order(self, plan: Plan) -> tuple[Exit, ...]:
        """The branches that run under `plan`, as a frame meets them: device first, then edge, each in layer order."""
        running = [branch for branch in self.exits if plan.runs(branch.name)]
        return tuple(sorted(running, key=lambda branch: plan.tiers[branch.after]))

    def outcomes(self, branches: Iterable[Exit], choices: Mapping[str, ExitChoice]) -> Outcomes:
        """What becomes of a frame that meets `branches` in this order, with the thresholds of `choices`."""
        evaluated = [(branch.name, self.threshold(branch.name, choices.get(branch.name))) for branch in branches]
        if self.validation is not None:
            return self.validation.outcomes(evaluated)
        return self._independent.outcomes(evaluated)

    @cached_property
    def _independent(self) -> Independent:
        return Independent({branch.name: branch.probability for branch in self.exits})

    def with_gamma(self, gamma: float) -> LayerGraph:
        """Make the device `gamma` times slower than the cloud, branches included (POPEX).

        Raises:
            ProfileError: `gamma` is not positive, or something has no time in the cloud.
        """
        if not (math.isfinite(gamma) and gamma > 0):
            raise ProfileError(f"gamma: {gamma:g}, expected a positive number")

        def scaled(seconds: Mapping[Tier, float], field_path: str) -> dict[Tier, float]:
            if Tier.CLOUD not in seconds:
                raise ProfileError(f"{field_path}.seconds.cloud: missing, expected a time to multiply by gamma")
            return {**seconds, Tier.DEVICE: gamma * seconds[Tier.CLOUD]}

        layers = [replace(layer, seconds=scaled(layer.seconds, f"layer {layer.name}")) for layer in self.layers]
        exits = [replace(branch, seconds=scaled(branch.seconds, f"exit {branch.name}")) for branch in self.exits]
        return replace(self, layers=tuple(layers), exits=tuple(exits))

    def with_probabilities(self, probabilities: Mapping[str, float]) -> LayerGraph:
        """Set P[answers | evaluated] of some branches; a validation table is weighed anew to agree.

        Raises:
            ProfileError: an unknown branch, a number outside 0..1, or one that the table cannot make up.
        """
        known = {branch.name for branch in self.exits}
        for name in probabilities:
            if name not in known:
                raise ProfileError(f"exit probability: no exit {name!r}, expected one of: {_listed(known)}")
        exits = tuple(
            replace(branch, probability=probabilities.get(branch.name, branch.probability)) for branch in self.exits
        )
        graph = replace(self, exits=exits)
        if graph.validation is None:
            return graph
        evaluated = [(branch.name, graph.threshold(branch.name)) for branch in graph.exits]
        return replace(graph, validation=graph.validation.reweighted(evaluated, probabilities))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _check_number(value: float, field_path: str, upper: float = math.inf) -> None:
    if not (math.isfinite(value) and 0 <= value <= upper):
        expected = "a number in 0..1" if upper == 1 else "a finite number, zero or more"
        raise ProfileError(f"{field_path}: {value:g}, expected {expected}")


def _check_times(seconds: Mapping[Tier, float], field_path: str) -> None:
    for tier, value in seconds.items():
        _check_number(value, f"{field_path}.{tier.label}")


def _plain(graph: LayerGraph) -> bool:
    """Whether every number is in range: planners make graphs of graphs all the time, and most are."""
    costs = [cost for table in graph.codecs.values() for cost in table.values()]
    timed = [layer.seconds for layer in graph.layers] + [branch.seconds for branch in graph.exits]
    amounts = [graph.input_bytes, graph.result_bytes, *(layer.output_bytes for layer in graph.layers)]
    amounts += [seconds for times in (*timed, graph.input_seconds) for seconds in times.values()]
    amounts += [each for cost in costs for each in (cost.bytes, cost.encode_seconds, cost.decode_seconds)]
    shares = [branch.probability for branch in graph.exits]
    shares += [each for cost in costs for each in (cost.agreement, cost.accuracy) if each is not None]
    return all(0 <= amount < math.inf for amount in amounts) and all(0 <= share <= 1 for share in shares)


def _check_numbers(graph: LayerGraph) -> None:
    if _plain(graph):
        return
    _check_number(graph.input_bytes, "input_bytes")
    _check_number(graph.result_bytes, "result_bytes")
    _check_times(graph.input_seconds, "input_seconds")
    for index, layer in enumerate(graph.layers):
        _check_times(layer.seconds, f"layers[{index}].seconds")
        _check_number(layer.output_bytes, f"layers[{index}].output_bytes")
    for index, branch in enumerate(graph.exits):
        _check_times(branch.seconds, f"exits[{index}].seconds")
        _check_number(branch.probability, f"exits[{index}].probability", 1)
    for point, table in graph.codecs.items():
        for codec, cost in table.items():
            path = f"codecs.{point}.{codec}"
            for name in ("bytes", "encode_seconds", "decode_seconds"):
                _check_number(getattr(cost, name), f"{path}.{name}")
            _check_number(cost.agreement, f"{path}.agreement", 1)
            if cost.accuracy is not None:
                _check_number(cost.accuracy, f"{path}.accuracy", 1)


def _check_names(graph: LayerGraph) -> None:
    if not graph.layers:
        raise ProfileError("layers: none, expected at least one")
    seen: set[str] = set()
    named = [(f"layers[{i}]", layer.name) for i, layer in enumerate(graph.layers)]
    named += [(f"exits[{i}]", branch.name) for i, branch in enumerate(graph.exits)]
    for path, name in named:
        if name in seen or name in RESERVED or not name:
            kind = "a duplicate" if name in seen else "reserved" if name else "empty"
            raise ProfileError(f"{path}.name: {name!r} is {kind}, expected a name of its own")
        seen.add(name)
    layers = {layer.name for layer in graph.layers}
    for index, layer in enumerate(graph.layers):
        _check_parents(layer.after, layers, f"layers[{index}].after")
    _check_same_tiers(graph.layers)
    for point in graph.codecs:
        if point != INPUT and point not in layers:
            raise ProfileError(f"codecs.{point}: no such layer, expected a layer or {INPUT!r}")


def _check_parents(after: Sequence[str], layers: set[str], field_path: str) -> None:
    if not after:
        raise ProfileError(f"{field_path}: empty, expected the layers it reads, or {INPUT!r}")
    for parent in after:
        if parent != INPUT and parent not in layers:
            raise ProfileError(f"{field_path}: no layer {parent!r}, expected a layer or {INPUT!r}")
    if len(set(after)) != len(after):
        raise ProfileError(f"{field_path}: a duplicate, expected every layer once")


def _check_same_tiers(layers: Sequence[Layer]) -> None:
    every = {tier for layer in layers for tier in layer.seconds}
    if not every:
        raise ProfileError("layers[0].seconds: no tier has a time, expected device, edge or cloud")
    for index, layer in enumerate(layers):
        for tier in sorted(every.difference(layer.seconds)):
            raise ProfileError(
                f"layers[{index}].seconds.{tier.label}: missing, expected a time because other layers have one"
            )


def _check_exits(graph: LayerGraph) -> None:
    layers = {layer.name for layer in graph.layers}
    read = {parent for layer in graph.layers for parent in layer.after}
    for index, branch in enumerate(graph.exits):
        if branch.after not in layers:
            raise ProfileError(f"exits[{index}].after: no layer {branch.after!r}, expected one of the layers")
        if branch.after not in read:
            raise ProfileError(f"exits[{index}].after: {branch.after!r} is an end, expected a layer that others read")
        if not branch.seconds:
            raise ProfileError(f"exits[{index}].seconds: no tier has a time, expected device, edge or cloud")
        if branch.name in graph.thresholds:
            # Above 1 is allowed: such a branch never answers.
            _check_number(graph.thresholds[branch.name], f"exits[{index}].threshold")
    if graph.validation is not None:
        missing = {branch.name for branch in graph.exits} - set(graph.validation.exits)
        if missing:
            raise ProfileError(f"joint: nothing about {_listed(missing)}, expected every exit and {FINAL!r}")
