"""Profile files: read, written, and refused with one line."""

from __future__ import annotations

import contextlib
import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popexd.errors import ProfileError
from popexd.profile import LayerGraph
from popexd.profile_file import load_graph
from tests.graphs import random_dag

Data = dict[str, Any]

GOOD: Data = {
    "schema": "popexd/profile/1",
    "model": "toy",
    "input_bytes": 100_000,
    "layers": [
        {"name": "v1", "after": ["input"], "seconds": {"device": 0.01, "cloud": 0.001}, "output_bytes": 50_000},
        {"name": "v2", "after": ["v1"], "seconds": {"device": 0.02, "cloud": 0.002}, "output_bytes": 10_000},
        {"name": "v3", "after": ["v2", "v1"], "seconds": {"device": 0.03, "cloud": 0.003}, "output_bytes": 40},
    ],
    "exits": [
        {"name": "b1", "after": "v1", "seconds": {"device": 0.005, "cloud": 0.0005}, "probability": 0.5},
        {"name": "b2", "after": "v2", "seconds": {"device": 0.005}, "probability": 0.25, "threshold": 0.8},
    ],
    "codecs": {
        "input": {"camera": {"bytes": 22_800}, "f32": {"bytes": 100_000, "encode_seconds": 0.004}},
        "v2": {"q8+zstd": {"bytes": 2_000, "decode_seconds": 0.001, "accuracy": 0.7, "agreement": 0.99}},
    },
    "input_seconds": {"device": 0.004},
    "result_bytes": 200,
    "joint": {
        "exits": ["b1", "b2", "final"],
        "confidence": {"b1": [0.95, 0.4, 0.3, 0.2], "b2": [0.9, 0.9, 0.8, 0.1], "final": [1, 1, 1, 1]},
        "correct": {
            "b1": [True, False, False, False],
            "b2": [True, True, False, False],
            "final": [True, True, True, False],
        },
        "weights": [1, 1, 1, 1],
    },
}


def edited(change: Callable[[Data], object]) -> Data:
    """The good profile with one change."""
    data = copy.deepcopy(GOOD)
    change(data)
    return data


def layer(index: int, **fields: object) -> Callable[[Data], None]:
    """Change one layer."""
    return lambda data: data["layers"][index].update(fields)


def branch(**fields: object) -> Callable[[Data], None]:
    """Change the first exit."""
    return lambda data: data["exits"][0].update(fields)


def top(**fields: object) -> Callable[[Data], None]:
    """Change the top level."""
    return lambda data: data.update(fields)


BAD = {
    "no schema": (lambda data: data.pop("schema"), "schema: missing, expected 'popexd/profile/1'"),
    "another schema": (top(schema="popexd/profile/2"), "schema: 'popexd/profile/2', expected 'popexd/profile/1'"),
    "no layers": (top(layers=[]), "layers: none, expected at least one"),
    "layers missing": (lambda data: data.pop("layers"), "layers: missing, expected a list"),
    "layers of another type": (top(layers={}), "layers: an object, expected a list"),
    "a layer of another type": (top(layers=[3]), "layers[0]: 3, expected an object"),
    "a name of another type": (layer(0, name=7), "layers[0].name: 7, expected a text"),
    "an empty name": (layer(0, name=""), "layers[0].name: '' is empty, expected a name of its own"),
    "a reserved name": (layer(0, name="output"), "layers[0].name: 'output' is reserved, expected a name of its own"),
    "a duplicate name": (layer(1, name="v1"), "layers[1].name: 'v1' is a duplicate, expected a name of its own"),
    "an exit named as a layer": (branch(name="v2"), "exits[0].name: 'v2' is a duplicate, expected a name of its own"),
    "a cycle": (layer(0, after=["v2"]), "layers[0].after: a cycle through 'v1', expected none"),
    "a layer after itself": (layer(1, after=["v2"]), "layers[1].after: a cycle through 'v2', expected none"),
    "an unknown parent": (layer(1, after=["v9"]), "layers[1].after: no layer 'v9', expected a layer or 'input'"),
    "a parent twice": (layer(1, after=["v1", "v1"]), "layers[1].after: a duplicate, expected every layer once"),
    "no parent": (layer(1, after=[]), "layers[1].after: empty, expected the layers it reads, or 'input'"),
    "parents of another type": (layer(1, after="v1"), "layers[1].after: 'v1', expected a list"),
    "a parent of another type": (layer(1, after=[1]), "layers[1].after[0]: 1, expected a name"),
    "a tier on some layers only": (
        layer(2, seconds={"device": 0.1}),
        "layers[2].seconds.cloud: missing, expected a time because other layers have one",
    ),
    "no times at all": (
        lambda data: [each.update(seconds={}) for each in data["layers"]],
        "layers[0].seconds: no tier has a time, expected device, edge or cloud",
    ),
    "an unknown tier": (
        layer(0, seconds={"moon": 1}),
        "layers[0].seconds: 'moon' is not a tier, expected one of: device, edge, cloud",
    ),
    "a negative time": (
        layer(2, seconds={"device": 0.1, "cloud": -1}),
        "layers[2].seconds.cloud: -1, expected a finite number, zero or more",
    ),
    "a time of another type": (
        layer(2, seconds={"device": 0.1, "cloud": "1"}),
        "layers[2].seconds.cloud: '1', expected a number",
    ),
    "a time that is true": (layer(2, seconds={"cloud": True}), "layers[2].seconds.cloud: True, expected a number"),
    "times of another type": (layer(2, seconds=[1]), "layers[2].seconds: a list, expected an object"),
    "a size that is not a number": (
        layer(0, output_bytes=float("nan")),
        "layers[0].output_bytes: nan, expected a finite number, zero or more",
    ),
    "an infinite size": (top(input_bytes=float("inf")), "input_bytes: inf, expected a finite number, zero or more"),
    "a size too large": (top(input_bytes=10**400), "input_bytes: 1000"),
    "a missing size": (lambda data: data.pop("input_bytes"), "input_bytes: missing, expected a number"),
    "a negative result": (top(result_bytes=-1), "result_bytes: -1, expected a finite number, zero or more"),
    "a probability above one": (branch(probability=1.5), "exits[0].probability: 1.5, expected a number in 0..1"),
    "a negative probability": (branch(probability=-0.1), "exits[0].probability: -0.1, expected a number in 0..1"),
    "an exit after nothing": (branch(after="v7"), "exits[0].after: no layer 'v7', expected one of the layers"),
    "an exit at the end": (branch(after="v3"), "exits[0].after: 'v3' is an end, expected a layer that others read"),
    "an exit without times": (
        branch(seconds={}),
        "exits[0].seconds: no tier has a time, expected device, edge or cloud",
    ),
    "a negative threshold": (branch(threshold=-1), "exits[0].threshold: -1, expected a finite number, zero or more"),
    "codecs of nothing": (
        top(codecs={"v9": {"q8": {"bytes": 1}}}),
        "codecs.v9: no such layer, expected a layer or 'input'",
    ),
    "a codec without bytes": (top(codecs={"v1": {"q8": {}}}), "codecs.v1.q8.bytes: missing, expected a number"),
    "a codec of negative bytes": (
        top(codecs={"v1": {"q8": {"bytes": -5}}}),
        "codecs.v1.q8.bytes: -5, expected a finite number, zero or more",
    ),
    "a codec in wonderland": (
        top(codecs={"v1": {"q8": {"bytes": 5, "accuracy": 1.2}}}),
        "codecs.v1.q8.accuracy: 1.2, expected a number in 0..1",
    ),
    "a table without an exit": (
        lambda data: data["joint"].update(exits=["b1", "final"]),
        "joint: nothing about b2, expected every exit and 'final'",
    ),
    "a table without its end": (
        lambda data: data["joint"].update(exits=["b1", "b2"]),
        "joint.exits: is ['b1', 'b2'], expected distinct names with 'final' last",
    ),
    "a table of unequal rows": (
        lambda data: data["joint"]["confidence"].update(b2=[0.1]),
        "joint.confidence.b2: 1 samples, expected 4 as in the first row",
    ),
    "a confidence above one": (
        lambda data: data["joint"]["confidence"].update(b1=[0.1, 2, 0, 0]),
        "joint.confidence: expected numbers in 0..1",
    ),
    "a verdict of another type": (
        lambda data: data["joint"]["correct"].update(b1=[1, "yes", 0, 0]),
        "joint.correct.b1[1]: 'yes', expected true or false",
    ),
    "weights that weigh nothing": (
        lambda data: data["joint"].update(weights=[0, 0, 0, 0]),
        "joint.weights: expected 4 numbers, none negative, not all zero",
    ),
}


@pytest.mark.parametrize(("change", "complaint"), BAD.values(), ids=BAD)
def test_a_bad_profile_is_one_line_with_file_field_and_expectation(
    change: Callable[[Data], object], complaint: str
) -> None:
    """Whatever is wrong, the reader learns where, what, and what was expected."""
    with pytest.raises(ProfileError) as caught:
        LayerGraph.from_json(edited(change), "toy.json")

    assert str(caught.value).startswith(f"toy.json: {complaint}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [None, 3, [], "text"])
def test_a_profile_is_an_object(data: object) -> None:
    """Other JSON is refused."""
    with pytest.raises(ProfileError, match=r"^toy\.json: .*expected an object"):
        LayerGraph.from_json(data, "toy.json")


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5), lambda x: st.lists(x, max_size=3)))
@settings(max_examples=60)
def test_no_value_anywhere_gets_past_as_another_error(junk: object) -> None:
    """Junk in any field is a ProfileError or harmless, never something else."""
    spoilt = [{**copy.deepcopy(GOOD), key: junk} for key in GOOD]
    for part in ("layers", "exits"):
        for key in GOOD[part][0]:
            data = copy.deepcopy(GOOD)
            data[part][0][key] = junk
            spoilt.append(data)
    for data in spoilt:
        with contextlib.suppress(ProfileError):
            LayerGraph.from_json(data, "junk")


def test_reading_and_writing_are_inverse() -> None:
    """A profile with everything in it comes back as it was."""
    assert LayerGraph.from_json(GOOD, "toy").to_json() == edited(
        lambda data: [
            data["codecs"]["input"].update(
                camera={"bytes": 22_800, "encode_seconds": 0, "decode_seconds": 0, "agreement": 1},
                f32={"bytes": 100_000, "encode_seconds": 0.004, "decode_seconds": 0, "agreement": 1},
            ),
            data["codecs"]["v2"]["q8+zstd"].update(encode_seconds=0),
        ]
    )


@pytest.mark.parametrize("seed", range(20))
def test_random_profiles_survive_a_file(seed: int, tmp_path: Path) -> None:
    """Written as JSON text and loaded, they are the same."""
    rng = random.Random(seed)
    graph = random_dag(rng, rng.randint(1, 8), rng.randint(0, 3), rich=rng.random() < 0.5)
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(graph.to_json()))

    assert LayerGraph.load(path).to_json() == graph.to_json()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"{", "line 1"), (b"\xff\xfe", "not text"), (b"[" * 100_000, "expected JSON"), (b"9" * 5_000, "expected")],
    ids=["cut off", "binary", "deep", "huge number"],
)
def test_a_file_that_is_no_profile_is_one_line(content: bytes, complaint: str, tmp_path: Path) -> None:
    """Also the parser's own errors name the file."""
    path = tmp_path / "bad.json"
    path.write_bytes(content)

    with pytest.raises(ProfileError, match=complaint) as caught:
        LayerGraph.load(path)
    assert str(caught.value).startswith(str(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """No traceback for a typing error."""
    with pytest.raises(ProfileError, match=r"none\.json: No such file"):
        LayerGraph.load(tmp_path / "none.json")


def test_a_file_of_absurd_size_is_refused_unread(tmp_path: Path) -> None:
    """By its size on disk; it is never brought into memory."""
    path = tmp_path / "huge.json"
    with path.open("wb") as stream:
        stream.truncate(10**12)

    with pytest.raises(ProfileError, match="expected at most"):
        load_graph(path)
