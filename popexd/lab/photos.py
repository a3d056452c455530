"""Labelled photos to evaluate and calibrate on: where they are from, which part fits and which reports, as frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from popexd.bundle import Bundle, InputSpec
from popexd.errors import FrameRejected, InputError
from popexd.lab import conveyor, provenance
from popexd.lab.distortions import DISTORTIONS, as_sent, named
from popexd.lab.parts import CLASSES
from popexd.lab.pictures import unreadable
from popexd.lab.provenance import Known
from popexd.quality import CLEAR
from popexd.runtime.frames import load_image, sniff

GENERATED = "generated"
AS_IT_IS = "as it is"
MOST_BYTES = 6_000_000_000

TRAIN = "train"
TUNING = ("val", "valid", "validation")
TEST = "test"
"""Folders of a source that keeps its photos apart; the first of TUNING that is there is meant."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""Of the images that are looked for."""

Pixels = npt.NDArray[np.uint8]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Photo:
    """One labelled photo: index of its class, what is wrong with it, and its file's bytes or its pixels.

    `identity` is None where the file's bytes decide, see `provenance`; `tuned` says that the network to be evaluated
    was tuned on it, `distorted` that what is wrong with it was done in the laboratory.
    """

    name: str
    label: int
    quality: str
    load: Callable[[], bytes | Pixels]
    identity: int | None = None
    tuned: bool = False
    distorted: bool = False


@dataclass(frozen=True)
class Parts:
    """Photos to fit on and photos to report on, none in both; `origin` says where they are from, for people.

    `own` says that the source itself keeps them apart; otherwise they are halves of the same photos. `known` is what
    the network knows, None where that cannot be told.
    """

    fit: tuple[Photo, ...]
    report: tuple[Photo, ...]
    origin: str
    own: bool
    known: Known | None = None


@dataclass(frozen=True)
class Frames:
    """Frames as the network takes them.

    Attributes:
        images: uint8 RGB [samples, height, width, 3].
        label: [samples], index into the bundle's classes.
        quality: [samples], class of what is wrong with the frame.
        variant: [samples], AS_IT_IS or the name of the distortion that was added.
        natural: [samples], whether the camera sent it so: nothing was added, here or when it was prepared.
        photo: [samples], the identity of the photo that it was made of, see `provenance`.
    """

    images: Pixels
    label: npt.NDArray[np.intp]
    quality: npt.NDArray[np.str_]
    variant: npt.NDArray[np.str_]
    natural: npt.NDArray[np.bool_]
    photo: npt.NDArray[np.uint64]


def photos(source: str, bundle: Bundle, samples: int | None, seed: int, *, whole: bool = False) -> Parts:
    """List the photos of a source: "generated", a folder, or frames that `popexd train` prepared.

    A folder has one folder of images per class, or such folders under one of TUNING and `test` (one of them will do;
    `train` is left alone beside them). What the source does not keep apart is halved here, class by class. `samples` is
    the most that are taken, classes in turn; None for all (1200 if generated). With `whole` nothing is fitted: all
    report, or of a source that keeps them apart its test photos.

    Photos that the network was trained on are left out; those that it was tuned on never report. `origin` says so.

    Raises:
        InputError: no such folder, fewer than two classes, one that the bundle does not know, or no images.
    """
    place = Path(source)
    if source == GENERATED:
        check_generated(bundle)
        known = provenance.of_bundle(bundle)
        _check_memory(samples or 1200, bundle.input)
        every, origin = _new_shots(samples or 1200, seed, known)
        return Parts((), tuple(every), origin, own=False) if whole else _halved(every, origin, known)
    if (place / "data.json").is_file():
        return _prepared(place, bundle, samples, whole=whole)
    if whole:
        root, left, note = held_out(place, bundle)
        every = _in_turn(left, samples, seed)
        return Parts((), tuple(every), f"{len(every)} photos of {root.absolute().name}{note}", own=False)
    known, tuning, test, rest = _opened(place, bundle)
    if tuning is not None and test is not None:
        both, notes = [], []
        for each in (tuning, test):
            left, note = _sorted_out(of_folder(each, bundle), known, each, to_fit=each == tuning)
            both.append(tuple(_in_turn(left, _half(samples), seed)))
            notes.append(note)
        origin = f"{len(both[0])} photos of {tuning.name}, {len(both[1])} of {test.name}"
        return Parts(both[0], both[1], origin + "".join(dict.fromkeys(notes)), own=True, known=known)
    root = tuning or test or rest
    left, note = _sorted_out(of_folder(root, bundle), known, root, to_fit=True)
    every = _in_turn(left, samples, seed)
    return _halved(every, f"{len(every)} photos of {root.absolute().name}{note}", known)


def held_out(place: Path, bundle: Bundle) -> tuple[Path, list[Photo], str]:
    """Return where a folder's photos lie that a bundle may be measured on, these, and what to say of them.

    Those under `test`, else under one of TUNING, else all; without those that the network was trained or tuned on.
    Raises as `photos` does.
    """
    known, tuning, test, rest = _opened(place, bundle)
    root = test or tuning or rest
    return root, *_sorted_out(of_folder(root, bundle), known, root, to_fit=False)


def _opened(place: Path, bundle: Bundle) -> tuple[Known | None, Path | None, Path | None, Path]:
    """What the network knows; the folders to tune on and to test on, where there are any; where all others lie."""
    if not place.is_dir():
        raise InputError(f"--data: {place}: no such folder, expected 'generated', class folders, or prepared frames")
    given = given_parts(place)
    tuning = next((given[name] for name in TUNING if name in given), None)
    rest = place if TRAIN in bundle.classes else given.get(TRAIN, place)
    return provenance.of_bundle(bundle, place), tuning, given.get(TEST), rest


def _sorted_out(every: Sequence[Photo], known: Known | None, place: Path, *, to_fit: bool) -> tuple[list[Photo], str]:
    """Leave out what the network was trained on, and mark what it was tuned on or leave that out too; and say so.

    Raises:
        InputError: nothing is left, or a photo cannot be read.
    """
    if known is None:
        return [*every], "; whether it was trained on some of them cannot be known"
    named = [replace(photo, identity=identity(photo)) for photo in every]
    splits = [known.split_of(photo.identity or 0) for photo in named]
    left = [
        replace(photo, tuned=split == provenance.TUNING)
        for photo, split in zip(named, splits, strict=True)
        if split != provenance.TRAINING and (to_fit or split != provenance.TUNING)
    ]
    trained, tuned = splits.count(provenance.TRAINING), splits.count(provenance.TUNING)
    parts = [f"{trained} that it was trained on"] * bool(trained) + [f"{tuned} that it was tuned on"] * bool(
        tuned and not to_fit
    )
    if not left:
        raise InputError(f"--data: {place}: {' and '.join(parts)}, expected photos that are new to the network")
    note = f"; {' and '.join(parts)} are left out" if parts else ""
    return left, note + ("" if known.complete else "; whether it was trained on some of them cannot be known")


def identity(photo: Photo) -> int:
    """What a photo is known by, see `provenance`. Raises InputError where it cannot be read."""
    if photo.identity is not None:
        return photo.identity
    try:
        content = photo.load()
    except OSError as error:
        raise unreadable(f"--data: {photo.name}", error) from error
    return provenance.of_content(content if isinstance(content, bytes) else content.tobytes())


def given_parts(place: Path) -> dict[str, Path]:
    """The folders by which a source keeps its photos apart, by name: `train`, the first of TUNING, `test`."""
    tuning = next((name for name in TUNING if (place / name).is_dir()), TUNING[0])
    return {name: place / name for name in (TRAIN, tuning, TEST) if (place / name).is_dir()}


def frames(
    chosen: Sequence[Photo],
    form: InputSpec,
    distortions: Mapping[str, str] | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Frames:
    """Make frames of photos: each as it is, and clear ones once for every distortion, added at the camera's own size.

    `distortions` names the quality class of each, see `distortions.named`; what is distorted is then compressed again
    as its file was, see `distortions.as_sent`. All are decoded and resized by the very function that the daemon uses.

    Raises:
        InputError: a photo that cannot be read, none at all, or more frames than memory may take.
    """
    classes = distortions or {}
    # What has a fault already would have two, and a class that names one of them.
    wanted = [(photo, (AS_IT_IS, *(classes if photo.quality == CLEAR else ()))) for photo in chosen]
    total = sum(len(variants) for _, variants in wanted)
    if not total:
        raise InputError("--data: no photos, expected at least one")
    _check_memory(total, form)
    images = np.empty((total, form.height, form.width, form.channels), dtype=np.uint8)
    quality: list[str] = []
    variant: list[str] = []
    for index, (photo, variants) in enumerate(wanted):
        for name in variants:
            images[len(variant)] = frame(photo, form, name, np.random.default_rng([seed, index]))
            quality.append(photo.quality if name == AS_IT_IS else classes[name])
            variant.append(name)
        if progress is not None:
            progress(index + 1, len(chosen))
    each = np.repeat(np.arange(len(chosen)), [len(variants) for _, variants in wanted])
    labels = np.array([photo.label for photo in chosen], dtype=np.intp)[each]
    natural = (np.array(variant) == AS_IT_IS) & ~np.array([photo.distorted for photo in chosen])[each]
    names = np.array([identity(photo) for photo in chosen], dtype=np.uint64)[each]
    return Frames(images, labels, np.array(quality), np.array(variant), natural, names)


def _check_memory(total: int, form: InputSpec) -> None:
    size = total * form.height * form.width * form.channels
    if size > MOST_BYTES:
        raise InputError(f"--data: {total} frames take {size / 1e9:.1f} GB, expected fewer: --samples")


def distortions(text: str | None) -> dict[str, str]:
    """Read which distortions are added to photos, see `distortions.named`; "clear" adds nothing, they are there anyway.

    Raises:
        InputError: a word that is not known.
    """
    return {name: quality for name, quality in named(text).items() if name != CLEAR}


def frame(photo: Photo, form: InputSpec, distortion: str, random: np.random.Generator) -> Pixels:
    """Make one frame of a photo, as it is or distorted: uint8 RGB [height, width, 3]. Raises InputError."""
    try:
        loaded = photo.load()
        if isinstance(loaded, bytes):
            data = sniff(loaded)
            if distortion == AS_IT_IS:
                return np.asarray(load_image(data.data, form.height, form.width)[0])
            loaded = DISTORTIONS[distortion].apply(load_image(data.data, data.height, data.width)[0], random)
            return np.asarray(load_image(as_sent(loaded, data.format, random), form.height, form.width)[0])
        if distortion != AS_IT_IS:
            loaded = DISTORTIONS[distortion].apply(loaded, random)
    except (OSError, FrameRejected) as error:
        raise unreadable(f"--data: {photo.name}", error) from error
    if loaded.shape != (form.height, form.width, form.channels):
        picture = Image.fromarray(loaded).resize((form.width, form.height), Image.Resampling.BILINEAR)
        loaded = np.asarray(picture, dtype=np.uint8)
    return loaded


def check_generated(bundle: Bundle) -> None:
    """Raise InputError unless the bundle knows what the generated camera shows."""
    if bundle.classes != CLASSES:
        raise InputError(
            f"--data: generated frames show {', '.join(CLASSES[:3])}, …, but {bundle.name} knows "
            f"{', '.join(bundle.classes[:3])}: expected a folder with a folder of photos per class"
        )


def _new_shots(samples: int, seed: int, known: Known | None) -> tuple[list[Photo], str]:
    """The first frames of a seed that the network does not know yet, and what to say of them."""
    named = ((index, provenance.of_words(GENERATED, seed, index)) for index in count())
    new = ((index, own) for index, own in named if known is None or known.split_of(own) is None)
    shots = [_shot(index, seed, own) for index, own in islice(new, samples)]
    origin = f"{len(shots)} generated frames of seed {seed}"
    if known is None or not known.complete:
        return shots, f"{origin}; whether it was trained on some of them cannot be known"
    last = int(shots[-1].name.split()[-1])
    known_ones = last + 1 - len(shots)
    return shots, f"{origin}; {known_ones} that it was trained or tuned on are left out" if known_ones else origin


def _shot(index: int, seed: int, own: int) -> Photo:
    frame = conveyor.scene(index, seed)
    # The file, not the picture: twenty times smaller.
    return Photo(f"frame {index}", frame.label, frame.quality, partial(bytes, frame.jpeg()), own)


def class_folders(root: Path) -> tuple[str, ...]:
    """The names of the folders in a folder, hidden ones left out: where photos lie in one per class, the classes."""
    return tuple(sorted(each.name for each in root.iterdir() if each.is_dir() and not each.name.startswith(".")))


def images_in(folder: Path) -> list[Path]:
    """The JPEG, PNG and WebP files of a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.is_dir())


def of_folder(root: Path, bundle: Bundle) -> list[Photo]:
    """List the photos of a folder of class folders, by class and name.

    Raises:
        InputError: fewer than two classes, one that the bundle does not know or without images.
    """
    found = [root / name for name in class_folders(root)]
    known = ", ".join(bundle.classes[:8])
    for entry in found:
        if entry.name not in bundle.classes:
            raise InputError(f"--data: {entry}: {bundle.name} knows no such class, expected folders named {known}")
    if len(found) < 2:
        raise InputError(f"--data: {root}: {len(found)} class folders, expected at least two of {known}")
    every = [
        Photo(str(path), bundle.classes.index(entry.name), CLEAR, path.read_bytes)
        for entry in found
        for path in images_in(entry)
    ]
    for entry in found:
        if not any(photo.label == bundle.classes.index(entry.name) for photo in every):
            raise InputError(f"--data: {entry}: no images, expected JPEG, PNG or WebP")
    return every


def _prepared(place: Path, bundle: Bundle, samples: int | None, *, whole: bool) -> Parts:
    from popexd.training.data import reopen

    data = reopen(place)
    if tuple(data.classes) != bundle.classes:
        raise InputError(f"--data: {place}: classes {', '.join(data.classes[:4])}, expected those of {bundle.name}")
    known = provenance.of_bundle(bundle)
    copies = len(named(data.facts.get("distort"))) or 1
    both, notes = [], []
    for name in ("tuning", "validation"):
        split = data.split(name)
        names = split.photo
        if split.images.shape[1:3] != (bundle.input.height, bundle.input.width):
            raise InputError(
                f"--data: {place}: frames of {split.images.shape[1:3]}, expected "
                f"{(bundle.input.height, bundle.input.width)} for {bundle.name}"
            )
        every = [
            Photo(
                f"{name} {index}",
                int(split.labels[index]),
                str(split.quality[index]),
                partial(np.array, split.images[index]),
                provenance.of_words(place.name, name, index // copies) if names is None else int(names[index]),
                distorted="distort" in data.facts and split.quality[index] != CLEAR,
            )
            for index in range(len(split))
        ]
        if names is not None or not data.learned_by(bundle):
            every, note = _sorted_out(every, None if names is None else known, place, to_fit=name == "tuning")
            notes.append(note)
        both.append(tuple(every[: samples if whole else _half(samples)]))
    note = "".join(dict.fromkeys(notes[whole:]))
    if whole:
        return Parts((), both[1], f"{len(both[1])} frames of validation{note}", own=True)
    origin = f"{len(both[0])} frames of tuning, {len(both[1])} of validation{note}"
    return Parts(both[0], both[1], origin, own=True, known=known)


def _half(samples: int | None) -> int | None:
    return None if samples is None else max(1, samples // 2)


def _in_turn(every: Sequence[Photo], samples: int | None, seed: int) -> list[Photo]:
    """Shuffle each class and take one of each in turn, `samples` at most."""
    random = np.random.default_rng(seed)
    by_class: dict[int, list[Photo]] = {}
    for position in random.permutation(len(every)):
        by_class.setdefault(every[position].label, []).append(every[position])
    longest = max(len(own) for own in by_class.values())
    mixed = [
        by_class[label][place] for place in range(longest) for label in sorted(by_class) if place < len(by_class[label])
    ]
    return mixed[:samples]


def _halved(every: Sequence[Photo], origin: str, known: Known | None) -> Parts:
    """Of each class one half fits, the other reports; what the network was tuned on already only ever fits."""
    taken: dict[int, tuple[list[Photo], list[Photo]]] = {}
    for photo in sorted(every, key=lambda photo: not photo.tuned):
        fit, report = taken.setdefault(photo.label, ([], []))
        (fit if photo.tuned or len(fit) <= len(report) else report).append(photo)
    chosen = {id(photo) for fit, _ in taken.values() for photo in fit}
    halves = [tuple(photo for photo in every if (id(photo) in chosen) == to_fit) for to_fit in (True, False)]
    return Parts(halves[0], halves[1], origin, own=False, known=known)
