"""How `popexd calibrate` shows what came of it: tables and lines for people, one object for machines, a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from popexd.bundle import Bundle, ExitSpec
from popexd.cli import evaluated as shared
from popexd.cli import tables
from popexd.cli.words import asked, asked_time, lost, printable, share, threshold
from popexd.evaluation.choosing import LEAST_OF_A_CLASS, LEAST_TO_CALIBRATE, LEAST_TO_FIT
from popexd.evaluation.metrics import by_quality, figures
from popexd.evaluation.policy import of_bundle
from popexd.evaluation.reliability import reliability
from popexd.lab.panels import Diagram, save_panels

if TYPE_CHECKING:
    from popexd.evaluation.metrics import Figures
    from popexd.evaluation.outcomes import Answers
    from popexd.evaluation.quality_fit import Fitted
    from popexd.lab.photos import Parts

WORSE = 0.005
"""A loss of accuracy, or a calibration error so much larger, on frames not fitted on: the command says so."""

WHY = {
    "keep": "the same, in the unit of the new criterion",
    "reliable": "each so that its branch answers hardly worse than the network's end",
}
"""Why thresholds are others than before; a target speaks for itself."""


@dataclass(frozen=True)
class Side:
    """A bundle and what its exits say of the photos to report on, before or after calibration."""

    bundle: Bundle
    answers: Answers


def draw(path: Path, before: Side, after: Side) -> None:
    """Draw the reliability of every exit before and after into a file. Raises InputError where that cannot be."""
    panels = [
        Diagram(f"{name}, {when}", reliability(side.answers.confidence[row], side.answers.correct[row]))
        for when, side in (("before", before), ("after", after))
        for row, name in enumerate(side.answers.exits)
    ]
    title = f"{after.bundle.name}: {after.answers.samples} frames that were not fitted on"
    save_panels(path, title, panels, columns=len(after.answers.exits))


def form(before: Side, after: Side, facts: dict[str, Any], out: Path) -> dict[str, Any]:
    """The report as JSON."""
    found: dict[str, Any] = {"bundle": str(out), "fingerprint": after.bundle.fingerprint, "calibration": facts}
    for name, side in (("before", before), ("after", after)):
        found[name] = _side_form(side)
    if after.bundle.quality is not None:
        found["quality"] = {
            "classes": list(after.bundle.quality.classes),
            "agreement": after.bundle.quality.agreement,
        }
    return found


def _side_form(side: Side) -> dict[str, Any]:
    policy = of_bundle(side.bundle)
    return {
        "temperatures": {exit_.name: exit_.temperature for exit_ in side.bundle.exits}
        | {"final": side.bundle.final_temperature},
        "thresholds": side.bundle.thresholds,
        "criteria": {exit_.name: exit_.criterion.name for exit_ in side.bundle.exits},
        "temperatures_by_quality": _class_temperatures(side.bundle),
        "thresholds_by_quality": {name: dict(own) for name, own in policy.by_quality.items()},
        **shared.as_json(figures(side.answers, policy)),
        "by_quality": {name: shared.as_json(figures(own, policy)) for name, own in by_quality(side.answers).items()},
    }


def _class_temperatures(bundle: Bundle) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for exit_ in bundle.exits:
        for quality, variant in exit_.by_quality.items():
            if variant.temperature is not None:
                found.setdefault(quality, {})[exit_.name] = variant.temperature
    return found


def show(before: Side, after: Side, parts: Parts, fitted: Fitted | None, facts: Mapping[str, Any], out: Path) -> None:
    """Print tables, and what else there is to say."""
    tables.show(_exit_table(before, after))
    if len(set(after.answers.quality.tolist())) > 1:
        tables.show(_class_table(before, after))
    then, now = (figures(side.answers, of_bundle(side.bundle)) for side in (before, after))
    print(
        f"all answers right: {shared.of_two(then.accuracy, now.accuracy)}; left at a branch: "
        f"{shared.of_two(then.device_share, now.device_share)}, right there: "
        f"{shared.of_two(then.device_accuracy, now.device_accuracy)}"
    )
    for name, loss in now.lost.items():
        print(f"{name} {lost(loss)}")
    if now.accuracy < then.accuracy - WORSE and facts["thresholds"] in ("keep", "reliable"):
        print("fewer answers are right than before: fit on more photos, or keep the old bundle")
    if worse := list(_worse(then, now)):
        print(
            f"calibration error is larger than before: {', '.join(worse)}: fit on more photos, or keep the old bundle"
        )
    if facts["target"]:
        print(_asked(facts["target"], now))
    part = "the test photos" if parts.own else "the other half"
    print(f"{printable(parts.origin)}: fitted on one part, every figure above from {part}")
    for line in _changes(before.bundle, after.bundle, facts["thresholds"]):
        print(line)
    if kept := list(_kept(facts)):
        print(f"too few frames to fit these temperatures on, they are as before: {'; '.join(kept)}")
    if facts["thresholds"] == "reliable":
        print(_basis(facts["thresholds_chosen_on"], told=after.bundle.quality is not None))
    if fitted is not None:
        agreement = share(fitted.estimator.agreement)
        print(f"quality estimator: {', '.join(fitted.estimator.classes)}; right on {agreement} of frames not fitted on")
    for name in facts["forgotten"]:
        print(f"{printable(name)}: not known to the new quality estimator, what branches had for it is gone")
    print(f"{out}: {printable(after.bundle.name)}, fingerprint {after.bundle.fingerprint[:16]}")


def _worse(then: Figures, now: Figures) -> Iterator[str]:
    """Name the exits whose calibration error has grown, and from what to what."""
    for name, error in now.calibration_error.items():
        if error > then.calibration_error[name] + WORSE:
            yield f"{name} {shared.of_two(then.calibration_error[name], error)}"


def _asked(target: Mapping[str, Any], found: Figures) -> str:
    """What was asked for, and what the frames give that nothing was chosen on."""
    if "accuracy" in target:
        return asked(target["accuracy"], found.accuracy, found.samples)
    taken = sum(own * target["seconds_by_exit"][name] for name, own in found.shares.items() if own)
    return asked_time(target["seconds"], taken, found.samples)


def _changes(old: Bundle, new: Bundle, rule: str) -> Iterator[str]:
    """Say which thresholds are others than before, from what to what and why; then those of each class."""
    changed = [
        f"{was.name} {_level(was, told)} -> {_level(now, told)}"
        for was, now in zip(old.exits, new.exits, strict=True)
        for told in [was.criterion != now.criterion]
        if told or was.threshold != now.threshold
    ]
    if changed:
        reason = WHY.get(rule, rule)
        if old.criteria != new.criteria and rule == "reliable":
            reason = f"the old ones are of another criterion and cannot be kept; {reason}"
        yield f"thresholds changed: {', '.join(changed)} ({reason})"
    for name, levels in of_bundle(new).by_quality.items():
        shown = (f"{branch} {threshold(level, new.criteria[branch])}" for branch, level in levels.items())
        yield f"thresholds where {printable(name)} is seen: {', '.join(shown)}"


def _kept(facts: Mapping[str, Any]) -> Iterator[str]:
    """Say which temperatures were not fitted, and how many frames there were."""
    if facts["temperatures_kept"]:
        counts = ", ".join(f"{name} {count}" for name, count in facts["temperatures_kept"].items())
        yield f"{counts} of at least {LEAST_TO_FIT}"
    for quality, own in facts["temperatures_kept_by_quality"].items():
        counts = ", ".join(f"{name} {count}" for name, count in own.items())
        yield f"where {printable(quality)} is seen {counts} of at least {LEAST_TO_CALIBRATE}"


def _basis(chosen_on: Mapping[str, Any], *, told: bool) -> str:
    """Say which frames the general thresholds were chosen on."""
    if chosen_on["of"] != "all":
        return f"thresholds chosen on the {chosen_on['samples']} frames seen {chosen_on['of']}"
    few = f": fewer than {LEAST_OF_A_CLASS} are seen clear" if told else ""
    return f"thresholds chosen on all {chosen_on['samples']} frames{few}"


def _level(exit_: ExitSpec, told: bool) -> str:
    """A branch's threshold, with its criterion where that is to be `told`."""
    level = threshold(exit_.threshold, exit_.criterion)
    return f"{level} ({exit_.criterion.name})" if told else level


def _exit_table(before: Side, after: Side) -> Any:
    """Show every exit before and after."""
    table = Table("exit", "", "temperature", "threshold", "error", "share", "right there", box=box.SIMPLE_HEAD)
    table.title = printable(after.bundle.name)
    table.caption = "error: expected calibration error, 15 bins, over all frames; share: of the frames it answers"
    for column in table.columns[2:]:
        column.justify = "right"
    for name in after.answers.exits:
        for when, side in (("before", before), ("after", after)):
            form, found = _side_form(side), figures(side.answers, of_bundle(side.bundle))
            table.add_row(
                name if when == "before" else "",
                when,
                f"{form['temperatures'][name]:.3f}",
                "" if name == "final" else threshold(form["thresholds"][name], side.bundle.criteria[name]),
                share(found.calibration_error[name]),
                share(found.shares[name]),
                share(found.accuracy_where_taken[name]),
            )
    return table


def _class_table(before: Side, after: Side) -> Any:
    """Show what the exits make of every class of what was done to the frames."""
    table = Table("quality", "frames", "", "left at a branch", "right there", "all right", box=box.SIMPLE_HEAD)
    for column in table.columns[3:]:
        column.justify = "right"
    for name, own in by_quality(after.answers).items():
        old = by_quality(before.answers)[name]
        for when, answers, side in (("before", old, before), ("after", own, after)):
            found = figures(answers, of_bundle(side.bundle))
            first = (printable(name), str(own.samples)) if when == "before" else ("", "")
            numbers = (found.device_share, found.device_accuracy, found.accuracy)
            table.add_row(*first, when, *(share(each) for each in numbers))
    return table
