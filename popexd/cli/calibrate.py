"""`popexd calibrate`: a bundle whose exits mean what they say, fitted on photos; its segments stay as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from popexd import bundle as bundles
from popexd.bundle import Bundle
from popexd.cli import evaluated as shared
from popexd.cli import exit_times as times
from popexd.criteria import CRITERIA
from popexd.errors import InputError

if TYPE_CHECKING:
    from popexd.cli.calibration_report import Side
    from popexd.evaluation.choosing import Target
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
    str | None,
    typer.Option(
        help="keep (the default, as far as the criterion stays), or reliable: a branch answers hardly worse "
        "than the network's end would"
    ),
]
TargetAccuracy = Annotated[float | None, typer.Option(help="the cheapest thresholds that are right so often")]
TargetTime = Annotated[
    float | None, typer.Option("--target-ms", help="the most accurate thresholds so quick; needs --profile")
]
Plot = Annotated[Path | None, typer.Option(help="draw reliability diagrams into this file (extra: plot)")]


def calibrate(
    bundle: shared.BundlePath,
    data: Data,
    out: Out,
    method: Method = "per-branch",
    samples_of: SamplesOf = "all",
    target_confidence: TargetConfidence = 0.8,
    criterion: ItsCriterion = None,
    thresholds: Thresholds = None,
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
    from popexd.cli import calibration_report as report
    from popexd.lab import photos

    loaded = bundles.load(bundle)
    _check(loaded, out, plot)
    times.check_alone(profile, uplink_mbps, rtt_ms, gamma, cut)
    target = _target(target_accuracy, target_ms, profile)
    wanted = _wanted(loaded, method, samples_of, target_confidence, criterion, thresholds, target)
    if profile is not None:
        wanted = _timed(loaded, wanted, times.exit_times(loaded, profile, uplink_mbps, rtt_ms, gamma, cut))
    names = photos.distortions(distort)
    parts = photos.photos(data, loaded, samples, seed)
    if not parts.report:
        raise InputError(f"--data: {parts.origin}, expected at least two of a class: one to fit on, one to report on")
    halves = [shared.read_frames(loaded, part, names, seed, as_json) for part in (parts.fit, parts.report)]
    fitted = _quality(halves[0], halves[1])
    before, after, facts = _calibrated(loaded, out, wanted, parts, halves, fitted, threads, quiet=as_json)
    if as_json:
        print(json.dumps(report.form(before, after, facts, out), indent=2))
    else:
        report.show(before, after, parts, fitted, facts, out)
    if plot is not None:
        report.draw(plot, before, after)
        if not as_json:
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
    bundle: Bundle,
    method: str,
    samples_of: str,
    target_confidence: float,
    criterion: str | None,
    thresholds: str | None,
    target: Target | None,
) -> Wanted:
    from popexd.evaluation.calibration import METHODS, SAMPLES
    from popexd.evaluation.recalibration import THRESHOLDS, Wanted, keeps

    shared.in_unit("--target-confidence", target_confidence)
    if thresholds is not None and target is not None:
        raise InputError(f"--thresholds: {thresholds}, together with a target for them, expected one of the two")
    wanted = Wanted(
        shared.one_of("--method", method, METHODS),
        shared.one_of("--samples-of", samples_of, SAMPLES),
        target_confidence,
        None if criterion is None else shared.one_of("--criterion", criterion, CRITERIA),
        shared.one_of("--thresholds", thresholds or "keep", THRESHOLDS),
        target,
    )
    if thresholds == "keep" and not keeps(bundle, wanted):
        raise InputError(
            f"--thresholds: keep: as {criterion} those of {bundle.name} would mean something else, expected reliable, "
            "a target, or no --criterion"
        )
    return wanted


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

    from popexd.cli.calibration_report import Side
    from popexd.evaluation.outcomes import exit_names
    from popexd.evaluation.recalibration import forgotten, recalibrated, scaled, written
    from popexd.lab.provenance import TUNING, VALIDATION, Known, known

    base = loaded if fitted is None else replace(loaded, quality=fitted.estimator)
    fit, rest = (_said(base, frames, threads, quiet) for frames in halves)
    # An old expert answers where the old estimator sees its class.
    experts = any(variant.file for exit_ in loaded.exits for variant in exit_.by_quality.values())
    old = _said(loaded, halves[1], threads, quiet) if experts else _seen_again(loaded, rest, halves[1])
    fresh, learned = recalibrated(base, fit, wanted)
    facts = {
        "method": wanted.method,
        "samples_of": wanted.samples_of,
        "target_confidence": wanted.target_confidence,
        "thresholds": _rule(loaded, wanted),
        "target": _form(wanted),
        "fitted_on": int(fit.label.size),
        "reported_on": int(rest.label.size),
        "data": parts.origin,
        **learned.to_json(exit_names(loaded)),
        "forgotten": list(forgotten(base)),
    }
    # From now on the network is tuned on the one half, and the other still tells the truth about it.
    own = known({TUNING: halves[0].photo, VALIDATION: halves[1].photo}).joined(parts.known or Known(complete=False))
    new, answers = written(out, fresh, rest, method=facts, source=loaded, natural=halves[1].natural, known=own.arrays())
    return Side(loaded, scaled(loaded, old)), Side(new, answers), facts


def _said(bundle: Bundle, frames: Frames, threads: int, quiet: bool) -> Said:
    from popexd.evaluation.recalibration import Said

    seen = shared.seen_by(bundle.quality, frames)
    logits = shared.ask_exits(bundle, frames, seen, threads, quiet)
    return Said(logits, frames.label, frames.quality, seen, frames.photo)


def _seen_again(bundle: Bundle, said: Said, frames: Frames) -> Said:
    """What the same exits said, with the classes that another bundle's estimator sees."""
    from dataclasses import replace

    return replace(said, seen=shared.seen_by(bundle.quality, frames))


def _form(wanted: Wanted) -> dict[str, Any] | None:
    """The target of the thresholds, for the report and for bundle.json."""
    if wanted.target is None:
        return None
    if wanted.target.cost is None:
        return {"accuracy": wanted.target.accuracy}
    return {"seconds": wanted.target.cost, "seconds_by_exit": dict(wanted.costs)}


def _rule(bundle: Bundle, wanted: Wanted) -> str:
    """How thresholds come about, in a word or two, for the report and for bundle.json."""
    from popexd.evaluation.recalibration import keeps

    if wanted.target is None:
        return "keep" if keeps(bundle, wanted) else "reliable"
    if wanted.target.accuracy is not None:
        return f"accuracy of at least {wanted.target.accuracy:g}"
    return f"at most {1e3 * (wanted.target.cost or 0):g} ms"
