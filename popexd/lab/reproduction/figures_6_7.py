"""Figures 6 and 7: what leaves at the first branch, and how often it is right, before and after calibration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from popexd.bundle import Bundle
from popexd.criteria import confidence, confident_enough
from popexd.errors import InputError
from popexd.evaluation.calibration import temperature
from popexd.evaluation.outcomes import exit_logits
from popexd.evaluation.reliability import expected_calibration_error
from popexd.lab.reproduction.figure import Curve, Fact, Figure, Panel
from popexd.lab.reproduction.figure_5 import first_branch, mean_where
from popexd.lab.reproduction.photos import Photos, prepared

THRESHOLDS = 41
LEAST = 20

Floats = npt.NDArray[np.float64]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Calibrated:
    """The first branch's certainty [photos] before and after, and the temperatures of the two halves."""

    before: Floats
    after: Floats
    temperatures: tuple[float, float]


def figures_6_7(
    bundle: Bundle, photos: Photos, *, threads: int = 0, progress: Progress | None = None
) -> tuple[Figure, Figure]:
    """Ask the first branch and the network's end about every photo, with and without a temperature for the branch.

    Raises:
        InputError: the bundle has no branch, there are fewer than 20 photos, or one cannot be read.
    """
    branch = first_branch(bundle)
    if len(photos.chosen) < LEAST:
        raise InputError(f"--data: {len(photos.chosen)} photos, expected at least {LEAST} to calibrate on half of them")
    logits = exit_logits(bundle, prepared(photos, bundle.input), threads=threads, progress=progress)
    return of_logits(logits[0], logits[-1], photos.labels, f"{bundle.name}, branch {branch}; {photos.source}")


def calibrated(branch: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> Calibrated:
    """Calibrate a branch's logits [photos, classes]: each half by the temperature that the other half asks for.

    So that no photo is judged by a temperature that was fitted to it, and none is lost to fitting. Even and odd places
    make the halves; the photos come in random order.
    """
    before, after = confidence(branch), np.empty(len(labels))
    found = []
    for half in (0, 1):
        there = np.arange(len(labels)) % 2 == half
        found.append(temperature(branch[~there], labels[~there]))
        after[there] = confidence(branch[there], found[-1])
    return Calibrated(before, after, (found[0], found[1]))


def of_logits(
    branch: npt.NDArray[np.floating], final: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], source: str
) -> tuple[Figure, Figure]:
    """Make both figures of what the first branch and the network's end say: logits [photos, classes]."""
    classes = branch.shape[1]
    sure = calibrated(branch, labels)
    right, right_at_end = branch.argmax(axis=1) == labels, final.argmax(axis=1) == labels
    thresholds = np.linspace(1 / classes, 1.0, THRESHOLDS)
    names = ("before calibration", "after calibration")
    answered = [np.array([confident_enough(each, t) for t in thresholds]) for each in (sure.before, sure.after)]
    shares = [stays.mean(axis=1) for stays in answered]
    local = [mean_where(right, stays) for stays in answered]
    overall = [np.where(stays, right, right_at_end).mean(axis=1) for stays in answered]
    errors = [expected_calibration_error(each, right) for each in (sure.before, sure.after)]
    settings = {
        "temperatures": list(sure.temperatures),
        "branch_accuracy": float(right.mean()),
        "final_accuracy": float(right_at_end.mean()),
        "expected_calibration_error": dict(zip(("before", "after"), errors, strict=True)),
    }

    def panel(title: str, y_name: str, y_label: str, rows: list[Floats], *, from_zero: bool) -> Panel:
        curves = [Curve(name, thresholds.tolist(), row.tolist()) for name, row in zip(names, rows, strict=True)]
        x = ("confidence_threshold", "confidence threshold")
        return Panel(title, x[0], y_name, x[1], y_label, curves, y_from_zero=from_zero)

    title = "What leaves at the first branch, before and after calibration"
    share = panel(f"T = {_two(sure)}", "exit_share", "share that leaves at the first branch", shares, from_zero=True)
    six = Figure("6", title, source, [share], [_fewer(sure, shares, errors)], settings)
    panels = [
        panel("of what the first branch answers", "device_accuracy", "share that is right", local, from_zero=False),
        panel("of all: branch, else the network's end", "accuracy", "share that is right", overall, from_zero=False),
    ]
    facts = [_higher("of what the branch answers", local), _higher("of all answers", overall)]
    return six, Figure("7", "Accuracy, before and after calibration", source, panels, facts, settings)


def _two(sure: Calibrated) -> str:
    return " and ".join(f"{each:.2f}" for each in sure.temperatures)


def _fewer(sure: Calibrated, shares: list[Floats], errors: list[float]) -> Fact:
    before, after = shares
    kind = (
        "over" if min(sure.temperatures) > 1 else "under" if max(sure.temperatures) < 1 else "neither over- nor under"
    )
    found = (
        f"the branch is {kind}-confident (T = {_two(sure)}, calibration error {100 * errors[0]:.1f} -> "
        f"{100 * errors[1]:.1f} %); on average {100 * before.mean():.1f} -> {100 * after.mean():.1f} %, more at "
        f"{int((after > before).sum())} of {len(before)} thresholds"
    )
    same = bool((after <= before).all() and (after < before).any())
    return Fact("6", "calibration lets fewer leave at the first branch, at every threshold", found, same)


def _higher(what: str, rows: list[Floats]) -> Fact:
    before, after = rows
    known = ~(np.isnan(before) | np.isnan(after))
    gain = (after - before)[known]
    higher, lower = int((gain > 0).sum()), int((gain < 0).sum())
    if not len(gain):
        return Fact("7", _claim(what), "no threshold at which the branch answers anything", same=False)
    found = f"higher at {higher}, equal at {len(gain) - higher - lower}, lower at {lower} thresholds"
    found += f"; {100 * gain.mean():+.2f} points on average, {100 * gain.min():+.2f} at worst"
    return Fact("7", _claim(what), found, not lower and higher > 0)


def _claim(what: str) -> str:
    return f"calibration raises the accuracy {what}, at every threshold"
