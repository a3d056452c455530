"""Which photos a network learned from, told by what is in them, so that nothing is measured on what it has learned."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from popexd.arrays import read_arrays
from popexd.bundle import Bundle

TRAINING, TUNING, VALIDATION = SPLITS = ("training", "tuning", "validation")

COLUMN = "photo"
"""Of a validation table and of prepared frames: the identity of the photo that each frame was made of."""

_ARRAYS = {TRAINING: "trained_on", TUNING: "tuned_on", VALIDATION: "validated_on"}
_COMPLETE = "all_known"

Identities = npt.NDArray[np.uint64]


def of_content(content: bytes) -> int:
    """A photo's identity: its file's bytes decide, so it may be moved and renamed."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def of_words(*words: object) -> int:
    """The identity of a frame that is no file, but is always the same: a generated one by seed and index."""
    return of_content("\0".join(map(str, words)).encode())


@dataclass(frozen=True)
class Known:
    """The identities of the photos that a network knows, by what it did with them.

    `complete` is False where it may have learned from others too: it began with a network that does not tell.
    """

    splits: Mapping[str, frozenset[int]] = field(default_factory=dict)
    complete: bool = True

    def split_of(self, identity: int) -> str | None:
        """Which split a photo was in; None for one that is new to the network."""
        return next((name for name in SPLITS if identity in self.splits.get(name, ())), None)

    def joined(self, earlier: Known) -> Known:
        """What a network knows that began as another. Once trained on, a photo validates nothing any more."""
        taken: set[int] = set()
        found = {}
        for name in SPLITS:
            both = self.splits.get(name, frozenset()) | earlier.splits.get(name, frozenset())
            found[name] = both - taken
            taken |= both
        return Known(found, self.complete and earlier.complete)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """For a file: the identities of each split, uint64 in ascending order, and whether these are all."""
        found: dict[str, npt.NDArray[Any]] = {
            array: np.array(sorted(self.splits.get(name, ())), dtype=np.uint64) for name, array in _ARRAYS.items()
        }
        return found | {_COMPLETE: np.array([self.complete])}


def known(splits: Mapping[str, Iterable[Any]]) -> Known:
    """Gather identities by split."""
    return Known({name: frozenset(int(each) for each in splits.get(name, ())) for name in SPLITS})


def from_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> Known | None:
    """What `Known.arrays` gave; None where it is not there, or something else under its names."""
    if any(name not in arrays or arrays[name].dtype != np.uint64 for name in _ARRAYS.values()):
        return None
    found = known({name: arrays[array].ravel().tolist() for name, array in _ARRAYS.items()})
    return replace(found, complete=bool(np.all(arrays.get(_COMPLETE, True))))


def of_bundle(bundle: Bundle, place: Path | None = None) -> Known | None:
    """What the network of a bundle knows; None where that cannot be told.

    Bundles of before keep no identities, but say how their frames were chosen: generated ones can be named, and those
    of a folder where `place` is the same folder, wherever it lies now.
    """
    table = bundle.folder / str(bundle.facts["validation"]["file"])
    try:
        found = from_arrays(read_arrays(table, (), optional=(*_ARRAYS.values(), _COMPLETE)))
    except ValueError:
        found = None
    training = bundle.facts.get("training")
    data = training.get("data") if isinstance(training, dict) else None
    if (found is not None and found.complete) or not isinstance(data, dict):
        return found
    from popexd.training.sources import remembered

    again = remembered(data, place)
    return found.joined(again) if found is not None and again is not None else found or again
