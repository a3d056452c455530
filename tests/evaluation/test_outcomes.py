"""What the exits say: the same by `exit_logits` as by the daemon's own runner, and as in the bundle's own table."""

from __future__ import annotations

import numpy as np
import pytest

from popexd import bundle as bundles
from popexd.errors import InputError
from popexd.evaluation.outcomes import answers, exit_logits, exit_names, of_table
from popexd.lab import conveyor
from popexd.runtime.frames import load_image
from popexd.runtime.segments import InferenceError, SegmentRunner

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
