"""Where frames come from: generated, a folder of class folders, or such folders under `train` and `val` or `test`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from popexd.bundle import InputSpec
from popexd.errors import FrameRejected, InputError
from popexd.lab import conveyor, photos, provenance
from popexd.lab.distortions import named
from popexd.lab.parts import CLASSES
from popexd.lab.pictures import unreadable
from popexd.lab.provenance import TRAINING, TUNING, VALIDATION, Known
from popexd.quality import CLEAR
from popexd.runtime.frames import load_image

GENERATED = "generated"
TORCHVISION = "torchvision:"
SPLITS = provenance.SPLITS
BY_CLASS = {"rule": "by class"}
"""Among the facts of a source whose every class was split by itself; of before, all were shuffled together."""

LEAST_PER_CLASS = 10
"""Of a folder that is split here: fewer, and a class may be missing in a split."""

_GENERATED_SAMPLES = 24_000
_MOST_REMEMBERED = 10_000_000

Record = tuple[npt.NDArray[np.uint8], int, str, int]
"""A frame [side, side, 3], its label, its quality class, and the bytes it had as a file."""


@dataclass(frozen=True)
class Source:
    """What is to be prepared: `make` turns items into records, wherever it runs; `facts` tell sources apart."""

    classes: tuple[str, ...]
    facts: Mapping[str, Any]
    items: Mapping[str, Sequence[Any]]
    make: Callable[[Sequence[Any]], list[Record]]
    identity: Callable[[Any], int]
    """What an item is known by, see `provenance`."""
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
    make = partial(_generate, seed=seed, side=side)
    return Source(CLASSES, facts, split(range(count)), make, partial(provenance.of_words, GENERATED, seed))


def folder(
    place: Path,
    samples: int | None,
    seed: int,
    side: int,
    distort: str = "",
    *,
    by_class: bool = True,
    known: Known | None = None,
) -> Source:
    """Images in one folder per class, split here; or in class folders under the names that `photos` knows.

    With `val` (or `valid`, `validation`) and `test`, `val` tunes and `test` validates; with one of them, it validates
    and a tenth of `train` tunes. `samples` limits all splits together; for `distort` see `variants`. What is split here
    is split `by_class` (else as it was before), and what an earlier network has `known` stays in the split it had.
    Raises InputError.
    """
    if not place.is_dir():
        raise InputError(f"{place}: no such folder, expected 'generated', torchvision:NAME or one folder per class")
    parts = photos.given_parts(place)
    if photos.TRAIN in parts and len(parts) > 1:
        classes, training, held_out = _given_splits(parts)
    else:
        root = parts.get(photos.TRAIN, place) if {*parts} == {*photos.class_folders(place)} else place
        classes, held_out = _classes(root), []
        training = images_of(root, classes, LEAST_PER_CLASS)
    items = divided(training, held_out, samples, seed, _label, by_class, partial(_kept, known))
    chosen = [each for name in SPLITS for each in items[name]]
    facts: dict[str, Any] = {
        "source": "folder",
        "samples": len(chosen),
        "splits": {name: len(items[name]) for name in SPLITS},
        "listing": digest(f"{path.relative_to(place)} {path.stat().st_size}" for path, _ in chosen),
        **(BY_CLASS if by_class else {}),
        **asked(samples, distort),
    }
    wanted = variants(distort)
    return Source(classes, facts, items, partial(_read, side=side, wanted=wanted), _identity, copies=len(wanted))


def remembered(facts: Mapping[str, Any], place: Path | None) -> Known | None:
    """Which frames were in which split, from what `facts` say of them; None where that is not enough.

    Generated frames can be named; photos where `place` is still the folder that they were listed in.
    """
    samples, seed = facts.get("limit", facts.get("samples")), facts.get("seed")
    if not isinstance(samples, int) or not isinstance(seed, int) or not 0 < samples <= _MOST_REMEMBERED or seed < 0:
        return None
    try:
        if facts.get("source") == GENERATED:
            found = generated(samples, seed, 0)
        elif facts.get("source") == "folder" and place is not None and place.is_dir():
            found = folder(place, facts.get("limit"), seed, 0, by_class="rule" in facts)
        else:
            return None
        if found.facts.get("listing") != facts.get("listing"):
            return None
        return provenance.known({name: map(found.identity, found.items[name]) for name in SPLITS})
    except (InputError, OSError):
        return None


def digest(lines: Iterable[str]) -> str:
    """One name for a listing."""
    # A file's name may be no text.
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


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


def divided(
    items: Sequence[Any],
    held_out: Sequence[Sequence[Any]],
    samples: int | None,
    seed: int,
    label: Callable[[Any], int],
    by_class: bool,
    kept: Callable[[Any], str | None],
) -> dict[str, Sequence[Any]]:
    """Divide items into splits of which each holds every class in proportion, and so does any start of it.

    `held_out` are items that the source keeps apart: to validate, or to tune and to validate. What is missing of these
    two is taken from `items`, a tenth of each class; `kept` names the split that an item stays in. Without `by_class`
    all are shuffled together. Raises InputError where `samples` leave a split empty.
    """
    apart = [shuffled(each, seed) for each in held_out]
    if not by_class:
        return limited(_together(shuffled(items, seed), apart), samples)
    order = {item: rank for rank, item in enumerate(shuffled(items, seed))}
    order |= {item: rank for own in apart for rank, item in enumerate(own)}
    stays = {item: kept(item) for item in order}
    missing, given = (TUNING, VALIDATION)[: 2 - len(apart)], (TUNING, VALIDATION)[2 - len(apart) :]
    found = _tenths(sorted(items, key=order.__getitem__), missing, label, stays) | dict(zip(given, apart, strict=True))
    # What is known comes first, so that a limit takes it again; then the order is that of what is there.
    first = {name: _mixed(own, label, lambda item: (stays[item] is None, order[item])) for name, own in found.items()}
    taken = limited({name: first[name] for name in SPLITS}, samples)
    return {name: _mixed(own, label, lambda item: (False, order[item])) for name, own in taken.items()}


def _together(items: Sequence[Any], apart: Sequence[Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """How sources were split before classes were split each by itself; runs of then go on with that."""
    tenth = len(items) // 10
    match apart:
        case []:
            return split(items)
        case [validation]:
            return {TRAINING: items[tenth:], TUNING: items[:tenth], VALIDATION: validation}
    return {TRAINING: items, TUNING: apart[0], VALIDATION: apart[1]}


def _tenths(
    items: Sequence[Any], names: Sequence[str], label: Callable[[Any], int], stays: Mapping[Any, str | None]
) -> dict[str, Sequence[Any]]:
    """Give a tenth of each class to each of `names` and the rest to training, but leave each where it `stays`."""
    found: dict[str, list[Any]] = {name: [] for name in (TRAINING, *names)}
    for own in _by_label(items, label).values():
        tenth = (len(own) + 5) // 10
        new: list[Any] = []
        mine: dict[str, list[Any]] = {name: [] for name in found}
        for item in own:
            mine.get(stays[item] or "", new).append(item)
        for name in names:
            wanted = max(0, tenth - len(mine[name]))
            mine[name] += new[:wanted]
            new = new[wanted:]
        mine[TRAINING] += new
        for name, chosen in mine.items():
            found[name] += chosen
    return {**found}


def _mixed(items: Sequence[Any], label: Callable[[Any], int], order: Callable[[Any], tuple[bool, int]]) -> list[Any]:
    """Order items so that each class is spread evenly; what `order` says False of comes first."""
    places: list[tuple[bool, float, int, Any]] = []
    for name, own in _by_label(sorted(items, key=order), label).items():
        places += [(order(item)[0], (rank + 0.5) / len(own), name, item) for rank, item in enumerate(own)]
    return [item for *_, item in sorted(places, key=lambda place: place[:3])]


def _by_label(items: Sequence[Any], label: Callable[[Any], int]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for item in items:
        found.setdefault(label(item), []).append(item)
    return dict(sorted(found.items()))


def _classes(root: Path) -> tuple[str, ...]:
    """The names of the folders in a folder. Raises InputError for fewer than two or more than a byte can number."""
    classes = photos.class_folders(root)
    check_classes(str(root), len(classes), "class folders")
    for name in classes:
        if not name.isascii() and name != name.encode(errors="replace").decode():
            raise InputError(f"{root}: {name!a} is no text, expected the name of a class in UTF-8")
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


Images = list[tuple[Path, int]]


def _given_splits(parts: Mapping[str, Path]) -> tuple[tuple[str, ...], Images, list[Images]]:
    """The classes, the photos under `train`, and those under the others, `test` last. Raises InputError."""
    classes = _classes(parts[photos.TRAIN])
    training = images_of(parts[photos.TRAIN], classes, LEAST_PER_CLASS)
    held_out: list[Images] = []
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
        held_out.append(images)
    return classes, training, held_out


def _label(item: tuple[Path, int]) -> int:
    return item[1]


def _identity(item: tuple[Path, int]) -> int:
    try:
        return provenance.of_content(item[0].read_bytes())
    except OSError as error:
        raise unreadable(item[0], error) from error


def _kept(known: Known | None, item: tuple[Path, int]) -> str | None:
    return None if known is None else known.split_of(_identity(item))


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
            raise unreadable(path, error) from error
        records += distorted(photos.Photo(str(path), label, CLEAR, partial(bytes, encoded)), len(encoded), side, wanted)
    return records


def distorted(photo: photos.Photo, camera_bytes: int, side: int, wanted: Mapping[str, str]) -> list[Record]:
    """Make a record of a photo for each of `wanted`: distorted at its own size, as an evaluation does, then resized."""
    names = {name: quality for name, quality in wanted.items() if name != CLEAR}
    # Each photo has noise of its own, and the same wherever it lies.
    made = photos.frames([photo], InputSpec(side, side, 3), names, seed=photos.identity(photo))
    return [
        (image, photo.label, str(quality), camera_bytes)
        for image, quality, variant in zip(made.images, made.quality, made.variant, strict=True)
        if variant != photos.AS_IT_IS or CLEAR in wanted
    ]
