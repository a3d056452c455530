"""What every exit of a bundle says about every sample: from its files by ONNX Runtime, or from its validation table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from popexd.bundle import FINAL, INPUT, Bundle, ValidationTable
from popexd.criteria import entropy, softmax
from popexd.errors import InputError
from popexd.quality import CLEAR
from popexd.runtime.segments import SegmentRunner

Logits = npt.NDArray[np.float32]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Answers:
    """What every exit says about every sample, whether it would be asked or not.

    Attributes:
        exits: names in the network's order, `final` last.
        confidence: [exits, samples], largest probability at the exit's temperature.
        predicted: [exits, samples], index of the class.
        label: [samples], the right class.
        quality: [samples], what was done to the frame.
        entropy: [exits, samples] in nats at the exit's temperature, or None where it was not kept.
        seen: [samples], the class that the quality estimator says, or None.
        classes: how many classes there are; 0 where it is not known.
        photo: [samples], the same number for all frames made of one photo; None where every frame is of its own.
    """

    exits: tuple[str, ...]
    confidence: npt.NDArray[np.floating]
    predicted: npt.NDArray[np.integer]
    label: npt.NDArray[np.integer]
    quality: npt.NDArray[np.str_]
    entropy: npt.NDArray[np.floating] | None = None
    seen: npt.NDArray[np.str_] | None = None
    classes: int = 0
    photo: npt.NDArray[np.integer] | None = None

    @property
    def samples(self) -> int:
        """The number of samples."""
        return int(self.label.size)

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """[exits, samples]: whether the exit's class is the right one."""
        return np.asarray(self.predicted == self.label)

    def only(self, chosen: npt.ArrayLike) -> Answers:
        """Keep the samples that a boolean mask or an array of indices chooses."""
        which = np.asarray(chosen)
        return replace(
            self,
            confidence=self.confidence[:, which],
            predicted=self.predicted[:, which],
            label=self.label[which],
            quality=self.quality[which],
            entropy=None if self.entropy is None else self.entropy[:, which],
            seen=None if self.seen is None else self.seen[which],
            photo=None if self.photo is None else self.photo[which],
        )

    def halves(self, seed: int) -> tuple[Answers, Answers]:
        """Part the samples into two halves that share no photo; the seed decides which photo is in which."""
        photos = np.arange(self.samples) if self.photo is None else np.unique(self.photo, return_inverse=True)[1]
        first = np.zeros(photos.max(initial=-1) + 1, dtype=bool)
        first[np.random.default_rng(seed).permutation(first.size)[::2]] = True
        return self.only(first[photos]), self.only(~first[photos])


def exit_logits(
    bundle: Bundle,
    images: Iterable[npt.NDArray[np.uint8]],
    *,
    seen: Sequence[str] | None = None,
    threads: int = 0,
    progress: Progress | None = None,
) -> Logits:
    """Run every segment and every branch of `bundle` on `images`, frame by frame as the daemon does.

    Args:
        bundle: the network.
        images: uint8 RGB, each [height, width, 3] of the bundle's input.
        seen: the quality class of each image, so that the branches' experts answer where there are any.
        threads: of ONNX Runtime, 0 for all cores.
        progress: told the number of frames done.

    Returns:
        float32 [exits, samples, classes], `final` last, *not* divided by any temperature.

    Raises:
        BundleError: a file of the bundle cannot be loaded.
        InferenceError: an image of another shape, or logits that are not finite.
    """
    runner = SegmentRunner(bundle, threads)
    names = [segment.name for segment in bundle.segments]
    stops = sorted({names.index(exit_.after) + 1 for exit_ in bundle.exits} | {len(names)})
    stretches = [names[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]
    rows: list[list[Logits]] = []
    try:
        for done, image in enumerate(images, start=1):
            quality = None if seen is None else str(seen[done - 1])
            tensors = {INPUT: np.ascontiguousarray(image)[None]}
            said: dict[str, Logits] = {}
            for stretch in stretches:
                tensors = runner.run(tensors, stretch)
                for exit_ in bundle.exits:
                    if exit_.after == stretch[-1]:
                        said[exit_.name] = runner.classify(exit_.name, tensors[exit_.after], quality).logits
            said[FINAL] = runner.classify(FINAL, tensors[names[-1]]).logits
            rows.append([said[name] for name in exit_names(bundle)])
            if progress is not None:
                progress(done)
    finally:
        runner.close()
    if not rows:
        raise InputError("images: none, expected at least one frame")
    return np.asarray(rows, dtype=np.float32).swapaxes(0, 1)


def exit_names(bundle: Bundle) -> tuple[str, ...]:
    """The bundle's exits in order, `final` last."""
    return (*(exit_.name for exit_ in bundle.exits), FINAL)


def answers(
    exits: Sequence[str],
    logits: Logits,
    label: npt.NDArray[np.integer],
    *,
    temperatures: npt.ArrayLike = 1.0,
    quality: npt.NDArray[np.str_] | None = None,
    seen: npt.NDArray[np.str_] | None = None,
    photo: npt.NDArray[np.integer] | None = None,
) -> Answers:
    """Turn logits [exits, samples, classes] into answers.

    `temperatures` is one number, one per exit, or [exits, samples]. Without `quality` every sample is clear.
    """
    shape = logits.shape[:2]
    given = np.asarray(temperatures, dtype=np.float64)
    each = np.broadcast_to(given[:, None] if given.ndim == 1 else given, shape)
    likely = softmax(logits / each[..., None])
    return Answers(
        exits=tuple(exits),
        confidence=likely.max(axis=2),
        # Of the logits, as the daemon does: two that differ may round to the same probability.
        predicted=logits.argmax(axis=2),
        label=np.asarray(label),
        quality=np.full(shape[1], CLEAR) if quality is None else np.asarray(quality),
        entropy=entropy(likely),
        seen=seen,
        classes=logits.shape[2],
        photo=photo,
    )


def of_table(table: ValidationTable, classes: int = 0) -> Answers:
    """Take the answers that a bundle's validation table holds."""
    return Answers(
        exits=table.exits,
        confidence=table.confidence,
        predicted=table.predicted,
        label=table.label,
        quality=table.quality,
        entropy=table.entropy,
        seen=table.seen,
        classes=classes,
        photo=table.photo,
    )
