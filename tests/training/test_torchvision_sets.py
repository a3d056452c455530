"""torchvision's data sets as they lie on disk, read by torchvision's own classes: classes, labels, splits, refusals."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from popexd.errors import InputError
from popexd.training import data
from popexd.training.sources import SPLITS

pytest.importorskip("torchvision", reason="needs the extra `train`")
pytestmark = pytest.mark.train

from torchvision import datasets  # noqa: E402 - after the skip

from popexd.training import torchvision_sets as sets  # noqa: E402 - after the skip


def picture(path: Path, tone: int, *, mode: str = "RGB") -> None:
    """Write a picture of one tone, told by its mean."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (40, 30), tone).convert(mode).save(path)


def idx(path: Path, array: np.ndarray) -> None:
    """Write MNIST's file format: unsigned bytes, or big-endian integers of four."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {"uint8": 8, "int32": 12}[array.dtype.name]
    head = struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape)
    path.write_bytes(head + array.astype(array.dtype.newbyteorder(">")).tobytes())


def prepare(name: str, root: Path, cache: Path, distort: str = "") -> data.DataSet:
    """Prepare a set at a small side."""
    return data.prepare(cache, f"torchvision:{name}", None, 1, 32, root=root, distort=distort, processes=1)


def found(name: str, root: Path, cache: Path) -> tuple[tuple[str, ...], list[int], list[tuple[int, int]]]:
    """Classes, sizes of the splits, and of every frame its label and its mean tone."""
    prepared = prepare(name, root, cache)
    splits = [prepared.split(each) for each in SPLITS]
    frames = [
        (int(label), round(float(image.mean())))
        for split in splits
        for image, label in zip(split.images, split.labels, strict=True)
    ]
    return prepared.classes, [len(split) for split in splits], frames


def told(frames: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
    """Which label goes with which tone."""
    return {*frames}


def test_caltech101_is_read_by_its_categories(tmp_path: Path) -> None:
    """Grey pictures among them; split here class by class; the background is no class."""
    place = tmp_path / "root" / "caltech101" / "101_ObjectCategories"
    for label, name in enumerate(("BACKGROUND_Google", "accordion", "Faces")):
        for index in range(1, 13):
            picture(place / name / f"image_{index:04d}.jpg", 60 * (label + 1), mode="L" if index % 2 else "RGB")
    classes, sizes, frames = found("Caltech101", tmp_path / "root", tmp_path / "cache")
    assert classes == ("Faces", "accordion")
    assert sizes == [20, 2, 2]
    assert told(frames) == {(0, 180), (1, 120)}


def test_caltech256_has_256_classes_without_its_clutter(tmp_path: Path) -> None:
    """As many as a byte numbers: what is called clutter is no class, as in the papers' other set."""
    place = tmp_path / "root" / "caltech256" / "256_ObjectCategories"
    one = tmp_path / "one.jpg"
    for label in range(257):
        name = "257.clutter" if label == 256 else f"{label + 1:03d}.thing{label}"
        picture(one, label % 256)
        (place / name).mkdir(parents=True)
        for index in range(1, 11):
            (place / name / f"{label + 1:03d}_{index:04d}.jpg").write_bytes(one.read_bytes())
    classes, sizes, frames = found("Caltech256", tmp_path / "root", tmp_path / "cache")
    assert len(classes) == 256
    assert "257.clutter" not in classes
    assert sizes == [8 * 256, 256, 256]
    assert all(label == tone for label, tone in frames)


def pets(root: Path, test: tuple[str, ...] = ("Abyssinian", "great_pyrenees")) -> None:
    """Write Oxford's pets: two breeds, twenty to learn from and four to test."""
    base = root / "oxford-iiit-pet"
    (base / "annotations").mkdir(parents=True)
    tones = {"Abyssinian": 50, "great_pyrenees": 150, "pug": 220}
    for split, breeds, count in (("trainval", ("Abyssinian", "great_pyrenees"), 20), ("test", test, 4)):
        lines = []
        for label, breed in enumerate(breeds):
            for index in range(count):
                picture(base / "images" / f"{breed}_{split}{index}.jpg", tones[breed])
                lines.append(f"{breed}_{split}{index} {label + 1} {label + 1} 1")
        (base / "annotations" / f"{split}.txt").write_text("\n".join(lines))


def test_oxford_pets_are_trained_on_trainval(tmp_path: Path) -> None:
    """Its own test split validates, a tenth of the other tunes."""
    pets(tmp_path / "root")
    classes, sizes, frames = found("OxfordIIITPet", tmp_path / "root", tmp_path / "cache")
    assert classes == ("Abyssinian", "Great Pyrenees")
    assert sizes == [36, 4, 8]
    assert told(frames) == {(0, 50), (1, 150)}


def test_splits_of_other_classes_are_refused(tmp_path: Path) -> None:
    """Labels that mean another class in the test split would be validated as wrong."""
    pets(tmp_path / "root", test=("Abyssinian", "pug"))
    with pytest.raises(InputError, match="OxfordIIITPet: its splits are of other classes"):
        prepare("OxfordIIITPet", tmp_path / "root", tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "form", "numbers", "classes"),
    [
        ("EMNIST", "balanced", range(47), (*"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt",)),
        ("EMNIST/balanced", "balanced", range(47), (*"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt",)),
        ("EMNIST/letters", "letters", range(1, 27), (*"abcdefghijklmnopqrstuvwxyz",)),
        ("EMNIST/digits", "digits", range(10), (*"0123456789",)),
    ],
)
def test_emnist_is_read_in_the_form_that_is_asked_for(
    tmp_path: Path, name: str, form: str, numbers: range, classes: tuple[str, ...]
) -> None:
    """Balanced where none is; the letters' class of none, of which there are no pictures, is left out."""
    for part, count in (("train", 20), ("test", 2)):
        labels = np.repeat(np.array(numbers, dtype=np.uint8), count)
        raw = tmp_path / "root" / "EMNIST" / "raw" / f"emnist-{form}-{part}"
        idx(raw.with_name(f"{raw.name}-images-idx3-ubyte"), np.repeat(5 * labels, 784).reshape(-1, 28, 28))
        idx(raw.with_name(f"{raw.name}-labels-idx1-ubyte"), labels)
    there, sizes, frames = found(name, tmp_path / "root", tmp_path / "cache")
    count = len(numbers)
    assert there == classes
    assert sizes == [18 * count, 2 * count, 2 * count]
    assert told(frames) == {(index, 5 * number) for index, number in enumerate(numbers)}
    facts = json.loads((tmp_path / "cache" / "data.json").read_text())
    assert facts["source"] == f"torchvision:EMNIST/{form}"


def test_qmnist_labels_are_the_first_of_several_columns(tmp_path: Path) -> None:
    """Eight numbers stand for each picture, of which one is its class."""
    for part, count in (("train", 100), ("test", 20)):
        labels = np.zeros((count, 8), dtype=np.int32)
        labels[:, 0] = np.arange(count) % 10
        labels[:, 1] = 99
        raw = tmp_path / "root" / "QMNIST" / "raw"
        images = np.repeat(20 * labels[:, 0].astype(np.uint8), 784).reshape(-1, 28, 28)
        idx(raw / f"qmnist-{part}-images-idx3-ubyte", images)
        idx(raw / f"qmnist-{part}-labels-idx2-int", labels)
    classes, sizes, frames = found("QMNIST", tmp_path / "root", tmp_path / "cache")
    assert (len(classes), sizes) == (10, [90, 10, 20])
    assert told(frames) == {(label, 20 * label) for label in range(10)}


def test_cifar10_is_read_from_its_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a few pictures: torchvision is told the sums of these files, and reads them as it reads its own."""
    base = tmp_path / "root" / "cifar-10-batches-py"
    base.mkdir(parents=True)

    def put(name: str, content: dict[str, object]) -> str:
        (base / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((base / name).read_bytes()).hexdigest()

    def batch(name: str, count: int) -> list[str]:
        labels = [index % 10 for index in range(count)]
        pixels = np.repeat(np.array(labels, dtype=np.uint8) * 20, 3072).reshape(count, 3072)
        return [name, put(name, {"data": pixels, "labels": labels})]

    monkeypatch.setattr(datasets.CIFAR10, "train_list", [batch(f"data_batch_{each}", 20) for each in range(1, 6)])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [batch("test_batch", 20)])
    names = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    meta = datasets.CIFAR10.meta | {"md5": put("batches.meta", {"label_names": names})}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    classes, sizes, frames = found("CIFAR10", tmp_path / "root", tmp_path / "cache")
    assert (classes, sizes) == (tuple(names), [90, 10, 20])
    assert told(frames) == {(label, 20 * label) for label in range(10)}


def test_a_set_of_three_splits_tunes_on_its_own(tmp_path: Path) -> None:
    """Rendered sentences: train, valid, test; labels are those of the samples that torchvision keeps to itself."""
    base = tmp_path / "root" / "rendered-sst2"
    for split, count in (("train", 12), ("valid", 3), ("test", 5)):
        for name, tone in (("negative", 40), ("positive", 200)):
            for index in range(count):
                picture(base / split / name / f"{index}.png", tone)
    classes, sizes, frames = found("RenderedSST2", tmp_path / "root", tmp_path / "cache")
    assert classes == ("negative", "positive")
    assert sizes == [24, 6, 10]
    assert told(frames) == {(0, 40), (1, 200)}


def test_a_set_without_names_of_classes_is_numbered(tmp_path: Path) -> None:
    """Traffic signs: folders of numbers, a list beside the test pictures."""
    base = tmp_path / "root" / "gtsrb"
    lines = ["Filename;ClassId"]
    for label in range(3):
        for index in range(15):
            picture(base / "GTSRB" / "Training" / f"{label:05d}" / f"{index}.ppm", 70 * label)
        picture(base / "GTSRB" / "Final_Test" / "Images" / f"{label}.ppm", 70 * label)
        lines.append(f"{label}.ppm;{label}")
    (base / "GT-final_test.csv").write_text("\n".join(lines))
    classes, sizes, frames = found("GTSRB", tmp_path / "root", tmp_path / "cache")
    assert classes == ("0", "1", "2")
    assert sizes == [39, 6, 3]
    assert told(frames) == {(label, 70 * label) for label in range(3)}


def test_every_set_is_asked_for_what_its_class_takes() -> None:
    """Each of the table's splits is one that torchvision knows; each other set takes `train`, or neither."""
    import inspect

    for name, splits in sets.BY_SPLIT.items():
        kind = getattr(datasets, name)
        assert "split" in inspect.signature(kind).parameters, name
        for split in splits:
            with pytest.raises(
                Exception, match=r"(?i)not found|not there|no such|h5py|exist|does not|corrupted"
            ) as caught:
                kind(root="/nowhere", split=split)
            assert "Unknown value" not in str(caught.value), name
    for name in sets.BY_TRAIN:
        assert name == "EMNIST" or "train" in inspect.signature(getattr(datasets, name)).parameters
    for name in sets.WHOLE:
        assert not {"train", "split"} & {*inspect.signature(getattr(datasets, name)).parameters}
    for name in sets.TOO_MANY:
        assert hasattr(datasets, name)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Caltech101", "Caltech101 in {}: not there, or not whole, expected it there, or --download"),
        ("Food101", "Food101 in {}: not there, or not whole, expected it there, or --download"),
        ("EMNIST", "EMNIST/balanced in {}: not there, or not whole, expected it there, or --download"),
        ("USPS", "No such file or directory"),
        ("StanfordCars", "StanfordCars in {}: Dataset not found, expected it there"),
        ("FER2013", "FER2013 in {}: train.csv not found in"),
        ("SUN397", "torchvision:SUN397: 397 classes, expected 2 to 256"),
        ("ImageNet", "torchvision:ImageNet: 1000 classes, expected 2 to 256"),
        ("CelebA", "torchvision:CelebA: not one class for each picture, expected one of CIFAR10, CIFAR100"),
        ("DatasetFolder", "torchvision:DatasetFolder: not one class for each picture"),
        ("EMNIST/capitals", "expected torchvision:EMNIST/balanced, EMNIST/byclass"),
        ("CIFAR10/coarse", "torchvision:CIFAR10/coarse, expected torchvision:CIFAR10"),
        ("Caltech265", "torchvision:Caltech265, did you mean 'Caltech256'?"),
        ("Nope", "torchvision:Nope, expected one of CIFAR10"),
        ("Nope", "FER2013, FGVCAircraft, FashionMNIST, Flowers102"),
    ],
)
def test_a_set_that_cannot_be_used_is_one_true_line(tmp_path: Path, name: str, line: str) -> None:
    """What is not there is told apart from what can never work; no folder is left behind, in a root or without one."""
    for root in (tmp_path / "new" / "root", tmp_path / "there"):
        (tmp_path / "there").mkdir(exist_ok=True)
        with pytest.raises(InputError) as caught:
            prepare(name, root, tmp_path / "cache")
        assert line.format(root) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "download=True" not in str(caught.value)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["there"]


def test_a_set_that_needs_another_library_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that it is not there."""
    monkeypatch.setattr(sets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="PCAM: it is read by h5py, expected that to be installed"):
        prepare("PCAM", tmp_path, tmp_path / "cache")


def test_a_picture_of_a_set_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    """In one line, which is not about the folder for the frames; and nothing is left there."""
    pets(tmp_path / "root")
    broken = tmp_path / "root" / "oxford-iiit-pet" / "images" / "Abyssinian_test1.jpg"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(InputError, match=r"OxfordIIITPet: picture 1 cannot be read") as caught:
        prepare("OxfordIIITPet", tmp_path / "root", tmp_path / "cache")
    assert "\n" not in str(caught.value)
    broken.unlink()
    with pytest.raises(InputError, match=r"OxfordIIITPet: picture 1 cannot be read: .*No such file"):
        prepare("OxfordIIITPet", tmp_path / "root", tmp_path / "cache")
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_pictures_of_a_set_are_distorted_too(tmp_path: Path) -> None:
    """Grey ones as well."""
    place = tmp_path / "root" / "caltech101" / "101_ObjectCategories"
    (place / "BACKGROUND_Google").mkdir(parents=True)
    for name in ("a", "b"):
        for index in range(1, 11):
            picture(place / name / f"image_{index:04d}.jpg", 120, mode="L")
    split = prepare("Caltech101", tmp_path / "root", tmp_path / "cache", "clear,dark-0.5").split("validation")
    assert split.quality.tolist() == ["clear", "dark"] * 2
    assert split.images.mean(axis=(1, 2, 3)).round().tolist() == pytest.approx([120, 60] * 2, abs=2)
