"""Tables of answers to evaluate: made by hand, drawn from a seed, or as a trained network gave them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from popexd import bundle as bundles
from popexd.evaluation.outcomes import Answers, exit_logits
from popexd.lab import conveyor
from popexd.runtime.frames import load_image

BUNDLE = bundles.load()


def table(
    confidence: npt.ArrayLike,
    correct: npt.ArrayLike,
    quality: Sequence[str] | None = None,
    seen: Sequence[str] | None = None,
) -> Answers:
    """Make answers of two classes from confidences and 0 or 1 for wrong or right: [exits][samples], final last."""
    sure, right = np.array(confidence, dtype=np.float64), np.array(correct)
    samples = sure.shape[1]
    label = np.arange(samples) % 2
    with np.errstate(divide="ignore", invalid="ignore"):
        nats = -np.nan_to_num(sure * np.log(sure)) - np.nan_to_num((1 - sure) * np.log(1 - sure))
    return Answers(
        exits=(*(f"b{index + 1}" for index in range(len(sure) - 1)), "final"),
        confidence=sure,
        predicted=np.where(right == 1, label, 1 - label),
        label=label,
        quality=np.array(quality or ["clear"] * samples),
        entropy=nats,
        seen=None if seen is None else np.array(seen),
        classes=2,
    )


def drawn(seed: int, samples: int = 400, branches: int = 2) -> Answers:
    """Draw answers whose later exits are righter, with two qualities, one of them worse."""
    random = np.random.default_rng(seed)
    blurred = random.random(samples) < 0.3
    sure, right = [], []
    for index in range(branches + 1):
        confidence = 0.5 + 0.5 * random.beta(2 + index, 1.5, samples)
        sure.append(confidence)
        right.append(random.random(samples) < np.clip(confidence - 0.25 * blurred + 0.04 * index, 0, 1))
    words = np.where(blurred, "blurred", "clear").tolist()
    return table(sure, right, words, words)


@cache
def trained(frames: int = 360, seed: int = 77) -> tuple[np.ndarray, np.ndarray]:
    """Run the default bundle on generated frames it has not seen: unscaled logits [3, frames, 8], labels [frames]."""
    side = BUNDLE.input.height
    scenes = [conveyor.scene(index, seed) for index in range(frames)]
    images = [load_image(scene.jpeg(), side, side)[0] for scene in scenes]
    return exit_logits(BUNDLE, images, threads=1), np.array([scene.label for scene in scenes])
