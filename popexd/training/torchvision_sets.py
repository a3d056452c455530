"""torchvision's data sets by name (`torchvision:CIFAR10`), read where they lie, fetched only when asked to."""

from __future__ import annotations

import inspect
import io
import urllib.error
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torchvision import datasets

from popexd.complaints import nearest
from popexd.errors import InputError
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

Item = tuple[int, int]


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

    A tenth of its training split tunes. For `by_class` and `known` see `sources.folder`. Raises InputError for a set
    that is not there or is none of classes.
    """
    sets = _sets(name, root, download)
    classes = _classes(name, sets[0])
    check_classes(f"--data: {TORCHVISION}{name}", len(classes))
    if sum(map(len, sets)) < LEAST_PER_CLASS * len(classes):
        raise InputError(
            f"--data: {TORCHVISION}{name}: {sum(map(len, sets))} images of {len(classes)} classes are too few"
        )
    identity = partial(_identity, name)
    first, *held_out = [[(which, index) for index in range(len(each))] for which, each in enumerate(sets)]
    labels = [_labels(each) for each in sets]
    items = divided(
        first,
        held_out,
        samples,
        seed,
        lambda item: labels[item[0]][item[1]],
        by_class,
        lambda item: None if known is None else known.split_of(identity(item)),
    )
    facts: dict[str, Any] = {
        "source": f"{TORCHVISION}{name}",
        "samples": sum(map(len, items.values())),
        **asked(samples, distort),
    }
    if by_class:
        chosen = [item for split in SPLITS for item in items[split]]
        splits = {split: len(items[split]) for split in SPLITS}
        facts |= {"splits": splits, "listing": digest(f"{which} {index}" for which, index in chosen), **BY_CLASS}
    wanted = variants(distort)
    make = partial(_read, sets=sets, side=side, wanted=wanted)
    return Source(classes, facts, items, make, identity, copies=len(wanted), parallel=False)


def _identity(name: str, item: Item) -> int:
    return provenance.of_words(TORCHVISION, name, *item)


def _labels(found: Any) -> list[int]:
    """Every picture's label where the set tells it undecoded; else all alike, so that they are split together."""
    for name in ("targets", "labels", "y", "_labels"):
        labels = getattr(found, name, None)
        if labels is not None and len(labels) == len(found):
            return [int(each) for each in np.asarray(labels)]
    return [0] * len(found)


def _sets(name: str, root: Path, download: bool) -> list[Any]:
    kind: Any = getattr(datasets, name, None)  # each takes options of its own
    known = [each for each in datasets.__all__ if inspect.isclass(getattr(datasets, each))]
    if name not in known:
        raise InputError(f"--data: {TORCHVISION}{name}{nearest(name, known)}")
    options = inspect.signature(kind).parameters
    given: dict[str, Any] = {"root": str(root)} if "root" in options else {}
    if "download" in options:
        given["download"] = download
    try:
        if "train" in options:
            return [kind(**given, train=which) for which in (True, False)]
        if "split" in options:
            return [kind(**given, split=which) for which in ("train", "test")]
        return [kind(**given)]
    except (RuntimeError, OSError, ValueError, TypeError, ModuleNotFoundError, urllib.error.URLError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0][:100]
        wanted = "a connection" if download else "it there, or --download"
        raise InputError(f"--data: {TORCHVISION}{name} in {root}: {first_line}, expected {wanted}") from error


def _classes(name: str, found: Any) -> tuple[str, ...]:
    if hasattr(found, "classes"):
        # Some are tuples of names, some hold a slash or a space.
        return tuple(str(each) for each in found.classes)
    count = getattr(found, "num_classes", None)
    if count is None:
        labels = getattr(found, "targets", getattr(found, "labels", None))
        if labels is None:
            raise InputError(f"--data: {TORCHVISION}{name}: no classes, expected a data set for classification")
        count = int(np.max(np.asarray(labels))) + 1
    return tuple(str(each) for each in range(count))


def _read(items: Sequence[Item], sets: Sequence[Any], side: int, wanted: Mapping[str, str]) -> list[Record]:
    records: list[Record] = []
    for which, index in items:
        picture, label = sets[which][index]
        # As a file, as a camera would send it, but without a loss.
        stream = io.BytesIO()
        picture.convert("RGB").save(stream, "PNG")
        encoded = stream.getvalue()
        if [*wanted] == [CLEAR]:
            records.append((load_image(encoded, side, side)[0], int(label), CLEAR, len(encoded)))
            continue
        photo = Photo(f"{which}-{index}", int(label), CLEAR, partial(bytes, encoded))
        records += distorted(photo, len(encoded), side, wanted)
    return records
