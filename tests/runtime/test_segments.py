"""Segments: any cut gives the whole model's answer, exits are real, and what does not fit is refused."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from popexd.errors import BundleError
from popexd.protocol.codec import CODECS, decode, encode
from popexd.runtime.frames import load_image
from popexd.runtime.segments import InferenceError, SegmentRunner, available_cores, classification
from tests.runtime.bundles import DIAMOND, default_bundle, diamond, frame, model, whole_logits

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "pets.zip"
NAMES = [name for name, _, _ in DIAMOND]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SegmentRunner]:
    """Load the diamond."""
    made = SegmentRunner(diamond(tmp_path_factory.mktemp("bundles") / "diamond"), threads=1)
    yield made
    made.close()


@pytest.fixture(scope="module")
def trained() -> Iterator[SegmentRunner]:
    """Load the default bundle."""
    made = SegmentRunner(default_bundle(), threads=1)
    yield made
    made.close()


def sent(tensors: dict[str, Any], codec: str) -> dict[str, Any]:
    """Send tensors through a codec."""
    return {name: decode(encode(tensor, codec)) for name, tensor in tensors.items()}


def test_the_segments_are_the_whole_model(runner: SegmentRunner) -> None:
    """All segments in one go give the logits of the model that they were cut from."""
    pixels = frame()

    np.testing.assert_array_equal(runner.run({"input": pixels}, NAMES)["head"], whole_logits(pixels))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.integers(0, 1000), st.lists(st.integers(0, len(NAMES)), max_size=4), st.sampled_from(["f32", "f32+zstd"]))
def test_any_cuts_at_f32_change_nothing(runner: SegmentRunner, seed: int, cuts: list[int], codec: str) -> None:
    """However many times the model is cut, and wherever, lossless tensors give the whole model's logits exactly."""
    pixels = frame(seed)
    tensors: dict[str, Any] = {"input": pixels}
    for begin, end in pairwise([0, *sorted(cuts), len(NAMES)]):
        tensors = sent(runner.run(tensors, NAMES[begin:end]), codec)

    assert set(tensors) == {"head"}
    np.testing.assert_array_equal(tensors["head"], whole_logits(pixels))


def test_only_what_is_still_needed_stays(runner: SegmentRunner) -> None:
    """After each cut just the tensors that later segments read are handed on."""
    pixels = frame()
    expected = [{"input"}, {"stem"}, {"stem", "left"}, {"stem", "left", "right"}, {"stem", "join"}, {"head"}]

    assert [set(runner.run({"input": pixels}, NAMES[:end])) for end in range(len(NAMES) + 1)] == expected


def test_the_order_of_names_does_not_matter(runner: SegmentRunner) -> None:
    """Segments run in the bundle's order, whatever order the route names them in."""
    pixels = frame()

    np.testing.assert_array_equal(runner.run({"input": pixels}, NAMES[::-1])["head"], whole_logits(pixels))


def test_executions_tell_what_ran(runner: SegmentRunner) -> None:
    """A frame that leaves at the branch runs its segment and the branch once each, and nothing behind it."""
    runner.executions.clear()
    tensors = runner.run({"input": frame()}, ["stem"])
    answer = runner.classify("early", tensors["stem"])

    assert runner.executions == Counter({"stem": 1, "early": 1})
    assert answer.logits.shape == (3,)
    assert 1 / 3 <= answer.confidence <= 1


def test_what_was_returned_stays(runner: SegmentRunner) -> None:
    """Tensors and logits of one frame are not touched by the next."""
    pixels = frame(1)
    tensors = runner.run({"input": pixels}, ["stem"])
    answer = runner.classify("early", tensors["stem"])
    stem, logits = tensors["stem"].copy(), answer.logits.copy()
    other = runner.run({"input": frame(2)}, ["stem"])
    runner.classify("early", other["stem"])

    np.testing.assert_array_equal(tensors["stem"], stem)
    np.testing.assert_array_equal(answer.logits, logits)
    np.testing.assert_array_equal(runner.classify("early", stem).logits, logits)
    np.testing.assert_array_equal(runner.run({"stem": stem}, NAMES[1:])["head"], whole_logits(pixels))


def test_confidence_is_calibrated(runner: SegmentRunner) -> None:
    """A branch's temperature divides its logits before softmax; the class stays the same."""
    stem = runner.run({"input": frame(3)}, ["stem"])["stem"]
    answer = runner.classify("early", stem)
    odds = np.exp(answer.logits.astype(np.float64) / 1.5)

    assert answer.confidence == pytest.approx(odds.max() / odds.sum(), rel=1e-6)
    assert answer.class_index == int(answer.logits.argmax())


def test_the_final_exit_reads_the_last_segment(runner: SegmentRunner) -> None:
    """The exit "final" needs no session of its own."""
    logits = runner.run({"input": frame()}, NAMES)["head"]
    answer = runner.classify("final", logits)

    np.testing.assert_array_equal(answer.logits, logits[0])


@pytest.mark.parametrize(
    ("tensors", "names", "complaint"),
    [
        ({"input": frame()}, ["tail"], "tail"),
        ({"tail": frame()}, NAMES, "tail"),
        ({"input": frame()}, ["left"], "stem"),
        ({"input": frame().astype(np.float32)}, NAMES, "uint8"),
        ({"input": frame(side=8)}, NAMES, "16"),
        ({"stem": np.zeros((1, 4, 8, 9), np.float32)}, ["left"], "stem"),
        ({"stem": np.zeros((1, 4, 8, 8), np.float64)}, ["left"], "float32"),
    ],
)
def test_what_does_not_fit_is_refused(
    runner: SegmentRunner, tensors: dict[str, Any], names: list[str], complaint: str
) -> None:
    """Unknown segments, missing tensors and wrong shapes or types raise one error of ours that names them."""
    with pytest.raises(InferenceError, match=complaint):
        runner.run(tensors, names)


def test_a_wrong_exit_is_refused(runner: SegmentRunner) -> None:
    """An unknown branch, or a branch on the wrong tensor, raises our error."""
    stem = runner.run({"input": frame()}, ["stem"])["stem"]

    with pytest.raises(InferenceError, match="late"):
        runner.classify("late", stem)
    with pytest.raises(InferenceError, match="stem"):
        runner.classify("early", stem[:, :2])
    with pytest.raises(InferenceError, match="head"):
        runner.classify("final", stem)


def test_a_network_gone_mad_does_not_answer(runner: SegmentRunner) -> None:
    """Logits that are not finite are an error, never an answer."""
    with pytest.raises(InferenceError, match="finite"):
        runner.classify("early", np.full((1, 4, 8, 8), np.nan, np.float32))
    with pytest.raises(InferenceError, match="finite"):
        classification(np.array([[1, np.inf, 0]], np.float32))


def test_a_closed_runner_is_of_no_use(tmp_path: Path) -> None:
    """After close everything is refused."""
    made = SegmentRunner(diamond(tmp_path / "bundle"), threads=1)
    stem = made.run({"input": frame()}, ["stem"])["stem"]
    made.close()

    with pytest.raises(InferenceError, match="closed"):
        made.run({"input": frame()}, NAMES)
    with pytest.raises(InferenceError, match="closed"):
        made.classify("early", stem)


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"left": b"not a model"}, "cannot be loaded"),
        ({"left": b"\x08\x09" * 500}, "cannot be loaded"),
        ({"left": model({"stem": (1, 4, 8, 8)}, ["right"], "right", (1, 4, 8, 8))}, "left out"),
        ({"head": model({"stem": (1, 4, 8, 8)}, ["early"], "early", (1, 3))}, "join, stem in"),
    ],
)
def test_a_wrong_file_is_told_when_loading(tmp_path: Path, files: dict[str, bytes], complaint: str) -> None:
    """A file that is no ONNX model, or has other inputs and outputs, fails at start with its name."""
    with pytest.raises(BundleError, match=complaint):
        SegmentRunner(diamond(tmp_path / "bundle", **files), threads=1)


def test_zero_threads_are_all_cores(tmp_path: Path) -> None:
    """The default takes every core that this process may use."""
    assert SegmentRunner(diamond(tmp_path / "bundle")).threads == available_cores() >= 1


def whole_of(runner: SegmentRunner) -> onnxruntime.InferenceSession:
    """Merge the default bundle's chain of segments into one model in one session."""
    from benchmarks.segment_chain import whole_model

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(whole_model(runner.bundle), options, providers=["CPUExecutionProvider"])


def test_any_cut_of_the_default_bundle_gives_the_whole_model_s_logits(trained: SegmentRunner) -> None:
    """Cut after any segment and sent as f32, the trained network's logits equal those of the model in one session."""
    names = [segment.name for segment in trained.bundle.segments]
    whole = whole_of(trained)
    for seed in range(3):
        pixels = frame(seed, trained.bundle.input.height)
        expected = whole.run(None, {"input": pixels})[0]
        for cut in range(len(names) + 1):
            live = sent(trained.run({"input": pixels}, names[:cut]), "f32")
            np.testing.assert_array_equal(trained.run(live, names[cut:])[names[-1]], expected)


@pytest.mark.skipif(not PHOTOS.is_file(), reason="the real photos are not here")
def test_lossy_codecs_keep_most_answers(trained: SegmentRunner) -> None:
    """On real photos q8 and f16 hardly change the logits at any cut, and coarser codecs change them more."""
    names = [segment.name for segment in trained.bundle.segments]
    with zipfile.ZipFile(PHOTOS) as archive:
        photos = [archive.read(name) for name in archive.namelist() if name.lower().endswith(".jpg")][:8]
    errors: dict[str, list[float]] = {codec: [] for codec in CODECS}
    for photo in photos:
        pixels = load_image(photo, trained.bundle.input.height, trained.bundle.input.width)
        expected = trained.run({"input": pixels}, names)[names[-1]]
        for cut in range(1, len(names)):
            live = trained.run({"input": pixels}, names[:cut])
            for codec in CODECS:
                logits = trained.run(sent(live, codec), names[cut:])[names[-1]]
                errors[codec].append(float(np.abs(logits - expected).max() / np.abs(expected).max()))
    mean = {codec: float(np.mean(values)) for codec, values in errors.items()}

    assert mean["f32"] == mean["f32+zstd"] == 0
    assert mean["f16"] < 0.005
    assert mean["q8"] < 0.05
    assert mean["q8"] < mean["q4"] < mean["q2"]
