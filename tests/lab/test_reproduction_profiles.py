"""Which profiles figures 3 and 4 take, what they take of them, and what their files hold."""

from __future__ import annotations

import csv
import io
import json
import math
import random
from dataclasses import replace
from typing import Any

import pytest

from popexd.errors import ProfileError
from popexd.lab.reproduction.figure import Curve, Fact, Figure, Panel
from popexd.lab.reproduction.figure_3 import figure_3
from popexd.lab.reproduction.figure_4 import figure_4
from popexd.lab.reproduction.partition import LINKS, SYNTHETIC, agrees, as_in_paper, decide, question
from popexd.plan import Tier
from popexd.profile import CodecCost, LayerGraph
from tests.graphs import chain, random_chain, random_dag

POPEX = LINKS["popex"]


def one(figure: Figure, words: str) -> Fact:
    """The fact whose claim has these words."""
    (found,) = [fact for fact in figure.facts if words in fact.paper]
    return found


def test_only_what_the_paper_has_counts_of_a_measured_profile() -> None:
    """Codecs, a validation table, further branches and the device's own times change nothing."""
    for seed in range(6):
        rich = random_chain(random.Random(seed), 6, 3, rich=True)
        if not rich.exits:
            continue
        plain = replace(
            rich, exits=rich.exits[:1], codecs={}, input_seconds={}, result_bytes=0, validation=None, thresholds={}
        )
        full, bare = figure_3(rich, POPEX), figure_3(plain, POPEX)
        assert full.to_json() == bare.to_json()
        assert one(full, "the shortest path").same


def with_codecs() -> LayerGraph:
    """Three layers; the frame as the camera sent it, a faithful codec after v1, and one that spoils answers."""
    graph = chain((1, 2, 3), (100_000, 50_000, 10_000), [(1, 0.5, 0)])
    codecs = {
        "input": {"camera": CodecCost(9_000, 0, 0.002, agreement=1.0)},
        "v1": {
            "f32": CodecCost(50_000),
            "q8": CodecCost(12_000, 0.0002, 0.0001, agreement=0.99),
            "q2": CodecCost(100, 0, 0, agreement=0.6),
        },
    }
    return replace(graph, codecs=codecs, input_seconds={Tier.DEVICE: 0.0003}, result_bytes=500)


@pytest.mark.parametrize(("gamma", "mbps"), [(10, 1.1), (100, 1.1), (10, 18.8), (3, 0.2)])
@pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
def test_with_codecs_the_daemons_own_costs_count(gamma: float, mbps: float, p: float) -> None:
    """Decoding and encoding on the device are slower too, answers take their way back, spoiling codecs are not used."""
    bits = 1e3 * mbps  # in a millisecond
    early, back = gamma * (0.3 + 1 + 0.5), 8 * 500 / bits
    ways = {
        "input camera": 8 * 9_000 / bits + 2 + 6 + back,
        "v1 skip f32": gamma * 1.3 + 8 * 50_000 / bits + 5 + back,
        "v1 skip q8": gamma * (1.3 + 0.2) + 8 * 12_000 / bits + 0.1 + 5 + back,
        "v1 run f32": early + (1 - p) * (8 * 50_000 / bits + 5 + back),
        "v1 run q8": early + (1 - p) * (gamma * 0.2 + 8 * 12_000 / bits + 0.1 + 5 + back),
        "v2 f32": early + (1 - p) * (gamma * 2 + 8 * 10_000 / bits + 3 + back),
        "output": early + (1 - p) * gamma * 5,
    }
    problem = question(as_in_paper(with_codecs(), codecs=True), gamma, p, mbps)
    found = decide(problem)

    assert 1e3 * found.seconds == pytest.approx(min(ways.values()), rel=1e-9)
    assert ways[found.cut] == pytest.approx(min(ways.values()), rel=1e-9)
    assert agrees(problem, found)


def test_profiles_that_do_not_fit_are_refused() -> None:
    """A graph that branches, one without exits, one without times of the cloud."""
    with pytest.raises(ProfileError, match="layers: a graph that branches, expected a chain"):
        figure_3(random_dag(random.Random(1), 6, 1), POPEX)
    with pytest.raises(ProfileError, match="exits: none, expected at least one side branch"):
        figure_4(chain((1, 2), (10, 10)), POPEX)
    with pytest.raises(ProfileError, match="layers: no seconds of the cloud"):
        figure_3(random_chain(random.Random(1), 4, 1, (Tier.DEVICE,)), POPEX)


def test_files_hold_what_the_figure_holds() -> None:
    """Every point, with all its digits, in JSON and in CSV; units are in the names."""
    three = figure_3(LayerGraph.load(SYNTHETIC), POPEX)
    data: dict[str, Any] = json.loads(json.dumps(three.to_json()))
    rows = list(csv.DictReader(io.StringIO(three.to_csv())))

    assert [panel["y"] for panel in data["panels"]] == ["expected_seconds"] * 2
    points = [
        (panel["title"], curve["name"], x, y, label)
        for panel in data["panels"]
        for curve in panel["curves"]
        for x, y, label in zip(curve["x"], curve["y"], curve["labels"], strict=True)
    ]
    assert len(points) == 126
    read = [(row["panel"], row["curve"], float(row["x"]), float(row["y"]), row["label"]) for row in rows]
    assert read == points
    assert data["facts"][0] == {
        "figure": "3",
        "paper": three.facts[0].paper,
        "found": three.facts[0].found,
        "same": True,
    }


def test_a_gap_is_null_in_json_and_empty_in_csv() -> None:
    """JSON knows no nan."""
    panel = Panel("p", "x", "y", "x", "y", [Curve("c", [0, 1], [math.nan, 2])])
    figure = Figure("0", "t", "s", [panel])

    assert figure.to_json()["panels"][0]["curves"][0]["y"] == [None, 2.0]
    assert [row["y"] for row in csv.DictReader(io.StringIO(figure.to_csv()))] == ["", "2.0"]
