"""`popexd calibrate`: a bundle whose exits mean what they say, fitted on photos; its segments stay as they are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from popexd import bundle as bundles
from popexd.bundle import Bundle
from popexd.cli import evaluated as shared
from popexd.cli import exit_times as times
from popexd.cli.words import printable, share, threshold
from popexd.criteria import CRITERIA
from popexd.errors import InputError

if TYPE_CHECKING:
    from popexd.evaluation.choosing import Target
    from popexd.evaluation.outcomes import Answers
    from popexd.evaluation.quality_fit import Fitted
    from popexd.evaluation.recalibration import Said, Wanted
    from popexd.lab.photos import Frames, Parts


Data = Annotated[
    str,
    typer.Option(
        help="a folder with a folder of photos per class (also under val and test), frames that train prepared, or "
        "'generated'"
    ),
]
Out = Annotated[Path, typer.Option(help="folder of the calibrated bundle; an older bundle there is replaced")]
Method = Annotated[str, typer.Option(help="per-branch, global, or none: every temperature 1")]
SamplesOf = Annotated[
    str, typer.Option(help="per-branch: fitted on all samples, or on those exiting there at --target-confidence")
]
TargetConfidence = Annotated[float, typer.Option(help="global and exiting: where a sample leaves")]
ItsCriterion = Annotated[str | None, typer.Option("--criterion", help=f"{', '.join(CRITERIA)}; without it: as it is")]
Thresholds = Annotated[
    str, typer.Option(help="keep, or reliable: a branch answers no worse than the network's end would")
]
TargetAccuracy = Annotated[float | None, typer.Option(help="the cheapest thresholds that are right so often")]
TargetTime = Annotated[
    float | None, typer.Option("--target-ms", help="the most accurate thresholds so quick; needs --profile")
]
Plot = Annotated[Path | None, typer.Option(help="draw reliability diagrams into this file (extra: plot)")]


WORSE = 0.005
"""A loss of accuracy, on frames not fitted on, from which the command says so."""


@dataclass(frozen=True)
class Side:
    """A bundle and what its exits say of the photos to report on, before or after calibration."""

    bundle: Bundle
    answers: Answers


def calibrate(
    bundle: shared.BundlePath,
    data: Data,
    out: Out,
    method: Method = "per-branch",
    samples_of: SamplesOf = "all",
    target_confidence: TargetConfidence = 0.8,
    criterion: ItsCriterion = None,
    thresholds: Thresholds = "keep",
    target_accuracy: TargetAccuracy = None,
    target_ms: TargetTime = None,
    profile: times.Profile = None,
    uplink_mbps: times.Uplink = None,
    rtt_ms: times.RoundTrip = 0.0,
    gamma: times.Gamma = None,
    cut: times.Cut = None,
    distort: shared.Distort = None,
    samples: shared.Samples = None,
    seed: shared.Seed = 2021,
    threads: shared.Threads = 0,
    plot: Plot = None,
    as_json: shared.AsJson = False,
) -> None:
    """Fit temperatures and thresholds on one part of the photos, report on the other, and write a new bundle."""
    from popexd.lab import photos

    loaded = bundles.load(bundle)
    _check(loaded, out, plot)
    times.check_alone(profile, uplink_mbps, rtt_ms, gamma, cut)
    target = _target(target_accuracy, target_ms, profile)
    wanted = _wanted(method, samples_of, target_confidence, criterion, thresholds, target)
    if profile is not None:
        wanted = _timed(loaded, wanted, times.exit_times(loaded, profile, uplink_mbps, rtt_ms, gamma, cut))
    names = photos.distortions(distort)
    parts = photos.photos(data, loaded, samples, seed)
    if not parts.report:
        raise InputError(f"--data: {parts.origin}, expected at least two of a class: one to fit on, one to report on")
    halves = [shared.read_frames(loaded, part, names, seed, as_json) for part in (parts.fit, parts.report)]
    fitted = _quality(halves[0], halves[1])
    before, after, facts = _calibrated(loaded, out, wanted, parts, halves, fitted, threads, quiet=as_json)
    if plot is not None:
        _draw(plot, before, after)
    if as_json:
        print(json.dumps(_form(before, after, facts, out), indent=2))
    else:
        _show(before, after, parts, fitted, out, traded=target is not None)
        for name in facts["forgotten"]:
            print(f"{printable(name)}: not known to the new quality estimator, what branches had for it is gone")
        if plot is not None:
            print(f"drawn into {plot}")


def _check(bundle: Bundle, out: Path, plot: Path | None) -> None:
    """Refuse what cannot be written before minutes go into inference."""
    from popexd.lab.pictures import check_folder, check_picture

    bundles.check_place(out)
    check_folder("--out", out.absolute().parent)
    if not bundle.exits:
        raise InputError(f"{bundle.folder}: no side branches, expected a bundle with early exits")
    if plot is not None:
        check_picture("--plot", plot)


def _target(accuracy: float | None, milliseconds: float | None, profile: Path | None) -> Target | None:
    from popexd.evaluation.choosing import Target

    shared.in_unit("--target-accuracy", accuracy)
    if accuracy is not None and milliseconds is not None:
        raise InputError("--target-ms: together with --target-accuracy, expected one of them")
    if milliseconds is not None and profile is None:
        raise InputError("--target-ms: times are not known, expected --profile too")
    if milliseconds is not None:
        return Target(cost=shared.positive_seconds("--target-ms", milliseconds))
    return None if accuracy is None else Target(accuracy=accuracy)


def _wanted(
    method: str,
    samples_of: str,
    target_confidence: float,
    criterion: str | None,
    thresholds: str,
    target: Target | None,
) -> Wanted:
    from popexd.evaluation.calibration import METHODS, SAMPLES
    from popexd.evaluation.recalibration import THRESHOLDS, Wanted

    shared.in_unit("--target-confidence", target_confidence)
    return Wanted(
        shared.one_of("--method", method, METHODS),
        shared.one_of("--samples-of", samples_of, SAMPLES),
        target_confidence,
        None if criterion is None else shared.one_of("--criterion", criterion, CRITERIA),
        shared.one_of("--thresholds", thresholds, THRESHOLDS),
        target,
    )


def _timed(bundle: Bundle, wanted: Wanted, found: times.ExitTimes) -> Wanted:
    """Let exits cost what they take."""
    from dataclasses import replace

    missing = [exit_.name for exit_ in bundle.exits if exit_.name not in found.seconds]
    if missing:
        raise InputError(
            f"--profile: the plan (cut after {found.cut}) does not run {', '.join(missing)}, expected --cut output, "
            "or a cut behind every branch, under which all do"
        )
    return replace(wanted, costs=found.seconds)


def _quality(fit: Frames, report: Frames) -> Fitted | None:
    """Fit the quality estimator where the photos to fit on are of several classes; agreement is that on the others."""
    import numpy as np

    from popexd.evaluation import quality_fit

    truth, others = quality_fit.visible(fit.quality), quality_fit.visible(report.quality)
    names, counts = np.unique(truth, return_counts=True)
    known = names[counts >= quality_fit.LEAST_FRAMES]
    if known.size < 2:
        return None
    which = np.isin(truth, known)
    found = quality_fit.fit_frames(fit.images[which], truth[which])
    there = np.isin(others, known)
    return quality_fit.agree(found.estimator, quality_fit.measure(report.images[there]), others[there])


def _calibrated(
    loaded: Bundle,
    out: Path,
    wanted: Wanted,
    parts: Parts,
    halves: list[Frames],
    fitted: Fitted | None,
    threads: int,
    *,
    quiet: bool,
) -> tuple[Side, Side, dict[str, Any]]:
    """Ask, fit, write; the sides are what both bundles' exits say of the photos to report on."""
    from dataclasses import replace

    from popexd.evaluation.recalibration import forgotten, recalibrated, scaled, written
    from popexd.lab.photos import AS_IT_IS

    base = loaded if fitted is None else replace(loaded, quality=fitted.estimator)
    fit, report = (_said(base, frames, threads, quiet) for frames in halves)
    # An old expert answers where the old estimator sees its class.
    experts = any(variant.file for exit_ in loaded.exits for variant in exit_.by_quality.values())
    old = _said(loaded, halves[1], threads, quiet) if experts else _seen_again(loaded, report, halves[1])
    fresh, learned = recalibrated(base, fit, wanted)
    facts = {
        "method": wanted.method,
        "samples_of": wanted.samples_of,
        "target_confidence": wanted.target_confidence,
        "thresholds": _rule(wanted),
        "fitted_on": int(fit.label.size),
        "reported_on": int(report.label.size),
        "data": parts.origin,
        "learned_from": dict(zip(_names(loaded), learned.samples, strict=True)),
        "forgotten": list(forgotten(base)),
    }
    natural = halves[1].variant == AS_IT_IS
    new, answers = written(out, fresh, report, method=facts, source=loaded, natural=natural)
    return Side(loaded, scaled(loaded, old)), Side(new, answers), facts


def _said(bundle: Bundle, frames: Frames, threads: int, quiet: bool) -> Said:
    from popexd.evaluation.recalibration import Said

    seen = shared.seen_by(bundle.quality, frames)
    return Said(shared.ask_exits(bundle, frames, seen, threads, quiet), frames.label, frames.quality, seen)


def _seen_again(bundle: Bundle, said: Said, frames: Frames) -> Said:
    """What the same exits said, with the classes that another bundle's estimator sees."""
    from dataclasses import replace

    return replace(said, seen=shared.seen_by(bundle.quality, frames))


def _names(bundle: Bundle) -> tuple[str, ...]:
    return (*(exit_.name for exit_ in bundle.exits), "final")


def _rule(wanted: Wanted) -> str:
    if wanted.target is None:
        return wanted.thresholds
    if wanted.target.accuracy is not None:
        return f"accuracy of at least {wanted.target.accuracy:g}"
    return f"at most {1e3 * (wanted.target.cost or 0):g} ms"


def _draw(path: Path, before: Side, after: Side) -> None:
    from popexd.evaluation.reliability import reliability
    from popexd.lab.panels import Diagram, save_panels

    panels = [
        Diagram(f"{name}, {when}", reliability(side.answers.confidence[row], side.answers.correct[row]))
        for when, side in (("before", before), ("after", after))
        for row, name in enumerate(side.answers.exits)
    ]
    title = f"{after.bundle.name}: {after.answers.samples} frames that were not fitted on"
    save_panels(path, title, panels, columns=len(after.answers.exits))


def _form(before: Side, after: Side, facts: dict[str, Any], out: Path) -> dict[str, Any]:
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
    from popexd.evaluation.metrics import by_quality, figures
    from popexd.evaluation.policy import of_bundle

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


def _show(before: Side, after: Side, parts: Parts, fitted: Fitted | None, out: Path, *, traded: bool) -> None:
    from rich.console import Console

    from popexd.evaluation.metrics import figures
    from popexd.evaluation.policy import of_bundle

    console = Console()
    console.print(_exit_table(before, after))
    if len(set(after.answers.quality.tolist())) > 1:
        console.print(_class_table(before, after))
    then, now = (figures(side.answers, of_bundle(side.bundle)) for side in (before, after))
    print(
        f"all answers right: {shared.of_two(then.accuracy, now.accuracy)}; left at a branch: "
        f"{shared.of_two(then.device_share, now.device_share)}, right there: "
        f"{shared.of_two(then.device_accuracy, now.device_accuracy)}"
    )
    if now.accuracy < then.accuracy - WORSE and not traded:
        print("fewer answers are right than before: fit on more photos, or keep the old bundle")
    part = "the test photos" if parts.own else "the other half"
    print(f"{printable(parts.origin)}: fitted on one part, every figure above from {part}")
    for name, levels in of_bundle(after.bundle).by_quality.items():
        shown = (f"{branch} {threshold(level, after.bundle.criteria[branch])}" for branch, level in levels.items())
        print(f"thresholds where {name} is seen: {', '.join(shown)}")
    if fitted is not None:
        agreement = share(fitted.estimator.agreement)
        print(f"quality estimator: {', '.join(fitted.estimator.classes)}; right on {agreement} of frames not fitted on")
    print(f"{out}: {printable(after.bundle.name)}, fingerprint {after.bundle.fingerprint[:16]}")


def _exit_table(before: Side, after: Side) -> Any:
    """Show every exit before and after."""
    from rich import box
    from rich.table import Table

    from popexd.evaluation.metrics import figures
    from popexd.evaluation.policy import of_bundle

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
    from rich import box
    from rich.table import Table

    from popexd.evaluation.metrics import by_quality, figures
    from popexd.evaluation.policy import of_bundle

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
