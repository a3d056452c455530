"""Data sets for training: frames prepared once, exactly as the daemon prepares them, and kept in a cache folder.

Where the source has no splits of its own, of ten frames eight train, one tunes (model selection, thresholds), one
validates (every number that is reported).
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from popexd.bundle import Bundle
from popexd.errors import InputError
from popexd.folders import made
from popexd.lab import provenance
from popexd.lab.provenance import Known
from popexd.training import sources
from popexd.training.sources import BY_CLASS, GENERATED, SPLITS, TORCHVISION, Record, Source

SCHEMA = "popexd/training-data/1"
_CHUNK = 32

_FREE = ("schema", "classes", "distort", "compressed")
"""Facts in which data sets may differ that were split alike; `side` too, where only the split counts."""

Progress = Callable[[int, int], None]
Check = Callable[["DataSet"], object]


@dataclass(frozen=True)
class Before:
    """What an earlier run says of its data: its facts, and what its network knows, None where it keeps no identities.

    `where` is its checkpoint, for people; `again` says that it is the same run, which goes on or is exported.
    """

    where: str
    facts: Mapping[str, Any]
    known: Known | None = None
    again: bool = False


@dataclass(frozen=True)
class Split:
    """Frames of one split: `images` uint8 RGB [samples, height, width, 3], memory-mapped; the rest are [samples].

    `photo` is what each was made of, see `provenance`; None in data sets of before.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    quality: npt.NDArray[np.str_]
    camera_bytes: npt.NDArray[np.int64]
    photo: npt.NDArray[np.uint64] | None = None

    def __len__(self) -> int:
        return int(self.labels.size)


@dataclass(frozen=True)
class DataSet:
    """A prepared data set; `facts` says where it came from, `earlier` what the network knows that a run starts with."""

    folder: Path
    classes: tuple[str, ...]
    facts: dict[str, Any]
    earlier: Known | None = None

    def split(self, name: str) -> Split:
        """Open one of SPLITS. Raises InputError when its files are damaged."""
        try:
            images = np.load(self.folder / f"{name}-images.npy", mmap_mode="r", allow_pickle=False)
            with np.load(self.folder / f"{name}-facts.npz", allow_pickle=False) as facts:
                photo = facts.get(provenance.COLUMN)
                return Split(images, facts["labels"], facts["quality"], facts["camera_bytes"], photo)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{self.folder}: {name} split cannot be read: {error}, expected a prepared data set"
            ) from error

    def known(self) -> Known | None:
        """What a network knows that is trained on these frames; None where they keep no identities."""
        photos = {name: self.split(name).photo for name in SPLITS}
        if any(each is None for each in photos.values()):
            return None
        own = provenance.known({name: [] if each is None else each.tolist() for name, each in photos.items()})
        return own if self.earlier is None else own.joined(self.earlier)

    def learned_by(self, bundle: Bundle) -> bool:
        """Whether a bundle says that its network was trained and validated on these very splits."""
        training = bundle.facts.get("training")
        data = training.get("data") if isinstance(training, dict) else None
        return isinstance(data, dict) and alike(data, self.facts)


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
    before: Before | None = None,
    processes: int = 2,
    progress: Progress | None = None,
    check: Check | None = None,
) -> DataSet:
    """Return the data set in `cache`, written first if it is not there.

    `source` is "generated", a folder (see `sources`) or "torchvision:NAME", which lies in `root`, by default beside the
    cache, and is fetched if `download`. `samples` counts all splits together, None for all there are; `distort` is what
    is done to the frames, see `sources.variants`. Photos that the run `before` knew stay in the split they had there.
    `check` sees the data set before its first frame is prepared, and may raise. Raises InputError when `cache` holds
    other data, the source cannot be used, or frames are held out that the run before was trained on.
    """
    sources.variants(distort)
    build = partial(_source, cache, source, side=side, distort=distort, root=root, download=download)
    by_class = "rule" in (_facts_there(cache) or (before.facts if before is not None and before.again else BY_CLASS))
    if before is None:
        return prepared(cache, build(samples, seed, by_class, None), seed, side, processes, progress, check)
    known = before.known or (None if before.again else _remembered(build, before.facts))
    found = build(samples, seed, by_class, known)
    if known is not None and not before.again:
        _check_held_out(found, known, before)
    data = prepared(cache, found, seed, side, processes, progress, check)
    return replace(data, earlier=known or (None if before.again else Known(complete=False)))


def _source(
    cache: Path,
    source: str,
    samples: int | None,
    seed: int,
    by_class: bool,
    known: Known | None,
    *,
    side: int,
    distort: str,
    root: Path | None,
    download: bool,
) -> Source:
    if source == GENERATED:
        if distort:
            raise InputError(f"--distort: {distort}: generated frames come with their own, expected a folder of photos")
        return sources.generated(samples, seed, side)
    if source.startswith(TORCHVISION):
        # With torch behind it, which nothing else here needs.
        from popexd.training.torchvision_sets import torchvision_source

        place, name = root or Path(cache).parent / "root", source.removeprefix(TORCHVISION)
        return torchvision_source(
            name, place, samples, seed, side, distort=distort, download=download, by_class=by_class, known=known
        )
    return sources.folder(Path(source), samples, seed, side, distort, by_class=by_class, known=known)


def alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two data sets hold the same frames, split alike, whatever their distortions."""
    return all(one.get(key) == other.get(key) for key in ({*one} | {*other}) - {*_FREE})


def _remembered(build: Callable[..., Source], facts: Mapping[str, Any]) -> Known | None:
    """What a run knows that kept no identities, where its data is this source's; None where that cannot be told."""
    samples = facts.get("limit", facts.get("samples") if facts.get("source") == GENERATED else None)
    try:
        found = build(samples, int(facts.get("seed", 0)), "rule" in facts, None)
    except (InputError, TypeError, ValueError):
        return None
    if not alike({**found.facts, "seed": 0, "side": 0}, {**facts, "seed": 0, "side": 0}):
        return None
    return provenance.known({name: map(found.identity, found.items[name]) for name in SPLITS})


def _check_held_out(source: Source, known: Known, before: Before) -> None:
    held_out = [source.identity(item) for name in ("tuning", "validation") for item in source.items[name]]
    learned = sum(known.split_of(each) == "training" for each in held_out)
    if learned:
        own = ", ".join(f"--{key} {before.facts[key]}" for key in ("seed", "samples") if key in before.facts)
        raise InputError(
            f"--from: {before.where}: trained on {learned} of the {len(held_out)} frames that this run would hold out, "
            f"expected its own split ({own or 'its own options'}), or pictures that are new to it"
        )


def _facts_there(cache: Path) -> dict[str, Any] | None:
    return reopen(cache).facts if (Path(cache) / "data.json").is_file() else None


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
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise InputError(f"{path}: cannot be read: {reason}, expected the data that `popexd train` prepared") from error
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
        with made(cache.absolute().parent):
            try:
                _fill(partial_folder, facts, source, processes, progress)
                if cache.is_dir():
                    cache.rmdir()
                partial_folder.rename(cache)
            finally:
                shutil.rmtree(partial_folder, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{cache}: cannot be written: {error.strerror or error}") from error


def _fill(folder: Path, facts: dict[str, Any], source: Source, processes: int, progress: Progress | None) -> None:
    folder.mkdir()
    done = 0
    for name in SPLITS:
        items = source.items[name]
        shape = (source.copies * len(items), facts["side"], facts["side"], 3)
        labels: list[int] = []
        quality: list[str] = []
        camera_bytes: list[int] = []
        # Not memory-mapped: where the disk is full that is no error but the end of the process.
        with (folder / f"{name}-images.npy").open("wb") as images:
            form = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(images, form)
            for record in _made(items, source.make, processes if source.parallel else 1):
                images.write(np.ascontiguousarray(record[0]).tobytes())
                labels.append(record[1])
                quality.append(record[2])
                camera_bytes.append(record[3])
                done += 1
                if progress is not None:
                    progress(done, len(source))
        identities = [source.identity(item) for item in items]
        np.savez(
            folder / f"{name}-facts.npz",
            labels=np.array(labels, dtype=np.uint8),
            quality=np.array(quality),
            camera_bytes=np.array(camera_bytes, dtype=np.int64),
            photo=np.repeat(np.array(identities, dtype=np.uint64), source.copies),
        )
    (folder / "data.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")


def _made(items: Sequence[Any], make: Callable[[Sequence[Any]], list[Record]], processes: int) -> Iterator[Record]:
    chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
    if processes <= 1 or len(chunks) < 4:
        for chunk in chunks:
            yield from make(chunk)
        return
    # Forking a process that may run torch's threads can deadlock; fresh interpreters cannot.
    context = multiprocessing.get_context("spawn")
    # Ctrl-C goes to all of them; the one that was asked for something answers.
    ignore = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(processes, mp_context=context, initializer=ignore) as pool:
        for records in pool.map(make, chunks):
            yield from records
