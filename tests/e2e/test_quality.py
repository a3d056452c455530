"""Image quality from the outside: each frame's class in its result, plans per class in the decision, drift told."""

from __future__ import annotations

import numpy as np
import pytest

from popexd.estimators.drift import FEWEST
from popexd.lab import conveyor
from popexd.lab.distortions import DISTORTIONS
from popexd.runtime.frames import encode_image, load_image

from .rig import Rig, Watch, bundle

SCENES = 24


@pytest.fixture(scope="module")
def watch(module_rig: Rig) -> Watch:
    """An agent by itself, which tells its figures often."""
    rig = module_rig
    broker = rig.broker()
    rig.agent(rig.agent_tables(broker.port, planner={"mode": "device"}, metrics={"interval_seconds": 0.5}))
    watch = rig.watch(broker.port)
    watch.until(lambda: watch.agent_is("online"), "the agent")
    return watch


def distorted(index: int, name: str) -> bytes:
    """A generated frame with a distortion added at the camera's own size, as a JPEG."""
    jpeg = conveyor.scene(index, seed=99).jpeg()
    pixels = load_image(jpeg, 480, 640)[0]
    return encode_image(DISTORTIONS[name].apply(pixels, np.random.default_rng(index)), "jpeg-90")


def test_a_result_carries_the_class_that_the_estimator_sees(watch: Watch) -> None:
    """Recomputed here from the same file; several classes occur, and each frame's threshold is its class's own."""
    model = bundle()
    assert model.quality is not None
    files = [conveyor.scene(index, seed=98).jpeg() for index in range(SCENES)]
    files += [distorted(index, "blur-65") for index in range(4)] + [distorted(index, "noise-40") for index in range(4)]
    seen = set()
    for index, file in enumerate(files):
        watch.send("c0", file, f"q{index}")
        answer = watch.answer(f"q{index}")
        assert answer.quality == model.quality.classify(load_image(file, model.input.height, model.input.width))
        seen.add(answer.quality)
        for spec in model.exits:
            if answer.exit == spec.name:
                assert answer.confidence >= spec.threshold_for(answer.quality)
    assert seen >= {"clear", "blurred", "noisy"}


def test_the_decision_has_a_plan_for_each_class(watch: Watch) -> None:
    """With its share, its thresholds, and what is expected of it; the mixture is what is predicted."""
    model = bundle()
    made = watch.until(watch.decision, "a decision")
    assert made.by_quality.keys() == set(model.quality_names)
    assert sum(plan.share for plan in made.by_quality.values()) == pytest.approx(1, abs=1e-4)
    mixed = sum(plan.share * plan.predicted.seconds for plan in made.by_quality.values())
    assert made.predicted.seconds == pytest.approx(mixed, rel=1e-3)
    for name, plan in made.by_quality.items():
        for spec in model.exits:
            if plan.exits[spec.name].runs:
                assert plan.exits[spec.name].threshold == pytest.approx(spec.threshold_for(name))


def test_a_camera_out_of_focus_is_told_as_drift(watch: Watch) -> None:
    """Nothing is said while frames are like the samples were; then all are blurred, and event and metrics say so."""
    for index in range(FEWEST // 2):
        watch.send("c0", conveyor.scene(index, seed=97).jpeg(), f"fine{index}")
        watch.answer(f"fine{index}")
    assert "quality" not in watch.metrics().drift.drifting
    files = [distorted(index, "blur-65") for index in range(12)]
    for index in range(2 * FEWEST):
        # The same bytes again are another frame, as they have another name.
        watch.send("c0", files[index % len(files)], f"soft{index}")
        watch.answer(f"soft{index}")
    (told,) = watch.until(
        lambda: [event for event in watch.events("drift.detected") if event["signal"] == "quality"], "the drift"
    )[:1]
    assert told["exit"] is None
    assert told["classes"]["blurred"]["share"] > told["classes"]["blurred"]["expected_share"] + 0.25
    drift = watch.until(lambda: "quality" in (said := watch.metrics().drift).drifting and said, "the same in figures")
    assert drift.quality["blurred"].share > 0.5
