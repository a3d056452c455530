"""Where frames come from: folders of several layouts, torchvision's data sets, distortions; one line for bad ones."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from popexd.errors import InputError
from popexd.training import data, sources


def photos(folder: Path, count: int, tone: int) -> None:
    """Draw `count` small pictures of a tone."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(tone)
    for index in range(count):
        pixels = np.clip(random.normal(tone, 30, (60, 80, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")


def prepare(tmp_path: Path, distort: str = "", samples: int | None = None) -> data.DataSet:
    """Prepare the folder `own` at a small side."""
    return data.prepare(
        tmp_path / f"cache{distort}", str(tmp_path / "own"), samples, 1, 32, distort=distort, processes=1
    )


def sizes(found: data.DataSet) -> list[int]:
    """The splits' sizes, training first."""
    return [len(found.split(name)) for name in sources.SPLITS]


def test_a_given_validation_split_validates_and_a_tenth_of_training_tunes(tmp_path: Path) -> None:
    """With `train` and `val`; every label is that of its folder."""
    for name, tone in (("dark", 60), ("light", 190)):
        photos(tmp_path / "own" / "train" / name, 20, tone)
        photos(tmp_path / "own" / "val" / name, 6, tone)
    found = prepare(tmp_path)
    assert found.classes == ("dark", "light")
    assert sizes(found) == [36, 4, 12]
    for name in sources.SPLITS:
        split = found.split(name)
        bright = split.images.mean(axis=(1, 2, 3)) > 125
        assert np.array_equal(bright, split.labels == 1)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
@pytest.mark.parametrize("test", [False, True])
def test_a_validation_split_may_have_any_of_its_usual_names(tmp_path: Path, name: str, test: bool) -> None:
    """The same names that an evaluation knows; the classes are those of `train`."""
    for part, count in {"train": 20, name: 6, **({"test": 4} if test else {})}.items():
        for label, tone in (("dark", 60), ("light", 190)):
            photos(tmp_path / "own" / part / label, count, tone)
    found = prepare(tmp_path)
    assert found.classes == ("dark", "light")
    assert sizes(found) == ([40, 12, 8] if test else [36, 4, 12])


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    """A folder of vehicles is no folder of splits: nothing is held out beside it."""
    for label in ("bus", "train"):
        photos(tmp_path / "own" / label, 10, 90)
    assert prepare(tmp_path).classes == ("bus", "train")


def test_val_tunes_where_test_validates(tmp_path: Path) -> None:
    """With all three folders nothing of `train` is held back, and a class may be missing in one held out."""
    for name, tone in (("dark", 60), ("light", 190)):
        photos(tmp_path / "own" / "train" / name, 20, tone)
    photos(tmp_path / "own" / "val" / "light", 5, 190)
    (tmp_path / "own" / "test" / ".thumbnails").mkdir(parents=True)
    photos(tmp_path / "own" / "test" / "dark", 7, 60)
    found = prepare(tmp_path)
    assert sizes(found) == [40, 5, 7]
    assert set(found.split("tuning").labels.tolist()) == {1}
    assert set(found.split("validation").labels.tolist()) == {0}


def test_samples_shrink_every_split_alike(tmp_path: Path) -> None:
    """Half of the images are half of each split."""
    for name, tone in (("dark", 60), ("light", 190)):
        photos(tmp_path / "own" / name, 20, tone)
    assert sizes(prepare(tmp_path)) == [32, 4, 4]
    assert sizes(data.prepare(tmp_path / "half", str(tmp_path / "own"), 20, 1, 32, processes=1)) == [16, 2, 2]


@pytest.mark.parametrize("seed", range(12))
def test_every_split_holds_every_class(tmp_path: Path, seed: int) -> None:
    """Ten of each of ten classes: eight, one and one; a limit takes of every class too, and a seed always the same."""
    for label in range(10):
        place = tmp_path / "own" / f"class{label}"
        place.mkdir(parents=True)
        for index in range(10):
            (place / f"{index}.png").write_bytes(bytes([label, index]))
    found = sources.folder(tmp_path / "own", None, seed, 32)
    for name, count in {"training": 8, "tuning": 1, "validation": 1}.items():
        assert sorted(label for _, label in found.items[name]) == sorted([*range(10)] * count)
    assert found.items == sources.folder(tmp_path / "own", None, seed, 32).items
    assert found.items != sources.folder(tmp_path / "own", None, seed + 100, 32).items
    half = sources.folder(tmp_path / "own", 50, seed, 32).items["training"]
    assert sorted(label for _, label in half) == sorted([*range(10)] * 4)


def test_classes_keep_their_shares_in_every_split(tmp_path: Path) -> None:
    """However unequal they are: a tenth of each, rounded."""
    for name, count in {"few": 11, "some": 38, "many": 104}.items():
        (tmp_path / "own" / name).mkdir(parents=True)
        for index in range(count):
            (tmp_path / "own" / name / f"{index}.png").write_bytes(name.encode() + bytes([index]))
    items = sources.folder(tmp_path / "own", None, 5, 32).items
    for name in ("tuning", "validation"):
        assert np.bincount([label for _, label in items[name]]).tolist() == [1, 10, 4]
    assert sum(map(len, items.values())) == 153


def test_frames_that_were_prepared_before_keep_their_split(tmp_path: Path) -> None:
    """All shuffled together by the seed, the last fifth held out: a run of then goes on with the frames of then."""
    for name, tone in (("dark", 60), ("light", 190)):
        photos(tmp_path / "own" / name, 20, tone)
    before = data.Before("last.pt", {"seed": 1}, again=True)
    old = data.prepare(tmp_path / "old", str(tmp_path / "own"), None, 1, 32, processes=1, before=before)
    every = [
        (tmp_path / "own" / name / path.name, label)
        for label, name in enumerate(("dark", "light"))
        for path in sorted((tmp_path / "own" / name).iterdir())
    ]
    order = [every[place] for place in np.random.default_rng([1, 3]).permutation(40)]
    assert old.split("validation").labels.tolist() == [label for _, label in order[36:]]
    assert "rule" not in old.facts
    again = data.prepare(tmp_path / "old", str(tmp_path / "own"), None, 1, 32, processes=1)
    assert again.facts == old.facts
    assert data.prepare(tmp_path / "new", str(tmp_path / "own"), None, 1, 32, processes=1).facts != old.facts


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("no classes", "no class folders"),
        ("one class", "1 class folders, expected 2 to 256"),
        ("too many classes", "257 class folders"),
        ("too few images", "9 images, expected at least 10"),
        ("empty validation", "val: no images"),
        ("another class", "'zebra' is not in"),
        ("unreadable", "dark/broken.png: cannot be read"),
        ("too few samples", "no tuning split"),
        ("distortion", "--distort: 'fog'"),
    ],
)
def test_a_folder_that_cannot_be_used_is_named_in_one_line(tmp_path: Path, kind: str, named: str) -> None:
    """Nothing half-prepared stays behind."""
    own = tmp_path / "own"
    if kind in ("empty validation", "another class"):
        own /= "train"
    for name in ("dark", "light")[: {"no classes": 0, "one class": 1}.get(kind, 2)]:
        photos(own / name, 9 if kind == "too few images" else 12, 90)
    (tmp_path / "own").mkdir(exist_ok=True)
    if kind == "too many classes":
        for index in range(255):
            (own / f"class{index}").mkdir()
    if kind in ("empty validation", "another class"):
        photos(tmp_path / "own" / "val" / ("dark" if kind == "empty validation" else "zebra"), 0, 90)
    if kind == "unreadable":
        (own / "dark" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    with pytest.raises(InputError, match=named) as caught:
        prepare(tmp_path, "fog" if kind == "distortion" else "", 6 if kind == "too few samples" else None)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_frames_are_there_once_for_every_distortion(tmp_path: Path) -> None:
    """`clear` and all distortions of a class; a blurred frame of noise is smoother, and it keeps its label."""
    for name, tone in (("dark", 60), ("light", 190)):
        photos(tmp_path / "own" / name, 10, tone)
    found = prepare(tmp_path, "clear,blurred,noise-40")
    split = found.split("validation")
    assert sizes(found) == [16 * 5, 2 * 5, 2 * 5]
    assert split.quality.tolist() == ["clear", "blurred", "blurred", "blurred", "noisy"] * 2
    assert np.array_equal(split.images.mean(axis=(1, 2, 3)) > 125, split.labels == 1)
    roughness = split.images.astype(float).std(axis=(1, 2)).mean(axis=1)
    assert roughness[4] > roughness[0] > roughness[1] > roughness[3]
    assert prepare(tmp_path, "blurred").split("validation").quality.tolist() == ["blurred"] * 6


def test_every_photo_has_noise_of_its_own(tmp_path: Path) -> None:
    """Also where files of the same name lie in two folders; and the same wherever a photo lies."""
    grey = np.full((60, 80, 3), 120, np.uint8)
    for name in ("dark", "light"):
        (tmp_path / "own" / name).mkdir(parents=True)
        for index in range(10):
            grey[0, 0] = [index, len(name), 0]  # a pixel tells them apart
            Image.fromarray(grey).save(tmp_path / "own" / name / f"{index}.png")
    noisy = [prepare(tmp_path, "noise-40").split(name).images for name in sources.SPLITS]
    assert len({image.tobytes() for split in noisy for image in split}) == 20
    (tmp_path / "own").rename(tmp_path / "moved")
    again = data.prepare(tmp_path / "again", str(tmp_path / "moved"), None, 1, 32, distort="noise-40", processes=1)
    assert np.array_equal(again.split("training").images, noisy[0])
    inner = [image[8:24, 8:24].astype(int) - 120 for split in noisy for image in split]
    assert max(abs(np.corrcoef(inner[0].ravel(), each.ravel())[0, 1]) for each in inner[1:]) < 0.3


def test_generated_frames_are_not_distorted_once_more(tmp_path: Path) -> None:
    """They come with distortions of their own."""
    with pytest.raises(InputError, match="--distort"):
        data.prepare(tmp_path / "cache", sources.GENERATED, 80, 1, 32, distort="blurred")


@pytest.mark.train
class TestTorchvision:
    """Data sets by torchvision's names."""

    def prepare(
        self, name: str, root: Path, cache: Path, *, samples: int | None = None, download: bool = False
    ) -> data.DataSet:
        """Prepare a set at a small side."""
        sets = pytest.importorskip("popexd.training.torchvision_sets", reason="needs the extra `train`")
        source = sets.torchvision_source(name, root, samples, 1, 32, download=download)
        return data.prepared(cache, source, 1, 32)

    def test_a_set_without_splits_is_split_here(self, tmp_path: Path) -> None:
        """Torchvision's own FakeData: a thousand pictures, ten classes."""
        found = self.prepare("FakeData", tmp_path, tmp_path / "cache", samples=50)
        assert sizes(found) == [40, 5, 5]
        assert found.classes == tuple("0123456789")

    def test_a_sets_own_test_split_validates(self, tmp_path: Path) -> None:
        """MNIST's file format, small: a test image is as it was written, and so is its label."""
        raw = tmp_path / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for stem, count in (("train", 200), ("t10k", 20)):
            tones = np.arange(count, dtype=np.uint8)
            images = np.repeat(tones, 28 * 28).tobytes()
            (raw / f"{stem}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + images)
            (raw / f"{stem}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + (tones % 10).tobytes())
        found = self.prepare("MNIST", tmp_path, tmp_path / "cache")
        assert sizes(found) == [180, 20, 20]
        split = found.split("validation")
        assert sorted(split.images[:, 0, 0, 0].tolist()) == list(range(20))
        assert np.array_equal(split.images[:, 5, 5, 1] % 10, split.labels)
        assert len(found.classes) == 10

    @pytest.mark.parametrize(
        ("name", "named"), [("CIFAR10", "--download"), ("CIFAR01", "did you mean"), ("CocoDetection", "expected")]
    )
    def test_a_set_that_is_not_there_is_one_line(self, tmp_path: Path, name: str, named: str) -> None:
        """Not downloaded, no such name, and none of classes."""
        with pytest.raises(InputError, match=named) as caught:
            self.prepare(name, tmp_path / "root", tmp_path / "cache")
        assert f"torchvision:{name}" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "cache").exists()

    def test_a_download_that_fails_is_one_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A server that is not there."""
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
        with pytest.raises(InputError, match=r"CIFAR10 in .* expected a connection") as caught:
            self.prepare("CIFAR10", tmp_path / "root", tmp_path / "cache", download=True)
        assert "\n" not in str(caught.value)
