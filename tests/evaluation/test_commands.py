"""`popexd calibrate` and `popexd evaluate` from the outside: tables, pictures, a bundle; one line for bad input."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from popexd import bundle as bundles
from popexd.bundle.reading import listed_files
from popexd.cli.evaluation_report import show
from popexd.evaluation.choosing import Target
from popexd.evaluation.policy import Policy
from popexd.evaluation.report import Question, examine
from popexd.lab import conveyor
from popexd.lab.parts import CLASSES
from tests.evaluation.commands import in_a_process, popexd
from tests.evaluation.tables import BUNDLE, drawn


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight generated photos of each of three parts, with a folder per class."""
    folder = tmp_path_factory.mktemp("photos")
    written = dict.fromkeys(CLASSES[:3], 0)
    for index in range(64):
        frame = conveyor.scene(index, 31, quality="clear")
        if frame.class_name in written:
            place = folder / frame.class_name
            place.mkdir(exist_ok=True)
            (place / f"{index}.jpg").write_bytes(frame.jpeg())
            written[frame.class_name] += 1
    assert set(written.values()) == {8}
    return folder


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The default bundle calibrated on a few generated frames, and the report."""
    out = tmp_path_factory.mktemp("calibrated") / "bundle"
    words = ("--data", "generated", "--samples", 240, "--threads", 1, "--seed", 4, "--json", "--out", out)
    return out, json.loads(in_a_process("calibrate", "default", *words, "--plot", out.with_name("before-after.png")))


def test_a_calibrated_bundle_is_as_reported(calibrated: tuple[Path, dict[str, Any]]) -> None:
    """Temperatures, thresholds and figures of the report are those of the bundle and its table."""
    out, report = calibrated
    found = bundles.load(out)

    assert report["fingerprint"] == found.fingerprint
    assert report["calibration"]["fitted_on"] == report["calibration"]["reported_on"] == found.validation.samples == 120
    for exit_ in found.exits:
        assert report["after"]["temperatures"][exit_.name] == exit_.temperature
        assert report["before"]["temperatures"][exit_.name] != exit_.temperature
        assert report["after"]["thresholds"][exit_.name] == report["before"]["thresholds"][exit_.name]
    # Temperatures change no class.
    assert report["after"]["accuracy_alone"] == report["before"]["accuracy_alone"]
    assert report["after"]["accuracy"] == pytest.approx(found.facts["validation"]["joint_accuracy"], abs=1e-5)
    assert found.quality is not None
    assert "clear" in report["quality"]["classes"]
    assert set(found.validation.quality.tolist()) >= {"clear", "blurred"}


def test_a_reliability_diagram_is_drawn(calibrated: tuple[Path, dict[str, Any]]) -> None:
    """Six panels: three exits, before and after."""
    with Image.open(calibrated[0].with_name("before-after.png")) as picture:
        assert picture.width > 1200
        assert picture.height > 700
        assert len(set(picture.convert("L").resize((80, 80)).tobytes())) > 30


def test_the_bundle_s_own_table_is_evaluated_without_inference(calibrated: tuple[Path, dict[str, Any]]) -> None:
    """The same figures as calibrate reported."""
    out, report = calibrated
    found = json.loads(in_a_process("evaluate", out, "--json"))

    for key in ("shares", "accuracy", "device_accuracy", "offloading"):
        assert found[key] == pytest.approx(report["after"][key])
    assert found["by_quality"].keys() == report["after"]["by_quality"].keys()
    assert found["policy"]["by_quality"] == report["after"]["thresholds_by_quality"]


def test_photos_in_folders_are_evaluated_as_they_are_and_distorted(photos: Path) -> None:
    """Each photo once, and once with each distortion, counted apart."""
    words = ("--data", photos, "--distort", "blur-5,blur-65", "--threads", 1, "--json")
    found = json.loads(popexd("evaluate", "default", *words))

    assert found["samples"] == 3 * 24
    assert {name: part["samples"] for name, part in found["by_quality"].items()} == {
        "as it is": 24,
        "blur-5": 24,
        "blur-65": 24,
    }
    sharp, worst = (found["by_quality"][name]["accuracy_alone"]["final"] for name in ("as it is", "blur-65"))
    assert worst < sharp
    assert found["accuracy"] == pytest.approx(sum(part["accuracy"] for part in found["by_quality"].values()) / 3)


def test_a_class_of_distortions_is_all_of_its_own(photos: Path) -> None:
    """Added to the photos as they are, which `clear` does not add again."""
    words = ("evaluate", "default", "--data", photos, "--threads", 1, "--json", "--samples", 6, "--reshuffles", 2)
    found = json.loads(popexd(*words, "--distort", "clear, noisy,noise-20"))
    assert set(found["by_quality"]) == {"as it is", "noise-10", "noise-20", "noise-40"}
    assert {part["samples"] for part in found["by_quality"].values()} == {6}


def test_people_get_tables(photos: Path) -> None:
    """Every figure has its name; times where there is a profile."""
    profile = photos / ".." / "profile.json"
    popexd("profile", "--seconds", 0.3, "--out", profile)
    words = ("--profile", profile, "--uplink-mbps", "4g", "--cut", "output", "--deadline-ms", 50, "--sweep")
    text = popexd("evaluate", "default", *words, "--choose-accuracy", 0.92, "--answer", "most-confident")

    for wanted in ("inference outage", "missed deadline", "offloading", "mean time", "one threshold", "screening"):
        assert wanted in text
    assert "cut after output" in text
    assert "chosen thresholds" in text


def test_sweeps_and_pictures(tmp_path: Path) -> None:
    """A lower threshold lets more leave; three pictures are drawn."""
    words = ("--sweep", "--plot", tmp_path / "plots", "--json", "--reshuffles", 10)
    found = json.loads(popexd("evaluate", "default", *words))
    shares = [point["shares"]["final"] for point in found["sweep"]]

    assert shares == sorted(shares)
    assert [point["threshold"] for point in found["sweep"]][:2] == [0.0, 0.025]
    assert found["outage_by_target"]["0.5"] == 0
    assert found["outage_by_target"]["1"] == 1
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [
        "outage.png",
        "reliability.png",
        "sweep.png",
    ]


def test_branches_of_mixed_criteria_are_drawn_without_a_sweep(tmp_path: Path) -> None:
    """The sweep is refused only where it is asked for, and before any work."""
    facts = json.loads((BUNDLE.folder / "bundle.json").read_text())
    facts["exits"][1] |= {"criterion": "entropy", "threshold": 0.5, "by_quality": {}}
    files = {name: (BUNDLE.folder / name).read_bytes() for name in listed_files(facts)}
    bundles.write(tmp_path / "mixed", facts, files)
    words = ("evaluate", tmp_path / "mixed", "--reshuffles", 5, "--plot", tmp_path / "plots")
    found = json.loads(popexd(*words, "--json"))

    assert "sweep" not in found
    assert found["policy"]["criteria"] == {"b1": "confidence", "b3": "entropy"}
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["reliability.png"]
    complaint = popexd(*words, "--sweep", "--data", tmp_path / "nowhere", status=2)
    assert "--sweep: branches go by confidence and entropy, expected one" in complaint


def test_a_cut_before_a_branch_leaves_it_out_of_sweep_and_choice(tmp_path: Path) -> None:
    """Its share is zero, and times are those of the others; tables for people too."""
    profile = tmp_path / "p.json"
    popexd("profile", "default", "--seconds", 0.2, "--out", profile)
    timed = ("--profile", profile, "--cut", "pool1", "--uplink-mbps", 10, "--gamma", 10, "--reshuffles", 5)
    wanted = ("evaluate", "default", *timed, "--sweep", "--choose-accuracy", 0.9)
    found = json.loads(popexd(*wanted, "--json"))

    assert set(found["seconds"]) == {"b1", "final"}
    for point in found["sweep"]:
        assert point["shares"]["b3"] == 0
        shares, seconds = point["shares"], found["seconds"]
        assert point["cost"] == pytest.approx(sum(shares[name] * seconds[name] for name in seconds))
    assert set(found["choice"]["all"]["chosen"]["thresholds"]) == {"b1"}
    assert "does not run" in popexd(*wanted)


def test_thresholds_can_be_tried() -> None:
    """A branch at 1 answers next to nothing, at 0 everything."""
    found = json.loads(popexd("evaluate", "default", "--thresholds", "b1=1,b3=0", "--json"))

    assert found["shares"]["b1"] < 0.15
    assert found["shares"]["final"] == 0
    assert found["policy"]["thresholds"] == {"b1": 1, "b3": 0}


def test_fewer_samples_than_a_batch_are_one_batch_without_an_interval() -> None:
    """Its real size is told."""
    count = BUNDLE.validation.samples
    said = popexd("evaluate", "default", "--batch", count + 100)
    assert f"inference outage (a batch of {count} right on the device below 0.8): 0.0 % (there are no more" in said
    outage = json.loads(popexd("evaluate", "default", "--batch", count + 100, "--json"))["outage"]
    assert (outage["size"], outage["batches"], outage["low"]) == (count, 1, None)


def test_chosen_thresholds_say_on_how_many_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both halves of every row add up to its samples."""
    monkeypatch.setenv("COLUMNS", "160")
    words = ("evaluate", "default", "--choose-accuracy", 0.85, "--reshuffles", 2)
    found = json.loads(popexd(*words, "--json"))
    counts = {"all": found["samples"]} | {name: part["samples"] for name, part in found["by_quality"].items()}
    rows = [line.split() for line in popexd(*words).split("chosen thresholds")[1].splitlines()]

    for name, choice in found["choice"].items():
        if choice["chosen"] is None:
            continue
        assert choice["samples"] + choice["held_out"]["figures"]["samples"] == counts[name]
        (row,) = [row for row in rows if row[:1] == [name]]
        assert (row[3], row[6]) == (str(choice["samples"]), str(choice["held_out"]["figures"]["samples"]))
    assert found["choice"]["all"]["chosen"] is not None


def test_what_was_asked_for_stands_beside_what_other_frames_give(tmp_path: Path) -> None:
    """In an evaluation and in a calibration, for an accuracy and for a time; with the count, and how sure it is."""
    words = ("evaluate", "default", "--choose-accuracy", 0.9, "--reshuffles", 2)
    held_out = json.loads(popexd(*words, "--json"))["choice"]["all"]["held_out"]["figures"]
    told = (
        rf"all: 90.0 % right were asked for, {100 * held_out['accuracy']:.1f} % are on 1200 frames not chosen on \(95 %"
    )
    assert re.search(told, popexd(*words))
    profile = tmp_path / "p.json"
    popexd("profile", "default", "--seconds", 0.2, "--out", profile)
    timed = ("--profile", profile, "--cut", "output")
    said = popexd("evaluate", "default", *timed, "--choose-ms", 10_000, "--reshuffles", 2)
    assert re.search(r"all: 10000.0 ms at most were asked for, [0-9.]+ ms are taken by 1200 frames not chosen on", said)
    words = ("calibrate", "default", "--data", "generated", "--samples", 300, "--threads", 1, "--out", tmp_path / "new")
    said = popexd(*words, "--target-accuracy", 0.8)
    assert re.search(r"80.0 % right were asked for, [0-9.]+ % are on 1[45][0-9] frames not chosen on \(95 %: ", said)
    assert bundles.load(tmp_path / "new").facts["calibration"]["target"] == {"accuracy": 0.8}
    said = popexd(*words, *timed, "--target-ms", 10_000)
    assert re.search(r"10000.0 ms at most were asked for, [0-9.]+ ms are taken by 1[45][0-9] frames", said)


def test_the_sweep_begins_where_a_confidence_can_be(capsys: pytest.CaptureFixture[str]) -> None:
    """At one of so many classes, with all of the scale behind it; of the screening's points as many as are told."""
    answers = replace(drawn(2), classes=10)
    policy, costs = Policy({"b1": 0.2, "b2": 0.3}), {"b1": 0.3, "b2": 0.6, "final": 1.0}
    report = examine(answers, policy, costs, Question(sweep=True, reshuffles=1))
    show("sweep", report)
    _, swept, screened = re.split("one threshold for all branches|BranchyNet's screening: ", capsys.readouterr().out)
    levels = [float(line.split()[0]) for line in swept.splitlines() if re.match(r" +[01](\.[0-9]+)? ", line)]
    assert levels == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0]
    rows = [line for line in screened.splitlines() if re.match(r" +[01]\.", line)]
    assert len(report.screened) > len(rows) == 12
    assert " ".join(screened.split()).startswith(f"12 of {len(report.screened)} points that buy accuracy")


def test_nothing_chosen_is_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    """What is out of reach has no headings either."""
    for target, there in ((0.9999, False), (0.5, True)):
        question = Question(reshuffles=1, target=Target(accuracy=target))
        report = examine(drawn(2), Policy({"b1": 0.8}), {"b1": 0.3, "final": 1.0}, question)
        show("chosen", report)
        assert ("chosen thresholds" in capsys.readouterr().out) == there


def test_calibrate_says_where_the_calibration_error_is_larger_than_before(tmp_path: Path) -> None:
    """By half a per cent point: the bundle that ships is calibrated, without temperatures it is not."""
    words = ("calibrate", "default", "--data", "generated", "--samples", 240, "--threads", 1, "--seed", 4)
    words += ("--method", "none", "--out", tmp_path / "new")
    report = json.loads(popexd(*words, "--json"))
    before, after = (report[name]["calibration_error"] for name in ("before", "after"))
    worse = [
        f"{name} {100 * was:.1f} % -> {100 * after[name]:.1f} %"
        for name, was in before.items()
        if after[name] > was + 0.005
    ]
    assert worse
    told = [line for line in popexd(*words).splitlines() if line.startswith("calibration error is larger than before")]
    assert told == [
        f"calibration error is larger than before: {', '.join(worse)}: fit on more photos, or keep the old bundle"
    ]


def test_a_target_out_of_reach_is_said_after_the_figures() -> None:
    """Exit status 1, with how far one can get."""
    complaint = in_a_process("evaluate", "default", "--choose-accuracy", 0.9999, status=1)
    assert "accuracy 99.99% is not reached at any thresholds, the best is" in complaint


def test_calibrate_says_which_classes_the_new_estimator_forgot(tmp_path: Path) -> None:
    """What a branch had for a class that no photo is of goes; a rare class keeps its threshold."""
    facts = json.loads((BUNDLE.folder / "bundle.json").read_text())
    facts["exits"][0]["by_quality"] = {"foggy": {"threshold": 0.99}, "noisy": {"threshold": 0.995, "temperature": 1.5}}
    files = {name: (BUNDLE.folder / name).read_bytes() for name in listed_files(facts)}
    bundles.write(tmp_path / "old", facts, files)
    words = ("calibrate", tmp_path / "old", "--data", "generated", "--samples", 300, "--threads", 1)
    said = popexd(*words, "--out", tmp_path / "new")

    assert "foggy: not known to the new quality estimator, what branches had for it is gone" in said
    b1 = bundles.load(tmp_path / "new").exits[0]
    assert "foggy" not in b1.by_quality
    assert (b1.by_quality["noisy"].threshold, b1.by_quality["noisy"].temperature) == (0.995, 1.5)


def test_two_classes_of_blur_can_be_told_apart(photos: Path, tmp_path: Path) -> None:
    """Slight and hopeless, each a class of its own for the estimator, in the table, and in evaluations."""
    for path in photos.rglob("*.jpg"):
        for copy in ("one", "two"):
            place = tmp_path / "photos" / path.parent.name / f"{copy}-{path.name}"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    words = ("--data", tmp_path / "photos", "--distort", "blur-5,blur-15,lost=blur-65", "--threads", 1, "--json")
    report = json.loads(popexd("calibrate", "default", *words, "--out", tmp_path / "new"))

    assert report["quality"]["classes"] == ["clear", "blurred", "lost"]
    assert {name: part["samples"] for name, part in report["after"]["by_quality"].items()} == {
        "blurred": 48,
        "clear": 24,
        "lost": 24,
    }
    table = bundles.load(tmp_path / "new").validation
    lost = table.quality == "lost"
    assert table.seen is not None
    assert (table.seen[lost] == "lost").mean() > 0.9
    assert (table.seen[~lost] != "lost").mean() > 0.9


def test_calibrate_says_which_thresholds_changed_and_why(tmp_path: Path) -> None:
    """In one line, with the old and the new one in their units; a wish to keep what cannot be kept is refused."""
    words = ("--data", "generated", "--samples", 120, "--threads", 1, "--out", tmp_path / "new", "--seed", 5)
    said = popexd("calibrate", "default", *words, "--criterion", "entropy")
    (line,) = [line for line in said.splitlines() if line.startswith("thresholds changed: ")]
    new = bundles.load(tmp_path / "new")
    for was, now in zip(BUNDLE.exits, new.exits, strict=True):
        level = "never" if now.criterion.bound(now.threshold) > 1 else f"{now.threshold:g}"
        assert f"{was.name} {was.threshold:g} (confidence) -> {level} (entropy)" in line
    assert "of another criterion and cannot be kept" in line
    assert new.facts["calibration"]["thresholds"] == "reliable"
    count = new.facts["calibration"]["fitted_on"]
    assert new.facts["calibration"]["thresholds_chosen_on"] == {"samples": count, "of": "all"}
    assert f"thresholds chosen on all {count} frames: fewer than 40 are seen clear" in said
    refused = popexd("calibrate", "default", *words, "--criterion", "entropy", "--thresholds", "keep", status=2)
    assert "--thresholds: keep: as entropy those of conveyor-b-alexnet would mean something else" in refused
    said = popexd("calibrate", tmp_path / "new", *words, "--criterion", "normalised-entropy", "--thresholds", "keep")
    (line,) = [line for line in said.splitlines() if line.startswith("thresholds changed: ")]
    assert "the same, in the unit of the new criterion" in line
    assert "thresholds changed" not in popexd("calibrate", tmp_path / "new", *words)


def test_calibrate_says_which_temperatures_it_had_too_few_frames_for(photos: Path, tmp_path: Path) -> None:
    """Twelve photos fit none: all stay, and the counts are told, to machines too."""
    words = ("calibrate", "default", "--data", photos, "--threads", 1, "--out", tmp_path / "new")
    said = popexd(*words)
    assert "too few frames to fit these temperatures on, they are as before: b1 12, b3 12, final 12 of at least" in said
    report = json.loads(popexd(*words, "--json"))
    assert report["calibration"]["temperatures_kept"] == {"b1": 12, "b3": 12, "final": 12}
    assert report["calibration"]["learned_from"] == {"b1": 0, "b3": 0, "final": 0}
    for name, loss in report["after"]["lost"].items():
        assert f"against the network's end on {loss['samples']} frames, " in said
        assert bundles.load(tmp_path / "new").facts["validation"]["lost"][name]["samples"] == loss["samples"]
    assert report["after"]["lost"]
    assert report["after"]["temperatures"] == report["before"]["temperatures"]


def test_calibrate_does_not_touch_a_folder_of_something_else(tmp_path: Path) -> None:
    """Nor does it start the work first."""
    (tmp_path / "thesis.txt").write_text("years of work")
    complaint = popexd("calibrate", "default", "--data", "generated", "--out", tmp_path, status=2)

    assert "in the way and not a bundle" in complaint
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert "is a file, expected a folder" in in_a_process(
        "calibrate", "default", "--data", "generated", "--out", tmp_path / "thesis.txt" / "new", status=2
    )


def test_the_names_of_both_commands_tell_what_they_do() -> None:
    """The default bundle is evaluated where nothing is said."""
    assert BUNDLE.name in popexd("evaluate")
    assert "Fit temperatures and thresholds" in popexd("calibrate", "--help")
