"""Classifiers as graphs: D3's five networks count as the spec counts them; what cannot be traced is one line."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from popexd.errors import InputError, ProfileError  # noqa: E402 - after the skip
from popexd.plan import Tier  # noqa: E402
from popexd.training.network_profile import graph_of, profile  # noqa: E402
from popexd.training.regression import LayerTimes, trust  # noqa: E402
from popexd.training.timing import Timing, measure  # noqa: E402
from popexd.training.vertices import Network, load  # noqa: E402

pytestmark = pytest.mark.train


@pytest.mark.parametrize(
    ("name", "vertices", "cuts", "giga_multiply_adds", "million_parameters", "last_map"),
    [
        ("alexnet", 12, 11, 0.7142, 61.101, (256, 6, 6)),
        ("vgg16", 21, 20, 15.4703, 138.358, (512, 7, 7)),
        ("resnet18", 31, 11, 1.8141, 11.690, (512, 7, 7)),
        ("darknet53", 77, 30, 9.2851, 41.610, (1024, 8, 8)),
        ("inception-v4", 188, 23, 12.2540, 42.680, (1536, 8, 8)),
    ],
)
def test_the_five_networks(
    name: str,
    vertices: int,
    cuts: int,
    giga_multiply_adds: float,
    million_parameters: float,
    last_map: tuple[int, ...],
) -> None:
    """Spec (b): convolution with what follows it is one vertex."""
    network = load(name)

    assert (len(network.vertices), len(network.cut_vertices)) == (vertices, cuts)
    assert round(network.multiply_adds / 1e9, 4) == giga_multiply_adds
    assert round(network.parameters / 1e6, 3) == pytest.approx(million_parameters, abs=0.0006)
    assert last_map in {vertex.shape for vertex in network.vertices[-12:]}


def test_sizes_of_vgg16() -> None:
    """Spec (b): float32 bytes after the first convolution, the pools and the classifier."""
    network = load("vgg16")
    pools = [vertex.output_bytes for vertex in network.vertices if vertex.kind == "pool"]

    assert network.input_bytes == 602_112
    assert network.vertices[0].output_bytes == 12_845_056
    assert pools == [3_211_264, 1_605_632, 802_816, 401_408, 100_352]
    assert network.vertices[-1].output_bytes == 4_000


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "googlenet", "shufflenet_v2_x0_5", "vit_b_32"])
def test_other_classifiers_become_graphs_too(name: str) -> None:
    """Squeeze and excitation, Inception, channel shuffles, attention: every parameter is in one vertex."""
    network = load(name)
    graph = graph_of(network, {vertex.name: 0.001 for vertex in network.vertices})

    assert graph.sinks == (network.vertices[-1].name,)
    inside = sum(each.numel() for each in network.traced.parameters())
    assert network.parameters >= 0.995 * inside


def test_an_unknown_network_is_one_line() -> None:
    """With the nearest name there is."""
    with pytest.raises(InputError, match=r"--model: 'resnet19', did you mean 'resnet1?\d"):
        load("resnet19")


@pytest.fixture(scope="module")
def timing() -> Timing:
    """A small network, measured on one thread."""
    return measure(load("squeezenet1_1"), 0.5, threads=1)


def test_vertices_and_partitions_are_measured(timing: Timing) -> None:
    """Every vertex has a time; longer partitions take longer; the sums are compared with the runs."""
    assert set(timing.seconds) == {vertex.name for vertex in timing.network.vertices}
    assert all(seconds >= 0 for seconds in timing.seconds.values())
    assert len(timing.fronts) == 4
    assert list(timing.sums.values()) == sorted(timing.sums.values())
    assert timing.sums[timing.network.vertices[-1].name] == pytest.approx(sum(timing.seconds.values()))
    assert timing.partition_error >= 0


def pretended(name: str, seconds_per_multiply_add: float) -> Timing:
    """A network whose times follow from what its vertices are."""
    network = load(name)
    times = {
        vertex.name: 2e-5 + seconds_per_multiply_add * vertex.multiply_adds + 1e-9 * vertex.output_numbers
        for vertex in network.vertices
    }
    total = sum(times.values())
    end = network.vertices[-1].name
    return Timing(network, times, {end: total}, {end: total})


def test_times_that_follow_a_rule_are_learnt() -> None:
    """Networks never seen are then predicted, whole and in parts; the trust says so."""
    timings = [pretended(name, 2e-11) for name in ("squeezenet1_0", "resnet18", "vgg11")]
    unseen = pretended("mobilenet_v2", 2e-11)
    found = LayerTimes.fitted(timings).all_seconds(unseen.network)
    confidence = trust(timings)

    assert sum(found.values()) == pytest.approx(sum(unseen.seconds.values()), rel=0.1)
    assert confidence.overall < 0.1
    assert set(confidence.whole) == {"squeezenet1_0", "resnet18", "vgg11"}
    assert all(abs(error) < 0.1 for error in confidence.whole.values())


def test_a_profile_of_another_machine_is_the_cloud() -> None:
    """By vertex; one of another network is refused."""
    network: Network = load("squeezenet1_1")
    here = {vertex.name: 0.004 for vertex in network.vertices}
    far = graph_of(network, {vertex.name: 0.001 for vertex in network.vertices})
    graph = graph_of(network, here, 2.0, far)

    assert {(layer.seconds[Tier.DEVICE], layer.seconds[Tier.CLOUD]) for layer in graph.layers} == {(0.008, 0.001)}
    other = load("alexnet")
    with pytest.raises(ProfileError, match=r"--cloud: no seconds of the device for .* expected a profile of alexnet"):
        graph_of(other, {vertex.name: 0.001 for vertex in other.vertices}, cloud=far)


def test_a_prediction_says_how_far_to_trust_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured networks besides the one asked for; none of its own times."""
    from popexd.training import network_profile

    monkeypatch.setattr(network_profile, "TAUGHT_BY", ("squeezenet1_1", "mnasnet0_5", "shufflenet_v2_x0_5"))
    said: list[str] = []
    found = profile("squeezenet1_1", 0.6, predicted=True, threads=1, say=said.append)

    assert said == ["measuring mnasnet0_5", "measuring shufflenet_v2_x0_5"]
    assert found.timing is None
    assert found.trust is not None
    assert sum(layer.seconds[Tier.DEVICE] for layer in found.graph.layers) > 0
