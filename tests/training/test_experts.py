"""A net that is trained on photos of two patterns, with experts for blurred ones: from folders to a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from popexd import bundle as bundles
from popexd.cli.main import main
from popexd.evaluation import quality_fit
from popexd.evaluation.outcomes import exit_logits

pytest.importorskip("torch", reason="needs the extra `train`")
pytest.importorskip("onnx", reason="needs the extra `train`")
pytestmark = pytest.mark.train

from popexd.training import checkpoint, data, loop  # noqa: E402 - after the skip

SMALL = ["--backbone", "b-alexnet-tiny", "--batch", "32", "--seed", "3", "--threads", "1", "--device", "cpu", "--json"]


def run(*words: object) -> None:
    """Run a command that must succeed."""
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    assert caught.value.code in (0, None)


def complaint(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run a command that must fail with one line."""
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    assert caught.value.code == 2
    line = capsys.readouterr().err.strip()
    assert "\n" not in line
    return line


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw two classes, stripes across and along, 160 of each in tones and widths that vary."""
    root = tmp_path_factory.mktemp("photos") / "stripes"
    random = np.random.default_rng(8)
    for name in ("across", "along"):
        (root / name).mkdir(parents=True)
        for index in range(160):
            wave = np.sin(np.arange(120) * 2 * np.pi / random.uniform(9, 16) + random.uniform(0, 6))
            picture = 128 + random.uniform(30, 90) * np.repeat(wave[:, None], 120, axis=1)
            if name == "along":
                picture = picture.T
            pixels = picture[:, :, None] + random.normal(0, 4, (120, 120, 3))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / name / f"{index}.jpg", quality=95)
    return root


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, stripes: Path) -> Path:
    """Train on clear photos, then branches for blurred ones on the frozen backbone."""
    out = tmp_path_factory.mktemp("runs")
    run("train", "--data", stripes, "--out", out / "clear", "--epochs", "3", "--augmentation", "none", *SMALL)
    words = ["--from", out / "clear" / loop.BEST, "--freeze", "--distort", "blurred", "--epochs", "2"]
    run("train", "--data", stripes, "--out", out / "blurred", *words, "--augmentation", "none", *SMALL)
    return out


@pytest.fixture(scope="module")
def bundle(runs: Path, stripes: Path) -> bundles.Bundle:
    """Export both, measured on clear, blurred and noisy photos."""
    words = ["--expert", f"blurred={runs / 'blurred' / loop.BEST}", "--data", stripes, "--codec-frames", "4", "--json"]
    words += ["--distort", "clear,blur-15,blur-65,noise-40"]
    run("export", runs / "clear" / loop.BEST, "--out", runs / "bundle", *words)
    return bundles.load(runs / "bundle")


def test_the_net_has_really_learned(bundle: bundles.Bundle) -> None:
    """What it says of clear photos is right, at every exit, in the table that was measured with the written files."""
    table = bundle.validation
    clear = table.quality == "clear"
    assert clear.sum() == 32
    assert (table.correct[:, clear].mean(axis=1) > 0.9).all()


def test_the_bundle_tells_quality_classes_and_has_an_expert_for_one(bundle: bundles.Bundle) -> None:
    """The estimator knows the classes measured; both branches have a file of their own for blurred frames."""
    assert bundle.quality_names == ("clear", "blurred", "noisy")
    for exit_ in bundle.exits:
        assert exit_.by_quality["blurred"].file is not None
        assert exit_.by_quality["blurred"].file.name == f"{exit_.name}@blurred.onnx"
    table = bundle.validation
    assert table.seen is not None
    assert bundle.quality is not None
    assert (table.seen == table.quality).mean() == pytest.approx(bundle.quality.agreement, abs=1e-3)
    assert table.entropy is not None
    assert table.entropy.shape == table.confidence.shape


def test_experts_answer_the_frames_that_are_seen_to_be_theirs(bundle: bundles.Bundle, runs: Path) -> None:
    """For blurred frames every exit is the expert net's within 1e-4, for clear ones the other's, at its temperature."""
    found = data.reopen(runs / "clear" / "data-clear,blur-15,blur-65,noise-40").split("validation")
    nets = {name: checkpoint.restore(checkpoint.load(runs / name / loop.BEST), runs) for name in ("clear", "blurred")}
    table = bundle.validation
    assert table.seen is not None
    for quality, net in nets.items():
        own = np.flatnonzero(table.seen == quality)[:6]
        expected = loop.evaluate(net, found.images[own])
        logits = exit_logits(bundle, found.images[own], seen=[quality] * len(own), threads=1)
        np.testing.assert_allclose(logits, expected, atol=1e-4)
        temperatures = [*(each.temperature_for(quality) for each in bundle.exits), bundle.final_temperature]
        for row, temperature in enumerate(temperatures):
            odds = np.exp(expected[row].astype(float) / temperature)
            likely = odds / odds.sum(axis=1, keepdims=True)
            np.testing.assert_allclose(table.confidence[row, own], likely.max(axis=1), atol=1e-4)


def test_temperatures_change_no_class_and_the_table_none_of_the_answers(bundle: bundles.Bundle, runs: Path) -> None:
    """The classes in the table are those of the bare logits."""
    found = data.reopen(runs / "clear" / "data-clear,blur-15,blur-65,noise-40").split("validation")
    table = bundle.validation
    assert table.seen is not None
    plain = exit_logits(bundle, found.images, seen=table.seen.tolist(), threads=1)
    assert (plain.argmax(axis=2) == table.predicted).mean() > 0.999
    assert np.array_equal(table.predicted == found.labels, table.correct)


def test_an_expert_on_another_backbone_is_refused(
    capsys: pytest.CaptureFixture[str], runs: Path, stripes: Path, tmp_path: Path
) -> None:
    """One line, and no bundle."""
    content: dict[str, Any] = checkpoint.load(runs / "blurred" / loop.BEST)
    content["weights"] = {name: tensor + 1 for name, tensor in content["weights"].items()}
    checkpoint.save(tmp_path / "other.pt", content)
    best, out = runs / "clear" / loop.BEST, tmp_path / "bundle"
    line = complaint(capsys, "export", best, "--out", out, "--expert", f"blurred={tmp_path / 'other.pt'}")
    assert "other.pt" in line
    assert "--freeze --from" in line
    line = complaint(capsys, "export", best, "--out", out, "--expert", f"blurred={runs / 'blurred' / loop.BEST}")
    assert "expected frames of the experts' classes too" in line
    assert "--expert: 'fog'" in complaint(capsys, "export", best, "--out", out, "--expert", "fog")
    assert "expected --data" in complaint(capsys, "export", best, "--out", out, "--distort", "blurred")
    assert not out.exists()


def test_freezing_needs_something_to_freeze(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One line that names both ways to get it."""
    assert "--from CHECKPOINT or --pretrained" in complaint(capsys, "train", "--freeze", "--out", tmp_path / "run")


def test_the_bundle_says_how_it_was_trained(bundle: bundles.Bundle) -> None:
    """Recipe, data and experts, without a path of this machine."""
    facts = bundle.facts["training"]
    assert facts["recipe"]["backbone"] == "b-alexnet-tiny"
    assert facts["experts"] == ["blurred"]
    assert facts["data"]["distort"] == "clear,blur-15,blur-65,noise-40"
    assert facts["largest_difference_to_torch"] < 1e-4
    assert str(bundle.folder.parent) not in json.dumps(bundle.facts)


def test_too_few_frames_of_a_class_are_said_and_no_class_is_missed_in_silence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, runs: Path, stripes: Path, tmp_path: Path
) -> None:
    """With an expert one line says how many there are; without one a bundle without classes says why it has none."""
    monkeypatch.setattr(quality_fit, "LEAST_FRAMES", 1000)
    words = ["export", runs / "clear" / loop.BEST, "--out", tmp_path / "bundle", "--data", stripes]
    words += ["--cache", tmp_path / "frames", "--distort", "clear,blur-15", "--codec-frames", "4"]
    tuned = data.reopen(runs / "clear" / "data").split("tuning")
    told = f"{len(tuned)} blurred, {len(tuned)} clear among the frames to tune on, expected at least 1000 of a class"
    line = complaint(capsys, *words, "--expert", f"blurred={runs / 'blurred' / loop.BEST}")
    assert line.endswith(f"--expert: {tmp_path / 'frames'}: {told}")
    assert not (tmp_path / "bundle").exists()
    # What is left is whole: the next command takes it up.
    assert len(data.reopen(tmp_path / "frames").split("tuning")) == 2 * len(tuned)
    run(*words)
    assert capsys.readouterr().err.strip() == f"no quality estimator and no classes: {told}"
    assert bundles.load(tmp_path / "bundle").quality is None
