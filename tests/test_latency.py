"""The cost model in general: DAGs, three tiers, codecs, accuracy; by its own definition."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popexd.errors import InputError
from popexd.latency import Prediction, predict
from popexd.network import Link, NetworkState
from popexd.plan import ExitChoice, Plan, Tier
from popexd.profile import CodecCost, Exit, Layer, LayerGraph
from popexd.validation import Validation
from tests.graphs import (
    CLOUD,
    DEVICE,
    EDGE,
    cut_plan,
    random_dag,
    toy,
    uplink,
)

RUN, SKIP = ExitChoice(True), ExitChoice(False)


def times(device: float, edge: float, cloud: float) -> dict[Tier, float]:
    """Milliseconds per tier as seconds."""
    return {DEVICE: device / 1e3, EDGE: edge / 1e3, CLOUD: cloud / 1e3}


def three() -> LayerGraph:
    """Three layers over three tiers; a branch after v1 and one after v2."""
    layers = (
        Layer("v1", ("input",), times(10, 4, 1), 50_000),
        Layer("v2", ("v1",), times(20, 8, 2), 10_000),
        Layer("v3", ("v2",), times(30, 12, 3), 40),
    )
    exits = (Exit("b1", "v1", times(5, 2, 0.5), 0.5), Exit("b2", "v2", times(5, 2, 0.5), 0.2))
    return LayerGraph("three", 100_000, layers, exits)


RELAYED = NetworkState(Link(8e6, 0.010), Link(80e6, 0.003))
DIRECT = NetworkState(Link(8e6, 0.010), Link(80e6, 0.003), Link(16e6, 0.020))


def price(tiers: tuple[Tier, ...], network: NetworkState, *running: str, graph: LayerGraph | None = None) -> Prediction:
    """Price a plan on the three layers."""
    graph = graph or three()
    plan = Plan(dict(zip(graph.names, tiers, strict=True)), dict.fromkeys(running, RUN))
    return predict(plan, graph, network)


def test_three_tiers_pay_each_hop() -> None:
    """v1 on the device, v2 on the edge, v3 in the cloud: both transfers, both round trips."""
    found = price((DEVICE, EDGE, CLOUD), RELAYED)

    assert found.seconds == pytest.approx(0.010 + 0.050 + 0.010 + 0.008 + 0.001 + 0.003 + 0.003)
    assert found.bytes_by_hop == {"device": 50_000, "edge": 10_000}
    assert found.bytes == 50_000
    assert found.stages == pytest.approx(
        {"device": 0.010, "device_link": 0.050, "edge": 0.008, "edge_link": 0.001, "cloud": 0.003}
    )
    assert found.bottleneck_seconds == pytest.approx(0.050)


def test_the_edge_relays_what_is_for_the_cloud() -> None:
    """Device to cloud pays both hops, unless there is a link of its own."""
    relayed, direct = (price((DEVICE, CLOUD, CLOUD), network) for network in (RELAYED, DIRECT))

    assert relayed.seconds == pytest.approx(0.010 + 0.050 + 0.010 + 0.005 + 0.003 + 0.005)
    assert relayed.bytes_by_hop == {"device": 50_000, "edge": 50_000}
    assert direct.seconds == pytest.approx(0.010 + 0.025 + 0.020 + 0.005)
    assert direct.bytes_by_hop == {"direct": 50_000}
    assert (relayed.bytes, direct.bytes) == (50_000, 50_000)


def test_branches_run_on_the_tier_of_their_layer() -> None:
    """b1 on the device, b2 on the edge; each weighs what comes after it."""
    found = price((DEVICE, EDGE, CLOUD), RELAYED, "b1", "b2")

    on_edge = 0.050 + 0.010 + 0.008 + 0.002
    assert found.seconds == pytest.approx(0.015 + 0.5 * on_edge + 0.4 * (0.001 + 0.003 + 0.003))
    assert found.exit_probabilities == pytest.approx({"b1": 0.5, "b2": 0.1, "final": 0.4})
    assert found.bytes_by_hop == pytest.approx({"device": 25_000, "edge": 4_000})
    assert found.device_seconds == pytest.approx(0.015)


def test_the_95th_percentile_is_the_way_that_95_of_100_frames_have_done() -> None:
    """The longest way counts while more than five in a hundred take it."""
    assert price((DEVICE, DEVICE, DEVICE), RELAYED, "b1").p95_seconds == pytest.approx(0.065)
    rare = three().with_probabilities({"b1": 0.95})
    assert price((DEVICE, DEVICE, DEVICE), RELAYED, "b1", graph=rare).p95_seconds == pytest.approx(0.015)
    never = three().with_probabilities({"b1": 1})
    assert price((DEVICE, EDGE, CLOUD), RELAYED, "b1", graph=never).p95_seconds == pytest.approx(0.015)


@pytest.mark.parametrize(
    ("tiers", "running", "message"),
    [
        ((CLOUD, DEVICE, CLOUD), (), "'v2' on the device reads 'v1' on the cloud"),
        ((CLOUD, CLOUD, CLOUD), ("b1",), "exit 'b1' would run in the cloud"),
    ],
)
def test_what_cannot_be_is_refused(tiers: tuple[Tier, ...], running: tuple[str, ...], message: str) -> None:
    """A programmer's error, not a cost."""
    with pytest.raises(ValueError, match=message):
        price(tiers, RELAYED, *running)


def test_a_link_or_time_that_is_missing_is_refused() -> None:
    """No way up, no time on a tier."""
    with pytest.raises(ValueError, match="no link leads from the device to the cloud"):
        price((CLOUD, CLOUD, CLOUD), NetworkState(None))
    with pytest.raises(ValueError, match="no link leads from the device to the edge"):
        price((EDGE, EDGE, EDGE), uplink(8))
    with pytest.raises(ValueError, match="'v1' has no time on the edge"):
        price((EDGE, EDGE, EDGE), RELAYED, graph=toy(10, 0))


def test_a_tensor_that_several_layers_read_is_paid_once_per_hop() -> None:
    """Two readers in the cloud and one on the edge: one transfer to the edge, one on from there."""
    layers = (
        Layer("a", ("input",), times(1, 1, 1), 1_000_000),
        Layer("b", ("a",), times(1, 1, 1), 0),
        Layer("c", ("a",), times(1, 1, 1), 0),
        Layer("d", ("a", "b", "c"), times(1, 1, 1), 0),
    )
    graph = LayerGraph("fan", 0, layers)
    plan = Plan({"a": DEVICE, "b": EDGE, "c": CLOUD, "d": CLOUD})

    found = predict(plan, graph, NetworkState(Link(8e6), Link(80e6)))
    assert found.bytes_by_hop == {"device": 1_000_000, "edge": 1_000_000}
    assert found.seconds == pytest.approx(0.004 + 1 + 0.1)
    direct = predict(plan, graph, NetworkState(Link(8e6), Link(80e6), Link(16e6)))
    assert direct.bytes_by_hop == {"device": 1_000_000, "direct": 1_000_000, "edge": 0}
    assert direct.bytes == 2_000_000


def coded() -> LayerGraph:
    """The toy with codecs, an input cost, an answer of 1000 bytes and a table of four samples."""
    graph = toy(10, 0)
    codecs = {
        "input": {"camera": CodecCost(20_000, 0, 0.002, 0.75), "f32": CodecCost(100_000, 0.004)},
        "v1": {"q8": CodecCost(5_000, 0.003, 0.001, 0.5, 0.9), "f32": CodecCost(50_000)},
    }
    table = Validation(
        ["b1", "final"],
        [[0.95, 0.9, 0.1, 0.1], [1, 1, 1, 1]],
        [[True, False, False, False], [True, True, True, False]],
    )
    return LayerGraph("coded", 100_000, graph.layers, graph.exits, codecs, {DEVICE: 0.006}, 1_000.0, table, {"b1": 0.9})


def test_codecs_cost_bytes_and_seconds_on_both_ends() -> None:
    """Encoding on the device, fewer bytes on the way, decoding in the cloud; then the answer's own way back."""
    graph = coded()
    plan = Plan(cut_plan(graph, 1).tiers, {}, {"device": "q8"})

    found = predict(plan, graph, uplink(8, rtt_ms=7))

    assert found.seconds == pytest.approx(0.006 + 0.010 + 0.003 + 0.005 + 0.007 + 0.001 + 0.005 + 0.001)
    assert found.device_seconds == pytest.approx(0.019)
    assert (found.bytes, found.packet_bytes, found.agreement) == (5_000, 5_000, 0.9)


def test_the_frame_is_decoded_only_where_it_is_used() -> None:
    """The camera's own bytes go on without being decoded here; raw pixels do not."""
    graph = coded()
    plan = cut_plan(graph, 0, codec="camera")

    camera = predict(plan, graph, uplink(8))
    raw = predict(cut_plan(graph, 0), graph, uplink(8))

    assert camera.device_seconds == 0
    assert camera.seconds == pytest.approx(0.020 + 0.002 + 0.006 + 0.001)
    assert raw.device_seconds == pytest.approx(0.004)
    assert raw.seconds == pytest.approx(0.004 + 0.100 + 0.006 + 0.001)


def test_accuracy_counts_each_frame_where_it_is_answered() -> None:
    """b1 answers two of four samples, one of them rightly; the final exit is right on one of the other two."""
    graph = coded()

    local = predict(cut_plan(graph, 3), graph, uplink(8))
    early = predict(cut_plan(graph, 3, ["b1"]), graph, uplink(8))
    shipped = predict(cut_plan(graph, 1, ["b1"], "q8"), graph, uplink(8))

    assert local.accuracy == 0.75
    assert early.accuracy == pytest.approx(0.25 + 0.25)
    assert early.exit_probabilities == pytest.approx({"b1": 0.5, "final": 0.5})
    assert shipped.accuracy == pytest.approx(0.25 + 0.25 * (0.5 / 0.75))
    assert predict(cut_plan(toy(10, 0), 3), toy(10, 0), uplink(8)).accuracy is None


def test_the_plan_s_threshold_wins_over_the_profile_s() -> None:
    """0.92 keeps only the surest sample."""
    graph = coded()
    plan = Plan(cut_plan(graph, 3).tiers, {"b1": ExitChoice(True, 0.92)})

    assert predict(plan, graph, uplink(8)).exit_probabilities["b1"] == 0.25


def test_answers_of_the_edge_go_back_over_the_first_hop_only() -> None:
    """And those of the cloud over both; those of the device over none."""
    base = three()
    graph = LayerGraph("back", base.input_bytes, base.layers, base.exits, result_bytes=10_000)

    def extra(tiers: tuple[Tier, ...], *running: str) -> float:
        with_answer = price(tiers, RELAYED, *running, graph=graph)
        return with_answer.seconds - price(tiers, RELAYED, *running).seconds

    assert extra((DEVICE, DEVICE, DEVICE)) == 0
    assert extra((EDGE, EDGE, EDGE)) == pytest.approx(0.010)
    assert extra((DEVICE, EDGE, CLOUD)) == pytest.approx(0.011)
    assert extra((DEVICE, EDGE, CLOUD), "b2") == pytest.approx(0.2 * 0.010 + 0.8 * 0.011)


@given(st.integers(0, 10**9))
def test_any_dag_on_three_tiers_by_definition(seed: int) -> None:
    """Layers where they run, each tensor once per hop it needs, a round trip per hop in use."""
    rng = random.Random(seed)
    graph = random_dag(rng, rng.randint(1, 8), 0)
    tiers: dict[str, Tier] = {}
    for layer in graph.layers:
        tiers[layer.name] = rng.choice([t for t in Tier if t >= max(tiers.get(p, DEVICE) for p in layer.after)])

    carried: dict[str, set[str]] = {"device": set(), "edge": set(), "direct": set()}
    direct = rng.random() < 0.5
    for layer in graph.layers:
        for parent in layer.after:
            source, here = tiers.get(parent, DEVICE), tiers[layer.name]
            if source is DEVICE and here is CLOUD and direct:
                carried["direct"].add(parent)
            else:
                hops = ["device", "edge"][source:here]
                for hop in hops:
                    carried[hop].add(parent)
    network = DIRECT if direct else RELAYED
    expected = sum(layer.seconds[tiers[layer.name]] for layer in graph.layers)
    for hop, points in carried.items():
        if points:
            link = network.links[hop]
            expected += sum(link.transfer_seconds(graph.output_bytes(p)) for p in points) + link.round_trip_seconds

    assert predict(Plan(tiers), graph, network).seconds == pytest.approx(expected, rel=1e-12)


def test_jitter_moves_the_percentile_and_not_the_mean() -> None:
    """One link, everything shipped: the 95th percentile of the logistic law lies 1.6234 deviations above the mean."""
    graph = toy(10, 0)
    calm, restless = (NetworkState(Link(8e6, jitter_seconds=jitter)) for jitter in (0.0, 0.010))
    steady, spread = (predict(cut_plan(graph, 0), graph, network) for network in (calm, restless))

    assert spread.seconds == steady.seconds == steady.p95_seconds
    assert spread.p95_seconds == pytest.approx(steady.p95_seconds + 1.6234 * 0.010, abs=1e-6)


def test_jitter_of_two_hops_adds_up_as_variances() -> None:
    """3 and 4 make 5; what stays on the device is not touched."""
    network = NetworkState(Link(8e6, jitter_seconds=0.003), Link(80e6, jitter_seconds=0.004))
    calm, restless = price((DEVICE, EDGE, CLOUD), RELAYED), price((DEVICE, EDGE, CLOUD), network)
    waits = RELAYED.links["device"].round_trip_seconds + RELAYED.links["edge"].round_trip_seconds

    assert restless.p95_seconds == pytest.approx(calm.p95_seconds - waits + 1.6234 * 0.005, abs=1e-6)
    assert price((DEVICE, DEVICE, DEVICE), network).p95_seconds == price((DEVICE,) * 3, network).seconds


def test_jitter_is_mixed_over_the_exits() -> None:
    """By simulation: half leave at a branch at a fixed time, half cross a restless link."""
    numbers = random.Random(0)
    found = price((DEVICE, CLOUD, CLOUD), NetworkState(Link(8e6, jitter_seconds=0.02)), "b1")
    scale = 0.02 * 3**0.5 / math.pi
    times = []
    for _ in range(200_000):
        share = numbers.random()
        spread = scale * math.log(share / (1 - share))
        left = numbers.random() < 0.5
        times.append(found.path_seconds["b1"] if left else found.path_seconds["final"] + spread)

    assert found.p95_seconds == pytest.approx(sorted(times)[190_000], rel=0.01)


@pytest.mark.parametrize("jitter", [-1.0, float("nan")])
def test_senseless_jitter_is_refused(jitter: float) -> None:
    """One line."""
    with pytest.raises(InputError, match=r"link: jitter_seconds is .*, expected zero or more"):
        Link(1e6, jitter_seconds=jitter)
