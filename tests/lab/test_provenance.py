"""A network is not measured on what it has learned: photos are known again by what is in them, wherever they lie."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from popexd import bundle as bundles
from popexd.bundle import Bundle
from popexd.bundle.reading import listed_files
from popexd.cli.main import main
from popexd.errors import InputError
from popexd.lab import photos, provenance
from popexd.lab.conveyor import scene
from popexd.lab.provenance import Known
from popexd.lab.reproduction.photos import draw_photos
from popexd.training import sources
from popexd.training.data import prepare

BUNDLE = bundles.load()
CLASSES = BUNDLE.classes[:2]


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Draw a folder of two classes, 20 photos of each, all different."""
    random = np.random.default_rng(7)
    for name in CLASSES:
        (tmp_path / "flat" / name).mkdir(parents=True)
        for index in range(20):
            pixels = random.integers(0, 255, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "flat" / name / f"{index}.png")
    return tmp_path / "flat"


def bundle_of(folder: Path, data: Mapping[str, Any], known: Known | None = None) -> Bundle:
    """The default network, as if trained on other data: what bundle.json says of that, and what the table keeps."""
    facts = {key: value for key, value in BUNDLE.facts.items() if key != "fingerprint"} | {"training": {"data": data}}
    files = {name: (BUNDLE.folder / name).read_bytes() for name in listed_files(facts)}
    if known is not None:
        stream = io.BytesIO()
        with np.load(BUNDLE.folder / "validation.npz", allow_pickle=False) as table:
            np.savez(stream, **{**table, **known.arrays()})
        files["validation.npz"] = stream.getvalue()
    return bundles.write(folder, facts, files)


def splits_of(source: sources.Source) -> dict[str, set[int]]:
    """The identities of a source's items, by split."""
    return {name: {source.identity(item) for item in items} for name, items in source.items.items()}


def identities(chosen: tuple[photos.Photo, ...]) -> set[int]:
    """What photos are known by."""
    return {photos.identity(photo) for photo in chosen}


@pytest.mark.parametrize("kept", ["identities", "listing", "listing of before"])
def test_photos_that_were_trained_on_are_left_out(tmp_path: Path, flat: Path, kept: str) -> None:
    """Validation photos are measured, tuning photos fitted on; in bundles of before, the split is made again."""
    source = sources.folder(flat, None, 3, 32, by_class=kept != "listing of before")
    splits = splits_of(source)
    known = provenance.known(splits) if kept == "identities" else None
    bundle = bundle_of(tmp_path / "bundle", {**source.facts, "seed": 3, "side": 32}, known)
    flat = shutil.move(flat, tmp_path / "moved")

    measured = photos.photos(str(flat), bundle, None, 1, whole=True)
    assert identities(measured.report) == splits["validation"]
    assert measured.origin == ("4 photos of moved; 32 that it was trained on and 4 that it was tuned on are left out")
    parts = photos.photos(str(flat), bundle, None, 1)
    assert identities(parts.fit) >= splits["tuning"]
    assert identities(parts.report) <= splits["validation"]
    assert identities(parts.fit) | identities(parts.report) == splits["tuning"] | splits["validation"]
    assert parts.origin == "8 photos of moved; 32 that it was trained on are left out"


def test_photos_are_known_again_under_other_names_and_beside_new_ones(tmp_path: Path, flat: Path) -> None:
    """What is new to the network is measured too."""
    splits = splits_of(sources.folder(flat, None, 3, 32))
    bundle = bundle_of(tmp_path / "bundle", {}, provenance.known(splits))
    for path in sorted((flat / CLASSES[0]).iterdir()):
        path.rename(path.with_name(f"renamed-{path.name}"))
    Image.new("RGB", (16, 12), "red").save(flat / CLASSES[0] / "new.png")

    measured = photos.photos(str(flat), bundle, None, 1, whole=True)
    assert len(measured.report) == 5
    assert identities(measured.report) > splits["validation"]
    limited = photos.photos(str(flat), bundle, 3, 1, whole=True)
    assert len(limited.report) == 3
    assert identities(limited.report) <= identities(measured.report)


def test_what_cannot_be_known_is_said(tmp_path: Path, flat: Path) -> None:
    """A bundle of before that keeps a listing only, and the folder has other photos now; one that began as another."""
    facts = {**sources.folder(flat, None, 3, 32, by_class=False).facts, "seed": 3, "side": 32}
    (flat / CLASSES[0] / "0.png").unlink()
    found = photos.photos(str(flat), bundle_of(tmp_path / "old", facts), None, 1, whole=True)
    assert found.origin == "39 photos of flat; whether it was trained on some of them cannot be known"
    begun = provenance.known({}).joined(Known(complete=False))
    found = photos.photos(str(flat), bundle_of(tmp_path / "begun", facts, begun), None, 1)
    assert found.origin == "39 photos of flat; whether it was trained on some of them cannot be known"


def test_what_is_no_list_of_photos_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    """Numbers of another kind in the table, facts that no training wrote: not known, no traceback, no hours."""
    wrong = provenance.known({"training": [1]}).arrays() | {"tuned_on": np.array([0.5, np.nan])}
    assert provenance.from_arrays(wrong) is None
    for index, data in enumerate(
        [
            {"source": "generated", "seed": 1, "samples": 10**15},
            {"source": "generated", "seed": -1, "samples": 200},
            {"source": "folder", "seed": "x", "samples": 2},
            {},
        ]
    ):
        assert provenance.of_bundle(bundle_of(tmp_path / str(index), data), tmp_path) is None


def test_a_folder_of_nothing_new_is_refused(tmp_path: Path, flat: Path) -> None:
    """One line that says why there is nothing to measure."""
    whole = {"training": set().union(*splits_of(sources.folder(flat, None, 3, 32)).values())}
    bundle = bundle_of(tmp_path / "bundle", {}, provenance.known(whole))
    with pytest.raises(InputError, match=r"flat: 40 that it was trained on, expected photos that are new"):
        photos.photos(str(flat), bundle, None, 1, whole=True)


def test_generated_frames_that_the_network_knows_are_passed_over() -> None:
    """The bundle that ships learned from the first 24,000 of seed 2021; of other seeds it knows none."""
    found = photos.photos("generated", BUNDLE, 4, 2021, whole=True)
    assert [photo.name for photo in found.report] == [f"frame {24_000 + index}" for index in range(4)]
    assert found.origin == "4 generated frames of seed 2021; 24000 that it was trained or tuned on are left out"
    other = photos.photos("generated", BUNDLE, 4, 77, whole=True)
    assert [photo.name for photo in other.report] == [f"frame {index}" for index in range(4)]
    assert other.origin == "4 generated frames of seed 77"


def test_prepared_frames_that_were_learned_are_left_out(tmp_path: Path, flat: Path) -> None:
    """Split by another seed, some of what they hold out was learned."""
    data = prepare(tmp_path / "other", str(flat), None, 4, BUNDLE.input.height, processes=1)
    held_out = data.split("validation").photo
    assert held_out is not None
    known = provenance.known({"training": held_out[:2], "tuning": held_out[2:3]})
    bundle = replace(bundle_of(tmp_path / "bundle", {}, known), classes=CLASSES)

    parts = photos.photos(str(data.folder), bundle, None, 1)
    assert (len(parts.fit), identities(parts.report)) == (4, {int(held_out[3])})
    assert parts.origin == (
        "4 frames of tuning, 1 of validation; 2 that it was trained on and 1 that it was tuned on are left out"
    )


def test_what_was_calibrated_on_is_not_measured_afterwards(tmp_path: Path, flat: Path) -> None:
    """The photos that temperatures were fitted on are the new bundle's tuning photos; the others still measure it."""
    bundle_of(tmp_path / "old", {}, provenance.known({"training": [1]}))
    with pytest.raises(SystemExit) as ended:
        main(
            ["calibrate", str(tmp_path / "old"), "--data", str(flat), "--threads", "1", "--out", str(tmp_path / "new")]
        )
    assert not ended.value.code
    new = bundles.load(tmp_path / "new")
    known = provenance.of_bundle(new)
    assert known is not None
    assert known.complete
    assert {name: len(own) for name, own in known.splits.items()} == {"training": 1, "tuning": 20, "validation": 20}

    found = photos.photos(str(flat), new, None, 9, whole=True)
    assert identities(found.report) == known.splits["validation"]
    assert found.origin == "20 photos of flat; 20 that it was tuned on are left out"
    assert new.validation.photo is not None
    assert {int(each) for each in new.validation.photo} == known.splits["validation"]
    again = photos.photos(str(flat), new, None, 9)
    assert (identities(again.fit), identities(again.report)) == (known.splits["tuning"], known.splits["validation"])


def test_once_trained_on_a_photo_validates_nothing_any_more() -> None:
    """What a network knows that began as another: training before tuning before validation."""
    first = provenance.known({"training": [1, 2], "tuning": [3], "validation": [4, 5]})
    second = provenance.known({"training": [3, 6], "tuning": [4], "validation": [1, 7]})
    found = second.joined(first)
    assert found.splits == {"training": {1, 2, 3, 6}, "tuning": {4}, "validation": {5, 7}}
    assert [found.split_of(each) for each in (1, 4, 7, 8)] == ["training", "tuning", "validation", None]
    assert provenance.from_arrays(found.arrays()) == found
    assert not second.joined(Known(complete=False)).complete


def test_figures_are_not_drawn_of_what_was_learned(tmp_path: Path, flat: Path) -> None:
    """By the same door as an evaluation: the photos that are left, in the same order where nothing is left out."""
    source = sources.folder(flat, None, 3, 32)
    splits = splits_of(source)
    bundle = bundle_of(tmp_path / "bundle", {}, provenance.known(splits))
    drawn = draw_photos(str(flat), bundle, 30, seed=1)
    assert identities(drawn.chosen) == splits["validation"]
    note = "32 that it was trained on and 4 that it was tuned on are left out"
    assert drawn.source == f"4 photos of 4 in flat; {note}, seed 1"
    # Under `train` and `val`, the latter; none is left out there, so the order is that of the seed among all.
    apart = tmp_path / "apart"
    for path in sorted(flat.rglob("*.png")):
        part = (
            "val" if photos.identity(photos.Photo("", 0, "clear", path.read_bytes)) in splits["validation"] else "train"
        )
        (apart / part / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, apart / part / path.parent.name)
    again = draw_photos(str(apart), bundle, 3, seed=1)
    every = sorted((apart / "val").rglob("*.png"), key=lambda path: (CLASSES.index(path.parent.name), path.name))
    order = np.random.default_rng(1).permutation(4)[:3]
    assert [Path(photo.name).name for photo in again.chosen] == [every[place].name for place in order]
    assert again.source == "3 photos of 4 in val, seed 1"
    with pytest.raises(InputError, match=r"--data: .*train: 32 that it was trained on and 4 that it was tuned on, exp"):
        draw_photos(str(apart / "train"), bundle, 30, seed=1)


def test_figures_pass_over_generated_scenes_that_were_learned(tmp_path: Path) -> None:
    """And go on to the next ones of the series."""
    learned = {"training": [provenance.of_words("generated", 5, index) for index in range(3)]}
    bundle = bundle_of(tmp_path / "bundle", {}, provenance.known(learned))
    drawn = draw_photos("generated", bundle, 2, seed=5)
    assert [photo.load() for photo in drawn.chosen] == [scene(index, 5, quality="clear").jpeg() for index in (3, 4)]


def test_figures_are_drawn_of_prepared_frames_too(tmp_path: Path) -> None:
    """Of the validation frames as they were, without those that were distorted when they were prepared."""
    root = tmp_path / "photos"
    for number, name in enumerate(BUNDLE.classes):
        (root / name).mkdir(parents=True)
        for index in range(10):
            Image.new("RGB", (30, 30), (number, index, 90)).save(root / name / f"{index}.png")
    data = prepare(tmp_path / "cache", str(root), None, 3, BUNDLE.input.height, distort="clear,blur-15", processes=1)
    bundle = bundle_of(tmp_path / "bundle", {"seed": 1}, data.known())
    bundle = replace(bundle, classes=data.classes)
    drawn = draw_photos(str(tmp_path / "cache"), bundle, 30, seed=1)
    assert {photo.quality for photo in drawn.chosen} == {"clear"}
    assert len(drawn.chosen) == len(BUNDLE.classes)
    assert drawn.source == f"{len(BUNDLE.classes)} clear ones of {2 * len(BUNDLE.classes)} frames of validation, seed 1"
