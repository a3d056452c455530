"""How long a frame takes that leaves at an exit: added up here from the profile's own figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from popexd import bundle as bundles
from popexd.cli.exit_times import exit_times
from popexd.errors import InputError
from popexd.plan import Tier
from popexd.profile import LayerGraph
from tests.cli.conftest import Run
from tests.graphs import toy

BUNDLE = bundles.load()


@pytest.fixture
def profile(run: Run, tmp_path: Path) -> Path:
    """The default bundle, measured here, on a device that is ten times slower."""
    path = tmp_path / "profile.json"
    assert run("profile", "--seconds", 0.2, "--slowdown", 10, "--out", path) == 0
    return path


def test_on_the_device_times_add_up(profile: Path) -> None:
    """Layers and branches up to the exit, nothing else."""
    graph = LayerGraph.load(profile)
    found = exit_times(BUNDLE, profile, None, 0, None, "output")

    clock, expected = graph.input_seconds[Tier.DEVICE], {}
    for layer in graph.layers:
        clock += layer.seconds[Tier.DEVICE]
        for branch in graph.branches.get(layer.name, ()):
            clock += branch.seconds[Tier.DEVICE]
            expected[branch.name] = clock
    expected["final"] = clock
    assert found.seconds == pytest.approx(expected)
    assert found.running == {"b1", "b3"}
    assert found.cut == "output"


def test_behind_a_cut_no_branch_runs_and_the_rest_is_shipped(profile: Path) -> None:
    """With the quickest codec: encoding, link, round trip, decoding, cloud."""
    graph = LayerGraph.load(profile)
    found = exit_times(BUNDLE, profile, "4g", 40, None, "pool2")

    assert found.running == {"b1"}
    assert found.cut == "pool2"
    on_device = found.seconds["b1"] + graph.layers[1].seconds[Tier.DEVICE]
    cloud = sum(layer.seconds[Tier.CLOUD] for layer in graph.layers[2:])
    ways = [
        cost.encode_seconds + 8 * cost.bytes / 5.85e6 + 0.040 + cost.decode_seconds
        for cost in graph.codecs["pool2"].values()
    ]
    back = 8 * graph.result_bytes / 5.85e6
    assert found.seconds["final"] == pytest.approx(on_device + min(ways) + cloud + back)


def test_without_a_cut_it_is_the_quickest_plan_s(profile: Path) -> None:
    """Over a fast link much is shipped, over none everything stays."""
    assert exit_times(BUNDLE, profile, None, 0, None, None).cut == "output"
    fast = exit_times(BUNDLE, profile, "1000", 0, 100, None)
    assert fast.seconds["final"] < exit_times(BUNDLE, profile, "1000", 0, 100, "output").seconds["final"]


@pytest.mark.parametrize(
    ("uplink", "cut", "named"),
    [
        ("4g", "pool9", "--cut: 'pool9', expected input, output, or one of pool1"),
        (None, "pool1", "--cut: pool1: no way to the cloud, expected --uplink-mbps"),
        ("fast", None, "--uplink-mbps: 'fast', expected a positive number"),
    ],
)
def test_a_cut_or_link_that_makes_no_sense_is_said(
    profile: Path, uplink: str | None, cut: str | None, named: str
) -> None:
    """With the option and what was expected."""
    with pytest.raises(InputError) as refused:
        exit_times(BUNDLE, profile, uplink, 0, None, cut)
    assert named in str(refused.value)


def test_a_profile_of_another_network_is_refused(tmp_path: Path) -> None:
    """Its exits are not the bundle's."""
    path = tmp_path / "toy.json"
    path.write_text(json.dumps(toy(10, 0.5).to_json()))
    with pytest.raises(InputError, match=r"toy.json: exits .*, expected those of conveyor-b-alexnet: b1, b3"):
        exit_times(BUNDLE, path, None, 0, None, None)


def test_the_profile_of_another_network_is_refused(profile: Path) -> None:
    """The same exits on other segments have other times."""
    data = json.loads(profile.read_text())
    data["layers"][0]["name"] = "stem"
    data["layers"][1]["after"] = ["stem"]
    data["exits"] = [entry | {"after": "stem"} if entry["after"] == "pool1" else entry for entry in data["exits"]]
    data["codecs"].pop("pool1")
    profile.write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"layers stem, .* expected the segments of conveyor-b-alexnet: pool1"):
        exit_times(BUNDLE, profile, None, 0, None, "output")
