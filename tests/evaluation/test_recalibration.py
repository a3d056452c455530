"""A bundle calibrated anew: what changes, what must not, and that its table is of frames it was not fitted on."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from popexd import bundle as bundles
from popexd.bundle import Bundle, ExitVariant
from popexd.bundle.reading import listed_files
from popexd.criteria import softmax
from popexd.errors import BundleError, Infeasible
from popexd.evaluation.calibration import exits_taken, temperature
from popexd.evaluation.choosing import LEAST_OF_A_CLASS, LEAST_TO_CALIBRATE, LEAST_TO_FIT, Target
from popexd.evaluation.metrics import figures
from popexd.evaluation.outcomes import exit_logits, of_table
from popexd.evaluation.policy import of_bundle
from popexd.evaluation.recalibration import Said, Wanted, forgotten, keeps, recalibrated, scaled, written
from popexd.lab import conveyor
from popexd.runtime.frames import load_image
from popexd.runtime.segments import SegmentRunner
from tests.evaluation.tables import BUNDLE, trained


def halves(scale: float = 1.0, *, seen: bool = False) -> tuple[Said, Said]:
    """What the default network says of frames it has not seen, b1 made so many times surer; every third is blurred.

    The blurred third gets wrong labels half of the time: the network is as sure of them as of the others.
    """
    logits, labels = trained()
    given = logits * np.array([scale, 1, 1], dtype=np.float32)[:, None, None]
    labels = labels.copy()
    blurred = np.arange(labels.size) % 3 == 0
    if seen:
        labels[np.arange(labels.size) % 6 == 0] = (labels[np.arange(labels.size) % 6 == 0] + 1) % 8
    words = np.where(blurred, "blurred", "clear")
    said = Said(given, labels, words, words if seen else None)
    first = np.arange(labels.size) < labels.size // 2
    return said.only(first), said.only(~first)


def test_a_recalibrated_bundle_loads_with_its_temperatures_and_the_other_half_s_table(tmp_path: Path) -> None:
    """The temperatures are those of the half to fit on; confidences are recomputed here; segments keep their bytes."""
    fit, report = halves(2.5)
    fresh, learned = recalibrated(BUNDLE, fit, Wanted())
    new, answers = written(tmp_path / "new", fresh, report, method={"method": "per-branch"}, source=BUNDLE)

    again = bundles.load(tmp_path / "new")
    assert learned.samples == (180, 180, 180)
    for row, exit_ in enumerate(again.exits):
        assert exit_.temperature == pytest.approx(temperature(fit.logits[row], fit.label), abs=1e-4)
        assert exit_.threshold == BUNDLE.exits[row].threshold
    table = again.validation
    assert table.samples == report.label.size
    np.testing.assert_array_equal(table.predicted, report.logits.argmax(axis=2))
    expected = softmax(report.logits[0], again.exits[0].temperature).max(axis=1)
    np.testing.assert_allclose(table.confidence[0], expected, atol=1e-6)
    assert table.entropy is not None
    likely = softmax(report.logits[-1, 0], again.final_temperature)
    assert table.entropy[-1, 0] == pytest.approx(-sum(p * math.log(p) for p in likely), abs=1e-5)
    for segment in BUNDLE.segments:
        assert (tmp_path / "new" / "segments" / segment.file.name).read_bytes() == segment.file.read_bytes()
    assert again.fingerprint == new.fingerprint != BUNDLE.fingerprint
    assert again.facts["calibration"] == {"method": "per-branch"}
    assert figures(of_table(table, 8), of_bundle(again)).shares == pytest.approx(
        figures(answers, of_bundle(new)).shares
    )


def test_an_overconfident_branch_answers_less_and_better(tmp_path: Path) -> None:
    """With its threshold kept, on the half that was not fitted on; none of its classes changes."""
    fit, report = halves(2.5)
    fresh, _ = recalibrated(BUNDLE, fit, Wanted())
    # As if nobody had ever calibrated it.
    plain, _ = recalibrated(BUNDLE, fit, Wanted(method="none"))
    then, now = scaled(plain, report), scaled(fresh, report)
    before, after = figures(then, of_bundle(plain)), figures(now, of_bundle(fresh))

    np.testing.assert_array_equal(then.predicted, now.predicted)
    assert after.shares["b1"] < before.shares["b1"]
    assert (after.accuracy_where_taken["b1"] or 0) > (before.accuracy_where_taken["b1"] or 0)
    assert after.calibration_error["b1"] < before.calibration_error["b1"]


def test_a_worse_class_gets_its_own_temperature_and_threshold() -> None:
    """Blurred frames are wrong half of the time: fewer wrong ones leave; the others leave as before."""
    fit, report = halves(seen=True)
    fresh, _ = recalibrated(BUNDLE, fit, Wanted(thresholds="reliable"))
    b1 = fresh.exits[0]
    own = b1.by_quality["blurred"]
    blurred = fit.only(fit.quality == "blurred")

    # 60 blurred frames to fit on are too few for a temperature of their own, enough for a threshold.
    assert blurred.label.size == 60
    assert own.temperature is None
    assert own.threshold is not None
    assert own.threshold > b1.threshold
    answers = scaled(fresh, report)
    taken = of_bundle(fresh).taken(answers)
    wrong = ~answers.correct[0]
    there = (report.quality == "blurred") & (taken == 0)
    without = replace(of_bundle(fresh), by_quality={}).taken(answers) == 0
    assert (there & wrong).sum() < (without & wrong & (report.quality == "blurred")).sum()
    assert (taken[report.quality == "clear"] == 0).mean() > 0.4


def test_a_large_class_gets_its_own_temperature() -> None:
    """The one of least loss on its frames; scaled confidences use it, and only for frames seen so."""
    fit, _ = halves(seen=True)
    twice = Said(
        np.concatenate([fit.logits] * 2, axis=1),
        np.concatenate([fit.label] * 2),
        np.concatenate([fit.quality] * 2),
        np.concatenate([fit.quality] * 2),
    )
    fresh, _ = recalibrated(BUNDLE, twice, Wanted())
    for row, exit_ in enumerate(fresh.exits):
        for quality, heat in (("blurred", exit_.by_quality["blurred"].temperature), ("clear", exit_.temperature)):
            own = twice.only(twice.quality == quality)
            assert heat == pytest.approx(temperature(own.logits[row], own.label), abs=1e-4)
        answers = scaled(fresh, twice)
        for sample in (0, 1):
            heat = exit_.temperature_for(str(twice.quality[sample]))
            assert answers.confidence[row, sample] == pytest.approx(softmax(twice.logits[row, sample], heat).max())
    assert fresh.final_temperature == pytest.approx(temperature(twice.logits[-1], twice.label), abs=1e-4)


def test_the_daemon_s_runner_says_what_the_report_says(tmp_path: Path) -> None:
    """Confidence, class and who answers, for frames of a class with its own temperature and threshold."""
    scenes = [conveyor.scene(index, 8) for index in range(12)]
    side = BUNDLE.input.height
    images = [load_image(scene.jpeg(), side, side)[0] for scene in scenes]
    words = np.array(["blurred", "clear"] * 6)
    said = Said(exit_logits(BUNDLE, images, threads=1), np.array([scene.label for scene in scenes]), words, words)
    own = {"blurred": ExitVariant(threshold=0.97, temperature=1.9)}
    first = replace(BUNDLE.exits[0], temperature=0.7, threshold=0.6, by_quality=own)
    fresh = replace(BUNDLE, exits=(first, *BUNDLE.exits[1:]), final_temperature=1.4)
    new, found = written(tmp_path / "new", fresh, said, method={}, source=BUNDLE)

    taken = of_bundle(new).taken(found)
    runner = SegmentRunner(new, 1)
    for sample, image in enumerate(images):
        quality = str(words[sample])
        tensors = runner.run({"input": image[None]}, ["pool1"])
        b1 = runner.classify("b1", tensors["pool1"], quality)
        assert b1.confidence == pytest.approx(found.confidence[0, sample], abs=1e-9)
        assert b1.class_index == found.predicted[0, sample]
        assert (b1.certainty >= new.bounds(quality)["b1"]) == (taken[sample] == 0)
        end = runner.run(tensors, [segment.name for segment in new.segments[1:]])
        assert runner.classify("final", end["fc8"]).confidence == pytest.approx(found.confidence[-1, sample], abs=1e-9)
    runner.close()
    assert (taken[words == "clear"] == 0).sum() > (taken[words == "blurred"] == 0).sum()


def test_an_expert_branch_is_asked_calibrated_and_kept(tmp_path: Path) -> None:
    """Its logits are those of the class it is for; its temperature is learned from them; its file stays."""
    onnx = pytest.importorskip("onnx", reason="needs the extra `train`")
    b1 = BUNDLE.exits[0]
    model = onnx.load(b1.file)
    bias = next(each for each in model.graph.initializer if list(each.dims) == [8])
    moved = onnx.numpy_helper.to_array(bias) + np.linspace(-1, 1, 8, dtype=np.float32)
    bias.CopyFrom(onnx.numpy_helper.from_array(moved, bias.name))
    facts = json.loads((BUNDLE.folder / "bundle.json").read_text())
    facts["exits"][0]["by_quality"] = {"blurred": {"file": "segments/b1.blurred.onnx", "threshold": 0.8}}
    files = {name: (BUNDLE.folder / name).read_bytes() for name in listed_files(BUNDLE.facts)}
    expert = bundles.write(tmp_path / "expert", facts, files | {"segments/b1.blurred.onnx": model.SerializeToString()})

    scenes = [conveyor.scene(index, 8) for index in range(8)]
    side = BUNDLE.input.height
    images = [load_image(scene.jpeg(), side, side)[0] for scene in scenes]
    words = np.array(["clear", "blurred"] * 4)
    plain, asked = (exit_logits(expert, images, seen=seen, threads=1) for seen in (None, words.tolist()))
    np.testing.assert_array_equal(asked[:, words == "clear"], plain[:, words == "clear"])
    difference = asked[0, words == "blurred"] - plain[0, words == "blurred"]
    np.testing.assert_allclose(difference, np.tile(np.linspace(-1, 1, 8), (4, 1)), atol=1e-4)
    np.testing.assert_array_equal(asked[1:], plain[1:])

    many = np.tile(np.arange(8), 30)
    said = Said(asked[:, many], (np.arange(240) * 7 % 8), words[many], words[many])
    fresh, _ = recalibrated(expert, said, Wanted())
    new, _ = written(tmp_path / "new", fresh, said, method={}, source=expert)
    own = new.exits[0].by_quality["blurred"]
    assert own.file is not None
    assert own.file.read_bytes() == model.SerializeToString()
    blurred = said.only(said.quality == "blurred")
    assert own.temperature == pytest.approx(temperature(blurred.logits[0], blurred.label), abs=1e-4)


def test_distorted_frames_do_not_lower_what_all_frames_are_held_to() -> None:
    """General thresholds are those of the frames seen clear, however many others there are; of all where these lack."""
    fit, _ = halves(seen=True)
    clear = fit.only(fit.quality == "clear")
    wanted = Wanted(thresholds="reliable")
    (mixed, made_of), (alone, _) = (recalibrated(BUNDLE, said, wanted) for said in (fit, clear))

    # The blurred third is wrong half of the time, at the network's end too.
    assert mixed.thresholds == alone.thresholds
    assert (made_of.chosen_on, made_of.of) == (clear.label.size, "clear")
    few = fit.only((fit.quality == "blurred") | (np.cumsum(fit.quality == "clear") <= LEAST_OF_A_CLASS - 1))
    made_of = recalibrated(BUNDLE, few, wanted)[1]
    assert (made_of.chosen_on, made_of.of) == (few.label.size, "all")
    assert recalibrated(BUNDLE, fit, Wanted())[1].chosen_on == 0


def test_a_temperature_is_fitted_on_enough_frames_or_kept() -> None:
    """Counted where it is fitted: of a class on those that leave; of all, at `exiting`; and how many is told."""
    fit, _ = halves(2.5)
    few = fit.only(np.arange(fit.label.size) < LEAST_TO_FIT - 1)
    hot = replace(BUNDLE, final_temperature=1.7)
    for method in ("per-branch", "global"):
        fresh, learned = recalibrated(hot, few, Wanted(method=method))
        assert [each.temperature for each in fresh.exits] == [each.temperature for each in BUNDLE.exits]
        assert fresh.final_temperature == 1.7
        assert learned.samples == (0, 0, 0)
        assert dict(learned.too_few) == dict.fromkeys(("b1", "b3", "final"), LEAST_TO_FIT - 1)
    assert not recalibrated(hot, few, Wanted(method="none"))[1].too_few

    many = Said(np.tile(fit.logits, (1, 2, 1)), np.tile(fit.label, 2), np.full(360, "dark"), np.full(360, "dark"))
    taken = np.bincount(exits_taken(many.logits, [0.8, 0.8]), minlength=3)
    fresh, learned = recalibrated(classed(), many, Wanted(samples_of="exiting"))
    assert taken[0] >= LEAST_TO_CALIBRATE > LEAST_TO_FIT > taken[1] > 0
    assert learned.samples == (taken[0], 0, taken[2] if taken[2] >= LEAST_TO_FIT else 0)
    assert learned.too_few["b3"] == learned.too_few_by_quality["dark"]["b3"] == taken[1]
    assert fresh.exits[1].temperature == BUNDLE.exits[1].temperature
    assert fresh.exits[0].by_quality["dark"].temperature == pytest.approx(fresh.exits[0].temperature)
    assert "dark" not in fresh.exits[1].by_quality or fresh.exits[1].by_quality["dark"].temperature is None
    assert learned.to_json(("b1", "b3", "final"))["learned_from_by_quality"] == {"dark": {"b1": taken[0], "b3": 0}}


def test_a_global_temperature_is_one() -> None:
    """For every exit and whatever class a frame is seen in."""
    fit, _ = halves(seen=True)
    fresh, _ = recalibrated(BUNDLE, fit, Wanted(method="global"))

    assert len({*(exit_.temperature for exit_ in fresh.exits), fresh.final_temperature}) == 1
    assert all(own.temperature is None for exit_ in fresh.exits for own in exit_.by_quality.values())


def classed(**own: ExitVariant) -> Bundle:
    """The default bundle, its first branch with these classes and its second with none."""
    first, second = BUNDLE.exits
    return replace(BUNDLE, exits=(replace(first, by_quality=own), replace(second, by_quality={})))


def test_kept_thresholds_and_temperatures_stay_where_a_class_is_too_small() -> None:
    """30 blurred frames refit nothing: that class and one not seen keep what they have; clear frames refit the rest."""
    fit, _ = halves(2.5, seen=True)
    few = fit.only((fit.quality == "clear") | (np.cumsum(fit.quality == "blurred") <= 30))
    old = {"blurred": ExitVariant(0.97, 1.9), "dark": ExitVariant(0.99), "noisy": ExitVariant(temperature=0.5)}
    fresh, _ = recalibrated(classed(**old), few, Wanted())

    assert dict(fresh.exits[0].by_quality) == old
    assert fresh.exits[0].temperature != BUNDLE.exits[0].temperature
    assert fresh.thresholds == BUNDLE.thresholds
    anew, _ = recalibrated(classed(**old), few, Wanted(thresholds="reliable"))
    assert not anew.exits[0].by_quality
    one, _ = recalibrated(classed(**old), few, Wanted(method="global"))
    assert {name: own.threshold for name, own in one.exits[0].by_quality.items()} == {"blurred": 0.97, "dark": 0.99}
    assert all(own.temperature is None for own in one.exits[0].by_quality.values())


def test_a_kept_threshold_never_becomes_laxer() -> None:
    """Found for a class of 60 frames: a laxer one leaves the old, a stricter one replaces it."""
    fit, _ = halves(seen=True)
    found = recalibrated(classed(), fit, Wanted())[0].exits[0].by_quality["blurred"].threshold
    assert found is not None
    assert BUNDLE.exits[0].threshold < found <= 1.01
    for old, kept in ((2.0, 2.0), (0.1, found)):
        fresh, _ = recalibrated(classed(blurred=ExitVariant(old)), fit, Wanted())
        assert fresh.exits[0].by_quality["blurred"].threshold == kept


def test_a_class_that_a_new_estimator_does_not_know_goes(tmp_path: Path) -> None:
    """With its entries; those of the classes it knows stay, and the bundle can be written."""
    assert BUNDLE.quality is not None
    known = [name != "dark" for name in BUNDLE.quality.classes]
    narrow = replace(
        BUNDLE.quality,
        classes=tuple(name for name in BUNDLE.quality.classes if name != "dark"),
        weights=BUNDLE.quality.weights[known],
        bias=BUNDLE.quality.bias[known],
    )
    base = replace(classed(blurred=ExitVariant(0.97), dark=ExitVariant(0.99, 2.0)), quality=narrow)
    fit, report = halves()
    assert forgotten(base) == ("dark",)
    fresh, _ = recalibrated(base, fit, Wanted())
    assert dict(fresh.exits[0].by_quality) == {"blurred": ExitVariant(0.97)}
    new, _ = written(tmp_path / "new", fresh, report, method={}, source=BUNDLE)
    assert new.exits[0].threshold_for("dark") == new.exits[0].threshold
    assert not forgotten(new)


@pytest.mark.parametrize("criterion", ["entropy", "normalised-entropy"])
def test_another_criterion_gets_thresholds_of_its_own(tmp_path: Path, criterion: str) -> None:
    """In its unit; the bundle loads with it and its table has the entropies it needs."""
    fit, report = halves()
    fresh, _ = recalibrated(BUNDLE, fit, Wanted(criterion=criterion))
    new, answers = written(tmp_path / "new", fresh, report, method={}, source=BUNDLE)

    assert {exit_.criterion.name for exit_ in new.exits} == {criterion}
    found = figures(of_table(new.validation, 8), of_bundle(new))
    assert found.shares == pytest.approx(figures(answers, of_bundle(fresh)).shares)
    assert found.shares["b1"] > 0.2
    assert found.accuracy_where_taken["b1"] is not None
    assert found.accuracy_where_taken["b1"] > 0.9
    entropies = answers.entropy
    assert entropies is not None
    unit = math.log(8) if criterion == "normalised-entropy" else 1.0
    assert found.shares["b1"] == pytest.approx((entropies[0] / unit < new.exits[0].threshold).mean())


def test_entropies_in_nats_and_normalised_are_one_scale() -> None:
    """Thresholds are kept from one to the other, those of classes too: the same samples leave."""
    fit, report = halves()
    nats, _ = recalibrated(BUNDLE, fit, Wanted(criterion="entropy"))
    own = nats.exits[0].by_quality | {"blurred": ExitVariant(0.1)}
    nats = replace(nats, exits=(replace(nats.exits[0], by_quality=own), *nats.exits[1:]))
    wanted = Wanted(criterion="normalised-entropy")
    assert keeps(nats, wanted)
    shares, _ = recalibrated(nats, fit, wanted)
    for old, new in zip(nats.exits, shares.exits, strict=True):
        assert new.threshold == pytest.approx(old.threshold / math.log(8))
    assert shares.exits[0].threshold_for("blurred") == pytest.approx(0.1 / math.log(8))
    again = figures(scaled(nats, report), of_bundle(nats)).shares
    assert figures(scaled(shares, report), of_bundle(shares)).shares == again


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        (Wanted(), True),
        (Wanted(criterion="confidence"), True),
        (Wanted(criterion="entropy"), False),
        (Wanted(thresholds="reliable"), False),
        (Wanted(target=Target(accuracy=0.9)), False),
    ],
)
def test_it_is_known_beforehand_whether_thresholds_are_kept(wanted: Wanted, kept: bool) -> None:
    """And so it comes: those for all frames are the old ones, or at least one is another."""
    fit, _ = halves()
    fresh, _ = recalibrated(BUNDLE, fit, wanted)
    assert keeps(BUNDLE, wanted) is kept
    assert (fresh.thresholds == BUNDLE.thresholds) is kept


def test_thresholds_for_a_target_reach_it_where_they_are_fitted() -> None:
    """At a cost no larger than the thresholds that were there; an impossible target is refused."""
    fit, _ = halves()
    fresh, _ = recalibrated(BUNDLE, fit, Wanted(target=Target(accuracy=0.9)))

    assert figures(scaled(fresh, fit), of_bundle(fresh)).accuracy >= 0.9
    with pytest.raises(Infeasible, match="is not reached at any thresholds"):
        recalibrated(BUNDLE, fit, Wanted(target=Target(accuracy=0.999999)))


def test_nothing_is_written_where_something_else_is(tmp_path: Path) -> None:
    """A folder with other files stays as it is."""
    fit, report = halves()
    fresh, _ = recalibrated(BUNDLE, fit, Wanted())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")

    with pytest.raises(BundleError, match="in the way"):
        written(tmp_path / "mine", fresh, report, method={}, source=BUNDLE)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "thesis.txt"]


def test_calibrating_again_replaces_the_bundle_and_its_classes(tmp_path: Path) -> None:
    """In place, with thresholds chosen anew: a bundle of before with classes of quality becomes one without."""
    fit, report = halves(seen=True)
    classed, _ = recalibrated(BUNDLE, fit, Wanted())
    first, _ = written(tmp_path / "b", classed, report, method={}, source=BUNDLE)
    assert any(exit_.by_quality for exit_ in first.exits)

    plain, other = halves()
    fresh, _ = recalibrated(first, plain, Wanted(thresholds="reliable"))
    second: Bundle = written(tmp_path / "b", fresh, other, method={}, source=first)[0]
    assert not any(exit_.by_quality for exit_ in second.exits)
    assert second.validation.seen is None
