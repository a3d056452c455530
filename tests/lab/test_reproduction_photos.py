"""Figures 5 to 7: on the bundle that ships, and on logits of which everything is known."""

from __future__ import annotations

import io
import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from popexd.bundle import Bundle, InputSpec, load
from popexd.errors import InputError
from popexd.lab import conveyor
from popexd.lab.distortions import DISTORTIONS, blurred
from popexd.lab.parts import CLASSES
from popexd.lab.reproduction import jnca
from popexd.lab.reproduction.figure import Figure
from popexd.lab.reproduction.figure_5 import figure_5, of_entropies
from popexd.lab.reproduction.figures_6_7 import calibrated, figures_6_7, of_logits
from popexd.lab.reproduction.photos import Photo, Photos, draw_photos, prepared


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The bundle that ships."""
    return load()


@pytest.fixture(scope="module")
def five(bundle: Bundle) -> Figure:
    """Figure 5 of 24 generated pictures."""
    return figure_5(bundle, draw_photos("generated", bundle, 24, seed=1), threads=1)


def curves(figure: Figure, panel: int = 0) -> dict[str, np.ndarray]:
    """A panel's curves by name."""
    return {curve.name: np.array(curve.y) for curve in figure.panels[panel].curves}


def test_more_blur_leaves_fewer_exits(five: Figure) -> None:
    """Spec Q on a really trained net: 5, 15 and 65 pixels, in this order, in the mean over the thresholds."""
    found = curves(five)

    assert list(found) == ["undistorted", "blur 5", "blur 15", "blur 65"]
    means = [row.mean() for row in found.values()]
    assert means[0] > means[2] > means[3]
    assert means[1] > means[2]
    assert (found["blur 65"] <= found["blur 5"]).all()
    assert (found["blur 65"] <= found["blur 15"]).all()


def test_exit_shares_rise_from_none_to_nearly_all(five: Figure) -> None:
    """At an entropy threshold of 0 nothing leaves, however sure; ln 8 is the most there can be."""
    assert five.panels[0].curves[0].x[0] == 0
    assert five.panels[0].curves[0].x[-1] == pytest.approx(math.log(8))
    for row in curves(five).values():
        assert row[0] == 0
        assert row[-1] > 0.95
        assert (np.diff(row) >= 0).all()


def test_the_source_says_that_these_are_no_photos(five: Figure) -> None:
    """Whoever sees the figure knows what it is made of."""
    assert five.source == "conveyor-b-alexnet, branch b1; 24 generated pictures (no photos), seed 1"


def test_an_entropy_at_the_threshold_does_not_leave() -> None:
    """Strictly less, counted here by hand; and an order that is not the paper's is said to be another."""
    thresholds = np.linspace(0, math.log(2), 41)
    sharp = np.array([thresholds[10], thresholds[20], 0.0, math.log(2)])
    blurry = np.array([thresholds[11], thresholds[21], 0.1, math.log(2)])

    right = {"clear": np.array([True, False, True, True]), "blur-5": np.array([True, False, False, False])}
    figure = of_entropies({"clear": sharp, "blur-5": blurry}, right, "by hand", 2)
    first = curves(figure)["undistorted"]
    assert [first[i] for i in (0, 1, 10, 11, 20, 21, 40)] == [0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75]
    assert figure.facts[0].same
    of_those = curves(figure, 1)["undistorted"]
    assert math.isnan(of_those[0])
    assert [of_those[i] for i in (1, 11, 21, 40)] == pytest.approx([1, 1, 2 / 3, 2 / 3])
    turned = of_entropies({"clear": blurry, "blur-5": sharp}, right, "by hand", 2).facts[0]
    assert not turned.same
    # Below 0.1 the five thresholds 1 to 5, and one each for the pairs that are one threshold apart.
    assert "another order at 7 of 41 thresholds, by at most 25.0 points" in turned.found


def test_photos_are_blurred_at_the_cameras_size() -> None:
    """First blurred, then resized, not the other way round; the rest of the way is the same."""
    stream = io.BytesIO()
    conveyor.scene(3, seed=5, size=(160, 120)).image.save(stream, "PNG")
    pixels = np.asarray(Image.open(io.BytesIO(stream.getvalue())).convert("RGB"))
    photos = Photos("one", (Photo("one", 0, "clear", stream.getvalue),))
    form = InputSpec(48, 64, 3)

    (found,) = prepared(photos, form, "blur-15")
    (plain,) = prepared(photos, form)

    assert found.shape == plain.shape == (48, 64, 3)
    blurred_first = Image.fromarray(blurred(pixels, 15)).resize((64, 48), Image.Resampling.BILINEAR)
    assert np.array_equal(found, np.asarray(blurred_first))
    assert np.array_equal(plain, np.asarray(Image.fromarray(pixels).resize((64, 48), Image.Resampling.BILINEAR)))
    assert np.abs(found.astype(int) - blurred(plain, 15)).max() > 5
    assert DISTORTIONS["blur-15"].quality == "blurred"


def overconfident(samples: int = 4000, classes: int = 5, factor: float = 2.5) -> tuple[np.ndarray, np.ndarray]:
    """Logits that mean what they say, all multiplied by `factor`, and labels drawn from the true ones."""
    random = np.random.default_rng(7)
    honest = random.normal(0, 1.6, (samples, classes))
    odds = np.exp(honest)
    labels = np.array([random.choice(classes, p=row / row.sum()) for row in odds])
    return (factor * honest).astype(np.float32), labels


def sure(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Largest probability, by definition."""
    odds = np.exp(logits.astype(float) / temperature)
    return np.asarray((odds / odds.sum(axis=1, keepdims=True)).max(axis=1))


def test_each_half_is_calibrated_by_the_other() -> None:
    """The temperatures are those of least loss on the other half, found here on a grid; near 2.5, which was put in."""
    logits, labels = overconfident()
    found = calibrated(logits, labels)
    grid = np.arange(1.5, 3.5, 0.01)

    for half, temperature in enumerate(found.temperatures):
        others, right = logits[1 - half :: 2].astype(float), labels[1 - half :: 2]
        losses = []
        for candidate in grid:
            scaled = others / candidate
            normaliser = np.log(np.exp(scaled).sum(axis=1))
            losses.append((normaliser - scaled[np.arange(len(right)), right]).mean())
        assert temperature == pytest.approx(grid[int(np.argmin(losses))], abs=0.011)
        assert temperature == pytest.approx(2.5, rel=0.1)
        assert found.after[half::2] == pytest.approx(sure(logits[half::2], temperature), rel=1e-9)
    assert found.before == pytest.approx(sure(logits, 1.0), rel=1e-9)


def test_calibrating_an_overconfident_branch_lets_fewer_leave() -> None:
    """Figure 6: at no threshold more, at most of them fewer; each share recounted here."""
    logits, labels = overconfident()
    six, _ = of_logits(logits, logits, labels, "made up")
    found = calibrated(logits, labels)
    rows = curves(six)

    for index, threshold in enumerate(six.panels[0].curves[0].x):
        assert rows["before calibration"][index] == pytest.approx(float(np.mean(found.before >= threshold)))
        assert rows["after calibration"][index] == pytest.approx(float(np.mean(found.after >= threshold)))
    assert (rows["after calibration"] <= rows["before calibration"]).all()
    assert (rows["after calibration"] < rows["before calibration"]).sum() > 25
    assert six.facts[0].same
    assert "over-confident" in six.facts[0].found
    errors = six.settings["expected_calibration_error"]
    assert errors["after"] < 0.05 < 0.1 < errors["before"]


def test_calibrating_an_overconfident_branch_makes_answers_better() -> None:
    """Figure 7: of what the branch answers and of all, where the end knows better; recounted here at each threshold."""
    logits, labels = overconfident()
    end = np.eye(5, dtype=np.float32)[labels]
    end[::10] = np.roll(end[::10], 1, axis=1)
    _, seven = of_logits(logits, end, labels, "made up")
    right, right_at_end = logits.argmax(axis=1) == labels, end.argmax(axis=1) == labels
    found = calibrated(logits, labels)

    for name, certainty in (("before calibration", found.before), ("after calibration", found.after)):
        local, overall = curves(seven, 0)[name], curves(seven, 1)[name]
        for index, threshold in enumerate(seven.panels[0].curves[0].x):
            here = [i for i in range(len(labels)) if certainty[i] >= threshold]
            elsewhere = [i for i in range(len(labels)) if certainty[i] < threshold]
            total = sum(right[i] for i in here) + sum(right_at_end[i] for i in elsewhere)
            assert overall[index] == pytest.approx(total / len(labels))
            if here:
                assert local[index] == pytest.approx(np.mean([right[i] for i in here]))
            else:
                assert math.isnan(local[index])
    for panel in (0, 1):
        rows = curves(seven, panel)
        gain = rows["after calibration"] - rows["before calibration"]
        assert np.nanmean(gain) > 0.01
        assert np.nanmin(gain) > -0.01


def test_an_underconfident_branch_is_told_apart() -> None:
    """There calibration works the other way round, and the figure does not claim otherwise."""
    logits, labels = overconfident(samples=1000, factor=0.4)
    six, seven = of_logits(logits, logits, labels, "made up")

    assert not six.facts[0].same
    assert "under-confident" in six.facts[0].found
    assert not seven.facts[0].same


def test_a_branch_without_a_mistake_leaves_no_gap_unexplained() -> None:
    """Nothing to learn: T stays 1, before and after are the same, without a warning."""
    labels = np.arange(30) % 3
    logits = (np.eye(3)[labels] * 0.1).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        six, seven = of_logits(logits, logits, labels, "made up")

    assert six.settings["temperatures"] == [1.0, 1.0]
    assert not six.facts[0].same
    assert "neither over- nor under-confident" in six.facts[0].found
    assert curves(seven, 0)["before calibration"][0] == 1


def test_figures_6_and_7_on_the_bundle_that_ships(bundle: Bundle) -> None:
    """What the daemon's own runner says of 20 generated pictures, counted anew from the first branch's confidence."""
    photos = draw_photos("generated", bundle, 20, seed=3)
    six, seven = figures_6_7(bundle, photos, threads=1)

    assert six.settings["branch_accuracy"] > 0.5
    assert curves(six)["before calibration"][0] == 1
    assert curves(seven, 1)["before calibration"][0] == pytest.approx(six.settings["branch_accuracy"])
    assert curves(seven, 1)["before calibration"][-1] == pytest.approx(six.settings["final_accuracy"])
    with pytest.raises(InputError, match="--data: 19 photos, expected at least 20"):
        figures_6_7(bundle, photos.first(19))


def many_overconfident() -> tuple[np.ndarray, np.ndarray]:
    """Two branches and the end, [3, samples, classes]: all over-confident, the first most, the end knows best."""
    random = np.random.default_rng(11)
    labels = random.integers(0, 6, 3000)
    truth = np.eye(6)[labels]
    exits = [
        factor * (knows * truth + random.normal(0, 1, truth.shape))
        for factor, knows in ((3, 1.2), (2.5, 1.8), (2, 2.6))
    ]
    return np.array(exits, dtype=np.float32), labels


def test_the_later_papers_quantities_are_those_of_its_definitions() -> None:
    """Uncalibrated, at each target: what leaves and how often it is right, counted here sample by sample."""
    logits, labels = many_overconfident()
    figure = jnca.of_logits(("b1", "b2", "final"), logits, labels, "made up")
    shares, accuracies = curves(figure, 0)["conventional"], curves(figure, 1)["conventional"]

    for index, target in enumerate(figure.panels[0].curves[0].x):
        right = []
        for sample in range(len(labels)):
            for branch in (0, 1):
                odds = np.exp(logits[branch, sample].astype(float))
                if odds.max() / odds.sum() >= target:
                    right.append(int(logits[branch, sample].argmax()) == labels[sample])
                    break
        assert shares[index] == pytest.approx(len(right) / len(labels))
        assert accuracies[index] == pytest.approx(np.mean(right))


def test_calibration_makes_overconfident_devices_reliable() -> None:
    """Directions of the later paper: fewer answers on the device, right more often, fewer outages, at every target."""
    logits, labels = many_overconfident()
    figure = jnca.of_logits(("b1", "b2", "final"), logits, labels, "made up")
    panels = [curves(figure, panel) for panel in range(4)]

    for method in ("global", "per branch"):
        left, right, outages, missed = (panel[method] - panel["conventional"] for panel in panels)
        assert (left < 0).all()
        assert (right > 0).all()
        assert (outages <= 0).all()
        assert outages.min() < -0.5
        assert missed.mean() <= 0
    assert figure.settings["batch"] == 256
    assert {fact.figure for fact in figure.facts} == {"jnca"}
    assert "(paper: 0.16 / 0.095 / 0.12; conventional / global / per branch)" in figure.facts[0].found


def test_the_order_of_the_three_is_compared_not_assumed() -> None:
    """Branches that were calibrated already: nothing changes, and nothing is called the same."""
    labels = np.arange(60) % 3
    logits = np.repeat((8 * np.eye(3)[labels])[None], 2, axis=0).astype(np.float32)
    figure = jnca.of_logits(("b1", "final"), logits, labels, "made up")

    assert [fact.same for fact in figure.facts] == [False] * 4
    assert figure.settings["batch"] == 15


def test_what_is_not_defined_is_said_and_not_compared() -> None:
    """A net that is never sure lets nothing leave: how often that is right is no number, in text or in JSON."""
    labels = np.arange(60) % 3
    logits = np.random.default_rng(4).normal(0, 1e-3, (2, 60, 3)).astype(np.float32)
    fact = jnca.of_logits(("b1", "final"), logits, labels, "made up").facts[1]
    assert fact.found.startswith("at 0.8 not defined (nothing leaves) / ")
    assert (fact.same, fact.verdict) == (None, "cannot be told")
    others = jnca.of_logits(("b1", "final"), logits, labels, "made up").to_json()["facts"]
    assert others[1]["same"] is None
    assert "nan" not in json.dumps(others)


def folder_of(tmp_path: Path, count: int = 6) -> Path:
    """A folder of small pictures, one folder per class."""
    for index in range(count):
        frame = conveyor.scene(index, seed=9, size=(96, 72))
        place = tmp_path / frame.class_name / f"{index}.jpg"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(frame.jpeg())
    return tmp_path


def test_photos_come_from_class_folders(tmp_path: Path, bundle: Bundle) -> None:
    """With the bundle's index of the folder's name; which ones follows from the seed."""
    folder = folder_of(tmp_path, 16)
    (folder / "notes.txt").write_text("not a folder")
    drawn = draw_photos(str(folder), bundle, 10, seed=1)

    assert len(drawn.chosen) == 10
    assert drawn.source == f"10 photos of 16 in {folder.name}, seed 1"
    for photo, label in zip(drawn.chosen, drawn.labels, strict=True):
        assert Path(photo.name).parent.name == CLASSES[label]

    def names(seed: int) -> list[str]:
        return [photo.name for photo in draw_photos(str(folder), bundle, 10, seed).chosen]

    assert names(1) == [photo.name for photo in drawn.chosen]
    assert names(1) != names(2)


def test_folders_that_do_not_fit_are_refused(tmp_path: Path, bundle: Bundle) -> None:
    """Each with one line: what is there, what was expected."""
    with pytest.raises(InputError, match=r"--data: .*nowhere: no such folder"):
        draw_photos(str(tmp_path / "nowhere"), bundle, 4, 1)
    with pytest.raises(InputError, match="0 class folders, expected at least two of nut, washer"):
        draw_photos(str(tmp_path), bundle, 4, 1)
    (tmp_path / "nut").mkdir()
    (tmp_path / "gear").mkdir()
    with pytest.raises(InputError, match="no images, expected JPEG, PNG or WebP"):
        draw_photos(str(tmp_path), bundle, 4, 1)
    (tmp_path / "cat").mkdir()
    with pytest.raises(InputError, match=r"cat: conveyor-b-alexnet knows no such class, expected folders named nut"):
        draw_photos(str(tmp_path), bundle, 4, 1)


def test_a_broken_photo_is_named(tmp_path: Path, bundle: Bundle) -> None:
    """The file, and what is wrong with it."""
    folder = folder_of(tmp_path)
    broken = next(folder.glob("*/3.jpg"))
    broken.write_bytes(broken.read_bytes()[:300])

    with pytest.raises(InputError, match=r"3\.jpg: cannot be read as an image: truncated"):
        list(prepared(draw_photos(str(folder), bundle, 6, 1), bundle.input))
