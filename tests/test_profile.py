"""Profiles: the checked DAG, its exits, its codecs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popexd.errors import ProfileError
from popexd.plan import ExitChoice, Tier
from popexd.profile import Exit, Layer, LayerGraph
from popexd.validation import FINAL
from tests.graphs import CLOUD, DEVICE, toy
from tests.test_profile_file import GOOD, edited


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


def reach(graph: LayerGraph, choices: dict[str, ExitChoice]) -> dict[str, float]:
    """Share of frames that gets to each running branch, in layer order, and to `final`."""
    running = [branch for branch in graph.exits if branch.name in choices and choices[branch.name].runs]
    return dict(zip([*(branch.name for branch in running), FINAL], graph.outcomes(running, choices).reach, strict=True))


def test_carpex_reach_by_layer() -> None:
    """Spec A3: branches after layers 2, 5 and 7 of 21; layers 1-2 see all, 3-5 0.8, 6-7 0.5, 8-21 0.1."""
    names = [f"v{i}" for i in range(1, 22)]
    layers = [Layer(name, (parent,), {DEVICE: 0.1}, 1) for name, parent in zip(names, ["input", *names], strict=False)]
    exits = [Exit(f"b{k}", f"v{k}", {DEVICE: 0.0}, p) for k, p in ((2, 0.2), (5, 0.375), (7, 0.8))]
    graph = LayerGraph("CARPEX", 1, tuple(layers), tuple(exits))

    shares = reach(graph, {branch.name: ExitChoice(True) for branch in exits})

    assert shares == pytest.approx({"b2": 1, "b5": 0.8, "b7": 0.5, "final": 0.1})


def test_probabilities_can_be_set() -> None:
    """They replace the file's, and unknown names are refused."""
    graph = toy(10, 0.5).with_probabilities({"b1": 0.8})

    assert reach(graph, {"b1": ExitChoice(True)}) == pytest.approx({"b1": 1, "final": 0.2})
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
    assert reach(graph, {"b2": run}) == {"b2": 1.0, "final": 0.25}
    assert reach(graph, {"b2": ExitChoice(True, 0.85)}) == {"b2": 1.0, "final": 0.5}
    assert reach(graph, {"b2": ExitChoice(False)}) == {"final": 1.0}


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99))
@settings(max_examples=25)
def test_live_probabilities_weigh_the_table_anew(p1: float, p2: float) -> None:
    """With all branches running, each answers just the share that was measured."""
    graph = LayerGraph.from_json(edited(lambda data: data["joint"].pop("weights")), "toy")
    run = ExitChoice(True)

    shares = reach(graph.with_probabilities({"b1": p1, "b2": p2}), {"b1": run, "b2": run})

    assert shares["b2"] == pytest.approx(1 - p1)
    assert shares["final"] == pytest.approx((1 - p1) * (1 - p2))


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
