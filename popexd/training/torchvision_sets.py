"""torchvision's data sets by name (`torchvision:CIFAR10`), read where they lie, fetched only when asked to.

Which of them are for classification, and how each is asked for its splits, is told here: torchvision's own classes have
no common form for it.
"""

from __future__ import annotations

import importlib.util
import inspect
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torchvision import datasets

from popexd.complaints import nearest
from popexd.errors import InputError
from popexd.folders import none_left
from popexd.lab import provenance
from popexd.lab.photos import Photo
from popexd.lab.provenance import SPLITS, Known
from popexd.quality import CLEAR
from popexd.runtime.frames import load_image
from popexd.training.sources import (
    BY_CLASS,
    LEAST_PER_CLASS,
    TORCHVISION,
    Record,
    Source,
    asked,
    check_classes,
    digest,
    distorted,
    divided,
    variants,
)

WHOLE = ("Caltech101", "Caltech256", "EuroSAT", "FakeData", "ImageFolder", "SEMEION")
"""Sets without splits of their own."""

BY_TRAIN = ("CIFAR10", "CIFAR100", "EMNIST", "FashionMNIST", "KMNIST", "MNIST", "QMNIST", "USPS")
"""Sets that are asked for their training part, or not."""

BY_SPLIT: Mapping[str, tuple[str, ...]] = {
    "CLEVRClassification": ("train", "val"),
    "Country211": ("train", "valid", "test"),
    "DTD": ("train", "val", "test"),
    "FER2013": ("train", "test"),
    "FGVCAircraft": ("train", "val", "test"),
    "Flowers102": ("train", "val", "test"),
    "Food101": ("train", "test"),
    "GTSRB": ("train", "test"),
    "Imagenette": ("train", "val"),
    "OxfordIIITPet": ("trainval", "test"),
    "PCAM": ("train", "val", "test"),
    "RenderedSST2": ("train", "val", "test"),
    "STL10": ("train", "test"),
    "StanfordCars": ("train", "test"),
    "SVHN": ("train", "test"),
}
"""Sets that are asked for a split by its name; of three the second tunes."""

VARIANTS: Mapping[str, tuple[str, ...]] = {
    "EMNIST": ("balanced", "byclass", "bymerge", "digits", "letters", "mnist"),
}
"""Sets of several forms, `torchvision:NAME/FORM`; the first is meant where none is said."""

TOO_MANY = {
    "ImageNet": 1000,
    "INaturalist": 10_000,
    "LFWPeople": 5749,
    "Omniglot": 964,
    "Places365": 365,
    "SUN397": 397,
}
"""Sets of more classes than a byte numbers."""

_NEEDS = {"PCAM": "h5py"}
_NO_CLASS = {"Caltech256": "257.clutter"}  # as BACKGROUND_Google, which torchvision leaves out of Caltech101
_NAMES = {"PCAM": ("no tumour", "tumour")}

Item = tuple[int, int]


@dataclass(frozen=True)
class _Part:
    """A split of a set as torchvision reads it, and every picture's label where it is told undecoded."""

    found: Any
    labels: Sequence[int] | None

    def label(self, index: int) -> int:
        """The picture's label; without labels all are alike, so that they are split together."""
        return 0 if self.labels is None else self.labels[index]


def torchvision_source(
    name: str,
    root: Path,
    samples: int | None,
    seed: int,
    side: int,
    *,
    distort: str = "",
    download: bool = False,
    by_class: bool = True,
    known: Known | None = None,
) -> Source:
    """Read a classification data set of torchvision; its own test split validates, else frames are split as elsewhere.

    Its own validation split tunes; where it has none, a tenth of its training split. A class without pictures is left
    out. For `by_class` and `known` see `sources.folder`. Raises InputError for a set that is not there, cannot be read
    or is none of classes.
    """
    name = _checked(name)
    where = f"--data: {TORCHVISION}{name}"
    parts = _parts(name, root, download)
    classes, numbers = _classes(where, name, parts)
    check_classes(where, len(classes))
    first, *held_out = [
        [(which, index) for index in range(len(part.found)) if part.labels is None or part.labels[index] in numbers]
        for which, part in enumerate(parts)
    ]
    pictures, least = sum(map(len, (first, *held_out))), LEAST_PER_CLASS * len(classes)
    if pictures < least:
        raise InputError(f"{where}: {pictures} images of {len(classes)} classes, expected at least {least}")
    identity = partial(_identity, name)
    items = divided(
        first,
        held_out,
        samples,
        seed,
        lambda item: parts[item[0]].label(item[1]),
        by_class,
        lambda item: None if known is None else known.split_of(identity(item)),
    )
    facts = _facts(name, items, by_class) | asked(samples, distort)
    wanted = variants(distort)
    make = partial(_read, where=where, parts=parts, numbers=numbers, side=side, wanted=wanted)
    return Source(classes, facts, items, make, identity, copies=len(wanted), parallel=False)


def _facts(name: str, items: Mapping[str, Sequence[Item]], by_class: bool) -> dict[str, Any]:
    chosen = [item for split in SPLITS for item in items[split]]
    found: dict[str, Any] = {"source": f"{TORCHVISION}{name}", "samples": len(chosen)}
    if not by_class:
        return found
    splits = {split: len(items[split]) for split in SPLITS}
    return {**found, "splits": splits, "listing": digest(f"{which} {index}" for which, index in chosen), **BY_CLASS}


def _identity(name: str, item: Item) -> int:
    return provenance.of_words(TORCHVISION, name, *item)


def _checked(name: str) -> str:
    """Return a set's name, with its form where there are several. Raises InputError for one that cannot be used."""
    word, slash, form = name.partition("/")
    known = (*WHOLE, *BY_TRAIN, *BY_SPLIT)
    if word in TOO_MANY:
        raise InputError(f"--data: {TORCHVISION}{name}: {TOO_MANY[word]} classes, expected 2 to 256")
    if word not in known:
        there = inspect.isclass(getattr(datasets, word, None))
        real = sorted({*known} - {"FakeData"})  # noise, for tests
        told = f", expected one of {', '.join(real)}" if there else nearest(word, real)
        raise InputError(f"--data: {TORCHVISION}{name}{': not one class for each picture' * there}{told}")
    if slash and form not in VARIANTS.get(word, ()):
        forms = [f"{word}/{each}" for each in VARIANTS.get(word, ())] or [word]
        raise InputError(f"--data: {TORCHVISION}{name}, expected {TORCHVISION}{', '.join(forms)}")
    if word in _NEEDS and importlib.util.find_spec(_NEEDS[word]) is None:
        raise InputError(f"--data: {TORCHVISION}{name}: it is read by {_NEEDS[word]}, expected that to be installed")
    return f"{word}/{form or VARIANTS[word][0]}" if word in VARIANTS else word


def _parts(name: str, root: Path, download: bool) -> list[_Part]:
    """Every split of a set: training, one to tune where there is one, one to validate. Raises InputError."""
    word, _, form = name.partition("/")
    kind: Any = getattr(datasets, word)  # each takes options of its own
    options = inspect.signature(kind).parameters
    fetched = "download" in options or word in VARIANTS
    given: dict[str, Any] = {"root": str(root)} if "root" in options else {}
    given |= ({"download": download} if fetched else {}) | ({"split": form} if form else {})
    asked_for: list[dict[str, Any]] = [{"split": split} for split in BY_SPLIT.get(word, ())]
    if word in BY_TRAIN:
        asked_for = [{"train": True}, {"train": False}]
    elsewhere = not fetched or word == "StanfordCars"  # whose address is no more
    with _nothing_left(root):
        try:
            return [_part(kind(**given, **which)) for which in asked_for or [{}]]
        except Exception as error:  # foreign code on foreign files: it may raise anything
            expected = (
                "it there" if elsewhere else "a connection, or it there" if download else "it there, or --download"
            )
            raise InputError(f"--data: {TORCHVISION}{name} in {root}: {_told(error)}, expected {expected}") from error


def _told(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:100]
    return "not there, or not whole" if "download=True" in str(error) else line


@contextmanager
def _nothing_left(root: Path) -> Iterator[None]:
    """Where a set is refused, remove the empty folders that torchvision made on the way."""
    before = {*root.iterdir()} if root.is_dir() else set()
    with none_left(root):
        try:
            yield
        except BaseException:
            new = ({*root.iterdir()} if root.is_dir() else set()) - before
            for place in sorted((each for top in new for each in (top, *top.rglob("*"))), reverse=True):
                with suppress(OSError):
                    place.rmdir()
            raise


def _part(found: Any) -> _Part:
    for name in ("targets", "labels", "y", "_labels"):
        labels = getattr(found, name, None)
        if labels is not None and len(labels) == len(found):
            # QMNIST keeps more than the label, in further columns.
            return _Part(found, np.asarray(labels).reshape(len(labels), -1)[:, 0].tolist())
    samples = getattr(found, "_samples", None)
    return _Part(found, None if samples is None else [label for _, label in samples])


def _classes(where: str, name: str, parts: Sequence[_Part]) -> tuple[tuple[str, ...], Mapping[int, int]]:
    """The names of the classes that there are pictures of, and the index of each by its number in the set."""
    told = [getattr(part.found, "classes", getattr(part.found, "categories", None)) for part in parts]
    for other in told[1:]:
        if told[0] is not None and other is not None and list(other) != list(told[0]):
            raise InputError(f"{where}: its splits are of other classes, expected the same in each")
    labels = [label for part in parts for label in part.labels or ()]
    if any(not isinstance(label, int) for label in labels):
        raise InputError(f"{where}: pictures without a label, expected one for each")
    names = _names(name, parts[0].found, told[0], max(labels, default=-1) + 1)
    there = {*labels} if labels else {*range(len(names))}
    if not there <= {*range(len(names))}:
        raise InputError(f"{where}: label {max(there)} of {len(names)} classes, expected 0 to {len(names) - 1}")
    kept = [number for number in sorted(there) if names[number] != _NO_CLASS.get(name)]
    return tuple(names[number] for number in kept), {number: index for index, number in enumerate(kept)}


def _names(name: str, found: Any, told: Sequence[Any] | None, most: int) -> tuple[str, ...]:
    if told is None:
        count = getattr(found, "num_classes", most)
        return _NAMES.get(name) or tuple(str(each) for each in range(count))
    # Some are tuples of names, the usual one first.
    return tuple(each[0] if isinstance(each, tuple) else str(each) for each in told)


def _read(
    items: Sequence[Item],
    where: str,
    parts: Sequence[_Part],
    numbers: Mapping[int, int],
    side: int,
    wanted: Mapping[str, str],
) -> list[Record]:
    records: list[Record] = []
    for which, index in items:
        stream = io.BytesIO()
        try:
            picture, told = parts[which].found[index]
            # As a file, as a camera would send it, but without a loss.
            picture.convert("RGB").save(stream, "PNG")
            encoded, label = stream.getvalue(), numbers[int(told)]
            frame = load_image(encoded, side, side)[0]
        except Exception as error:  # likewise
            raise InputError(f"{where}: picture {index} cannot be read: {_told(error)}") from error
        if [*wanted] == [CLEAR]:
            records.append((frame, label, CLEAR, len(encoded)))
            continue
        photo = Photo(f"{which}-{index}", label, CLEAR, partial(bytes, encoded))
        records += distorted(photo, len(encoded), side, wanted)
    return records
