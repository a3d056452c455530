"""The Background step: everything is measured, kept for this machine, and becomes the planner's graph."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from popexd.bundle import Bundle
from popexd.errors import MessageRejected
from popexd.latency import predict
from popexd.network import Link, NetworkState
from popexd.plan import Plan, Tier
from popexd.profile import LayerGraph
from popexd.runtime.background import MachineProfile, graph, machine, measure, measured_once, reference_frame
from popexd.runtime.frames import sniff
from popexd.runtime.segments import SegmentRunner
from tests.runtime.bundles import diamond


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SegmentRunner]:
    """Load the diamond."""
    made = SegmentRunner(diamond(tmp_path_factory.mktemp("bundles") / "diamond"), threads=1)
    yield made
    made.close()


@pytest.fixture(scope="module")
def measured(runner: SegmentRunner) -> MachineProfile:
    """Measure the diamond once."""
    return measure(runner, runner.bundle, budget_seconds=0.2)


def made_up(bundle: Bundle, factor: float = 1.0, **changed: Any) -> MachineProfile:
    """Make a profile of round numbers: a millisecond times `factor` for everything, ten for a frame."""
    cuts = {"input": ("camera", "f32", "jpeg-90", "webp-75"), "stem": ("f32", "q8+zstd"), "left": ("f32",)}
    fields: dict[str, Any] = {
        "fingerprint": bundle.fingerprint,
        "machine": "made up",
        "threads": 1,
        "segments": {segment.name: 0.001 * factor for segment in bundle.segments},
        "exits": {exit_.name: 0.001 * factor for exit_ in bundle.exits},
        "frame_seconds": 0.01 * factor,
        "frame_bytes": 30_000,
        "encode": {cut: dict.fromkeys(codecs, 0.002 * factor) for cut, codecs in cuts.items()},
        "decode": {
            cut: {codec: (0.01 if codec == "camera" else 0.003) * factor for codec in codecs}
            for cut, codecs in cuts.items()
        },
    }
    return MachineProfile.from_json(fields | changed)


def test_everything_is_measured(runner: SegmentRunner, measured: MachineProfile) -> None:
    """Every segment, branch, and codec of the bundle's table has a time, f32 and the camera's frame besides."""
    bundle = runner.bundle

    assert measured.covers(bundle)
    assert list(measured.segments) == [segment.name for segment in bundle.segments]
    assert set(measured.exits) == {"early"}
    assert measured.encode.keys() == measured.decode.keys() == {"input", "stem", "left", "right", "join"}
    assert set(measured.encode["input"]) == {"camera", "f32", "jpeg-90", "webp-75"}
    assert set(measured.decode["stem"]) == {"f32", "q8+zstd", "q4c"}
    assert set(measured.encode["left"]) == {"f32"}
    tables = [measured.segments, measured.exits, *measured.encode.values(), *measured.decode.values()]
    assert all(seconds > 0 for table in tables for seconds in table.values())
    assert measured.frame_seconds > 0


def test_the_chain_is_warmed_up_and_repeated(runner: SegmentRunner) -> None:
    """Each segment runs once for warming up and at least three times for the median, however small the budget."""
    runner.executions.clear()
    measure(runner, runner.bundle, budget_seconds=0.0)

    assert {runner.executions[segment.name] for segment in runner.bundle.segments} == {4}


def test_a_slowdown_multiplies_every_time(runner: SegmentRunner) -> None:
    """The laboratory's slow device is slow in everything."""
    plain = made_up(runner.bundle)

    assert plain.slowed(7.0) == made_up(runner.bundle, 7.0, machine=plain.machine)


def test_a_profile_survives_json(measured: MachineProfile) -> None:
    """A worker's profile arrives as it was sent."""
    assert MachineProfile.from_json(json.loads(json.dumps(measured.to_json()))) == measured


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"segments": {"stem": -1}},
        {"segments": {"stem": "NaN"}},
        {"frame_seconds": float("nan")},
        {"threads": 0},
        {"encode": {"stem": 3}},
        {"exits": {"early": 1e9}},
    ],
)
def test_a_wrong_profile_is_refused(runner: SegmentRunner, data: Any) -> None:
    """A profile from outside is checked, and refused with MessageRejected."""
    whole = made_up(runner.bundle).to_json()

    with pytest.raises(MessageRejected) as caught:
        MachineProfile.from_json(whole | data if data else data)
    assert caught.value.reason == "profile"


def test_what_was_measured_is_kept(runner: SegmentRunner, tmp_path: Path) -> None:
    """The second start on a machine measures nothing; the slowdown applies to what was kept."""
    folder = tmp_path / "new" / "cache"
    first = measured_once(runner, runner.bundle, folder, 0.1)
    runner.executions.clear()
    again = measured_once(runner, runner.bundle, folder, 0.1)
    slow = measured_once(runner, runner.bundle, folder, 0.1, slowdown=3.0)

    assert again == first
    assert slow == first.slowed(3.0)
    assert not runner.executions
    assert [path.suffix for path in folder.iterdir()] == [".json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"fingerprint": "other"}'])
def test_a_damaged_cache_is_ignored(runner: SegmentRunner, tmp_path: Path, content: bytes) -> None:
    """A cache that cannot be read is measured anew and replaced."""
    first = measured_once(runner, runner.bundle, tmp_path, 0.1)
    (path,) = tmp_path.iterdir()
    path.write_bytes(content)
    again = measured_once(runner, runner.bundle, tmp_path, 0.1)

    assert again.segments.keys() == first.segments.keys()
    assert MachineProfile.from_json(json.loads(path.read_text())) == again


def test_another_model_s_cache_is_ignored(runner: SegmentRunner, tmp_path: Path) -> None:
    """A file under the right name with another fingerprint inside does not count."""
    measured_once(runner, runner.bundle, tmp_path, 0.1)
    (path,) = tmp_path.iterdir()
    path.write_text(json.dumps(made_up(runner.bundle, fingerprint="other").to_json()))

    assert measured_once(runner, runner.bundle, tmp_path, 0.1).fingerprint == runner.bundle.fingerprint


def test_a_folder_that_cannot_be_written_is_no_fault(runner: SegmentRunner, tmp_path: Path) -> None:
    """Without a place for the cache the machine is measured at each start."""
    (tmp_path / "file").write_text("in the way")

    assert measured_once(runner, runner.bundle, tmp_path / "file", 0.1).covers(runner.bundle)


def test_the_machine_is_described() -> None:
    """The description names processor, threads and software, in one short line."""
    text = machine(3)

    assert "3 threads" in text
    assert "onnxruntime" in text
    assert len(text) <= 200
    assert text.isprintable()


def test_the_reference_frame_is_a_camera_s() -> None:
    """The frame is a JPEG of a small camera's size, the same each time."""
    found = sniff(reference_frame())

    assert (found.format, found.width, found.height) == ("jpeg", 640, 480)
    assert 10_000 < len(found.data) < 100_000
    assert reference_frame() == found.data


def test_the_graph_has_every_tier_that_is_there(runner: SegmentRunner) -> None:
    """Layers and branches have seconds on the device and on each remote tier, and the bundle's shape."""
    bundle = runner.bundle
    device, cloud = made_up(bundle, 10), made_up(bundle)
    found = graph(bundle, device, {Tier.CLOUD: cloud, Tier.EDGE: made_up(bundle, 2)})

    assert found.names == ("stem", "left", "right", "join", "head")
    assert found.by_name["join"].after == ("left", "right")
    assert found.by_name["join"].output_bytes == 4 * 4 * 8 * 8
    assert dict(found.by_name["stem"].seconds) == {Tier.DEVICE: 0.01, Tier.EDGE: 0.002, Tier.CLOUD: 0.001}
    assert dict(found.exits[0].seconds) == {Tier.DEVICE: 0.01, Tier.EDGE: 0.002, Tier.CLOUD: 0.001}
    assert found.thresholds == {"early": 0.9}
    assert found.validation is not None
    np.testing.assert_array_equal(found.validation.confidence, bundle.validation.confidence)
    assert graph(bundle, device, {}).tiers == {Tier.DEVICE}


def test_the_graph_prices_every_codec(runner: SegmentRunner) -> None:
    """Sizes come from the bundle, encoding from the device, decoding from the slowest that may receive."""
    bundle = runner.bundle
    found = graph(bundle, made_up(bundle, 10), {Tier.CLOUD: made_up(bundle), Tier.EDGE: made_up(bundle, 2)})
    packed = found.codec_cost("stem", "q8+zstd")

    assert (packed.bytes, packed.agreement, packed.accuracy) == (200, 0.99, 0.9)
    assert packed.encode_seconds == pytest.approx(0.02)
    assert packed.decode_seconds == pytest.approx(0.006)
    assert found.codec_cost("stem", "f32").bytes == 4 * 4 * 8 * 8
    # Measured by none of the machines: not on offer.
    assert "q4c" not in found.codecs["stem"]


def test_at_the_input_the_frame_is_paid_once(runner: SegmentRunner) -> None:
    """The camera's own bytes cost no device time; whatever is sent resized pays for decoding the frame first."""
    bundle = runner.bundle
    found = graph(bundle, made_up(bundle, 10), {Tier.CLOUD: made_up(bundle)}, camera_bytes=50_000, envelope_bytes=700)
    costs = found.codecs["input"]

    assert (costs["camera"].bytes, costs["camera"].encode_seconds) == (50_700, 0)
    assert costs["camera"].decode_seconds == pytest.approx(0.01)
    assert costs["jpeg-90"].encode_seconds == pytest.approx(0.1 + 0.02)
    assert costs["jpeg-90"].decode_seconds == pytest.approx(0.003)
    assert costs["f32"].bytes == 4 * 16 * 16 * 3 + 700
    assert found.input_seconds == {Tier.DEVICE: pytest.approx(0.1)}


def test_live_frames_correct_the_reference(runner: SegmentRunner) -> None:
    """A camera with larger frames than the reference makes decoding dearer here and in the cloud alike."""
    bundle = runner.bundle
    found = graph(bundle, made_up(bundle, 10), {Tier.CLOUD: made_up(bundle)}, frame_seconds=0.3)

    assert found.input_seconds == {Tier.DEVICE: 0.3}
    assert found.codecs["input"]["camera"].decode_seconds == pytest.approx(0.03)
    assert found.codecs["input"]["camera"].bytes == 2500
    assert found.codecs["input"]["webp-75"].encode_seconds == pytest.approx(0.3 + 0.02)


def test_a_profile_of_another_model_is_left_out(runner: SegmentRunner) -> None:
    """A remote tier whose profile is not about this bundle, or incomplete, does not take part."""
    bundle = runner.bundle
    device = made_up(bundle)
    other = made_up(bundle, fingerprint="other")
    incomplete = made_up(bundle, segments={"stem": 0.001})

    assert graph(bundle, device, {Tier.CLOUD: other, Tier.EDGE: incomplete}).tiers == {Tier.DEVICE}


def test_the_measured_graph_can_be_planned_with(runner: SegmentRunner, measured: MachineProfile) -> None:
    """The graph is a valid profile file, and the cost model prices plans on it."""
    found = graph(runner.bundle, measured.slowed(50), {Tier.CLOUD: measured})
    read = LayerGraph.from_json(json.loads(json.dumps(found.to_json())))
    all_cloud = Plan(dict.fromkeys(read.names, Tier.CLOUD), codecs={"device": "camera"})
    network = NetworkState(Link(1e6, 0.01))

    assert predict(all_cloud, read, network).bytes == 2500
    assert predict(all_cloud, read, network).seconds == pytest.approx(
        predict(all_cloud, found, network).seconds, rel=1e-9
    )


def test_profile_command_writes_what_plan_reads(
    runner: SegmentRunner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`popexd profile` shows a table and writes a profile; another machine's profile gives the cloud's seconds."""
    from popexd.cli.main import main

    out = tmp_path / "here.json"
    folder = str(runner.bundle.folder)
    for words in (
        ["profile", folder, "--seconds", "0.1", "--out", str(out)],
        ["profile", folder, "--seconds", "0.1", "--slowdown", "50", "--cloud", str(out), "--json"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert not ended.value.code
    shown = capsys.readouterr().out
    here = LayerGraph.load(out)
    slow = LayerGraph.from_json(json.loads(shown[shown.index("{") :]))

    assert "q8+zstd" in shown
    assert slow.by_name["stem"].seconds[Tier.CLOUD] == here.by_name["stem"].seconds[Tier.DEVICE]
    assert slow.by_name["stem"].seconds[Tier.DEVICE] > here.by_name["stem"].seconds[Tier.DEVICE]


@pytest.mark.parametrize(
    "words",
    [
        ["no-such-bundle"],
        ["{bundle}", "--cloud", "no-such-file"],
        ["{bundle}", "--out", "/no/such/folder/profile.json"],
        ["{bundle}", "--threads", "-1"],
        ["{bundle}", "--slowdown", "0.5"],
    ],
)
def test_profile_command_complains_in_one_line(
    runner: SegmentRunner, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """Bad input ends with status 2 and one line."""
    from popexd.cli.main import main

    with pytest.raises(SystemExit) as ended:
        main(["profile", *(word.format(bundle=runner.bundle.folder) for word in words), "--seconds", "0.1"])

    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
