"""The generated camera: the same pictures for the same seed, all classes alike, decodable JPEG."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from popexd.lab import conveyor
from popexd.lab.parts import CLASSES, DISTRACTORS, drawn


def test_a_frame_follows_from_seed_and_index_alone() -> None:
    """Whatever was generated before, the frame is the same byte for byte."""
    first = conveyor.scene(11, seed=4).jpeg()
    conveyor.scene(12, seed=4)
    assert conveyor.scene(11, seed=4).jpeg() == first
    assert conveyor.scene(11, seed=5).jpeg() != first
    assert conveyor.scene(19, seed=4).jpeg() != first


def test_eight_frames_in_a_row_hold_every_class_once() -> None:
    """Classes are balanced exactly."""
    labels = [conveyor.scene(index, seed=2, size=(64, 48)).label for index in range(16)]
    assert sorted(labels[:8]) == sorted(labels[8:]) == list(range(len(CLASSES)))


def test_the_order_of_the_classes_cannot_be_foreseen() -> None:
    """The runs of eight are shuffled each on their own."""
    labels = [conveyor.scene(index, seed=2, size=(64, 48)).label for index in range(32)]
    assert len({tuple(labels[start : start + 8]) for start in range(0, 32, 8)}) > 1


@pytest.mark.parametrize("size", [(640, 480), (320, 240), (800, 600)])
def test_the_camera_yields_jpeg_files_of_the_size_asked_for(size: tuple[int, int]) -> None:
    """Every shot decodes and carries the truth about it."""
    for shot in conveyor.camera(seed=7, size=size, start=5, frames=3):
        with Image.open(io.BytesIO(shot.jpeg)) as image:
            image.load()
            assert (image.format, image.size, image.mode) == ("JPEG", size, "RGB")
        assert shot.class_name == CLASSES[shot.label]
        assert shot.quality in conveyor.QUALITIES


def test_the_camera_goes_on_where_it_is_told_to() -> None:
    """Shot n is the same whether it comes first or later."""
    later = list(conveyor.camera(seed=7, start=0, frames=4))[3]
    assert next(conveyor.camera(seed=7, start=3)) == later


def test_the_quality_can_be_pinned() -> None:
    """A camera with a fault shows it in every frame."""
    shots = conveyor.camera(seed=7, size=(160, 120), frames=6, quality="dark")
    assert {shot.quality for shot in shots} == {"dark"}


def test_faults_come_in_their_shares() -> None:
    """Half of the frames are clear; every fault occurs."""
    counted = Counter(conveyor.scene(index, seed=1, size=(64, 48)).quality for index in range(400))
    assert set(counted) == set(conveyor.QUALITIES)
    assert 150 <= counted["clear"] <= 240


def test_faults_are_visible_in_the_pixels() -> None:
    """Dark frames are darker, noisy ones grainier, blurred ones softer."""

    def mean(quality: str, measure: str) -> float:
        found = []
        for index in range(12):
            image = conveyor.scene(index, seed=3, quality=quality).image.convert("L")
            # Edges are judged at a quarter of the size, where the grain has averaged out.
            pixels = np.asarray(image.reduce(4) if measure == "edges" else image, dtype=float)
            found.append(pixels.mean() if measure == "light" else np.abs(np.diff(pixels, axis=1)).mean())
        return float(np.mean(found))

    assert mean("dark", "light") < 0.85 * mean("clear", "light")
    assert mean("noisy", "grain") > 1.2 * mean("clear", "grain")
    assert mean("blurred", "edges") < 0.9 * mean("clear", "edges")


@pytest.mark.parametrize("kind", [*CLASSES, *DISTRACTORS])
def test_every_part_covers_some_of_its_grid_and_stays_inside(kind: str) -> None:
    """Nothing is empty, and nothing is cut off at the edge of the grid."""
    part = drawn(kind, 3)
    assert 0.02 < (part.alpha > 127).mean() < 0.85
    assert not np.concatenate([part.alpha[0], part.alpha[-1], part.alpha[:, 0], part.alpha[:, -1]]).any()
