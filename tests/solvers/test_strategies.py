"""The strategies shown beside a decision."""

from __future__ import annotations

import random

import pytest

from popexd.network import Link, NetworkState
from popexd.plan import Tier
from popexd.profile import CodecCost, LayerGraph
from popexd.solvers import Problem, solve
from popexd.solvers.strategies import alternatives
from tests.graphs import DEVICE, EDGE, random_chain, random_dag, random_network, toy, uplink


def dressed() -> LayerGraph:
    """The toy with the image codecs of a bundle."""
    graph = toy(10, 0.5)
    images = {
        "camera": CodecCost(22_800, 0, 0.002),
        "jpeg-75": CodecCost(8_000, 0.003, 0.001),
        "webp-75": CodecCost(5_000, 0.006, 0.001),
        "f32": CodecCost(100_000),
    }
    return LayerGraph("toy", 100_000, graph.layers, graph.exits, {"input": images})


def test_each_strategy_has_its_price() -> None:
    """The toy at 8 Mbit/s."""
    problem = Problem(dressed(), uplink(8))
    chosen = solve("joint", problem)

    assert dict(alternatives(problem, chosen)) == pytest.approx(
        {
            "device-only": 0.060,
            "device-with-exits": 0.040,
            "camera-jpeg-to-cloud": 0.0228 + 0.002 + 0.006,
            "resized-image-to-cloud": 0.003 + 0.008 + 0.001 + 0.006,
            "raw-tensor-to-cloud": 0.106,
            "best-split-without-exits": 0.043,
            "chosen": chosen.prediction.seconds,
        }
    )


def test_what_is_not_possible_is_missing() -> None:
    """No image codecs in the profile; no link at all."""
    plain = [name for name, _ in alternatives(Problem(toy(10, 0.5), uplink(8)))]
    offline = [name for name, _ in alternatives(Problem(toy(10, 0.5), NetworkState(None)))]

    assert plain == ["device-only", "device-with-exits", "raw-tensor-to-cloud", "best-split-without-exits"]
    assert offline == ["device-only", "device-with-exits"]


def test_an_edge_without_a_cloud_is_named() -> None:
    """The names say where it goes."""
    graph = random_chain(random.Random(1), 4, 0, (DEVICE, EDGE))

    names = [name for name, _ in alternatives(Problem(graph, NetworkState(Link(1e6), Link(1e9))))]

    assert names == ["device-only", "raw-tensor-to-edge", "best-split-without-exits"]


@pytest.mark.parametrize("seed", range(40))
def test_joint_is_never_behind(seed: int) -> None:
    """No simple strategy beats the chosen plan, on any graph and links."""
    rng = random.Random(seed)
    graph = rng.choice([random_chain, random_dag])(rng, rng.randint(1, 8), rng.randint(0, 3), tuple(Tier), rich=True)
    problem = Problem(graph, random_network(rng))
    chosen = solve("joint", problem).prediction.seconds

    assert all(chosen <= seconds + 1e-9 for _, seconds in alternatives(problem))


def test_graphs_that_branch_have_them_too() -> None:
    """All but the split, which is a chain's."""
    names = [name for name, _ in alternatives(Problem(random_dag(random.Random(2), 6, 1), uplink(8)))]

    assert names == ["device-only", "device-with-exits", "raw-tensor-to-cloud"]
