"""What calibration does for a device that must not be wrong: the figures of the authors' later paper, by their rules.

R. G. Pacheco, R. S. Couto, O. Simeone: JNCA 217:103679 (2023), after ICC 2021 (arXiv 2010.16335). Three ways to
calibrate: none, one temperature for all exits, one for each; each fitted at the target confidence it is used at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from popexd.bundle import Bundle
from popexd.errors import InputError
from popexd.evaluation.calibration import fit
from popexd.evaluation.metrics import answered_right, missed_deadline, outage
from popexd.evaluation.outcomes import Answers, answers, exit_logits, exit_names
from popexd.evaluation.policy import Policy
from popexd.lab.reproduction.figure import Curve, Fact, Figure, Panel
from popexd.lab.reproduction.figure_5 import first_branch
from popexd.lab.reproduction.photos import Photos, prepared

METHODS = {"conventional": "none", "global": "global", "per branch": "per-branch"}
TARGETS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
LEAST = 40
BATCH = 256

# Read off the paper's figures (MobileNetV2, Caltech-256, three branches, within 0.01): at target confidence 0.8 for no,
# global and per-branch calibration, and which order of the three they show at every target.
READ_OFF: Mapping[str, tuple[float, float, float]] = {
    "on_device_probability": (0.16, 0.095, 0.12),
    "device_accuracy": (0.87, 0.92, 0.90),
    "outage_probability": (0.108, 0.043, 0.066),
    "missed_deadline_probability": (0.54, 0.33, 0.42),
}
CLAIMS: Mapping[str, str] = {
    "on_device_probability": "uncalibrated exits answer most on the device, globally calibrated ones least",
    "device_accuracy": "what is answered there is right least often uncalibrated, most often globally calibrated",
    "outage_probability": "outages are likeliest uncalibrated, least likely globally calibrated",
    "missed_deadline_probability": "a loose deadline is missed most often uncalibrated, least globally calibrated",
}
_LABELS: Mapping[str, str] = {
    "on_device_probability": "answered at a side branch",
    "device_accuracy": "right, of those",
    "outage_probability": "inference outage",
    "missed_deadline_probability": "missed deadline (deadline never binding)",
}
_AT = (0.5, 0.7, 0.8, 0.9)

Logits = npt.NDArray[np.float32]
Labels = npt.NDArray[np.intp]
Progress = Callable[[int], None]
Values = Mapping[str, Mapping[str, Sequence[float]]]


def figure_jnca(
    bundle: Bundle, photos: Photos, *, seed: int = 1, threads: int = 0, progress: Progress | None = None
) -> Figure:
    """Judge the bundle's side branches at each target confidence, uncalibrated, globally and per branch.

    Raises:
        InputError: the bundle has no branch, there are fewer than 40 photos, or one cannot be read.
    """
    first_branch(bundle)
    if len(photos.chosen) < LEAST:
        raise InputError(f"--data: {len(photos.chosen)} photos, expected at least {LEAST} to calibrate on half of them")
    logits = exit_logits(bundle, prepared(photos, bundle.input), threads=threads, progress=progress)
    return of_logits(exit_names(bundle), logits, photos.labels, f"{bundle.name}; {photos.source}", seed)


def of_logits(exits: Sequence[str], logits: Logits, labels: Labels, source: str, seed: int = 1) -> Figure:
    """Make the figure of what the exits say: logits [exits, photos, classes], not divided, `final` last."""
    batch = min(BATCH, len(labels) // 4)
    values: dict[str, dict[str, list[float]]] = {quantity: {} for quantity in READ_OFF}
    for name, method in METHODS.items():
        rows = [_at_target(exits, logits, labels, method, target, batch, seed) for target in TARGETS]
        for index, quantity in enumerate(READ_OFF):
            values[quantity][name] = [row[index] for row in rows]
    panels = [
        Panel(
            _LABELS[quantity],
            "target_confidence",
            quantity,
            "target confidence",
            "share",
            [Curve(name, TARGETS, row) for name, row in by_method.items()],
            y_from_zero=quantity != "device_accuracy",
        )
        for quantity, by_method in values.items()
    ]
    settings = {
        "batch": batch,
        "reshuffles": 100,
        "read_off_at_0.8": {name: list(row) for name, row in READ_OFF.items()},
    }
    title = "Calibration and what the device answers (JNCA 2023)"
    return Figure("jnca", title, source, panels, [_fact(values, quantity) for quantity in READ_OFF], settings)


def _at_target(
    exits: Sequence[str], logits: Logits, labels: Labels, method: str, target: float, batch: int, seed: int
) -> tuple[float, float, float, float]:
    """The four quantities of `READ_OFF`; device accuracy is nan where nothing is answered there."""
    said = answers(exits, logits, labels, temperatures=_temperatures(logits, labels, method, target))
    policy = Policy(dict.fromkeys(exits[:-1], target))
    left = policy.taken(said) < len(exits) - 1
    right = _right(said, policy, target)
    short = outage(left, right, target, batch=batch, seed=seed)
    missed = missed_deadline(left, right, np.zeros(len(labels)), 1.0, target, batch=batch, seed=seed)
    accuracy = float(right[left].mean()) if left.any() else float("nan")
    return float(left.mean()), accuracy, short.mean, missed.mean


def _temperatures(logits: Logits, labels: Labels, method: str, target: float) -> npt.NDArray[np.float64]:
    """[exits, photos]: each half of the photos gets the temperatures that the other half asks for."""
    found = np.empty(logits.shape[:2])
    for half in (0, 1):
        there = np.arange(len(labels)) % 2 == half
        fitted = fit(logits[:, ~there], labels[~there], method, "exiting", target)
        found[:, there] = np.array(fitted.values)[:, None]
    return found


def _right(said: Answers, policy: Policy, target: float) -> npt.NDArray[np.bool_]:
    return answered_right(said, policy, "most-confident", target)


def _fact(values: Values, quantity: str) -> Fact:
    """Compare the order of the three at the targets that were read off the paper."""
    by_method, places = values[quantity], [TARGETS.index(target) for target in _AT]
    none, one, each = (np.array(by_method[name])[places] for name in METHODS)
    sign = -1 if quantity == "device_accuracy" else 1
    ordered = bool((sign * (none - each) >= 0).all() and (sign * (each - one) >= 0).all())
    theirs = " / ".join(f"{value:g}" for value in READ_OFF[quantity])
    ours = " / ".join(_told(by_method[name][TARGETS.index(0.8)]) for name in METHODS)
    found = f"at 0.8 {ours} (paper: {theirs}; {' / '.join(METHODS)})"
    if np.isnan([none, one, each]).any():
        return Fact("jnca", CLAIMS[quantity], found, None)
    return Fact("jnca", CLAIMS[quantity], found, ordered and bool((none != one).any()))


def _told(value: float) -> str:
    return "not defined (nothing leaves)" if math.isnan(value) else f"{value:.3f}"
