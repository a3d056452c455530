"""What the exits say: the same by `exit_logits` as by the daemon's own runner, and as in the bundle's own table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from popexd import bundle as bundles
from popexd.bundle.reading import listed_files
from popexd.errors import InputError
from popexd.evaluation.choosing import Target, choose
from popexd.evaluation.metrics import figures
from popexd.evaluation.outcomes import answers, exit_logits, exit_names, of_table
from popexd.evaluation.policy import Policy
from popexd.evaluation.report import ALL, Question, examine
from popexd.evaluation.summary import FILE, table_file
from popexd.lab import conveyor
from popexd.runtime.frames import load_image
from popexd.runtime.segments import InferenceError, SegmentRunner
from tests.evaluation.tables import drawn

BUNDLE = bundles.load()
SIDE = BUNDLE.input.height


def frames(count: int, seed: int = 5) -> list[np.ndarray]:
    """Draw frames as the daemon would see them."""
    return [load_image(conveyor.scene(index, seed).jpeg(), SIDE, SIDE)[0] for index in range(count)]


def test_the_logits_are_those_of_segments_run_one_by_one() -> None:
    """Every exit, unscaled by its temperature, final last."""
    images = frames(3)
    logits = exit_logits(BUNDLE, images, threads=1)

    assert logits.shape == (3, 3, 8)
    assert exit_names(BUNDLE) == ("b1", "b3", "final")
    runner = SegmentRunner(BUNDLE, 1)
    for sample, image in enumerate(images):
        tensors = {"input": image[None]}
        for segment in BUNDLE.segments:
            tensors = runner.run(tensors, [segment.name])
            for row, exit_ in enumerate(BUNDLE.exits):
                if exit_.after == segment.name:
                    said = runner.classify(exit_.name, tensors[segment.name])
                    np.testing.assert_array_equal(logits[row, sample], said.logits)
                    scaled = answers(
                        ("x",), logits[row : row + 1], np.zeros(3, dtype=int), temperatures=exit_.temperature
                    )
                    assert scaled.confidence[0, sample] == pytest.approx(said.confidence, abs=1e-12)
        np.testing.assert_array_equal(logits[-1, sample], tensors["fc8"][0])
    runner.close()


def test_no_frames_and_frames_of_another_size_are_refused() -> None:
    """With one line each."""
    with pytest.raises(InputError, match="expected at least one frame"):
        exit_logits(BUNDLE, [], threads=1)
    with pytest.raises(InferenceError, match="expected uint8"):
        exit_logits(BUNDLE, [np.zeros((8, 8, 3), dtype=np.uint8)], threads=1)


def test_a_choice_of_samples_keeps_every_row_of_theirs() -> None:
    """By mask or by index."""
    table = of_table(BUNDLE.validation, 8)
    mask = table.quality == "blurred"
    chosen, again = table.only(mask), table.only(np.flatnonzero(mask))

    assert chosen.samples == int(mask.sum()) == 421
    for one in (chosen, again):
        np.testing.assert_array_equal(one.confidence, table.confidence[:, mask])
        np.testing.assert_array_equal(one.correct, (table.predicted == table.label)[:, mask])
        assert set(one.quality) == {"blurred"}


def test_halves_share_no_photo() -> None:
    """All copies of a photo are in one of the two; the seed decides in which."""
    photo = np.repeat(np.arange(30), 4)
    drawn_ones = replace(drawn(3, samples=120), photo=photo)
    fit, rest = drawn_ones.halves(1)

    assert fit.photo is not None
    assert rest.photo is not None
    assert not {*fit.photo.tolist()} & {*rest.photo.tolist()}
    assert (fit.samples, rest.samples) == (60, 60)
    other = drawn_ones.halves(2)[0].photo
    assert other is not None
    assert {*other.tolist()} != {*fit.photo.tolist()}
    alone = replace(drawn_ones, photo=None).halves(1)
    assert [each.samples for each in alone] == [60, 60]


def test_thresholds_are_chosen_and_reported_on_different_photos() -> None:
    """However often a photo was distorted."""
    drawn_ones = replace(drawn(3, samples=1200), photo=np.repeat(np.arange(300), 4))
    policy, costs = Policy({"b1": 0.9, "b2": 0.9}), {"b1": 0.2, "b2": 0.5, "final": 1.0}
    question = Question(target=Target(accuracy=0.8), seed=2)
    found = examine(drawn_ones, policy, costs, question).choices[ALL]
    fit, rest = drawn_ones.halves(2)
    chosen = choose(fit, ["b1", "b2"], costs, Target(accuracy=0.8), {})

    assert found.chosen == chosen
    assert found.held_out is not None
    assert found.held_out.figures == figures(rest, Policy(chosen.thresholds), target_confidence=question.p_target)


def test_a_table_keeps_which_frames_are_of_one_photo(tmp_path: Path) -> None:
    """As identities of eight bytes; tables of before have none."""
    photo = np.repeat(np.array([2**64 - 1, 7], dtype=np.uint64), 3)
    six = replace(of_table(BUNDLE.validation, len(BUNDLE.classes)).only(np.arange(6)), photo=photo)
    files = {name: (BUNDLE.folder / name).read_bytes() for name in listed_files(BUNDLE.facts)}
    facts = {key: value for key, value in BUNDLE.facts.items() if key != "fingerprint"}
    found = bundles.write(tmp_path / "bundle", facts, files | {FILE: table_file(six)})

    assert BUNDLE.validation.photo is None
    assert of_table(found.validation).photo is not None
    assert np.array_equal(of_table(found.validation).photo, photo)
