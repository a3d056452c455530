"""Tiers, links, plans, and what a plan sends where."""

from __future__ import annotations

import math

import pytest

from popexd.cut import crossings, cut_of, plan_to_json, points_by_hop
from popexd.errors import InputError
from popexd.network import Link, NetworkState
from popexd.plan import ExitChoice, Plan, Tier
from popexd.profile import Exit, Layer, LayerGraph
from tests.graphs import CLOUD, DEVICE, EDGE, cut_plan, toy, uplink

SLOW, FAST, OWN = Link(1e6), Link(1e8), Link(1e7)


def diamond() -> LayerGraph:
    """Layer a feeds b and c, both feed d; c also reads the input."""
    times = dict.fromkeys(Tier, 0.001)
    layers = (
        Layer("a", ("input",), times, 100),
        Layer("b", ("a",), times, 200),
        Layer("c", ("a", "input"), times, 300),
        Layer("d", ("b", "c"), times, 4),
    )
    return LayerGraph("diamond", 1000, layers, (Exit("e", "a", times),))


def placed(*tiers: Tier) -> Plan:
    """A plan for the diamond."""
    return Plan(dict(zip("abcd", tiers, strict=True)))


def test_tiers_are_ordered_and_named() -> None:
    """Device below edge below cloud, each found by the name that files use."""
    assert DEVICE < EDGE < CLOUD
    assert [Tier.of(tier.label) for tier in Tier] == list(Tier)
    with pytest.raises(InputError, match="'fog' is not a tier, expected one of: device, edge, cloud"):
        Tier.of("fog")


@pytest.mark.parametrize("rate", [0.0, -1.0, math.inf, math.nan])
def test_a_link_has_a_positive_finite_rate(rate: float) -> None:
    """A rate of zero is an error that says so; an outage is having no link."""
    with pytest.raises(InputError, match="bits_per_second"):
        Link(rate)


def test_a_link_has_no_negative_round_trip() -> None:
    """Round trips are zero or more."""
    with pytest.raises(InputError, match="round_trip_seconds"):
        Link(1e6, -0.1)


@pytest.mark.parametrize(
    ("network", "source", "destination", "hops"),
    [
        (NetworkState(SLOW), DEVICE, CLOUD, ("device",)),
        (NetworkState(SLOW), DEVICE, EDGE, None),
        (NetworkState(SLOW), EDGE, CLOUD, None),
        (NetworkState(SLOW, FAST), DEVICE, CLOUD, ("device", "edge")),
        (NetworkState(SLOW, FAST), DEVICE, EDGE, ("device",)),
        (NetworkState(SLOW, FAST), EDGE, CLOUD, ("edge",)),
        (NetworkState(SLOW, FAST, OWN), DEVICE, CLOUD, ("direct",)),
        (NetworkState(None, FAST), DEVICE, CLOUD, None),
        (NetworkState(None), DEVICE, CLOUD, None),
        (NetworkState(None), DEVICE, DEVICE, ()),
        (NetworkState(SLOW, FAST), CLOUD, DEVICE, None),
    ],
)
def test_routes_follow_the_links(
    network: NetworkState, source: Tier, destination: Tier, hops: tuple[str, ...] | None
) -> None:
    """The edge relays unless there is a direct link; without the edge's uplink the edge is not used."""
    assert network.route(source, destination) == hops


def test_a_plan_sends_f32_unless_it_says_otherwise() -> None:
    """Codecs are named by the tier that encodes."""
    plan = Plan({}, {}, {"device": "q8"})

    assert (plan.codec(DEVICE), plan.codec(EDGE)) == ("q8", "f32")


def test_a_tensor_crosses_once_however_many_layers_read_it() -> None:
    """`a` is read by two layers above, and goes up as one tensor."""
    found = crossings(placed(DEVICE, CLOUD, CLOUD, CLOUD), diamond())

    assert [(each.point, each.destinations) for each in found] == [("input", (CLOUD,)), ("a", (CLOUD,))]


def test_what_the_cloud_needs_passes_the_edge() -> None:
    """Relayed tensors are listed on both hops, the edge's own only on the second."""
    plan = placed(DEVICE, EDGE, CLOUD, CLOUD)

    assert points_by_hop(plan, diamond(), NetworkState(SLOW, FAST)) == {
        "device": ["input", "a"],
        "edge": ["input", "a", "b"],
    }
    assert points_by_hop(plan, diamond(), NetworkState(SLOW, FAST, OWN)) == {
        "direct": ["input", "a"],
        "device": ["a"],
        "edge": ["b"],
    }


def test_data_never_flows_back() -> None:
    """A layer below its parent is refused."""
    with pytest.raises(ValueError, match="'d' on the device reads 'b' on the edge"):
        crossings(placed(DEVICE, EDGE, DEVICE, DEVICE), diamond())


def test_a_plan_places_every_layer() -> None:
    """A missing layer is named."""
    with pytest.raises(ValueError, match="nothing of layer 'd'"):
        crossings(Plan(dict.fromkeys("abc", DEVICE)), diamond())


@pytest.mark.parametrize(
    ("cut", "named"), [(0, "input"), (1, "v1"), (2, "v2"), (3, "output")], ids=["all away", "v1", "v2", "all here"]
)
def test_cuts_are_named_by_what_leaves_the_device(cut: int, named: str) -> None:
    """`input` is everything in the cloud, `output` nothing leaves."""
    graph = toy(10, 0.5)

    assert cut_of(cut_plan(graph, cut), graph) == named


def test_several_tensors_that_leave_are_a_list() -> None:
    """A cut through a DAG names all of them."""
    assert cut_of(placed(DEVICE, DEVICE, CLOUD, CLOUD), diamond()) == ["input", "a", "b"]


def test_a_plan_as_json() -> None:
    """The form of decisions: cut, cuts, tiers, exits, codec."""
    graph = toy(10, 0.5)
    plan = Plan(cut_plan(graph, 2).tiers, {"b1": ExitChoice(True, 0.8)}, {"device": "q8+zstd"})

    assert plan_to_json(plan, graph, uplink(8)) == {
        "cut": "v2",
        "cuts": {"device": ["v2"], "edge": []},
        "tiers": {"v1": "device", "v2": "device", "v3": "cloud"},
        "exits": {"b1": {"runs": True, "threshold": 0.8}},
        "codec": "q8+zstd",
        "codecs": {"device": "q8+zstd"},
    }


def test_three_tiers_as_json() -> None:
    """Without a network given, a plan that uses the edge is relayed by it."""
    form = plan_to_json(placed(DEVICE, EDGE, EDGE, CLOUD), diamond())

    assert form["cut"] == ["input", "a"]
    assert form["cuts"] == {"device": ["input", "a"], "edge": ["b", "c"]}
    assert form["codecs"] == {"device": "f32", "edge": "f32"}


def test_nothing_sent_has_no_codec() -> None:
    """A plan that stays on the device names no codec, and a branch that does not run no threshold."""
    form = plan_to_json(cut_plan(toy(1, 0), 3), toy(1, 0))

    assert (form["cut"], form["codec"], form["cuts"]["device"]) == ("output", None, [])
    assert form["exits"] == {"b1": {"runs": False, "threshold": None}}
