"""Distortions do what their names say, reckoned here by other means."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from popexd.errors import InputError
from popexd.lab.distortions import DISTORTIONS, as_sent, kernel, named
from popexd.lab.distortions import noisy as with_noise
from popexd.quality import CLEAR
from popexd.runtime.frames import ImageFormat, load_image, sniff

Pixels = npt.NDArray[np.uint8]
SIGMAS = {5: 1.1, 15: 2.6, 65: 10.1}


def distorted(name: str, pixels: Pixels, seed: int = 0) -> Pixels:
    """Apply one distortion of the table."""
    return DISTORTIONS[name].apply(pixels, np.random.default_rng(seed))


def picture(height: int = 60, width: int = 80, seed: int = 1) -> Pixels:
    """Draw uniform noise, of all grey levels."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("size", "sigma"), SIGMAS.items())
def test_blur_answers_an_impulse_with_the_gaussian_of_its_kernel_size(size: int, sigma: float) -> None:
    """A white pixel becomes size x size pixels of 255 exp(-r²/2σ²) / sum, and nothing beyond."""
    side = size + 20
    middle = side // 2
    impulse = np.zeros((side, side, 3), dtype=np.uint8)
    impulse[middle, middle] = 255
    reach = size // 2
    bell = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in range(-reach, reach + 1)]
    total = sum(bell)
    # The sum of a row is that of its impulse, and large enough to see through the rounding.
    bar = np.zeros((side, side, 3), dtype=np.uint8)
    bar[:, middle] = 255

    spread, row = distorted(f"blur-{size}", impulse), distorted(f"blur-{size}", bar)[middle, :, 0]

    expected = np.zeros((side, side))
    expected[middle - reach : middle + reach + 1, middle - reach : middle + reach + 1] = (
        255 * np.outer(bell, bell) / total**2
    )
    assert np.abs(spread[..., 0] - expected).max() <= 0.5 + 1e-3
    assert np.abs(row[middle - reach : middle + reach + 1] - 255 * np.array(bell) / total).max() <= 0.5 + 1e-3
    assert not row[: middle - reach].any()
    assert not row[middle + reach + 1 :].any()


@pytest.mark.parametrize("size", SIGMAS)
def test_the_kernel_sums_to_one_and_is_even(size: int) -> None:
    """So that blur neither brightens nor shifts."""
    weights = kernel(size)

    assert weights.shape == (size,)
    assert weights.sum() == pytest.approx(1)
    assert np.array_equal(weights, weights[::-1])


@pytest.mark.parametrize("size", SIGMAS)
def test_blur_leaves_an_even_picture_as_it_is(size: int) -> None:
    """At the borders too, and where the kernel is larger than the picture."""
    even = np.full((20, 30, 3), 77, dtype=np.uint8)

    assert np.array_equal(distorted(f"blur-{size}", even), even)


@pytest.mark.parametrize("sigma", [10, 20, 40])
def test_noise_is_white_gaussian_of_its_sigma_in_every_channel(sigma: int) -> None:
    """Mean, deviation, share beyond two deviations and correlation of neighbours and channels, within their errors."""
    grey = np.full((300, 400, 3), 128, dtype=np.uint8)
    count = 300 * 400

    error = distorted(f"noise-{sigma}", grey).astype(float) - 128

    for channel in range(3):
        own = error[..., channel]
        # Rounding adds a twelfth to the variance; clipping at 3.2 sigma takes less than a hundredth of the deviation.
        assert own.std() == pytest.approx(math.hypot(sigma, math.sqrt(1 / 12)), rel=5 / math.sqrt(2 * count) + 0.01)
        assert abs(own.mean()) < 5 * sigma / math.sqrt(count)
        beyond = np.mean(np.abs(own) > 2 * sigma + 0.5)
        assert beyond == pytest.approx(math.erfc((2 * sigma + 0.5) / sigma / math.sqrt(2)), abs=0.004)
        neighbours = np.corrcoef(own[:, :-1].ravel(), own[:, 1:].ravel())[0, 1]
        assert abs(neighbours) < 5 / math.sqrt(count)
    assert abs(np.corrcoef(error[..., 0].ravel(), error[..., 1].ravel())[0, 1]) < 5 / math.sqrt(count)


def test_noise_is_that_of_its_generator() -> None:
    """The same seed gives the same frame, another one another."""
    frame = picture()

    assert np.array_equal(distorted("noise-20", frame, 3), distorted("noise-20", frame, 3))
    assert not np.array_equal(distorted("noise-20", frame, 3), distorted("noise-20", frame, 4))


def test_noise_does_not_wrap_around() -> None:
    """Black stays dark and white stays bright."""
    random = np.random.default_rng(0)

    assert with_noise(np.zeros((50, 50, 3), dtype=np.uint8), 10, random).max() < 80
    assert with_noise(np.full((50, 50, 3), 255, dtype=np.uint8), 10, random).min() > 175


@pytest.mark.parametrize(
    ("name", "factor"), [("dark-0.5", 0.5), ("dark-0.25", 0.25), ("bright-1.5", 1.5), ("bright-2", 2.0)]
)
def test_exposure_multiplies_every_value_and_clips(name: str, factor: float) -> None:
    """Half away from even, as Python rounds; never beyond 255."""
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (2, 256, 3))

    row = distorted(name, np.ascontiguousarray(ramp))[1, :, 2]

    assert row.tolist() == [min(255, round(value * factor)) for value in range(256)]


@pytest.mark.parametrize("name", DISTORTIONS)
def test_every_distortion_keeps_form_and_type_and_leaves_its_input_alone(name: str) -> None:
    """Even of a picture of one pixel, and of a view into a larger one."""
    frame = picture()
    before = frame.copy()

    for view in (frame, frame[10:50:2, ::3], frame[:1, :1]):
        result = distorted(name, view)
        assert (result.shape, result.dtype) == (view.shape, np.uint8)
    assert np.array_equal(frame, before)


def test_the_table_names_a_class_for_each() -> None:
    """Never that of an undistorted photo; the name begins with what is done."""
    found = {name: distortion.quality for name, distortion in DISTORTIONS.items()}
    classes = {"blur": "blurred", "noise": "noisy", "dark": "dark", "bright": "bright"}

    assert found == {name: classes[name.partition("-")[0]] for name in found}
    assert CLEAR not in found.values()
    assert {"blur-5", "blur-15", "blur-65", "noise-10", "noise-20", "noise-40", "dark-0.5", "dark-0.25"} <= {*found}


def test_words_are_distortions_classes_and_classes_of_ones_own() -> None:
    """In order, each once; a class of one's own goes before the table's."""
    assert named(None) == named("") == {}
    assert named("noise-20, clear,noisy") == {
        "noise-20": "noisy",
        "clear": "clear",
        "noise-10": "noisy",
        "noise-40": "noisy",
    }
    soft = {"blur-5": "blurred", "blur-15": "blurred", "blur-65": "lost"}
    assert named("blurred,lost=blur-65") == named("lost=blur-65,blurred") == soft
    assert named("bad=dark+noise-40") == {"dark-0.5": "bad", "dark-0.25": "bad", "noise-40": "bad"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fog", "--distort: 'fog', expected some of clear, blurred"),
        ("lost=fog", "--distort: 'fog', expected some of clear, blurred"),
        ("lost=", "--distort: '', expected some of clear, blurred"),
        ("=blur-5", "--distort: '=blur-5', expected NAME="),
        ("very lost=blur-5", "--distort: 'very lost=blur-5', expected NAME="),
        ("clear=blur-5", "--distort: 'clear=blur-5', expected NAME="),
        ("lost=blur-65+clear", "and no clear in it"),
        ("one=blurred,two=blur-65", "--distort: 'two=blur-65': blur-65 is one too, expected one class for it"),
    ],
)
def test_words_that_mean_nothing_are_one_line(text: str, said: str) -> None:
    """It names the word and what was expected."""
    with pytest.raises(InputError) as caught:
        named(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["jpeg", "webp", "png"])
def test_what_is_distorted_is_sent_in_the_form_of_its_file(form: ImageFormat) -> None:
    """With a loss that the generator chooses, the same for the same one; a PNG has none."""
    frame = distorted("noise-20", picture())
    files = [as_sent(frame, form, np.random.default_rng(seed)) for seed in range(12)]
    found = sniff(files[0])
    assert (found.format, found.height, found.width) == (form, *frame.shape[:2])
    assert files == [as_sent(frame, form, np.random.default_rng(seed)) for seed in range(12)]
    assert (len(set(files)) == 1) is (form == "png")
    assert np.array_equal(load_image(files[0], *frame.shape[:2])[0], frame) is (form == "png")
