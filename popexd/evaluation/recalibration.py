"""A bundle calibrated anew on photos: temperatures, thresholds, quality estimator; its segments stay as they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from popexd.bundle import Bundle, ExitSpec, ExitVariant, write
from popexd.bundle.reading import listed_files
from popexd.criteria import Criterion
from popexd.evaluation.calibration import Temperatures, fit
from popexd.evaluation.choosing import (
    ALLOWANCE,
    LEAST_TO_CALIBRATE,
    LEAST_TO_FIT,
    Target,
    choose,
    choose_by_quality,
    of_clear,
    reliable,
    reliable_by_quality,
)
from popexd.evaluation.outcomes import Answers, Logits, answers, exit_names
from popexd.evaluation.policy import of_bundle
from popexd.evaluation.summary import FILE, summary, table_file
from popexd.evaluation.sweeps import depth
from popexd.quality import CLEAR

THRESHOLDS = ("keep", "reliable")


@dataclass(frozen=True)
class Said:
    """What the exits of a network said of frames, before any temperature.

    Attributes:
        logits: [exits, samples, classes], `final` last.
        label, quality: [samples].
        seen: [samples], the class that the quality estimator says; None without one.
        photo: [samples], see `Answers`.
    """

    logits: Logits
    label: npt.NDArray[np.integer]
    quality: npt.NDArray[np.str_]
    seen: npt.NDArray[np.str_] | None = None
    photo: npt.NDArray[np.integer] | None = None

    def only(self, chosen: npt.NDArray[np.bool_]) -> Said:
        """Keep the samples that a mask chooses."""
        return Said(
            self.logits[:, chosen],
            self.label[chosen],
            self.quality[chosen],
            None if self.seen is None else self.seen[chosen],
            None if self.photo is None else self.photo[chosen],
        )


@dataclass(frozen=True)
class Wanted:
    """How to calibrate.

    Attributes:
        method, samples_of, target_confidence: see `calibration.fit`.
        criterion: another criterion for every branch, or None to keep theirs.
        thresholds: "keep" them, or choose "reliable" ones; see `choosing.reliable`. Kept, a class of quality with too
            few samples keeps its temperatures too, and no threshold becomes laxer. Where they cannot be kept, see
            `keeps`, they are reliable ones.
        target: choose them for an accuracy or a cost.
        costs: of every exit, for the target; by default the share of the segments that have run.
        allowance: see `choosing.reliable`.
    """

    method: str = "per-branch"
    samples_of: str = "all"
    target_confidence: float = 0.8
    criterion: str | None = None
    thresholds: str = "keep"
    target: Target | None = None
    costs: Mapping[str, float] = field(default_factory=dict)
    allowance: float = ALLOWANCE


@dataclass(frozen=True)
class Learned:
    """What a calibration was made of.

    Attributes:
        samples: for each exit, `final` last, how many its general temperature was learned from; 0: it is 1 or was kept.
        too_few: for each exit whose general temperature was kept, how many samples there were to fit it on.
        by_quality: for each class with frames enough, how many each branch's temperature was learned from; 0: none was.
        too_few_by_quality: for each such class, like `too_few`.
        chosen_on: how many samples the general thresholds were chosen on; 0: they were kept.
        of: which samples these are: "clear", those that are seen so, or "all".
    """

    samples: tuple[int, ...]
    too_few: Mapping[str, int]
    by_quality: Mapping[str, Mapping[str, int]]
    too_few_by_quality: Mapping[str, Mapping[str, int]]
    chosen_on: int
    of: str

    def to_json(self, exits: Sequence[str]) -> dict[str, Any]:
        """For bundle.json and reports."""
        return {
            "learned_from": dict(zip(exits, self.samples, strict=True)),
            "learned_from_by_quality": {name: dict(own) for name, own in self.by_quality.items()},
            "temperatures_kept": dict(self.too_few),
            "temperatures_kept_by_quality": {name: dict(own) for name, own in self.too_few_by_quality.items()},
            "thresholds_chosen_on": {"samples": self.chosen_on, "of": self.of},
        }


def scaled(bundle: Bundle, said: Said) -> Answers:
    """What the bundle's exits say with its temperatures, for each frame those of the class it is seen in."""
    temperatures = np.empty(said.logits.shape[:2])
    temperatures[-1] = bundle.final_temperature
    for row, exit_ in enumerate(bundle.exits):
        temperatures[row] = exit_.temperature
        if said.seen is not None:
            for quality in exit_.by_quality:
                temperatures[row, said.seen == quality] = exit_.temperature_for(quality)
    return answers(
        exit_names(bundle),
        said.logits,
        said.label,
        temperatures=temperatures,
        quality=said.quality,
        seen=said.seen,
        photo=said.photo,
    )


def recalibrated(bundle: Bundle, said: Said, wanted: Wanted) -> tuple[Bundle, Learned]:
    """Fit temperatures and thresholds on what the exits said of the frames to fit on; nothing is written.

    With classes that the estimator sees, the branches' general temperatures are those of the clear frames (where these
    teach nothing, of all), and each other class gets its own, and its own thresholds, where it has frames enough. An
    exit with fewer than LEAST_TO_FIT frames to fit a temperature on, by `wanted.samples_of`, keeps the old one. A
    global temperature is one for all. General thresholds that are to be reliable are chosen on clear frames too, see
    `choosing.of_clear`; those for a target on all. Expert branches stay; what was for a class that the estimator does
    not know goes.

    Raises:
        Infeasible: the target cannot be reached on all frames together.
    """
    found = _general_temperatures(said, wanted)
    names, old = exit_names(bundle), (*(exit_.temperature for exit_ in bundle.exits), bundle.final_temperature)
    few = [wanted.method != "none" and there < LEAST_TO_FIT for there in found.there]
    by_class = _class_temperatures(said, wanted)
    known = _without(bundle, forgotten(bundle))
    keep = keeps(bundle, wanted)
    general = tuple(np.where(few, old, found.values).tolist())
    warm = _with_temperatures(known, general, by_class, keep=keep, apart=wanted.method == "per-branch")
    if wanted.criterion is not None:
        criterion = Criterion(wanted.criterion, len(bundle.classes))
        warm = replace(warm, exits=tuple(_by(criterion, each) for each in warm.exits))
    warmed = scaled(warm, said)
    basis = warmed if wanted.target is not None else of_clear(warmed)
    thresholds, own = _thresholds(warm, warmed, basis, wanted, keep=keep)
    learned = Learned(
        samples=tuple(np.where(few, 0, found.samples).tolist()),
        too_few={name: there for name, there, kept in zip(names, found.there, few, strict=True) if kept},
        by_quality={name: dict(zip(names[:-1], each.samples, strict=False)) for name, each in by_class.items()},
        too_few_by_quality={name: lack for name, each in by_class.items() if (lack := _too_few(names[:-1], each))},
        chosen_on=0 if keep else basis.samples,
        of="all" if basis is warmed else CLEAR,
    )
    return _with_thresholds(warm, thresholds, own), learned


def keeps(bundle: Bundle, wanted: Wanted) -> bool:
    """Whether the thresholds are kept: asked for, without a target, and not by a criterion that they are not of.

    An entropy in nats and one divided by ln(classes) are one scale; a confidence is another.
    """
    if wanted.target is not None or wanted.thresholds != "keep":
        return False
    sure = wanted.criterion == "confidence"
    return wanted.criterion is None or all((each.criterion.name == "confidence") == sure for each in bundle.exits)


def forgotten(bundle: Bundle) -> tuple[str, ...]:
    """The classes that branches have something of their own for, and that the bundle's estimator does not know."""
    if bundle.quality is None:
        return ()
    return tuple(sorted({name for exit_ in bundle.exits for name in exit_.by_quality} - {*bundle.quality.classes}))


def written(
    folder: Path,
    bundle: Bundle,
    said: Said,
    *,
    method: Mapping[str, Any],
    source: Bundle,
    natural: npt.NDArray[np.bool_] | None = None,
    known: Mapping[str, npt.NDArray[Any]] | None = None,
) -> tuple[Bundle, Answers]:
    """Write `bundle`, calibrated from `source`, with the validation table of the frames it was *not* fitted on.

    `method` is kept in bundle.json under `calibration`. `natural` marks the frames [samples] that nothing was done to:
    in which classes these are seen is what a camera is expected to show; for `known` see `summary.table_file`. Raises
    BundleError; the folder is replaced whole or not at all.
    """
    found = scaled(bundle, said)
    facts = {key: value for key, value in source.facts.items() if key != "fingerprint"}
    facts["exits"] = [_exit_facts(entry, exit_) for entry, exit_ in zip(facts["exits"], bundle.exits, strict=True)]
    facts["final"] = {**facts.get("final", {}), "temperature": round(bundle.final_temperature, 6)}
    if bundle.quality is not None:
        facts["quality"] = bundle.quality.to_json() | _expected_shares(bundle.quality.classes, said, natural)
    facts["validation"] = summary(found, of_bundle(bundle))
    facts["calibration"] = dict(method)
    kept = {*listed_files(facts)} - {FILE}
    files = {name: (source.folder / name).read_bytes() for name in kept} | {FILE: table_file(found, known)}
    return write(folder, facts, files), found


def _general_temperatures(said: Said, wanted: Wanted) -> Temperatures:
    found = fit(said.logits, said.label, wanted.method, wanted.samples_of, wanted.target_confidence)
    clear = np.zeros(said.label.size, dtype=bool) if said.seen is None else np.asarray(said.seen == CLEAR)
    if wanted.method != "per-branch" or clear.sum() < LEAST_TO_CALIBRATE:
        return found
    own = said.only(clear)
    better = _learned(own, wanted)
    # The network's end has one temperature for frames of all classes.
    learned = [*(bool(count) for count in better.samples[:-1]), False]

    def merged(ours: tuple[float, ...], others: tuple[float, ...]) -> tuple[Any, ...]:
        return tuple(np.where(learned, ours, others).tolist())

    return Temperatures(
        merged(better.values, found.values), merged(better.samples, found.samples), merged(better.there, found.there)
    )


def _class_temperatures(said: Said, wanted: Wanted) -> dict[str, Temperatures]:
    if said.seen is None or wanted.method != "per-branch":
        return {}
    found = {}
    for quality in np.unique(said.seen):
        own = said.only(said.seen == quality)
        if quality != CLEAR and own.label.size >= LEAST_TO_CALIBRATE:
            found[str(quality)] = _learned(own, wanted)
    return found


def _learned(own: Said, wanted: Wanted) -> Temperatures:
    """Fit on the frames of a class; what has fewer than LEAST_TO_CALIBRATE of them to fit on learns nothing."""
    found = fit(own.logits, own.label, wanted.method, wanted.samples_of, wanted.target_confidence)
    enough = [there >= LEAST_TO_CALIBRATE for there in found.there]
    return replace(found, samples=tuple(np.where(enough, found.samples, 0).tolist()))


def _too_few(branches: Sequence[str], own: Temperatures) -> dict[str, int]:
    """The branches of which a class has too few frames to fit on, and how many there are."""
    return {name: there for name, there in zip(branches, own.there, strict=False) if there < LEAST_TO_CALIBRATE}


def _by(criterion: Criterion, exit_: ExitSpec) -> ExitSpec:
    """Let a branch go by another criterion; its thresholds go over into the new unit."""

    def converted(level: float) -> float:
        return level if criterion == exit_.criterion else criterion.threshold(exit_.criterion.bound(level))

    variants = {
        name: variant if variant.threshold is None else replace(variant, threshold=converted(variant.threshold))
        for name, variant in exit_.by_quality.items()
    }
    return replace(exit_, criterion=criterion, threshold=converted(exit_.threshold), by_quality=variants)


def _without(bundle: Bundle, qualities: Collection[str]) -> Bundle:
    exits = []
    for exit_ in bundle.exits:
        own = {name: variant for name, variant in exit_.by_quality.items() if name not in qualities}
        exits.append(replace(exit_, by_quality=own))
    return replace(bundle, exits=tuple(exits))


def _with_temperatures(
    bundle: Bundle, general: tuple[float, ...], by_class: Mapping[str, Temperatures], *, keep: bool, apart: bool
) -> Bundle:
    """Put temperatures in; `keep` what classes have, though temperatures only where classes have some `apart`."""
    exits = []
    for row, exit_ in enumerate(bundle.exits):
        variants: dict[str, ExitVariant] = {}
        for quality, old in exit_.by_quality.items():
            threshold, heat = (old.threshold if keep else None), (old.temperature if keep and apart else None)
            if (kept := ExitVariant(threshold, heat, old.file)) != ExitVariant():
                variants[quality] = kept
        for quality, own in by_class.items():
            if own.samples[row]:
                learned = round(own.values[row], 4)
                variants[quality] = replace(variants.get(quality, ExitVariant()), temperature=learned)
        exits.append(replace(exit_, temperature=round(general[row], 4), by_quality=variants))
    return replace(bundle, exits=tuple(exits), final_temperature=round(general[-1], 4))


def _thresholds(
    bundle: Bundle, said: Answers, basis: Answers, wanted: Wanted, *, keep: bool
) -> tuple[Mapping[str, float], Mapping[str, Mapping[str, float]]]:
    """Choose thresholds for all frames, reliable ones on those of `basis`, and for each class."""
    names, criteria = [exit_.name for exit_ in bundle.exits], bundle.criteria
    if wanted.target is not None:
        costs = wanted.costs or depth(bundle)
        general = choose(said, names, costs, wanted.target, criteria).thresholds
        points = choose_by_quality(said, names, costs, wanted.target, criteria)
        return general, {quality: point.thresholds for quality, point in points.items()}
    general = bundle.thresholds if keep else reliable(basis, names, criteria=criteria, allowance=wanted.allowance)
    found = reliable_by_quality(said, general, criteria=criteria, allowance=wanted.allowance)
    return general, _no_laxer(bundle, found) if keep else found


def _no_laxer(bundle: Bundle, found: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Of a class's threshold and the one that was found for it, take the stricter."""
    return {
        quality: {
            exit_.name: max(own[exit_.name], exit_.threshold_for(quality), key=exit_.criterion.bound)
            for exit_ in bundle.exits
        }
        for quality, own in found.items()
    }


def _with_thresholds(
    bundle: Bundle, general: Mapping[str, float], by_class: Mapping[str, Mapping[str, float]]
) -> Bundle:
    return replace(bundle, exits=tuple(_with_own(exit_, general, by_class) for exit_ in bundle.exits))


def _with_own(exit_: ExitSpec, general: Mapping[str, float], by_class: Mapping[str, Mapping[str, float]]) -> ExitSpec:
    variants = dict(exit_.by_quality)
    for quality, own in by_class.items():
        variants[quality] = replace(variants.get(quality, ExitVariant()), threshold=own[exit_.name])
    return replace(exit_, threshold=general[exit_.name], by_quality=variants)


def _expected_shares(
    classes: tuple[str, ...], said: Said, natural: npt.NDArray[np.bool_] | None
) -> dict[str, dict[str, float]]:
    if said.seen is None or (natural is not None and not natural.any()):
        return {}
    seen = said.seen if natural is None else said.seen[natural]
    return {"shares": {name: round(float((seen == name).mean()), 5) for name in classes}}


def _exit_facts(entry: Mapping[str, Any], exit_: ExitSpec) -> dict[str, Any]:
    """Describe a branch for bundle.json; files keep the names they had."""
    facts = {
        **{key: value for key, value in entry.items() if key != "by_quality"},
        "temperature": exit_.temperature,
        "threshold": exit_.threshold,
        "criterion": exit_.criterion.name,
    }
    known = entry.get("by_quality", {})
    variants = {}
    for quality, variant in exit_.by_quality.items():
        own = {"threshold": variant.threshold, "temperature": variant.temperature}
        variants[quality] = {key: value for key, value in own.items() if value is not None}
        if variant.file is not None:
            variants[quality]["file"] = known[quality]["file"]
    return facts | ({"by_quality": variants} if variants else {})
