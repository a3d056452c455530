"""What `popexd calibrate` and `popexd evaluate` refuse: one line, and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from popexd.lab import conveyor
from tests.evaluation.commands import popexd


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--thresholds", "b9=0.5"), "no exit 'b9' in conveyor-b-alexnet, expected some of: b1, b3"),
        (("--thresholds", "b1=high"), "--thresholds: 'b1=high', expected EXIT=T"),
        (("--thresholds", "b1=-1"), "--thresholds: 'b1=-1', expected EXIT=T"),
        (("--criterion", "margin"), "--criterion: 'margin', expected one of: confidence, entropy"),
        (("--criterion", "entropy"), "b1, b3 would have no thresholds in its unit"),
        (("--answer", "loudest"), "--answer: 'loudest', expected one of"),
        (("--p-target", "80"), "--p-target: 80, expected a number in 0..1"),
        (("--choose-accuracy", "2"), "--choose-accuracy: 2, expected a number in 0..1"),
        (("--choose-ms", "5"), "expected --profile too"),
        (("--deadline-ms", "5"), "expected --profile too"),
        (("--distort", "blur-5"), "--distort: the validation table holds no photos, expected --data too"),
        (("--data", "generated", "--distort", "rain"), "--distort: 'rain', expected some of clear, blurred, noisy"),
        (("--data", "generated", "--distort", "a=blur-5,b=blur-5"), "blur-5 is a too, expected one class for it"),
        (("--data", "{}/nowhere"), "nowhere: no such folder"),
        (("--profile", "{}/nothing.json"), "nothing.json: No such file"),
        (("--plot", "{}/file"), "file is a file, expected a folder"),
        (("--cut", "output"), "--cut: times are not known, expected --profile too"),
        (("--rtt-ms", "5"), "--rtt-ms: times are not known, expected --profile too"),
    ],
)
def test_bad_options_of_evaluate_are_one_line(tmp_path: Path, words: tuple[str, ...], named: str) -> None:
    """Exit status 2; it names the option or the file, and what was expected."""
    (tmp_path / "file").write_text("")
    complaint = popexd("evaluate", "default", *(word.format(tmp_path) for word in words), status=2)

    assert named in complaint
    assert "\n" not in complaint


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--data", "generated", "--method", "platt"), "--method: 'platt', expected one of: none, global, per-branch"),
        (("--data", "generated", "--samples-of", "some"), "--samples-of: 'some', expected one of: all, exiting"),
        (("--data", "generated", "--thresholds", "0.9"), "--thresholds: '0.9', expected one of: keep, reliable"),
        (("--data", "generated", "--thresholds", "keep", "--target-accuracy", "0.9"), "--thresholds: keep, together"),
        (("--data", "generated", "--target-ms", "5"), "--target-ms: times are not known, expected --profile too"),
        (("--data", "generated", "--plot", "{}/plot.gif"), "--plot:"),
        (("--data", "generated", "--uplink-mbps", "5"), "--uplink-mbps: times are not known, expected --profile too"),
        (("--data", "generated", "--plot", "{}/nowhere/plot.png"), "nowhere/plot.png: No such file or directory"),
        (("--data", "{}/empty"), "0 class folders, expected at least two of nut"),
        (("--data", "{}/one"), "1 class folders, expected at least two of nut"),
        (("--data", "{}/other"), "knows no such class, expected folders named nut"),
        (("--data", "{}/bare"), "bare/washer: no images, expected JPEG, PNG or WebP"),
        (("--data", "{}/broken"), ".jpg: cannot be read as an image"),
        (("--data", "{}/single"), "expected at least two of a class"),
        (("--data", "{}/splits"), "splits/val/washer: no images"),
    ],
)
def test_bad_input_of_calibrate_is_one_line_and_leaves_nothing(
    tmp_path: Path, words: tuple[str, ...], named: str
) -> None:
    """Exit status 2; no bundle, no temporary folder."""
    photo = conveyor.scene(0, 1).jpeg()
    folders = {
        "empty": [],
        "one": ["nut"],
        "other": ["nut", "hamster"],
        "bare": ["nut", "washer"],
        "broken": ["nut", "washer"],
        "single": ["nut", "washer"],
        "splits": ["val/nut", "val/washer", "test/nut", "test/washer"],
    }
    for name, inside in folders.items():
        (tmp_path / name).mkdir()
        for each in inside:
            (tmp_path / name / each).mkdir(parents=True)
            if not (name in {"bare", "splits"} and each.endswith("washer")):
                for file in ("photo.jpg", "another.jpg")[: 2 if name == "broken" else 1]:
                    (tmp_path / name / each / file).write_bytes(photo[:200] if name == "broken" else photo)
    before = sorted(path.name for path in tmp_path.iterdir())
    complaint = popexd(
        "calibrate", "default", "--out", tmp_path / "new", *(word.format(tmp_path) for word in words), status=2
    )

    assert named in complaint
    assert "\n" not in complaint
    assert sorted(path.name for path in tmp_path.iterdir()) == before
