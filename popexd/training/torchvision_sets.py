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
from popexd.lab.photos import Photo
from popexd.quality import CLEAR
from popexd.runtime.frames import load_image
from popexd.training.sources import (
    LEAST_PER_CLASS,
    TORCHVISION,
    Record,
    Source,
    asked,
    check_classes,
    distorted,
    limited,
    shuffled,
    variants,
)
from popexd.training.sources import split as split_in_ten

Item = tuple[int, int]


def torchvision_source(
    name: str, root: Path, samples: int | None, seed: int, side: int, *, distort: str = "", download: bool = False
) -> Source:
    """Read a classification data set of torchvision; its own test split validates, else frames are split as elsewhere.

    A tenth of its training split tunes. Raises InputError for a set that is not there or is none of classes.
    """
    sets = _sets(name, root, download)
    classes = _classes(name, sets[0])
    check_classes(f"--data: {TORCHVISION}{name}", len(classes))
    if sum(map(len, sets)) < LEAST_PER_CLASS * len(classes):
        raise InputError(
            f"--data: {TORCHVISION}{name}: {sum(map(len, sets))} images of {len(classes)} classes are too few"
        )
    first: list[Item] = shuffled([(0, index) for index in range(len(sets[0]))], seed)
    items: dict[str, Sequence[Any]] = split_in_ten(first)
    if len(sets) > 1:
        tenth = len(first) // 10
        held_out = shuffled([(1, index) for index in range(len(sets[1]))], seed)
        items = {"training": first[tenth:], "tuning": first[:tenth], "validation": held_out}
    items = limited(items, samples)
    facts = {"source": f"{TORCHVISION}{name}", "samples": sum(map(len, items.values())), **asked(samples, distort)}
    wanted = variants(distort)
    make = partial(_read, sets=sets, side=side, wanted=wanted)
    return Source(classes, facts, items, make, copies=len(wanted), parallel=False)


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
