"""Figure 5: how many photos leave at the first branch against the entropy threshold, sharp and blurred."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from popexd.bundle import Bundle
from popexd.criteria import entropy, low_enough, softmax
from popexd.errors import InputError
from popexd.evaluation.outcomes import exit_logits
from popexd.lab.reproduction.figure import Curve, Fact, Figure, Panel
from popexd.lab.reproduction.photos import Photos, prepared
from popexd.quality import CLEAR

BLURS = ("blur-5", "blur-15", "blur-65")
"""The paper's Gaussian filters, by their size in pixels of the camera."""

THRESHOLDS = 41
PAPER = "more blur, fewer exits, at every threshold"

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Progress = Callable[[int], None]


def figure_5(bundle: Bundle, photos: Photos, *, threads: int = 0, progress: Progress | None = None) -> Figure:
    """Count the photos that the bundle's first branch answers, at each entropy threshold and for each blur.

    The branch's temperature is left out, as in the paper; entropies are in nats. Beside the paper's panel a second one
    shows how many of those that leave are right. `progress` is told the photos done.

    Raises:
        InputError: the bundle has no branch, or a photo cannot be read.
    """
    first_branch(bundle)
    entropies: dict[str, Floats] = {}
    right: dict[str, Flags] = {}
    for index, distortion in enumerate((CLEAR, *BLURS)):
        before = index * len(photos.chosen)
        logits = exit_logits(
            bundle,
            prepared(photos, bundle.input, distortion),
            threads=threads,
            progress=None if progress is None else lambda done, before=before: progress(before + done),  # type: ignore[misc]
        )
        entropies[distortion] = entropy(softmax(logits[0]))
        right[distortion] = logits[0].argmax(axis=1) == photos.labels
    return of_entropies(
        entropies, right, f"{bundle.name}, branch {bundle.exits[0].name}; {photos.source}", len(bundle.classes)
    )


def of_entropies(entropies: Mapping[str, Floats], right: Mapping[str, Flags], source: str, classes: int) -> Figure:
    """Make the figure of the branch's entropies and right answers [photos] at each distortion, sharpest first."""
    thresholds = np.linspace(0.0, np.log(classes), THRESHOLDS)
    leaving = {name: np.array([low_enough(values, t) for t in thresholds]) for name, values in entropies.items()}
    shares = {name: rows.mean(axis=1) for name, rows in leaving.items()}
    accuracies = {name: mean_where(right[name], rows) for name, rows in leaving.items()}

    def panel(title: str, y_name: str, y_label: str, rows: Mapping[str, Floats]) -> Panel:
        curves = [Curve(_shown(name), thresholds.tolist(), row.tolist()) for name, row in rows.items()]
        return Panel(title, "entropy_threshold_nats", y_name, "entropy threshold, nats", y_label, curves)

    panels = [
        panel("as in the paper", "exit_probability", "share that leaves at the first branch", shares),
        panel("beyond the paper", "device_accuracy", "share of those that is right", accuracies),
    ]
    means = {name: float(values.mean()) for name, values in entropies.items()}
    settings = {
        "mean_entropy_nats": means,
        "branch_accuracy": {name: float(flags.mean()) for name, flags in right.items()},
        "classes": classes,
    }
    title = "Exits at the first branch against the entropy threshold"
    return Figure("5", title, source, panels, [_ordered(shares)], settings)


def mean_where(right: Flags, answered: Flags) -> Floats:
    """Share of right ones among the photos answered at each threshold [thresholds, photos]; nan where none is."""
    counts = answered.sum(axis=1)
    return np.where(counts > 0, (answered & right).sum(axis=1) / np.maximum(counts, 1), np.nan)


def first_branch(bundle: Bundle) -> str:
    """Name the bundle's first branch. Raises InputError where it has none."""
    if not bundle.exits:
        raise InputError(f"--bundle: {bundle.name} has no side branch, expected at least one")
    return bundle.exits[0].name


def _ordered(shares: Mapping[str, Floats]) -> Fact:
    """Say whether each curve stays at or below the one that is less blurred."""
    rows = list(shares.values())
    reversals = np.array([later - earlier for earlier, later in pairwise(rows)])
    broken = int((reversals.max(axis=0) > 0).sum())
    means = ", ".join(f"{_shown(name)} {100 * share.mean():.1f}" for name, share in shares.items())
    found = f"on average over the thresholds {means} %"
    if broken:
        found += (
            f"; another order at {broken} of {len(rows[0])} thresholds, by at most {100 * reversals.max():.1f} points"
        )
    return Fact("5", PAPER, found, not broken)


def _shown(distortion: str) -> str:
    return "undistorted" if distortion == CLEAR else distortion.replace("-", " ")
