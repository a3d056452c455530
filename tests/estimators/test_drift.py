"""Live frames against the validation table: drift is noticed, and what is none is not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from popexd.estimators.drift import FEWEST, WINDOW, Drift
from popexd.validation import FINAL, Validation

SAMPLES, LABELS = 2000, 8
CLEAR, BLURRED = "clear", "blurred"


def table(seed: int = 0) -> Validation:
    """Two classes; blurred samples are less certain at b1."""
    dice = np.random.default_rng(seed)
    quality = np.where(np.arange(SAMPLES) % 2, BLURRED, CLEAR)
    b1 = np.where(quality == CLEAR, dice.beta(6, 2, SAMPLES), dice.beta(2, 3, SAMPLES))
    final = np.clip(b1 + dice.uniform(0, 0.4, SAMPLES), 0, 1)
    return Validation(("b1", FINAL), [b1, final], dice.random((2, SAMPLES)) < 0.9, quality=quality)


def play(
    drift: Drift,
    samples: Validation,
    bound: float | Callable[[int], float] = 0.8,
    frames: int = WINDOW,
    seed: int = 1,
    classes: tuple[str, ...] = (CLEAR, BLURRED),
    sharpen: float = 0.0,
) -> None:
    """Let frames like the samples come by; `sharpen` makes b1 so much surer than it was."""
    dice = np.random.default_rng(seed)
    assert samples.quality is not None
    chosen = dice.choice(np.flatnonzero(np.isin(samples.quality, classes)), frames)
    for number, sample in enumerate(chosen):
        own = bound(number) if callable(bound) else bound
        quality = str(samples.quality[sample])
        first, last = (float(value) for value in samples.confidence[:, sample])
        first += sharpen * (1 - first)
        drift.looked(quality)
        label = int(sample) % LABELS
        drift.said("b1", first, first >= own, [("b1", own)], quality, label=label)
        if first < own:
            drift.said(FINAL, last, True, [("b1", own)], quality, label=label)


@pytest.mark.parametrize("seed", range(8))
def test_frames_like_the_samples_are_no_drift(seed: int) -> None:
    """Whatever the threshold, and though it changes on the way."""
    drift = Drift(table())
    play(drift, table(), bound=lambda number: (0.5, 0.8, 0.95)[number % 3], seed=seed)
    assert drift.changes() == []
    assert drift.figures()["drifting"] == []


def test_another_mix_of_classes_is_no_drift_of_the_exits() -> None:
    """Only blurred frames leave more rarely, as blurred samples do; what has changed is the mix, and that is told."""
    drift = Drift(table())
    play(drift, table(), classes=(BLURRED,))
    (change,) = drift.changes()
    assert (change.signal, change.exit, change.detected) == ("quality", None, True)
    assert change.figures["classes"][BLURRED] == pytest.approx({"share": 1.0, "expected_share": 0.5})


def test_an_exit_that_has_become_too_sure_is_noticed_and_later_cleared() -> None:
    """Detected once, not again and again; when it is over, that is told once as well."""
    drift = Drift(table())
    play(drift, table(), sharpen=0.7)
    told = {(change.signal, change.exit): change for change in drift.changes()}
    assert told[("confidence", "b1")].detected
    assert told[("exits", "b1")].detected
    figures = told[("confidence", "b1")].figures
    assert figures["confidence"] > figures["expected_confidence"] + 0.1
    assert drift.figures()["drifting"][:1] == ["confidence b1"]
    assert drift.changes() == []
    play(drift, table(), seed=9)
    cleared = {(change.signal, change.exit): change.detected for change in drift.changes()}
    assert cleared[("confidence", "b1")] is False
    assert drift.figures()["drifting"] == []


def test_the_share_of_exits_alone_would_not_tell() -> None:
    """As many leave as ever, but all of them barely: only their confidence shows it."""
    samples = table()
    drift = Drift(samples)
    bound = 0.8
    dice = np.random.default_rng(3)
    clear = samples.confidence[0][samples.quality == CLEAR]
    share = float((clear >= bound).mean())
    for value in dice.choice(clear, WINDOW):
        shifted = bound + 0.005 if value >= bound else float(value)
        drift.said("b1", shifted, shifted >= bound, [("b1", bound)], CLEAR, label=dice.integers(LABELS))
    found = {(change.signal, change.exit) for change in drift.changes()}
    assert found == {("confidence", "b1")}
    assert drift.figures()["exits"]["b1"]["share"] == pytest.approx(share, abs=0.1)


def test_samples_that_are_all_alike_are_no_drift() -> None:
    """A saturated exit says 1.0 of everything, then and now."""
    certain = Validation(("b1", FINAL), np.ones((2, 100)), np.ones((2, 100), dtype=bool))
    drift = Drift(certain)
    for _ in range(WINDOW):
        drift.said("b1", 1.0, True, [("b1", 0.9)], None)
    assert drift.changes() == []
    assert drift.figures()["exits"]["b1"]["distance"] == 0


def test_the_figures_are_what_they_say() -> None:
    """Counted here anew: shares, means, and the largest difference of the distribution functions at the deciles."""
    samples = table()
    drift = Drift(samples)
    bound, frames = 0.7, 150
    values = np.random.default_rng(5).uniform(0, 1, frames)
    for value in values:
        drift.said("b1", float(value), bool(value >= bound), [("b1", bound)], CLEAR)
    reference = samples.confidence[0][samples.quality == CLEAR]
    figures = drift.figures()["exits"]["b1"]
    assert figures["frames"] == frames
    assert figures["share"] == pytest.approx(np.mean(values >= bound))
    assert figures["expected_share"] == pytest.approx(np.mean(reference >= bound))
    assert figures["confidence"] == pytest.approx(values.mean())
    assert figures["expected_confidence"] == pytest.approx(reference.mean())
    deciles = np.quantile(reference, np.linspace(0.1, 0.9, 9))
    distance = max(abs(np.mean(values <= each) - np.mean(reference <= each)) for each in deciles)
    assert figures["distance"] == pytest.approx(distance, abs=0.01)


def test_nothing_is_said_of_a_few_frames() -> None:
    """Whatever they look like."""
    drift, dice = Drift(table()), np.random.default_rng(4)
    for number in range(FEWEST):
        assert drift.changes() == [], number
        drift.looked(BLURRED)
        drift.said("b1", 0.999, True, [("b1", 0.5)], CLEAR, label=dice.integers(LABELS))
    assert {change.signal for change in drift.changes()} == {"confidence", "quality", "exits"} - (
        {"exits"} if abs(1 - np.mean(table().confidence[0][::2] >= 0.5)) < 0.25 else set()
    )


def test_the_end_is_compared_with_samples_that_get_there() -> None:
    """Hard frames are all that the last exit sees, in the field as in the table."""
    samples = table()
    drift = Drift(samples)
    bound = 0.6
    hard = samples.confidence[1][(samples.quality == CLEAR) & (samples.confidence[0] < bound)]
    for value in np.random.default_rng(2).choice(hard, WINDOW):
        drift.said(FINAL, float(value), True, [("b1", bound)], CLEAR)
    assert drift.changes() == []
    assert drift.figures()["exits"][FINAL]["expected_confidence"] == pytest.approx(hard.mean())


# ------------------------------------------------------------------------ scenes that last


def watch_scenes(drift: Drift, certain: list[float], frames_each: int, noise: float = 0.01, seed: int = 0) -> None:
    """Let scenes last, each as certain as that at b1 and a little more or less with every frame."""
    dice = np.random.default_rng(seed)
    for number, value in enumerate(certain):
        for _ in range(frames_each):
            said = float(np.clip(value + dice.normal(0, noise), 0, 1))
            drift.looked(CLEAR, "belt")
            drift.said("b1", said, said >= 0.8, [("b1", 0.8)], CLEAR, "belt", number % LABELS)


@pytest.mark.parametrize("value", [0.05, 0.3, 0.79, 0.8, 0.999])
@pytest.mark.parametrize("noise", [0.0, 0.01, 0.03])
def test_one_scene_for_minutes_is_no_drift(value: float, noise: float) -> None:
    """However sure an exit is of it: that is one look. The metrics show the shares, and what they are worth."""
    drift = Drift(table())
    watch_scenes(drift, [value], WINDOW, noise)
    assert drift.changes() == []
    figures = drift.figures()["exits"]["b1"]
    assert figures["frames"] == WINDOW
    assert figures["scenes"] < 5


def test_one_scene_is_one_look_at_the_mix_too() -> None:
    """Though several exits look at it, each saying a little more or less with every frame."""
    drift, dice = Drift(table()), np.random.default_rng(7)
    for _ in range(WINDOW):
        drift.looked(BLURRED, "belt")
        for name in ("b1", FINAL):
            drift.said(name, 0.5 + 0.02 * dice.normal(), name == FINAL, [("b1", 0.8)], BLURRED, "belt", 0)
    assert drift.figures()["quality_scenes"] < 5
    assert drift.changes() == []


def test_a_scene_between_two_classes_is_one_scene_or_two() -> None:
    """It is taken now for one and now for the other."""
    drift, dice = Drift(table()), np.random.default_rng(1)
    for _ in range(WINDOW):
        drift.said("b1", 0.05 + dice.uniform(0, 0.03), False, [("b1", 0.8)], CLEAR, "belt", dice.integers(2))
    assert drift.changes() == []
    assert drift.figures()["exits"]["b1"]["scenes"] < 3


@pytest.mark.parametrize("seed", range(20))
def test_scenes_that_last_are_no_drift_as_long_as_they_are_like_the_samples(seed: int) -> None:
    """Ten scenes of thirty frames: by size alone that is drift in most windows, by chance it is not."""
    dice = np.random.default_rng(100 + seed)
    samples = table()
    clear = samples.confidence[0][samples.quality == CLEAR]
    drift = Drift(samples)
    watch_scenes(drift, list(dice.choice(clear, 10)), WINDOW // 10, seed=seed)
    assert [change.signal for change in drift.changes() if change.signal != "quality"] == []


def test_drift_is_found_though_scenes_last() -> None:
    """Sixty scenes of five frames of which the exit is much too sure."""
    dice = np.random.default_rng(3)
    drift = Drift(table())
    watch_scenes(drift, list(0.97 + 0.03 * dice.random(60)), WINDOW // 60)
    assert ("confidence", "b1") in {(change.signal, change.exit) for change in drift.changes() if change.detected}


def test_a_camera_that_shows_one_scene_does_not_hide_another_that_does_not() -> None:
    """Each camera has scenes of its own; one that stands still is one look among many."""
    drift, dice = Drift(table()), np.random.default_rng(5)
    for _ in range(WINDOW // 2):
        drift.said("b1", 0.3, False, [("b1", 0.8)], CLEAR, "still", 0)
        drift.said("b1", 1 - 0.02 * dice.random(), True, [("b1", 0.8)], CLEAR, "belt", dice.integers(LABELS))
    scenes = drift.figures()["exits"]["b1"]["scenes"]
    assert 2 < scenes < 8  # half of all that is shown is one look: whatever the rest says, that much is unknown
    for _ in range(WINDOW):
        drift.said("b1", 1 - 0.02 * dice.random(), True, [("b1", 0.8)], CLEAR, "belt", dice.integers(LABELS))
    assert ("confidence", "b1") in {(change.signal, change.exit) for change in drift.changes() if change.detected}


def test_a_mix_is_told_though_one_exit_takes_all_that_it_sees_for_one_scene() -> None:
    """A later exit is sure of everything; the first one tells frames apart, and so do the figures."""
    drift, dice = Drift(table()), np.random.default_rng(6)
    for _ in range(WINDOW):
        drift.looked(BLURRED, "belt")
        drift.said("b1", 0.6 * dice.random(), False, [("b1", 0.8)], BLURRED, "belt", dice.integers(LABELS))
        drift.said(FINAL, 0.99, True, [("b1", 0.8)], BLURRED, "belt", 0)
    assert drift.figures()["exits"][FINAL]["scenes"] == 1
    assert drift.figures()["quality_scenes"] > 40
    assert ("quality", None) in {(change.signal, change.exit) for change in drift.changes()}


def test_names_of_cameras_without_end_are_not_remembered_without_end() -> None:
    """They are free to invent."""
    drift = Drift(table())
    for number in range(5_000):
        drift.said("b1", 0.5, False, [("b1", 0.8)], CLEAR, f"c{number}", 0)
    assert len(drift._scenes._recent) <= 256
    assert len(drift._last_scenes) <= 256
