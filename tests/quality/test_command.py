"""`popexd quality` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from popexd import bundle as bundles
from popexd.bundle.reading import listed_files
from popexd.cli.main import main
from popexd.evaluation import quality_fit
from popexd.quality import FEATURES, features
from popexd.runtime.frames import encode_image, load_image
from tests.quality.frames import received, sharp_scenes

LEVELS = ("clear", "blur-65", "dark-0.25")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the default bundle with an estimator for three classes."""
    images, truth = [], []
    for pixels, _ in sharp_scenes(51, 30):
        for name, quality in zip(LEVELS, ("clear", "blurred", "dark"), strict=True):
            images.append(received(pixels, name))
            truth.append(quality)
    fitted = quality_fit.fit_frames(images, quality_fit.visible(truth))
    default = bundles.load()
    files = {name: (default.folder / name).read_bytes() for name in listed_files(default.facts)}
    place = tmp_path_factory.mktemp("quality") / "bundle"
    bundles.write(place, {**default.facts, "quality": fitted.estimator.to_json()}, files)
    return place


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Write a sharp, a blurred and a dark frame of other scenes."""
    place = tmp_path_factory.mktemp("photos")
    pixels, _ = sharp_scenes(52, 1)[0]
    paths = []
    for name in LEVELS:
        path = place / f"{name}.jpg"
        path.write_bytes(encode_image(received(pixels, name), "jpeg-95"))
        paths.append(path)
    return paths


def called(*words: str) -> int:
    """Run popexd with these words and return its exit status."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)


def test_each_photo_gets_its_class(folder: Path, files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    """The likeliest comes first on each photo's line."""
    assert called("quality", *map(str, files), "--bundle", str(folder)) == 0
    lines = capsys.readouterr().out.splitlines()

    assert [Path(line.split()[0]) for line in lines] == files
    assert [line.split()[1] for line in lines] == ["clear", "blurred", "dark"]


def test_json_has_every_feature(folder: Path, files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    """And the classes' probabilities, which sum to one."""
    assert called("quality", str(files[1]), "--bundle", str(folder), "--json") == 0
    said = json.loads(capsys.readouterr().out)

    measured = features(load_image(files[1].read_bytes(), 224, 224))
    assert said["quality"] == "blurred" == max(said["classes"], key=said["classes"].__getitem__)
    assert sum(said["classes"].values()) == pytest.approx(1, abs=1e-5)
    assert list(said["features"]) == list(FEATURES)
    assert list(said["features"].values()) == pytest.approx(measured.tolist(), abs=1e-4)


def test_what_is_no_photo_is_refused_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Text, nothing at all, a file that is not there."""
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    empty = tmp_path / "empty.jpg"
    empty.touch()
    for path in (text, empty, tmp_path / "missing.jpg"):
        assert called("quality", str(path), "--bundle", str(folder)) == 2
        complaint = capsys.readouterr().err
        assert complaint.count("\n") == 1
        assert str(path) in complaint


def test_a_photo_that_is_not_there_is_missed_before_the_first_is_looked_at(
    folder: Path, tmp_path: Path, files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """However late it is named."""
    assert called("quality", str(files[0]), str(tmp_path / "missing.jpg"), "--bundle", str(folder)) == 2
    captured = capsys.readouterr()
    assert "missing.jpg: no such file" in captured.err
    assert captured.out == ""


def test_a_bundle_without_classes_is_refused_in_one_line(
    folder: Path, tmp_path: Path, files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what can be done about it."""
    facts = {key: value for key, value in bundles.load(folder).facts.items() if key != "quality"}
    bundles.write(tmp_path / "plain", facts, {name: (folder / name).read_bytes() for name in listed_files(facts)})

    assert called("quality", str(files[0]), "--bundle", str(tmp_path / "plain")) == 2
    assert "tells no quality classes; popexd calibrate can add them" in capsys.readouterr().err


def test_a_picture_of_any_size_is_taken(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the daemon takes it: one pixel, one row."""
    paths = [tmp_path / "dot.png", tmp_path / "row.png"]
    for path, size in zip(paths, ((1, 1), (300, 1)), strict=True):
        Image.new("RGB", size, (10, 200, 30)).save(path)

    assert called("quality", *map(str, paths), "--bundle", str(folder)) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
