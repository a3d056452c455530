"""The estimator fitted to frames whose class is known, and what it makes of others."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pytest

from popexd.errors import InputError
from popexd.evaluation import quality_fit
from popexd.evaluation.quality_fit import Fitted
from popexd.lab.distortions import DISTORTIONS
from popexd.quality import CLEAR, FEATURES
from tests.quality.frames import PHOTOS, generated, photos, received

FRAMES = 480
DISTORTED = ("blur-15", "blur-65", "noise-20", "noise-40", "dark-0.25", "bright-2")


@lru_cache(maxsize=1)
def conveyor_estimator() -> Fitted:
    """Fit to generated frames of one seed."""
    return quality_fit.fit_frames(*generated(seed=31, count=FRAMES))


def clouds(count: int = 200, seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.str_]]:
    """Draw features of three classes around three centres that overlap; the last feature never varies."""
    random = np.random.default_rng(seed)
    truth = np.repeat([0, 1, 2], (count, count // 2, count // 4))
    centres = random.normal(size=(3, len(FEATURES)))
    measured = centres[truth] + random.normal(size=(truth.size, len(FEATURES))) * 2
    measured[:, -1] = 4.2
    return measured.astype(np.float32), np.array(["dark", CLEAR, "blurred"])[truth]


def shares(quality: npt.NDArray[np.str_], said: npt.NDArray[np.str_]) -> dict[str, float]:
    """Count how often each class is found."""
    return {str(name): float(np.mean(said[quality == name] == name)) for name in np.unique(quality)}


@pytest.mark.slow
def test_it_finds_what_is_wrong_with_generated_frames_of_another_seed() -> None:
    """Nine of ten in all, eight of ten of every class; occluded frames are as clear as any to the pixels."""
    fitted = conveyor_estimator()
    images, quality = generated(seed=32, count=240)
    truth = np.where(quality == "occluded", CLEAR, quality)
    said = np.array([fitted.estimator.classify(image) for image in images])

    assert fitted.estimator.classes == (CLEAR, "blurred", "dark", "noisy")
    assert np.mean(said == truth) >= 0.9
    assert min(shares(truth, said).values()) >= 0.8
    assert fitted.estimator.agreement == pytest.approx(np.mean(said == truth), abs=0.06)


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOS.is_file(), reason="the real photos are not here")
def test_it_finds_what_was_done_to_real_photos() -> None:
    """Photos of val/, distorted at camera size, by an estimator fitted to distorted photos of train/."""
    fit_images, fit_truth = distorted("train", 60)
    images, truth = distorted("val", 30)
    fitted = quality_fit.fit_frames(fit_images, fit_truth)
    said = quality_fit.seen(fitted.estimator, images)

    assert np.mean(said == truth) >= 0.88
    found = shares(truth, said)
    assert min(found["blurred"], found["noisy"], found["dark"]) >= 0.9


def distorted(split: str, count: int) -> tuple[list[npt.NDArray[np.uint8]], npt.NDArray[np.str_]]:
    """Photos of a split as they are and distorted."""
    images, truth = [], []
    for index, pixels in enumerate(photos(split, count)):
        for name in (CLEAR, *DISTORTED):
            images.append(received(pixels, name, index))
            truth.append(CLEAR if name == CLEAR else DISTORTIONS[name].quality)
    return images, np.array(truth)


def test_its_figures_are_those_of_the_frames_held_out() -> None:
    """Every fifth of each class: counted again here, one frame after the other."""
    measured, quality = clouds()
    fitted = quality_fit.fit(measured, quality)
    counts: dict[tuple[str, str], int] = {}
    turn: dict[str, int] = {}
    for row, name in zip(measured, quality, strict=True):
        turn[name] = turn.get(name, 0) + 1
        if turn[name] % 5 == 0:
            said = fitted.estimator.classes[int(np.argmax(fitted.estimator.scores(row)))]
            counts[str(name), said] = counts.get((str(name), said), 0) + 1

    names = fitted.estimator.classes
    assert names == (CLEAR, "blurred", "dark")
    assert fitted.confusion.tolist() == [[counts.get((true, said), 0) for said in names] for true in names]
    right = sum(counts.get((name, name), 0) for name in names)
    assert fitted.estimator.agreement == pytest.approx(right / sum(counts.values()), abs=1e-4)


def test_no_weights_nearby_fit_better() -> None:
    """The loss, written out here: mean over classes of the mean surprise, and a penalty on the weights."""
    measured, quality = clouds()
    estimator = quality_fit.fit(measured, quality).estimator
    turn: dict[str, int] = {}
    fitted_on = []
    for index, name in enumerate(quality):
        turn[name] = turn.get(name, 0) + 1
        if turn[name] % 5:
            fitted_on.append(index)
    inputs = (measured[fitted_on].astype(float) - estimator.mean) / estimator.scale
    truth = np.array([estimator.classes.index(name) for name in quality[fitted_on]])

    def loss(weights: npt.NDArray[np.float64], bias: npt.NDArray[np.float64]) -> float:
        chance = np.exp(inputs @ weights.T + bias)
        chance /= chance.sum(axis=1, keepdims=True)
        surprise = [-np.log(chance[truth == row, row]).mean() for row in range(len(estimator.classes))]
        return float(np.mean(surprise) + 0.5e-4 * (weights**2).sum())

    best, random = loss(estimator.weights, estimator.bias), np.random.default_rng(1)
    for _ in range(50):
        step = random.normal(size=estimator.weights.shape) * 0.05, random.normal(size=estimator.bias.shape) * 0.05
        assert loss(estimator.weights + step[0], estimator.bias + step[1]) > best


def test_a_rare_class_is_found_as_often_as_a_common_one() -> None:
    """Classes count alike: where three overlap, none is given up for being rare."""
    measured, quality = clouds(count=2000)
    estimator = quality_fit.fit(measured, quality).estimator
    said = np.array(estimator.classes)[estimator.scores(measured).argmax(axis=1)]
    found = shares(quality, said)

    assert max(found.values()) - min(found.values()) < 0.1


def test_the_same_frames_give_the_same_estimator() -> None:
    """To the last digit."""
    first, second = (quality_fit.fit(*clouds()).estimator.to_json() for _ in range(2))

    assert first == second


def test_a_feature_that_never_varies_says_nothing() -> None:
    """It can neither blow up nor decide anything on the frames it was fitted to."""
    estimator = quality_fit.fit(*clouds()).estimator

    assert estimator.scale[-1] == 1.0
    assert np.abs(estimator.weights[:, -1]).max() < 1e-3


def test_what_lies_on_a_part_is_no_fault_of_the_picture() -> None:
    """An estimator is not asked for what pixels cannot tell."""
    assert quality_fit.visible(np.array(["occluded", "noisy", CLEAR])).tolist() == [CLEAR, "noisy", CLEAR]


@pytest.mark.parametrize(
    ("quality", "words"),
    [
        (np.full(80, CLEAR), "quality: only clear, expected frames of at least two classes"),
        (np.array([CLEAR] * 61 + ["dark"] * 19), "quality: 19 frames are dark, expected at least 20"),
        (np.array([CLEAR] * 40 + ["dark"] * 41), r"quality: features \(80, 16\), expected \(81, 16\)"),
        (np.array([], dtype=str), r"quality: features \(80, 16\), expected \(0, 16\)"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_one_line(quality: npt.NDArray[np.str_], words: str) -> None:
    """One class only, too few frames of one, or as many classes as frames there are not."""
    with pytest.raises(InputError, match=f"^{words}"):
        quality_fit.fit(np.zeros((80, len(FEATURES)), dtype=np.float32), quality)


def test_no_frames_at_all_is_refused_in_one_line() -> None:
    """Neither a warning nor a crash."""
    with pytest.raises(InputError, match=r"^quality: only no frames"):
        quality_fit.fit_frames([], np.array([], dtype=str))
