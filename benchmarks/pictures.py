"""The camera's frames: generated ones with their truth, and real photos where there are any."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from popexd.lab import conveyor

PHOTOS = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "pets.zip"
"""Beside the project, never part of it; without it the photos' lines are left out."""

_SEED = 23


@dataclass(frozen=True)
class Picture:
    """A frame's JPEG bytes and the name of what it shows; None where no class of the model is the truth."""

    jpeg: bytes
    class_name: str | None = None


@cache
def generated(count: int) -> tuple[Picture, ...]:
    """Return frames of the conveyor camera that neither training nor demo has seen."""
    return tuple(Picture(shot.jpeg, shot.class_name) for shot in conveyor.camera(_SEED, start=1_000_000, frames=count))


@cache
def photos(count: int) -> tuple[Picture, ...]:
    """Return real photos as their camera wrote them; none where the file is not there."""
    if not PHOTOS.is_file():
        return ()
    with zipfile.ZipFile(PHOTOS) as archive:
        names = sorted(name for name in archive.namelist() if name.startswith("val/") and name.endswith(".jpg"))
        return tuple(Picture(archive.read(name)) for name in names[:: max(1, len(names) // count)][:count])
