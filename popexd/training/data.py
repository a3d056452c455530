"""Data sets for training: frames prepared once, exactly as the daemon prepares them, and kept in a cache folder.

Of ten frames eight train, one tunes (model selection, thresholds), one validates (every number that is reported).
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from popexd.errors import FrameRejected, InputError
from popexd.lab import conveyor
from popexd.lab.parts import CLASSES
from popexd.runtime.frames import load_image

SCHEMA = "popexd/training-data/1"
SPLITS = ("training", "tuning", "validation")
GENERATED = "generated"

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_CHUNK = 32

Record = tuple[npt.NDArray[np.uint8], int, str, int]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Split:
    """Frames of one split: `images` uint8 RGB [samples, height, width, 3], memory-mapped; the rest are [samples]."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    quality: npt.NDArray[np.str_]
    camera_bytes: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.labels.size)


@dataclass(frozen=True)
class DataSet:
    """A prepared data set; `facts` says where it came from."""

    folder: Path
    classes: tuple[str, ...]
    facts: dict[str, Any]

    def split(self, name: str) -> Split:
        """Open one of SPLITS. Raises InputError when its files are damaged."""
        try:
            images = np.load(self.folder / f"{name}-images.npy", mmap_mode="r", allow_pickle=False)
            with np.load(self.folder / f"{name}-facts.npz", allow_pickle=False) as facts:
                return Split(images, facts["labels"], facts["quality"], facts["camera_bytes"])
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{self.folder}: {name} split cannot be read: {error}, expected a prepared data set"
            ) from error


def prepare(
    cache: Path,
    source: str,
    samples: int,
    seed: int,
    side: int,
    *,
    processes: int = 2,
    progress: Progress | None = None,
) -> DataSet:
    """Return the data set in `cache`, written first if it is not there: generated, or from a folder of class folders.

    `samples` counts all splits together (a folder's images at most). Raises InputError when `cache` holds other data or
    the source cannot be used.
    """
    cache = Path(cache)
    wanted: dict[str, Any] = {"schema": SCHEMA, "seed": seed, "side": side}
    if source == GENERATED:
        if samples < 10 * len(CLASSES):
            raise InputError(f"--samples: {samples}, expected at least {10 * len(CLASSES)}")
        classes: tuple[str, ...] = CLASSES
        wanted |= {"source": GENERATED, "classes": list(classes), "samples": samples}
        make: Callable[[Sequence[Any]], list[Record]] = partial(_generate, seed=seed, side=side)
        items: Sequence[Any] = range(samples)
    else:
        classes, items, listing = _list_folder(Path(source), samples, seed)
        wanted |= {"source": "folder", "classes": list(classes), "samples": len(items), "listing": listing}
        make = partial(_read, side=side)
    if (cache / "data.json").is_file():
        return _reopened(cache, wanted)
    if cache.exists() and (not cache.is_dir() or any(cache.iterdir())):
        raise InputError(f"{cache}: in the way, expected a new or empty folder for the prepared frames")
    _write(cache, wanted, items, make, processes=processes, progress=progress)
    return DataSet(cache, classes, wanted)


def reopen(cache: Path) -> DataSet:
    """Open a data set that `prepare` wrote. Raises InputError."""
    path = Path(cache) / "data.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}, expected the data that `popexd train` prepared") from error
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        raise InputError(f"{path}: schema: expected {SCHEMA!r}")
    return DataSet(Path(cache), tuple(facts["classes"]), facts)


def _reopened(cache: Path, wanted: dict[str, Any]) -> DataSet:
    found = reopen(cache)
    for key, value in wanted.items():
        if found.facts.get(key) != value:
            raise InputError(
                f"{cache}: holds other data ({key}: {str(found.facts.get(key))[:40]}), expected {str(value)[:40]}: "
                "give another folder or the same options"
            )
    return found


def _generate(indices: Sequence[int], seed: int, side: int) -> list[Record]:
    records: list[Record] = []
    for index in indices:
        frame = conveyor.scene(index, seed)
        encoded = frame.jpeg()
        records.append((load_image(encoded, side, side)[0], frame.label, frame.quality, len(encoded)))
    return records


def _read(items: Sequence[tuple[Path, int]], side: int) -> list[Record]:
    records: list[Record] = []
    for path, label in items:
        try:
            encoded = path.read_bytes()
            records.append((load_image(encoded, side, side)[0], label, "clear", len(encoded)))
        except (OSError, FrameRejected) as error:
            raise InputError(f"{path}: cannot be read as an image: {error}") from error
    return records


def _list_folder(folder: Path, samples: int, seed: int) -> tuple[tuple[str, ...], list[tuple[Path, int]], str]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected 'generated' or one folder per class")
    classes = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))
    if not 2 <= len(classes) <= 256:
        raise InputError(f"{folder}: {len(classes)} class folders, expected 2 to 256")
    items: list[tuple[Path, int]] = []
    for label, name in enumerate(classes):
        found = sorted(path for path in (folder / name).iterdir() if path.suffix.lower() in _SUFFIXES)
        if len(found) < 10:
            raise InputError(f"{folder / name}: {len(found)} images, expected at least 10 (JPEG, PNG or WebP)")
        items.extend((path, label) for path in found)
    order = np.random.default_rng([seed, 3]).permutation(len(items))[:samples]
    chosen = [items[position] for position in order]
    listing = "\n".join(f"{path.relative_to(folder)} {path.stat().st_size}" for path, _ in chosen)
    return classes, chosen, hashlib.sha256(listing.encode()).hexdigest()


def _write(
    cache: Path,
    facts: dict[str, Any],
    items: Sequence[Any],
    make: Callable[[Sequence[Any]], list[Record]],
    *,
    processes: int,
    progress: Progress | None,
) -> None:
    """Prepare every split into a folder beside the cache, then rename: an interrupted run leaves nothing behind."""
    count = len(items)
    bounds = (0, count - 2 * (count // 10), count - count // 10, count)
    partial_folder = cache.with_name(f".{cache.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial_folder.mkdir(parents=True)
        done = 0
        for name, start, stop in zip(SPLITS, bounds, bounds[1:], strict=False):
            shape = (stop - start, facts["side"], facts["side"], 3)
            images = np.lib.format.open_memmap(
                partial_folder / f"{name}-images.npy", mode="w+", dtype=np.uint8, shape=shape
            )
            labels: list[int] = []
            quality: list[str] = []
            camera_bytes: list[int] = []
            for record in _made(items[start:stop], make, processes):
                images[len(labels)] = record[0]
                labels.append(record[1])
                quality.append(record[2])
                camera_bytes.append(record[3])
                done += 1
                if progress is not None:
                    progress(done, count)
            images.flush()
            np.savez(
                partial_folder / f"{name}-facts.npz",
                labels=np.array(labels, dtype=np.uint8),
                quality=np.array(quality),
                camera_bytes=np.array(camera_bytes, dtype=np.int64),
            )
        (partial_folder / "data.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
        if cache.is_dir():
            cache.rmdir()
        partial_folder.rename(cache)
    except OSError as error:
        raise InputError(f"{cache}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)


def _made(items: Sequence[Any], make: Callable[[Sequence[Any]], list[Record]], processes: int) -> Iterator[Record]:
    chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
    if processes <= 1 or len(chunks) < 4:
        for chunk in chunks:
            yield from make(chunk)
        return
    # Forking a process that may run torch's threads can deadlock; fresh interpreters cannot.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        for records in pool.map(make, chunks):
            yield from records
