"""The features of a frame, and the estimator that reads its class from them."""

from __future__ import annotations

import json
import math
import re
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popexd.quality import FEATURES, QualityEstimator, features
from tests.quality.frames import Pixels, received, sharp_scenes

EDGES = ("edge-across-1", "edge-along-1", "edge-across-2", "edge-along-2")


def feature(name: str, pixels: Pixels) -> float:
    """Measure one feature."""
    return float(features(pixels)[FEATURES.index(name)])


def estimator(classes: int = 3, seed: int = 0) -> QualityEstimator:
    """Draw an estimator with arbitrary weights."""
    random, count = np.random.default_rng(seed), len(FEATURES)
    return QualityEstimator(
        tuple(f"class-{index}" for index in range(classes)),
        mean=random.normal(size=count),
        scale=random.uniform(0.5, 2, count),
        weights=random.normal(size=(classes, count)),
        bias=random.normal(size=classes),
        agreement=0.9,
    )


@pytest.mark.parametrize("distortions", [("blur-5", "blur-15", "blur-65")])
def test_every_step_of_blur_leaves_less_at_the_edges(distortions: tuple[str, ...]) -> None:
    """On every one of twelve scenes, the fine steps at edges shrink against the coarse ones: sharp > 5 > 15 > 65."""
    for pixels, _ in sharp_scenes(41, 12):
        sharpness = [sum(feature(name, received(pixels, each)) for name in EDGES) for each in ("clear", *distortions)]
        assert sharpness == sorted(sharpness, reverse=True)
        assert len({*sharpness}) == 4


def test_every_step_of_noise_shows_where_the_picture_is_flattest() -> None:
    """On every one of twelve scenes: none < 10 < 20 < 40."""
    for pixels, _ in sharp_scenes(41, 12):
        noise = [feature("noise-1", received(pixels, each)) for each in ("clear", "noise-10", "noise-20", "noise-40")]
        assert noise == sorted(noise)
        assert len({*noise}) == 4


def test_exposure_shows_in_brightness_and_in_what_is_burnt_out() -> None:
    """Darker, as it is, brighter, on every one of twelve scenes."""
    for pixels, _ in sharp_scenes(41, 12):
        steps = [received(pixels, each) for each in ("dark-0.25", "dark-0.5", "clear", "bright-1.5", "bright-2")]
        brightness = [feature("brightness", each) for each in steps]
        burnt = [feature("white", each) for each in steps]
        assert brightness == sorted(brightness)
        assert burnt == sorted(burnt)


def test_white_noise_has_the_size_that_immerkaers_mask_gives_it() -> None:
    """The mask's weights are 1, 2 and 4: their squares sum to 36, so |response| is 6 σ √(2/π) in the mean."""
    sigma = 12.0
    random = np.random.default_rng(5)
    pixels = np.clip(np.rint(128 + sigma * random.standard_normal((224, 224, 3))), 0, 255).astype(np.uint8)

    # The flattest tenth of blocks of 14 x 8 responses lies below the mean, by less than a quarter.
    assert 0.75 < math.exp(feature("noise-1", pixels)) / (6 * sigma * math.sqrt(2 / math.pi)) < 1


def test_a_smear_along_the_rows_takes_more_of_the_steps_across() -> None:
    """As a moving belt does, on every one of twelve scenes: 21 pixels of the camera's 640."""
    for pixels, _ in sharp_scenes(41, 12):
        width = pixels.shape[1]
        padded = np.pad(pixels.astype(float), ((0, 0), (10, 10), (0, 0)), mode="edge")
        smeared = np.rint(sum(padded[:, shift : shift + width] for shift in range(21)) / 21).astype(np.uint8)
        lost = features(received(pixels)) - features(received(smeared))

        for name in ("steep", "edge"):
            across, along = (FEATURES.index(each) for each in FEATURES if re.fullmatch(rf"{name}-a\w+(-1)?", each))
            assert lost[across] > lost[along]
            assert lost[across] > 0.1


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    levels=st.tuples(st.integers(0, 255), st.integers(0, 255)),
    seed=st.integers(0, 9),
)
@settings(deadline=None, max_examples=80)
def test_any_frame_has_finite_features(height: int, width: int, levels: tuple[int, int], seed: int) -> None:
    """One pixel, one row, black, white, even or wild: no crash, no warning, the same for [1, height, width, 3]."""
    low, high = sorted(levels)
    pixels = np.random.default_rng(seed).integers(low, high, (height, width, 3), dtype=np.uint8, endpoint=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measured = features(pixels)

    assert (measured.shape, measured.dtype) == ((len(FEATURES),), np.float32)
    assert np.isfinite(measured).all()
    assert np.array_equal(measured, features(pixels[None]))
    assert estimator().classify(pixels) in estimator().classes


def test_wild_frames_do_not_overflow() -> None:
    """The harshest pictures there are give the largest responses there are: 8 x 255 at every pixel of the mask."""
    rows, columns = np.mgrid[:224, :224]
    board = (((rows + columns) % 2) * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    coarse = (((rows // 8 + columns // 8) % 2) * 255).astype(np.uint8)[..., None].repeat(3, axis=2)

    # A board of single pixels: mask 16 x 127.5, and at two pixels it is even grey.
    assert math.exp(feature("noise-1", board)) == pytest.approx(2040 + 0.1, rel=1e-3)
    assert math.exp(feature("noise-2", board)) == pytest.approx(0.1, rel=1e-3)
    # A board of eights: every step at eight pixels is from black to white.
    assert math.exp(feature("flat-across-8", coarse)) == pytest.approx(255 + 0.1, rel=1e-3)
    assert math.exp(feature("flat-along-8", coarse)) == pytest.approx(255 + 0.1, rel=1e-3)


def test_only_the_green_channel_is_read_and_the_frame_is_left_alone() -> None:
    """A frame handed in read-only is measured."""
    random = np.random.default_rng(2)
    pixels = random.integers(0, 256, (224, 224, 3), dtype=np.uint8)
    other = pixels.copy()
    other[..., (0, 2)] = 255 - other[..., (0, 2)]
    pixels.setflags(write=False)

    assert np.array_equal(features(pixels), features(other))


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((8, 8, 3), dtype=np.float32),
        np.zeros((8, 8, 4), dtype=np.uint8),
        np.zeros((8, 8), dtype=np.uint8),
        np.zeros((2, 8, 8, 3), dtype=np.uint8),
        np.zeros((0, 8, 3), dtype=np.uint8),
        np.zeros((), dtype=np.uint8),
    ],
)
def test_what_is_no_frame_is_refused_in_one_line(pixels: npt.NDArray[Any]) -> None:
    """Another type, another form, no pixels."""
    with pytest.raises(ValueError, match=r"^a frame of .*, expected uint8 \[height, width, 3\]$"):
        features(pixels)


@pytest.mark.parametrize("seed", range(5))
def test_an_estimator_says_the_same_after_a_trip_through_json(seed: int) -> None:
    """The class is the largest of weights · (features - mean) / scale + bias, reckoned here in plain Python."""
    before = estimator(4, seed)
    after = QualityEstimator.from_json(json.loads(json.dumps(before.to_json())))
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    measured = features(pixels)
    scores = [
        before.bias[row]
        + sum(
            before.weights[row, column] * (float(measured[column]) - before.mean[column]) / before.scale[column]
            for column in range(len(FEATURES))
        )
        for row in range(4)
    ]

    assert after.classify(pixels) == before.classify(pixels) == f"class-{scores.index(max(scores))}"
    assert after.to_json() == before.to_json()


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**400), 10**400),
    st.floats(),
    st.text(max_size=40),
    st.lists(st.floats() | st.text(max_size=3) | st.none(), max_size=40),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)


@given(key=st.sampled_from(sorted(estimator().to_json())), junk=JUNK)
@settings(deadline=None)
def test_junk_in_any_entry_is_refused_in_one_line(key: str, junk: object) -> None:
    """Or it makes an estimator that works: an agreement of 0.5 is as good as one of 0.9."""
    entry = {**estimator().to_json(), key: junk}
    try:
        read = QualityEstimator.from_json(entry)
    except ValueError as error:
        complaint = str(error)
    else:
        complaint = f"{key} is fine" if key == "agreement" and 0 <= read.agreement <= 1 else "accepted"
    assert complaint.startswith(key)
    assert "\n" not in complaint
    assert len(complaint) < 200


@given(key=st.sampled_from(["mean", "scale", "weights", "bias"]), junk=JUNK.filter(lambda junk: type(junk) is not list))
@settings(deadline=None)
def test_junk_in_place_of_one_number_is_refused(key: str, junk: object) -> None:
    """Not a number, not finite, beyond a million, or true."""
    entry = estimator().to_json()
    place = entry[key][1] if key == "weights" else entry[key]
    place[-1] = junk
    usable = isinstance(junk, int | float) and not isinstance(junk, bool) and abs(junk) <= 1e6
    if usable and (key != "scale" or junk >= 1e-6):
        assert QualityEstimator.from_json(entry).to_json()[key] == entry[key]
        return
    with pytest.raises(ValueError, match=rf"^{key}.*expected"):
        QualityEstimator.from_json(entry)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": ["clear"]}, "classes: expected a list of 2 to 32 names"),
        ({"classes": [f"c{index}" for index in range(33)]}, "classes: expected a list of 2 to 32 names"),
        ({"classes": ["clear", "clear", "dark"]}, "classes: expected different names"),
        ({"classes": ["clear", "a\nb", "dark"]}, "classes: expected names of 1 to 32 letters"),
        ({"classes": ["clear", "x" * 33, "dark"]}, "classes: expected names of 1 to 32 letters"),
        ({"classes": ["clear", "dark"]}, "weights: expected 2 rows"),
        ({"features": list(FEATURES[:-1])}, "features: expected those of this version"),
        ({"features": list(reversed(FEATURES))}, "features: expected those of this version"),
        ({"scale": [0.0] * len(FEATURES)}, "scale: expected numbers of 1e-06 or more"),
        ({"agreement": 1.01}, "agreement: expected a number between 0 and 1"),
        ({"bias": [0.0, 0.0]}, "bias: expected a list of 3 numbers"),
    ],
)
def test_each_entry_says_what_it_expected(changes: dict[str, Any], words: str) -> None:
    """One line that names the entry."""
    with pytest.raises(ValueError, match=f"^{words}"):
        QualityEstimator.from_json({**estimator().to_json(), **changes})


@pytest.mark.parametrize("entry", [None, [], "quality", 3])
def test_what_is_no_table_is_refused(entry: object) -> None:
    """Whatever JSON may hold there."""
    with pytest.raises(ValueError, match=r"^expected a table"):
        QualityEstimator.from_json(entry)


def test_an_extreme_but_accepted_estimator_still_answers() -> None:
    """The largest weights and the smallest scale that are accepted do not overflow."""
    count = len(FEATURES)
    entry = {**estimator(2).to_json(), "mean": [-1e6] * count, "scale": [1e-6] * count, "weights": [[1e6] * count] * 2}
    read = QualityEstimator.from_json(entry)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read.classify(np.full((9, 9, 3), 200, dtype=np.uint8)) in read.classes
