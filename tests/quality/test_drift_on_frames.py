"""Drift as the shipped network sees it: one scene for minutes is none, blur on all scenes and other photos are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from popexd import bundle as bundles
from popexd.bundle import INPUT
from popexd.estimators.drift import DETECTED, FEWEST, Drift
from popexd.runtime.background import MachineProfile, graph
from popexd.runtime.segments import SegmentRunner
from tests.quality.frames import PHOTOS, Pixels, generated, photos, received, sharp_scenes

FRAMES = 140

pytestmark = pytest.mark.slow


@contextmanager
def watched() -> Iterator[tuple[Drift, SegmentRunner]]:
    """A watch over the shipped bundle's first branch, and what runs it."""
    bundle = bundles.load()
    table = graph(bundle, MachineProfile.even(bundle, 0.001), {}).validation
    assert table is not None
    runner = SegmentRunner(bundle, threads=1)
    yield Drift(table), runner
    runner.close()


def look(drift: Drift, runner: SegmentRunner, frames: Iterable[Pixels], camera: str = "c") -> None:
    """Let the first branch say what it thinks of frames of [224, 224, 3], and the estimator how good they are.

    The branch is held against samples of every quality: what is to be seen here is more than another mix of classes.
    """
    bundle = bundles.load()
    assert bundle.quality is not None
    branch = bundle.exits[0]
    names = [segment.name for segment in bundle.segments]
    until = names[: names.index(branch.after) + 1]
    for frame in frames:
        drift.looked(bundle.quality.classify(frame), camera)
        said = runner.classify(branch.name, runner.run({INPUT: frame[None]}, until)[branch.after])
        certainty = said.confidence if said.certainty is None else said.certainty
        bound = branch.criterion.bound(branch.threshold)
        asked = [(branch.name, bound)]
        drift.said(branch.name, certainty, certainty >= bound, asked, None, camera, said.class_index)


def told(drift: Drift) -> set[str]:
    """The signals of drift that are told."""
    return {change.signal for change in drift.changes() if change.detected}


def grainy(pixels: Pixels, seed: int) -> Pixels:
    """The same scene once more: the sensor's noise is another."""
    noise = np.random.default_rng(seed).normal(0, 4, pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def test_the_generated_camera_shows_what_the_table_knows() -> None:
    """Each frame is another scene, of all qualities."""
    frames, _ = generated(71, 2 * FRAMES)
    with watched() as (drift, runner):
        look(drift, runner, frames)
        assert told(drift) == set(), drift.figures()
        (figures,) = drift.figures()["exits"].values()
    assert figures["scenes"] > FRAMES


@pytest.mark.parametrize("seed", [72, 73, 74])
def test_one_scene_for_minutes_is_none(seed: int) -> None:
    """With noise that is new in every frame. By size alone it would be told."""
    scene, _ = sharp_scenes(seed, 1)[0]
    with watched() as (drift, runner):
        look(drift, runner, (received(grainy(scene, number)) for number in range(FRAMES)))
        assert told(drift) == set(), drift.figures()
        (figures,) = drift.figures()["exits"].values()
    assert figures["distance"] > DETECTED
    assert figures["frames"] >= FEWEST
    assert figures["scenes"] < 12


def test_blur_on_every_scene_is_found() -> None:
    """A lens out of focus, and an exit that has become much less sure."""
    scenes = sharp_scenes(75, FRAMES)
    with watched() as (drift, runner):
        look(drift, runner, (received(pixels, "blur-65", number) for number, (pixels, _) in enumerate(scenes)))
        assert "confidence" in told(drift)


def test_noise_on_every_scene_is_found() -> None:
    """A sensor that fails: the branch does not mind, the estimator does."""
    scenes = sharp_scenes(76, FRAMES)
    with watched() as (drift, runner):
        look(drift, runner, (received(pixels, "noise-40", number) for number, (pixels, _) in enumerate(scenes)))
        assert told(drift) == {"quality"}


@pytest.mark.skipif(not PHOTOS.exists(), reason="../shared/data/pets.zip is not there")
def test_other_photos_are_found_and_one_of_them_for_minutes_is_not() -> None:
    """Cats and dogs, which the network has never seen."""
    with watched() as (drift, runner):
        look(drift, runner, (received(photo) for photo in photos("val", FRAMES)))
        assert "confidence" in told(drift)
    one = next(photos("val", 1))
    with watched() as (drift, runner):
        look(drift, runner, (received(grainy(one, number)) for number in range(FRAMES)))
        assert told(drift) == set(), drift.figures()
