"""How well the quality estimator sees what was done to frames, and what it is worth to a network: tables for the docs.

`python -m popexd.lab.quality_study frames` needs nothing, `photos` a folder of photos, `exits` a bundle for generated
frames. Every frame goes the daemon's way: distorted at the camera's size, sent as JPEG, decoded and resized.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

from popexd.bundle import INPUT, Bundle, load
from popexd.errors import InputError, PopexdError
from popexd.evaluation import quality_fit
from popexd.evaluation.choosing import reliable_by_quality
from popexd.evaluation.outcomes import Answers, exit_logits
from popexd.evaluation.policy import Policy
from popexd.evaluation.recalibration import Said, scaled
from popexd.lab import conveyor
from popexd.lab.distortions import DISTORTIONS, as_sent
from popexd.lab.photos import SUFFIXES
from popexd.quality import CLEAR, QualityEstimator, features
from popexd.runtime.frames import load_image, sniff
from popexd.runtime.segments import SegmentRunner

Pixels = npt.NDArray[np.uint8]
Names = npt.NDArray[np.str_]

LEVELS = (CLEAR, *DISTORTIONS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables of one study as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m popexd.lab.quality_study", description=__doc__)
    studies = parser.add_subparsers(dest="study", required=True)
    frames = studies.add_parser("frames", help="generated frames: fit on one seed, tell those of another")
    frames.add_argument("--samples", type=int, default=2400)
    frames.add_argument("--side", type=int, default=224)
    photos = studies.add_parser("photos", help="photos with every distortion: fit on one folder, tell another's")
    photos.add_argument("fit", type=Path)
    photos.add_argument("test", type=Path)
    photos.add_argument("--side", type=int, default=224)
    photos.add_argument("--samples", type=int, default=1000, help="photos of each folder at most")
    exits = studies.add_parser(
        "exits", help="what a bundle's exits say by the class that is seen, and under distortion"
    )
    exits.add_argument("--bundle", default="default")
    exits.add_argument("--samples", type=int, default=2400)
    exits.add_argument("--scenes", type=int, default=400, help="clear frames that are distorted")
    studies.add_parser("time", help="what a frame's features cost beside decoding it and a run of the default network")
    given = parser.parse_args(arguments)
    try:
        if given.study == "frames":
            study_frames(given.samples, given.side)
        elif given.study == "photos":
            study_photos(given.fit, given.test, given.side, given.samples)
        elif given.study == "exits":
            study_exits(load(given.bundle), given.samples, given.scenes)
        else:
            study_time()
    except PopexdError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def study_frames(samples: int, side: int) -> None:
    """Fit on `samples` generated frames of seed 7 and tell as many of seed 8."""
    fit_images, _, fit_quality = generated(7, samples, side)
    images, _, quality = generated(8, samples, side)
    estimator = quality_fit.fit_frames(fit_images, fit_quality).estimator
    measured = quality_fit.measure(images)
    fitted = quality_fit.agree(estimator, measured, quality_fit.visible(quality))
    print(f"agreement {fitted.estimator.agreement:.1%} on {samples} frames, balanced {_balanced(fitted):.1%}\n")
    print(shares_table(quality, _said(estimator, measured), estimator))


def study_photos(fit: Path, test: Path, side: int, samples: int) -> None:
    """Fit on photos of the one folder under every distortion and tell those of the other, at two sizes."""
    fit_small, fit_whole, fit_levels = _measured_photos(fit, side, samples)
    small, whole, levels = _measured_photos(test, side, samples)
    truth, fit_truth = (np.array([_class_of(name) for name in each]) for each in (levels, fit_levels))
    for title, own, other in ((f"at {side} x {side}", fit_small, small), ("at camera size", fit_whole, whole)):
        estimator = quality_fit.fit(own, fit_truth).estimator
        fitted = quality_fit.agree(estimator, other, truth)
        print(f"{title}: agreement {fitted.estimator.agreement:.1%}, balanced {_balanced(fitted):.1%}\n")
        print(shares_table(levels, _said(estimator, other), estimator) + "\n")


def study_exits(bundle: Bundle, samples: int, scenes: int) -> None:
    """Tabulate exits by the class that is seen and under distortion, with one threshold for all and one per class."""
    side = bundle.input.height
    estimator = bundle.quality
    if estimator is None:
        images, _, truth = generated(7, samples, side)
        estimator = quality_fit.fit_frames(images, truth).estimator
    natural = _said_of(bundle, estimator, *generated(8, samples, side))
    alike = _answers(bundle, natural)
    print("by the class seen\n\n" + exits_table(bundle, alike, _names(alike)) + "\n")
    print("by the true class\n\n" + exits_table(bundle, alike, natural.quality) + "\n")
    own = {name: {each.name: each.threshold_for(name) for each in bundle.exits} for name in bundle.quality_names}
    apart = scaled(bundle, natural)
    print("by the class seen, as shipped\n\n" + exits_table(bundle, apart, _names(apart), own) + "\n")
    images, labels, levels = distorted_scenes(7, scenes, side)
    learned = quality_fit.fit_frames(images, np.array([_class_of(name) for name in levels])).estimator
    tuning = _answers(bundle, _said_of(bundle, learned, images, labels, levels))
    under = _answers(bundle, _said_of(bundle, learned, *distorted_scenes(8, scenes, side)))
    print("clear frames distorted\n\n" + exits_table(bundle, under, under.quality) + "\n")
    own = reliable_by_quality(tuning, bundle.thresholds, criteria=bundle.criteria)
    print("with thresholds of their own for the classes seen, chosen on other scenes")
    for quality, thresholds in own.items():
        print(f"- {quality}: {', '.join(f'{name} {level:.3f}' for name, level in thresholds.items())}")
    print("\n" + exits_table(bundle, under, under.quality, own) + "\n")
    print("which class is seen\n\n" + shares_table(under.quality, _names(under), learned) + "\n")
    print("share answered at the first branch by threshold\n\n" + _by_threshold(under, under.quality))


def study_time() -> None:
    """Time features of a 500 x 375 photo and of its 224 x 224 frame, decoding, and the default network, on one core."""
    bundle = load()
    data = conveyor.scene(3, 5, (500, 375)).jpeg()
    photo, frame = load_image(data, 375, 500), load_image(data, bundle.input.height, bundle.input.width)
    runner = SegmentRunner(bundle, threads=1)
    names = [segment.name for segment in bundle.segments]
    rows: list[tuple[str, Callable[[], object]]] = [
        ("features, 500 x 375", lambda: features(photo)),
        ("features, 224 x 224", lambda: features(frame)),
        ("decode 500 x 375 (JPEG)", lambda: load_image(data, 375, 500)),
        ("decode and resize to 224 x 224", lambda: load_image(data, bundle.input.height, bundle.input.width)),
        ("default network, 1 thread", lambda: runner.run({INPUT: frame}, names)),
    ]
    taken = {name: _milliseconds(work) for name, work in rows}
    print("| | ms, median | of decoding the photo |\n|---|---|---|")
    for name, milliseconds in taken.items():
        print(f"| {name} | {milliseconds:.2f} | {milliseconds / taken['decode 500 x 375 (JPEG)']:.2f} |")


def generated(seed: int, samples: int, side: int) -> tuple[Pixels, npt.NDArray[np.intp], Names]:
    """Generate frames as the daemon prepares them, their labels, and what is wrong with each."""
    shots = list(conveyor.camera(seed, frames=samples))
    images = np.concatenate([load_image(shot.jpeg, side, side) for shot in shots])
    return images, np.array([shot.label for shot in shots]), np.array([shot.quality for shot in shots])


def distorted_scenes(seed: int, scenes: int, side: int) -> tuple[Pixels, npt.NDArray[np.intp], Names]:
    """Generate clear frames, each as it is and under every distortion of the table: images, labels, distortions."""
    images, labels = [], []
    for index, shot in enumerate(conveyor.camera(seed, frames=scenes, quality=CLEAR)):
        images += [load_image(data, side, side) for data in _sent(shot.jpeg, index)]
        labels += [shot.label] * len(LEVELS)
    return np.concatenate(images), np.array(labels), np.array(LEVELS * scenes)


def _sent(file: bytes, index: int) -> Iterator[bytes]:
    """The camera's file as it is, then with every distortion, compressed again."""
    image = sniff(file)
    pixels = load_image(image.data, image.height, image.width)[0]
    for place, name in enumerate(LEVELS):
        random = np.random.default_rng([index, place])
        yield file if name == CLEAR else as_sent(DISTORTIONS[name].apply(pixels, random), image.format, random)


def _measured_photos(
    folder: Path, side: int, samples: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], Names]:
    """Features of every photo under every distortion: at the network's size, at the camera's, and the distortion."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise InputError(f"{folder}: no photos in it, expected JPEG, PNG or WebP files")
    chosen = [paths[index * len(paths) // samples] for index in range(samples)] if len(paths) > samples else paths
    small, whole = [], []
    for index, path in enumerate(chosen):
        for data in _sent(path.read_bytes(), index):
            image = sniff(data)
            small.append(features(load_image(data, side, side)))
            whole.append(features(load_image(data, image.height, image.width)))
    return np.array(small), np.array(whole), np.array(LEVELS * len(chosen))


def _class_of(distortion: str) -> str:
    return CLEAR if distortion == CLEAR else DISTORTIONS[distortion].quality


def _said(estimator: QualityEstimator, measured: npt.NDArray[np.float32]) -> Names:
    said: Names = np.array(estimator.classes)[estimator.scores(measured).argmax(axis=1)]
    return said


def _names(given: Answers) -> Names:
    return np.asarray(given.seen)


def _balanced(fitted: quality_fit.Fitted) -> float:
    return float(np.mean(fitted.confusion.diagonal() / fitted.confusion.sum(axis=1)))


def _said_of(
    bundle: Bundle, estimator: QualityEstimator, images: Pixels, labels: npt.NDArray[np.intp], quality: Names
) -> Said:
    return Said(exit_logits(bundle, images, threads=1), labels, quality, quality_fit.seen(estimator, images))


def _answers(bundle: Bundle, said: Said) -> Answers:
    """Take the answers at the temperatures for all frames, whatever class is seen."""
    return replace(scaled(bundle, replace(said, seen=None)), seen=said.seen)


def shares_table(truth: Names, said: Names, estimator: QualityEstimator) -> str:
    """Say for every true class or distortion which share is seen as what, in %."""
    lines = [f"| frames | n | {' | '.join(estimator.classes)} |", f"|---|---|{'---|' * len(estimator.classes)}"]
    for name in dict.fromkeys(truth.tolist()):
        own = said[truth == name]
        shares = [f"{np.mean(own == each):.1%}" for each in estimator.classes]
        lines.append(f"| {name} | {own.size} | {' | '.join(shares)} |")
    return "\n".join(lines)


def exits_table(
    bundle: Bundle, given: Answers, groups: Names, own: Mapping[str, Mapping[str, float]] | None = None
) -> str:
    """Say for every group which share each exit answers, of those that come that far, and how often it is right."""
    names = given.exits[:-1]
    taken = Policy(bundle.thresholds, bundle.criteria, own or {}).taken(given)
    head = [f"{name}: p, right" for name in names]
    lines = [f"| frames | n | {' | '.join(head)} | final: right | all: right |", "|---|---|" + "---|" * (len(head) + 2)]
    for group in dict.fromkeys(groups.tolist()):
        left = groups == group
        size, cells, right = int(left.sum()), [], 0
        for row in range(len(names)):
            leaves = left & (taken == row)
            correct = int(given.correct[row, leaves].sum())
            cells.append(f"{leaves.sum() / max(1, left.sum()):.1%}, {_percent(correct, int(leaves.sum()))}")
            right += correct
            left &= ~leaves
        rest = int(given.correct[-1, left].sum())
        cells += [_percent(rest, int(left.sum())), _percent(right + rest, size)]
        lines.append(f"| {group} | {size} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _by_threshold(given: Answers, levels: Names) -> str:
    shown = [name for name in LEVELS if name == CLEAR or name.startswith("blur")]
    lines = [f"| threshold | {' | '.join(shown)} |", "|---|" + "---|" * len(shown)]
    for threshold in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99):
        cells = []
        for name in shown:
            left = (levels == name) & (given.confidence[0] >= threshold)
            correct = int(given.correct[0, left].sum())
            cells.append(f"{left.sum() / (levels == name).sum():.1%} ({_percent(correct, int(left.sum()))})")
        lines.append(f"| {threshold} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _milliseconds(work: Callable[[], object], rounds: int = 200) -> float:
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return 1e3 * median(taken)


if __name__ == "__main__":
    sys.exit(main())
