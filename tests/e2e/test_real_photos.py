"""Real photos as they come from a camera, cut at several places: each answer is the whole model's."""

from __future__ import annotations

import zipfile
from functools import cache
from pathlib import Path

import pytest

from popexd.protocol.messages import DecisionPayload
from popexd.runtime import frames
from popexd.runtime.segments import Classification, SegmentRunner

from .rig import TENSORS, TOPICS, Rig, bundle

ARCHIVE = Path(__file__).parents[2].parent / "shared" / "data" / "pets.zip"
PHOTOS = 200
CUTS = ("input camera", "input f32", "pool1 f32", "pool2 f32", "pool5 f32", "fc7 f32")

pytestmark = pytest.mark.skipif(not ARCHIVE.exists(), reason="../shared/data/pets.zip is not there")


@cache
def photos() -> list[bytes]:
    """JPEG files, a selection across the whole archive."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        names = sorted(name for name in archive.namelist() if name.lower().endswith(".jpg"))
        return [archive.read(name) for name in names[:: len(names) // PHOTOS][:PHOTOS]]


@cache
def whole() -> list[Classification]:
    """What the whole model in one piece says of each."""
    runner = SegmentRunner(bundle(), 1)
    names = [segment.name for segment in bundle().segments]

    def said(photo: bytes) -> Classification:
        pixels = frames.load_image(photo, bundle().input.height, bundle().input.width)
        return runner.classify("final", runner.run({"input": pixels}, names)[names[-1]])

    return [said(photo) for photo in photos()]


@pytest.mark.parametrize("cut", CUTS)
def test_every_answer_is_the_whole_models(rig: Rig, cut: str) -> None:
    """Published as they are; the class is equal, the confidence to 1e-5, and the cloud had its part in it."""
    point, codec = cut.split()
    broker = rig.broker()
    watch, tensors = rig.watch(broker.port), rig.watch(broker.port, TENSORS)
    rig.worker(rig.worker_tables(broker.port, cut=cut))
    rig.agent(rig.agent_tables(broker.port, cut=cut))
    watch.cut_is(point)

    for index, photo in enumerate(photos()):
        watch.send("pets", photo, str(index))
        if watch.answer(str(index)).tier != "cloud":
            watch.planned(point)

    metrics = watch.at_rest(PHOTOS)
    assert metrics.exits == {"final": PHOTOS}
    # A busy machine may cost a frame its patience; the device then finishes it, to the same end.
    assert metrics.tiers["cloud"] >= 0.5 * PHOTOS
    assert len(tensors.messages(TENSORS)) >= metrics.tiers["cloud"]
    made = [each for each in watch.payloads(TOPICS.decision, DecisionPayload) if each.cut != "output"]
    assert {(each.cut, each.codec) for each in made} == {(point, codec)}
    for index, expected in enumerate(whole()):
        (answer,) = watch.results()[str(index)]
        assert answer.class_index == expected.class_index
        assert answer.confidence == pytest.approx(expected.confidence, abs=1e-5)
