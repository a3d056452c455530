"""The study behind docs/quality.md counts what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from popexd import bundle as bundles
from popexd.criteria import Criterion
from popexd.evaluation.outcomes import answers, exit_names
from popexd.lab.quality_study import LEVELS, exits_table, main
from tests.quality.frames import sharp_scenes


def test_exits_are_counted_of_the_frames_that_come_that_far() -> None:
    """Shares and accuracies of random answers, counted again frame by frame, with thresholds of a class of its own."""
    bundle, random = bundles.load(), np.random.default_rng(3)
    names, classes = exit_names(bundle), len(bundle.classes)
    logits = random.normal(size=(len(names), 300, classes)).astype(np.float32) * 4
    label, groups = random.integers(0, classes, 300), random.choice(["one", "two"], 300)
    seen = random.choice(["clear", "dark"], 300)
    given = answers(names, logits, label, quality=groups, seen=seen)
    own = {"dark": dict.fromkeys(names[:-1], 0.5)}

    rows = [line.strip("| ").split(" | ") for line in exits_table(bundle, given, groups, own).splitlines()[2:]]

    chance = np.exp(logits.astype(float))
    chance /= chance.sum(axis=2, keepdims=True)
    for name, size, *cells in rows:
        came, left, right = (np.zeros(len(names), dtype=int) for _ in range(3))
        for sample in np.flatnonzero(groups == name):
            for exit_ in range(len(names)):
                came[exit_] += 1
                usual = 0 if exit_ == len(names) - 1 else bundle.exits[exit_].threshold
                asked = 0.5 if seen[sample] == "dark" and usual else usual
                if chance[exit_, sample].max() >= asked:
                    left[exit_] += 1
                    right[exit_] += logits[exit_, sample].argmax() == label[sample]
                    break
        sides = len(names) - 1
        expected = [f"{left[row] / came[row]:.1%}, {right[row] / left[row]:.1%}" for row in range(sides)]
        expected += [f"{right[-1] / left[-1]:.1%}", f"{right.sum() / came[0]:.1%}"]
        assert (int(size), cells) == (came[0], expected)


def test_a_branch_that_goes_by_entropy_is_counted_by_it() -> None:
    """Those strictly below its threshold leave, with a threshold of its own for a class."""
    bundle, random = bundles.load(), np.random.default_rng(4)
    criterion = Criterion("entropy", len(bundle.classes))
    bundle = replace(
        bundle, exits=tuple(replace(each, criterion=criterion, threshold=1.2, by_quality={}) for each in bundle.exits)
    )
    names = exit_names(bundle)
    logits = random.normal(size=(len(names), 200, len(bundle.classes))).astype(np.float32) * 2
    seen = random.choice(["clear", "dark"], 200)
    given = answers(names, logits, random.integers(0, len(bundle.classes), 200), seen=seen)

    row = exits_table(bundle, given, np.array(["all"] * 200), {"dark": dict.fromkeys(names[:-1], 0.4)})
    chance = np.exp(logits[0].astype(float))
    chance /= chance.sum(axis=1, keepdims=True)
    left = -(chance * np.log(chance)).sum(axis=1) < np.where(seen == "dark", 0.4, 1.2)
    assert 0.05 < left.mean() < 0.95
    assert row.splitlines()[2].split(" | ")[2].split(",")[0] == f"{left.mean():.1%}"


def test_photos_of_a_folder_are_told_under_every_distortion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At the network's size and at the camera's: a row for each, and most of the strong ones found."""
    for place, seed in (("fit", 71), ("test", 72)):
        (tmp_path / place).mkdir()
        for index, (pixels, _) in enumerate(sharp_scenes(seed, 24)):
            Image.fromarray(pixels[::2, ::2]).save(tmp_path / place / f"{index}.jpg", quality=92)

    assert main(["photos", str(tmp_path / "fit"), str(tmp_path / "test"), "--side", "96"]) == 0
    printed = capsys.readouterr().out

    tables = [part.splitlines() for part in printed.split("\n\n") if part.startswith("| frames")]
    assert len(tables) == 2
    for lines in tables:
        assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == list(LEVELS)
        noisy = next(line for line in lines if line.startswith("| noise-40"))
        assert float(noisy.split(" | ")[-1].strip("% |")) >= 90


def test_a_folder_without_photos_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, as with every command."""
    assert main(["photos", str(tmp_path), str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"{tmp_path}: no photos in it, expected JPEG, PNG or WebP files\n"
