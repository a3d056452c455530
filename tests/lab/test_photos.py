"""Photos to evaluate on: who fits and who reports, the frames that the network sees, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from popexd import bundle as bundles
from popexd.bundle import InputSpec
from popexd.errors import InputError
from popexd.lab import conveyor, photos
from popexd.lab.distortions import DISTORTIONS, as_sent
from popexd.runtime.frames import load_image

BUNDLE = bundles.load()
SMALL = InputSpec(32, 48, 3)


def folder(root: Path, **counts: int) -> Path:
    """Write so many photos of each class; `val_nut` goes to val/nut."""
    index = 0
    for name, count in counts.items():
        place = root.joinpath(*name.split("_"))
        place.mkdir(parents=True)
        for _ in range(count):
            (place / f"{index}.jpg").write_bytes(conveyor.scene(index, 9, size=(96, 72)).jpeg())
            index += 1
    return root


def names(chosen: tuple[photos.Photo, ...]) -> set[str]:
    """The names of photos."""
    return {photo.name for photo in chosen}


def test_halves_share_no_photo_and_every_class(tmp_path: Path) -> None:
    """Class by class; together they are all."""
    parts = photos.photos(str(folder(tmp_path, nut=7, washer=4, gear=3)), BUNDLE, None, 1)

    assert not names(parts.fit) & names(parts.report)
    assert len(parts.fit) + len(parts.report) == 14
    assert sorted(photo.label for photo in parts.fit) == [0] * 4 + [1] * 2 + [2] * 2
    assert {photo.label for photo in parts.report} == {0, 1, 2}
    assert not parts.own


def test_val_fits_and_test_reports(tmp_path: Path) -> None:
    """Where a folder has both; train is left alone, and evaluation is on test."""
    root = folder(tmp_path, train_nut=2, train_washer=2, val_nut=3, val_washer=3, test_nut=4, test_washer=4)
    parts = photos.photos(str(root), BUNDLE, None, 1)

    assert {Path(photo.name).parts[-3] for photo in parts.fit} == {"val"}
    assert {Path(photo.name).parts[-3] for photo in parts.report} == {"test"}
    assert (len(parts.fit), len(parts.report)) == (6, 8)
    assert names(photos.photos(str(root), BUNDLE, None, 1, whole=True).report) == names(parts.report)


def test_a_limit_is_of_the_photos_that_are_measured(tmp_path: Path) -> None:
    """Where the source keeps its photos apart, a calibration takes half of it for each part; an evaluation all."""
    root = str(folder(tmp_path, val_nut=6, val_washer=6, test_nut=6, test_washer=6))
    assert len(photos.photos(root, BUNDLE, 8, 1, whole=True).report) == 8
    parts = photos.photos(root, BUNDLE, 8, 1)
    assert (len(parts.fit), len(parts.report)) == (4, 4)


@pytest.mark.parametrize("part", ["val", "test"])
def test_one_held_out_part_is_halved(tmp_path: Path, part: str) -> None:
    """And all of it is evaluated; train is not."""
    counts = {"train_nut": 3, "train_washer": 3, f"{part}_nut": 4, f"{part}_washer": 4}
    root = str(folder(tmp_path, **counts))
    parts, whole = photos.photos(root, BUNDLE, None, 1), photos.photos(root, BUNDLE, None, 1, whole=True)

    assert {Path(photo.name).parts[-3] for photo in whole.report} == {part}
    assert names(whole.report) == names(parts.fit) | names(parts.report)
    assert (len(parts.fit), len(parts.report)) == (4, 4)


def test_a_limit_takes_classes_in_turn(tmp_path: Path) -> None:
    """However unequal they are; the seed decides which."""
    root = str(folder(tmp_path, nut=12, washer=4, gear=3))
    few = photos.photos(root, BUNDLE, 6, 1, whole=True).report
    others = photos.photos(root, BUNDLE, 6, 2, whole=True).report

    assert sorted(photo.label for photo in few) == [0, 0, 1, 1, 2, 2]
    assert names(few) != names(others)
    assert names(few) == names(photos.photos(root, BUNDLE, 6, 1, whole=True).report)


def test_generated_frames_are_those_of_the_camera() -> None:
    """Labels, faults and all; as the daemon decodes them."""
    parts = photos.photos("generated", BUNDLE, 6, 5, whole=True)
    found = photos.frames(parts.report, SMALL)
    by_name = {photo.name: row for row, photo in enumerate(parts.report)}
    for index in range(6):
        scene, row = conveyor.scene(index, 5), by_name[f"frame {index}"]
        np.testing.assert_array_equal(found.images[row], load_image(scene.jpeg(), 32, 48)[0])
        assert (found.label[row], found.quality[row]) == (scene.label, scene.quality)


def test_distortions_are_added_at_the_camera_s_size(tmp_path: Path) -> None:
    """Each photo as it is and then distorted, and compressed again; the class of the distortion is its quality."""
    chosen = photos.photos(str(folder(tmp_path, nut=2, washer=2)), BUNDLE, None, 1, whole=True).report
    found = photos.frames(chosen, InputSpec(72, 96, 3), {"blur-15": "blurred", "dark-0.5": "dark"}, seed=3)

    assert found.variant.tolist() == ["as it is", "blur-15", "dark-0.5"] * 4
    assert found.quality.tolist() == ["clear", "blurred", "dark"] * 4
    assert found.label.tolist() == [photo.label for photo in chosen for _ in range(3)]
    for row, photo in enumerate(chosen):
        data = photo.load()
        assert isinstance(data, bytes)
        pixels = load_image(data, 72, 96)[0]
        np.testing.assert_array_equal(found.images[3 * row], pixels)
        random = np.random.default_rng([3, row])
        blurred = DISTORTIONS["blur-15"].apply(pixels, random)
        sent = as_sent(blurred, "jpeg", random)
        np.testing.assert_array_equal(found.images[3 * row + 1], load_image(sent, 72, 96)[0])
        assert 0 < np.abs(found.images[3 * row + 1].astype(int) - blurred).mean() < 4


def test_only_clear_photos_are_distorted() -> None:
    """A dark one that is blurred would be called blurred, and the estimator be fitted to that."""
    chosen = photos.photos("generated", BUNDLE, 40, 5, whole=True).report
    found = photos.frames(chosen, SMALL, {"blur-15": "blurred"})

    faulty = [photo for photo in chosen if photo.quality != "clear"]
    assert 0 < len(faulty) < 40
    assert len(found.images) == 2 * 40 - len(faulty)
    assert (found.quality[found.variant == "blur-15"] == "blurred").all()
    assert found.quality[found.variant == "as it is"].tolist() == [photo.quality for photo in chosen]
    assert np.array_equal(found.natural, found.variant == "as it is")
    # Both frames of a photo are known to be of one.
    own = {photo.identity for photo in chosen if photo.quality == "clear"}
    assert {int(each) for each in found.photo[found.variant == "blur-15"]} == own
    assert np.unique(found.photo).size == 40


def test_frames_that_were_distorted_when_they_were_prepared_are_not_the_camera_s(tmp_path: Path) -> None:
    """They are of a class, but say nothing of how often a camera sends it."""
    from popexd.training.data import prepare

    root = folder(tmp_path / "photos", **dict.fromkeys(BUNDLE.classes, 10))
    side = BUNDLE.input.height
    data = prepare(tmp_path / "cache", str(root), None, 3, side, distort="clear,blur-15,noise-20", processes=1)
    bundle = replace(BUNDLE, classes=data.classes)
    found = photos.frames(photos.photos(str(tmp_path / "cache"), bundle, None, 1).report, BUNDLE.input)

    assert found.quality.tolist() == ["clear", "blurred", "noisy"] * len(BUNDLE.classes)
    assert found.natural.tolist() == [True, False, False] * len(BUNDLE.classes)
    assert np.array_equal(found.photo, np.repeat(found.photo[::3], 3))


def test_frames_that_train_prepared_keep_their_splits(tmp_path: Path) -> None:
    """Tuning fits, validation reports; the frames are taken as they lie there."""
    from popexd.training.data import prepare

    data = prepare(tmp_path / "cache", "generated", 80, 3, BUNDLE.input.height, processes=1)
    parts = photos.photos(str(tmp_path / "cache"), BUNDLE, None, 1)
    found = photos.frames(parts.report, BUNDLE.input)

    assert parts.own
    np.testing.assert_array_equal(found.images, data.split("validation").images)
    np.testing.assert_array_equal(found.label, data.split("validation").labels)
    assert [photo.label for photo in parts.fit] == data.split("tuning").labels.tolist()


def test_more_frames_than_memory_may_take_are_refused() -> None:
    """Before any is read."""
    photo = photos.Photo("one", 0, "clear", lambda: b"")
    with pytest.raises(InputError, match=r"frames take .* GB, expected fewer: --samples"):
        photos.frames([photo] * 100_000, InputSpec(224, 224, 3))
    with pytest.raises(InputError, match="no photos"):
        photos.frames([], SMALL)


def test_generated_frames_are_for_bundles_that_know_the_parts() -> None:
    """Others are told so."""
    with pytest.raises(InputError, match=r"generated frames show nut, washer, gear, …, but pets knows cat, dog"):
        photos.photos("generated", replace(BUNDLE, name="pets", classes=("cat", "dog")), None, 1)
