"""Data sets for training: frames prepared once, exactly as the daemon prepares them, and kept in a cache folder.

Where the source has no splits of its own, of ten frames eight train, one tunes (model selection, thresholds), one
validates (every number that is reported).
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from popexd.errors import InputError
from popexd.training import sources
from popexd.training.sources import GENERATED, SPLITS, TORCHVISION, Record, Source

SCHEMA = "popexd/training-data/1"
_CHUNK = 32

Progress = Callable[[int, int], None]
Check = Callable[["DataSet"], object]


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
    samples: int | None,
    seed: int,
    side: int,
    *,
    distort: str = "",
    root: Path | None = None,
    download: bool = False,
    processes: int = 2,
    progress: Progress | None = None,
    check: Check | None = None,
) -> DataSet:
    """Return the data set in `cache`, written first if it is not there.

    `source` is "generated", a folder (see `sources`) or "torchvision:NAME", which lies in `root`, by default beside the
    cache, and is fetched if `download`. `samples` counts all splits together, None for all there are; `distort` is what
    is done to the frames, see `sources.variants`. `check` sees the data set before its first frame is prepared, and may
    raise. Raises InputError when `cache` holds other data or the source cannot be used.
    """
    sources.variants(distort)
    if source == GENERATED:
        if distort:
            raise InputError(f"--distort: {distort}: generated frames come with their own, expected a folder of photos")
        found = sources.generated(samples, seed, side)
    elif source.startswith(TORCHVISION):
        # With torch behind it, which nothing else here needs.
        from popexd.training.torchvision_sets import torchvision_source

        place, name = root or Path(cache).parent / "root", source.removeprefix(TORCHVISION)
        found = torchvision_source(name, place, samples, seed, side, distort=distort, download=download)
    else:
        found = sources.folder(Path(source), samples, seed, side, distort)
    return prepared(cache, found, seed, side, processes, progress, check)


def prepared(
    cache: Path,
    source: Source,
    seed: int,
    side: int,
    processes: int = 2,
    progress: Progress | None = None,
    check: Check | None = None,
) -> DataSet:
    """Return the data set of a source in `cache`, written first if it is not there. Raises as `prepare` does."""
    cache = Path(cache)
    facts = {"schema": SCHEMA, "seed": seed, "side": side, **source.facts, "classes": list(source.classes)}
    there = (cache / "data.json").is_file()
    data = _reopened(cache, facts) if there else DataSet(cache, source.classes, facts)
    if not there:
        if cache.exists() and (not cache.is_dir() or any(cache.iterdir())):
            raise InputError(f"{cache}: in the way, expected a new or empty folder for the prepared frames")
        for name in SPLITS:
            if len(source.items[name]) == 0:
                raise InputError(f"{cache.name}: no frames for the {name} split, expected more images")
    if check is not None:
        check(data)
    if not there:
        _write(cache, facts, source, processes=processes, progress=progress)
    return data


def reopen(cache: Path) -> DataSet:
    """Open a data set that `prepare` wrote. Raises InputError."""
    path = Path(cache) / "data.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}, expected the data that `popexd train` prepared") from error
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        raise InputError(f"{path}: schema: expected {SCHEMA!r}")
    classes = facts.get("classes")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise InputError(f"{path}: classes: expected a list of names")
    return DataSet(Path(cache), tuple(classes), facts)


def _reopened(cache: Path, wanted: dict[str, Any]) -> DataSet:
    found = reopen(cache)
    for key, value in wanted.items():
        if found.facts.get(key) != value:
            raise InputError(
                f"{cache}: holds other data ({key}: {str(found.facts.get(key))[:40]}), expected {str(value)[:40]}: "
                "give another folder or the same options"
            )
    return found


def _write(
    cache: Path,
    facts: dict[str, Any],
    source: Source,
    *,
    processes: int,
    progress: Progress | None,
) -> None:
    """Prepare every split into a folder beside the cache, then rename: an interrupted run leaves nothing behind."""
    partial_folder = cache.with_name(f".{cache.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial_folder.mkdir(parents=True)
        done = 0
        for name in SPLITS:
            items = source.items[name]
            shape = (source.copies * len(items), facts["side"], facts["side"], 3)
            images = np.lib.format.open_memmap(
                partial_folder / f"{name}-images.npy", mode="w+", dtype=np.uint8, shape=shape
            )
            labels: list[int] = []
            quality: list[str] = []
            camera_bytes: list[int] = []
            for record in _made(items, source.make, processes if source.parallel else 1):
                images[len(labels)] = record[0]
                labels.append(record[1])
                quality.append(record[2])
                camera_bytes.append(record[3])
                done += 1
                if progress is not None:
                    progress(done, len(source))
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
