"""A bundle that tells image-quality classes apart: experts, temperatures and thresholds of their own."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from popexd import bundle as bundles
from popexd.bundle import Bundle
from popexd.criteria import Criterion
from popexd.errors import BundleError
from popexd.plan import Tier
from popexd.runtime import background
from popexd.runtime.segments import SegmentRunner

DEFAULT = bundles.load()
PLAIN, EXPERT = "b1", "segments/b1.blurred.onnx"


def rewritten(folder: Path, table: bytes | None = None, **exits: dict[str, Any]) -> Bundle:
    """The default bundle with changes to its exits, and b1's file once more as an expert."""
    facts = json.loads((DEFAULT.folder / "bundle.json").read_text(encoding="utf-8"))
    for entry in facts["exits"]:
        entry.update(exits.get(entry["name"], {}))
    names = [entry["file"] for entry in (*facts["segments"], *facts["exits"])]
    files = {name: (DEFAULT.folder / name).read_bytes() for name in (*names, "validation.npz")}
    files["validation.npz"] = table or files["validation.npz"]
    b1 = next(entry["file"] for entry in facts["exits"] if entry["name"] == PLAIN)
    return bundles.write(folder, facts, {**files, EXPERT: files[b1]})


def tensor(bundle: Bundle, runner: SegmentRunner, after: str, seed: int = 0) -> np.ndarray[Any, Any]:
    """What the segment `after` makes of a random frame."""
    size = bundle.input
    pixels = np.random.default_rng(seed).integers(0, 256, (1, size.height, size.width, 3), dtype=np.uint8)
    names = [segment.name for segment in bundle.segments]
    return runner.run({"input": pixels}, names[: names.index(after) + 1])[after]


def test_an_expert_answers_for_its_class_and_nobody_elses(tmp_path: Path) -> None:
    """The file that ran is the expert's; its temperature and threshold are its own."""
    bundle = rewritten(
        tmp_path / "bundle", b1={"by_quality": {"blurred": {"file": EXPERT, "temperature": 2.0, "threshold": 0.97}}}
    )
    runner = SegmentRunner(bundle, threads=1)
    spec = bundle.exits[0]
    maps = tensor(bundle, runner, spec.after)
    plain, expert = (runner.classify(PLAIN, maps, quality) for quality in ("clear", "blurred"))
    assert (runner.executions[PLAIN], runner.executions[f"{PLAIN}@blurred"]) == (1, 1)
    np.testing.assert_array_equal(plain.logits, expert.logits)  # it is the same file
    for said, temperature in ((plain, spec.temperature), (expert, 2.0)):
        odds = np.exp(said.logits.astype(np.float64) / temperature)
        assert said.confidence == pytest.approx((odds / odds.sum()).max())
    assert bundle.bounds("blurred")[PLAIN] == 0.97
    assert bundle.bounds("clear") == bundle.bounds() == DEFAULT.bounds()


@pytest.mark.parametrize("name", ["entropy", "normalised-entropy"])
def test_a_branch_that_goes_by_entropy_is_certain_by_its_entropy(tmp_path: Path, name: str) -> None:
    """Certainty and bound are what spec (b) C's definitions come to; planner and worker compare the same two."""
    facts = json.loads((DEFAULT.folder / "bundle.json").read_text(encoding="utf-8"))
    table = DEFAULT.validation
    nats = np.random.default_rng(0).uniform(0, math.log(len(DEFAULT.classes)), table.confidence.shape)
    arrays = {key: getattr(table, key) for key in ("exits", "confidence", "correct", "predicted", "label", "quality")}
    np.savez(tmp_path / "validation.npz", **arrays, entropy=nats.astype(np.float32))
    for entry in facts["exits"]:
        entry.update({"criterion": name, "threshold": 0.4})
    names = [entry["file"] for entry in (*facts["segments"], *facts["exits"])]
    files = {each: (DEFAULT.folder / each).read_bytes() for each in names}
    bundle = bundles.write(
        tmp_path / "bundle", facts, {**files, "validation.npz": (tmp_path / "validation.npz").read_bytes()}
    )
    runner = SegmentRunner(bundle, threads=1)
    spec = bundle.exits[0]
    said = runner.classify(spec.name, tensor(bundle, runner, spec.after))
    odds = np.exp(said.logits.astype(np.float64) / spec.temperature)
    likely = odds / odds.sum()
    entropy = float(-(likely * np.log(likely)).sum())
    assert said.entropy == pytest.approx(entropy)
    largest = math.log(len(bundle.classes))
    assert said.certainty == pytest.approx(1 - entropy / largest)
    sure = entropy < (0.4 if name == "entropy" else 0.4 * largest)
    assert (said.certainty >= bundle.bounds()[spec.name]) == sure
    profile = background.measure(runner, bundle, budget_seconds=0.1)
    graph = background.graph(bundle, profile, {Tier.CLOUD: profile})
    assert graph.validation is not None
    answering = graph.validation.answers(spec.name, graph.thresholds[spec.name])
    measured = bundle.validation.entropy
    assert measured is not None
    scaled = measured[0] if name == "entropy" else measured[0] / largest
    np.testing.assert_array_equal(answering, scaled < 0.4)


def test_a_branch_by_entropy_needs_entropies_in_the_table(tmp_path: Path) -> None:
    """Planning would have nothing to count."""
    with np.load(DEFAULT.folder / "validation.npz") as arrays:
        np.savez(tmp_path / "without.npz", **{name: arrays[name] for name in arrays.files if name != "entropy"})
    without = (tmp_path / "without.npz").read_bytes()
    with pytest.raises(BundleError, match="entropy: missing"):
        rewritten(tmp_path / "bundle", without, b1={"criterion": "entropy", "threshold": 0.5})
    assert rewritten(tmp_path / "bundle", without).validation.entropy is None


@pytest.mark.parametrize(
    ("entry", "where"),
    [
        ({"by_quality": []}, r"by_quality"),
        ({"by_quality": {"blurred": 1}}, r"by_quality\.blurred"),
        ({"by_quality": {"blurred": {"threshold": "high"}}}, r"blurred\.threshold"),
        ({"by_quality": {"blurred": {"temperature": -1}}}, r"blurred\.temperature"),
        ({"by_quality": {"blurred": {"file": "../x"}}}, "leaves the bundle"),
        ({"by_quality": {"blurred": {"file": "segments/none.onnx"}}}, "missing or empty"),
        ({"by_quality": {str(number): {} for number in range(65)}}, "at most 64"),
    ],
)
def test_a_wrong_variant_is_named_in_one_line(tmp_path: Path, entry: dict[str, Any], where: str) -> None:
    """Key and file, and nothing is written."""
    with pytest.raises(BundleError, match=where) as caught:
        rewritten(tmp_path / "bundle", b1=entry)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bundle").exists()


def test_an_altered_expert_is_noticed(tmp_path: Path) -> None:
    """The fingerprint covers experts like any other file."""
    bundle = rewritten(tmp_path / "bundle", b1={"by_quality": {"blurred": {"file": EXPERT}}})
    assert bundles.load(bundle.folder).fingerprint == bundle.fingerprint
    (bundle.folder / EXPERT).write_bytes(b"another")
    with pytest.raises(BundleError, match="fingerprint"):
        bundles.load(bundle.folder)


def test_the_criterion_of_a_profile_survives_its_file() -> None:
    """Thresholds are written in the criterion's unit and read back as the same bounds."""
    runner = SegmentRunner(DEFAULT, threads=1)
    profile = background.measure(runner, DEFAULT, budget_seconds=0.1)
    graph = background.graph(DEFAULT, profile, {Tier.CLOUD: profile})
    by_entropy = type(graph.exits[0])(
        graph.exits[0].name, graph.exits[0].after, graph.exits[0].seconds, criterion=Criterion("entropy", 8)
    )
    bound = by_entropy.criterion.bound(0.25)
    made = type(graph)(
        model="m",
        input_bytes=1,
        layers=graph.layers,
        exits=(by_entropy,),
        thresholds={by_entropy.name: bound},
        quality_thresholds={"blurred": {by_entropy.name: by_entropy.criterion.bound(0.1)}},
    )
    data = made.to_json()
    assert data["exits"][0]["threshold"] == pytest.approx(0.25)
    assert data["exits"][0]["threshold_by_quality"] == {"blurred": pytest.approx(0.1)}
    again = type(graph).from_json(data)
    assert again.thresholds[by_entropy.name] == pytest.approx(bound, abs=1e-12)
    assert again.quality_thresholds["blurred"][by_entropy.name] == pytest.approx(by_entropy.criterion.bound(0.1))
    assert again.exits[0].criterion == by_entropy.criterion


def test_without_an_estimator_nobody_plans_for_classes() -> None:
    """The table may know what was wrong with its samples; no frame will ever be told to be of a class."""
    runner = SegmentRunner(DEFAULT, threads=1)
    profile = background.measure(runner, DEFAULT, budget_seconds=0.1)
    told = background.graph(DEFAULT, profile, {}).validation
    untold = background.graph(replace(DEFAULT, quality=None), profile, {}).validation
    assert told is not None
    assert untold is not None
    assert set(told.qualities) == set(DEFAULT.quality_names)
    assert untold.qualities == {}


def test_expected_shares_weigh_the_planners_table(tmp_path: Path) -> None:
    """Written in bundle.json, they stand for how often a camera shows each class; wrong ones are one line."""
    facts = json.loads((DEFAULT.folder / "bundle.json").read_text(encoding="utf-8"))
    names = [entry["file"] for entry in (*facts["segments"], *facts["exits"])]
    files = {name: (DEFAULT.folder / name).read_bytes() for name in (*names, "validation.npz")}
    shares = {"clear": 0.7, "blurred": 0.3, "noisy": 0.0, "dark": 0.0}
    facts["quality"]["shares"] = shares
    bundle = bundles.write(tmp_path / "bundle", facts, files)
    runner = SegmentRunner(bundle, threads=1)
    table = background.graph(bundle, background.measure(runner, bundle, budget_seconds=0.1), {}).validation
    assert table is not None
    assert {name: table.share_of(name) for name in shares} == pytest.approx(shares)
    assert table.of_quality("dark").confidence.shape[1] > 0
    facts["quality"]["shares"] = {"clear": 1.5}
    with pytest.raises(BundleError, match=r"quality\.shares"):
        bundles.write(tmp_path / "other", facts, files)
