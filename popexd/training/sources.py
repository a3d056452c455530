"""Where frames come from: generated, a folder of class folders, or such folders under `train` and `val` or `test`."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from popexd.bundle import InputSpec
from popexd.errors import FrameRejected, InputError
from popexd.lab import conveyor, photos
from popexd.lab.distortions import named
from popexd.lab.parts import CLASSES
from popexd.quality import CLEAR
from popexd.runtime.frames import load_image

GENERATED = "generated"
TORCHVISION = "torchvision:"
SPLITS = ("training", "tuning", "validation")

LEAST_PER_CLASS = 10
"""Of a folder that is split here: fewer, and a class may be missing in a split."""

_GENERATED_SAMPLES = 24_000

Record = tuple[npt.NDArray[np.uint8], int, str, int]
"""A frame [side, side, 3], its label, its quality class, and the bytes it had as a file."""


@dataclass(frozen=True)
class Source:
    """What is to be prepared: `make` turns items into records, wherever it runs; `facts` tell sources apart."""

    classes: tuple[str, ...]
    facts: Mapping[str, Any]
    items: Mapping[str, Sequence[Any]]
    make: Callable[[Sequence[Any]], list[Record]]
    copies: int = 1
    """Records that an item gives: one for each distortion."""
    parallel: bool = True
    """Whether `make` may be sent to other processes."""

    def __len__(self) -> int:
        return self.copies * sum(len(items) for items in self.items.values())


def generated(samples: int | None, seed: int, side: int) -> Source:
    """Frames of the generated camera. Raises InputError for too few of them."""
    count = samples or _GENERATED_SAMPLES
    if count < 10 * len(CLASSES):
        raise InputError(f"--samples: {count}, expected at least {10 * len(CLASSES)}")
    facts = {"source": GENERATED, "samples": count}
    return Source(CLASSES, facts, split(range(count)), partial(_generate, seed=seed, side=side))


def folder(place: Path, samples: int | None, seed: int, side: int, distort: str = "") -> Source:
    """Images in one folder per class, split here; or in class folders under the names that `photos` knows.

    With `val` (or `valid`, `validation`) and `test`, `val` tunes and `test` validates; with one of them, it validates
    and a tenth of `train` tunes. `samples` limits all splits together; for `distort` see `variants`. Raises InputError.
    """
    if not place.is_dir():
        raise InputError(f"{place}: no such folder, expected 'generated', torchvision:NAME or one folder per class")
    parts = photos.given_parts(place)
    if photos.TRAIN in parts and len(parts) > 1:
        classes, items = _given_splits(parts, seed)
    else:
        root = parts.get(photos.TRAIN, place) if {*parts} == {*photos.class_folders(place)} else place
        classes = _classes(root)
        items = split(shuffled(images_of(root, classes, LEAST_PER_CLASS), seed))
    items = limited(items, samples)
    chosen = [each for name in SPLITS for each in items[name]]
    listing = "\n".join(f"{path.relative_to(place)} {path.stat().st_size}" for path, _ in chosen)
    facts: dict[str, Any] = {
        "source": "folder",
        "samples": len(chosen),
        "splits": {name: len(items[name]) for name in SPLITS},
        "listing": hashlib.sha256(listing.encode()).hexdigest(),
    }
    wanted = variants(distort)
    facts |= asked(samples, distort)
    return Source(classes, facts, items, partial(_read, side=side, wanted=wanted), copies=len(wanted))


def variants(distort: str) -> dict[str, str]:
    """What is done to frames, and the class that makes them, see `distortions.named`; nothing said is "clear".

    Every frame is there once for each.
    """
    return named(distort) or {CLEAR: CLEAR}


def asked(samples: int | None, distort: str) -> dict[str, Any]:
    """The facts of a source that are there only where something was asked for."""
    return {
        **({} if samples is None else {"limit": samples}),
        # Frames of before were not compressed again after it: other frames.
        **({} if not distort else {"distort": distort, "compressed": True}),
    }


def split(items: Sequence[Any]) -> dict[str, Sequence[Any]]:
    """Of ten items eight train, one tunes, one validates."""
    tenth = len(items) // 10
    return {
        "training": items[: len(items) - 2 * tenth],
        "tuning": items[len(items) - 2 * tenth : len(items) - tenth],
        "validation": items[len(items) - tenth :],
    }


def shuffled(items: Sequence[Any], seed: int) -> list[Any]:
    """The same items in an order that the seed decides."""
    return [items[position] for position in np.random.default_rng([seed, 3]).permutation(len(items))]


def _classes(root: Path) -> tuple[str, ...]:
    """The names of the folders in a folder. Raises InputError for fewer than two or more than a byte can number."""
    classes = photos.class_folders(root)
    check_classes(str(root), len(classes), "class folders")
    return classes


def check_classes(where: str, count: int, what: str = "classes") -> None:
    """Raise InputError unless a classifier can tell that many classes apart, and a byte number them."""
    if count == 0:
        raise InputError(f"{where}: no {what}, expected one folder of images per class")
    if not 2 <= count <= 256:
        raise InputError(f"{where}: {count} {what}, expected 2 to 256")


def images_of(root: Path, classes: Sequence[str], least: int) -> list[tuple[Path, int]]:
    """List every class's images with their labels. Raises InputError where a class has fewer than `least`."""
    items: list[tuple[Path, int]] = []
    for label, name in enumerate(classes):
        found = photos.images_in(root / name)
        if len(found) < least:
            raise InputError(f"{root / name}: {len(found)} images, expected at least {least} (JPEG, PNG or WebP)")
        items.extend((path, label) for path in found)
    return items


def _given_splits(parts: Mapping[str, Path], seed: int) -> tuple[tuple[str, ...], dict[str, Sequence[Any]]]:
    classes = _classes(parts[photos.TRAIN])
    training = shuffled(images_of(parts[photos.TRAIN], classes, LEAST_PER_CLASS), seed)
    held_out: dict[str, list[tuple[Path, int]]] = {}
    for name in [each for each in parts if each != photos.TRAIN]:
        unknown = {*photos.class_folders(parts[name])} - {*classes}
        if unknown:
            raise InputError(
                f"{parts[name]}: class {min(unknown)!r} is not in {parts[photos.TRAIN]}, expected the same"
            )
        there = [each for each in classes if (parts[name] / each).is_dir()]
        images = [(path, classes.index(there[label])) for path, label in images_of(parts[name], there, 0)]
        if not images:
            raise InputError(f"{parts[name]}: no images, expected some of every class to be held out")
        held_out[name] = shuffled(images, seed)
    *tuning, validation = held_out.values()  # `test` is the last where there are two
    if tuning:
        return classes, {"training": training, "tuning": tuning[0], "validation": validation}
    tenth = len(training) // 10
    return classes, {"training": training[tenth:], "tuning": training[:tenth], "validation": validation}


def limited(items: Mapping[str, Sequence[Any]], samples: int | None) -> dict[str, Sequence[Any]]:
    """Keep as large a part of every split as `samples` in all allow. Raises InputError where one would be empty."""
    total = sum(len(each) for each in items.values())
    if samples is None or samples >= total:
        return dict(items)
    kept = {name: each[: len(each) * samples // total] for name, each in items.items()}
    for name, each in kept.items():
        if not each:
            raise InputError(f"--samples: {samples} leave no {name} split of {total} images, expected more")
    return kept


def _generate(indices: Sequence[int], seed: int, side: int) -> list[Record]:
    records: list[Record] = []
    for index in indices:
        frame = conveyor.scene(index, seed)
        encoded = frame.jpeg()
        records.append((load_image(encoded, side, side)[0], frame.label, frame.quality, len(encoded)))
    return records


def _read(items: Sequence[tuple[Path, int]], side: int, wanted: Mapping[str, str]) -> list[Record]:
    records: list[Record] = []
    for path, label in items:
        try:
            encoded = path.read_bytes()
            if [*wanted] == [CLEAR]:
                records.append((load_image(encoded, side, side)[0], label, CLEAR, len(encoded)))
                continue
        except (OSError, FrameRejected) as error:
            raise InputError(f"{path}: cannot be read as an image: {error}") from error
        records += distorted(photos.Photo(str(path), label, CLEAR, path.read_bytes), len(encoded), side, wanted)
    return records


def distorted(photo: photos.Photo, camera_bytes: int, side: int, wanted: Mapping[str, str]) -> list[Record]:
    """Make a record of a photo for each of `wanted`: distorted at its own size, as an evaluation does, then resized."""
    names = {name: quality for name, quality in wanted.items() if name != CLEAR}
    chance = zlib.crc32(Path(photo.name).name.encode())
    made = photos.frames([photo], InputSpec(side, side, 3), names, seed=chance)
    return [
        (image, photo.label, str(quality), camera_bytes)
        for image, quality, variant in zip(made.images, made.quality, made.variant, strict=True)
        if variant != photos.AS_IT_IS or CLEAR in wanted
    ]
