"""Profiles: the checked DAG, its file form, its exits."""

from __future__ import annotations

import contextlib
import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popexd.errors import ProfileError
from popexd.plan import ExitChoice, Tier
from popexd.profile import Exit, Layer, LayerGraph
from popexd.validation import Validation, conditional_probabilities
from tests.graphs import CLOUD, DEVICE, random_dag, toy

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


def test_layers_come_out_in_topological_order_keeping_theirs_where_possible() -> None:
    """Parents before children; otherwise as given."""
    times = {DEVICE: 0.1}
    layers = [Layer(name, after, times, 1) for name, after in (("d", ("b", "c")), ("c", ("input",)), ("b", ("input",)))]

    graph = LayerGraph("m", 1, tuple(layers))

    assert graph.names == ("c", "b", "d")
    assert graph.sinks == ("d",)
    assert not graph.is_chain


def test_exits_come_out_as_frames_meet_them() -> None:
    """In the order of their layers, whatever the file says."""
    graph = LayerGraph.from_json(edited(lambda data: data["exits"].reverse()), "toy")

    assert [each.name for each in graph.exits] == ["b1", "b2"]


def test_gamma_overrides_every_device_time() -> None:
    """Layers and branches take gamma times the cloud's."""
    graph = toy(50, 0.4)

    assert [each.seconds[DEVICE] for each in graph.layers] == pytest.approx([0.05, 0.1, 0.15])
    assert graph.exits[0].seconds[DEVICE] == pytest.approx(0.025)


def test_gamma_needs_cloud_times() -> None:
    """What cannot be scaled is named."""
    graph = LayerGraph.from_json(GOOD, "toy")

    with pytest.raises(ProfileError, match=r"exit b2\.seconds\.cloud: missing"):
        graph.with_gamma(10)
    with pytest.raises(ProfileError, match="gamma: 0, expected a positive number"):
        graph.with_gamma(0)


def test_counts_become_conditional_probabilities() -> None:
    """Spec A3: exits 200, 300, 400 and 100 left; and BranchyNet's published shares."""
    probabilities, reach = conditional_probabilities([200, 300, 400, 100])

    assert probabilities == pytest.approx([0.2, 0.375, 0.8, 1])
    assert reach == pytest.approx([1, 0.8, 0.5, 0.1])
    shares, _ = conditional_probabilities([4361, 3579, 2060])
    assert shares[0] == pytest.approx(0.4361)
    assert shares[1] == pytest.approx(0.634687, abs=5e-7)


def test_carpex_reach_by_layer() -> None:
    """Spec A3: branches after layers 2, 5 and 7 of 21; layers 1-2 see all, 3-5 0.8, 6-7 0.5, 8-21 0.1."""
    names = [f"v{i}" for i in range(1, 22)]
    layers = [Layer(name, (parent,), {DEVICE: 0.1}, 1) for name, parent in zip(names, ["input", *names], strict=False)]
    exits = [Exit(f"b{k}", f"v{k}", {DEVICE: 0.0}, p) for k, p in ((2, 0.2), (5, 0.375), (7, 0.8))]
    graph = LayerGraph("CARPEX", 1, tuple(layers), tuple(exits))

    reach = graph.reach({branch.name: ExitChoice(True) for branch in exits})

    assert reach == pytest.approx({"b2": 1, "b5": 0.8, "b7": 0.5, "final": 0.1})


def test_probabilities_can_be_set() -> None:
    """They replace the file's, and unknown names are refused."""
    graph = toy(10, 0.5).with_probabilities({"b1": 0.8})

    assert graph.reach({"b1": ExitChoice(True)}) == pytest.approx({"b1": 1, "final": 0.2})
    with pytest.raises(ProfileError, match="no exit 'b7', expected one of: b1"):
        graph.with_probabilities({"b7": 0.5})
    with pytest.raises(ProfileError, match=r"exits\[0\].probability: 1.5"):
        graph.with_probabilities({"b1": 1.5})


def test_the_table_counts_jointly() -> None:
    """Shares and correct answers are those of the samples, which are not independent."""
    graph = LayerGraph.from_json(GOOD, "toy")
    run = ExitChoice(True)

    both = graph.outcomes(graph.exits, {"b1": run, "b2": run})

    assert both.shares == (0.25, 0.5, 0.25)  # b1 at the default 0.9, b2 at the profile's 0.8
    assert both.correct == (0.25, 0.25, 0.0)
    assert graph.reach({"b2": run}) == {"b2": 1.0, "final": 0.25}
    assert graph.reach({"b2": ExitChoice(True, 0.85)}) == {"b2": 1.0, "final": 0.5}
    assert graph.reach({"b2": ExitChoice(False)}) == {"final": 1.0}


def test_weights_count() -> None:
    """A sample of weight three counts three times."""
    table = Validation(["b", "final"], [[0.9, 0.1], [1, 1]], [[True, True], [True, False]], [3, 1])

    assert table.outcomes([("b", 0.9)]).shares == (0.75, 0.25)
    assert table.outcomes([]).correct == (0.75,)
    assert table.final_accuracy == 0.5


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99))
@settings(max_examples=25)
def test_live_probabilities_weigh_the_table_anew(p1: float, p2: float) -> None:
    """With all branches running, each answers just the share that was measured."""
    graph = LayerGraph.from_json(edited(lambda data: data["joint"].pop("weights")), "toy")
    run = ExitChoice(True)

    reach = graph.with_probabilities({"b1": p1, "b2": p2}).reach({"b1": run, "b2": run})

    assert reach["b2"] == pytest.approx(1 - p1)
    assert reach["final"] == pytest.approx((1 - p1) * (1 - p2))


def test_a_share_that_no_sample_makes_up_is_refused() -> None:
    """Nobody is sure at b1 here, so it cannot answer half of them."""
    table = Validation(["b1", "final"], [[0.1, 0.2], [1, 1]], np.ones((2, 2), dtype=bool))

    with pytest.raises(
        ProfileError, match=r"no sample could make up an exit probability 0\.5 of 'b1' at threshold 0\.9"
    ):
        table.reweighted([("b1", 0.9)], {"b1": 0.5})


def test_thresholds_compare_in_the_precision_of_the_table() -> None:
    """A float32 confidence of 0.9 reaches a threshold of 0.9: confidence == threshold answers."""
    table = Validation(["b", "final"], np.full((2, 1), 0.9, np.float32), [[True], [True]])

    assert table.outcomes([("b", 0.9)]).shares == (1.0, 0.0)


def test_a_point_has_f32_unless_its_codecs_are_listed() -> None:
    """Raw float32 is always possible at the raw size; a list says what may be chosen."""
    graph = LayerGraph.from_json(GOOD, "toy")

    assert graph.codec_names("v1") == ("f32",)
    assert graph.codec_cost("v1", "f32").bytes == 50_000
    assert graph.codec_names("v2") == ("q8+zstd",)
    assert graph.codec_cost("input", "f32").encode_seconds == 0.004
    with pytest.raises(ValueError, match="'v1' has no codec 'q8', expected one of: f32"):
        graph.codec_cost("v1", "q8")


def test_quality_is_relative_to_what_is_lossless() -> None:
    """Accuracy with a codec over the table's own; never above one."""
    graph = LayerGraph.from_json(GOOD, "toy")

    assert graph.codec_quality("v2", "q8+zstd") == pytest.approx(0.7 / 0.75)
    assert graph.codec_quality("input", "camera") == 1.0


def test_a_graph_knows_its_tiers() -> None:
    """Those that every layer has a time for."""
    assert LayerGraph.from_json(GOOD, "toy").tiers == {DEVICE, CLOUD}
    assert Tier.EDGE not in toy(1, 0).tiers
