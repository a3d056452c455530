"""`popexd evaluate`: what a bundle's exits are worth, alone and together, and what other thresholds would give."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from popexd import bundle as bundles
from popexd.bundle import Bundle
from popexd.cli import evaluated as shared
from popexd.cli import exit_times as times
from popexd.criteria import CRITERIA, Criterion
from popexd.errors import Infeasible, InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from popexd.evaluation.outcomes import Answers
    from popexd.evaluation.policy import Policy
    from popexd.evaluation.report import Question

Data = Annotated[
    str | None,
    typer.Option(
        help="a folder with a folder of photos per class (also under val and test), frames that train prepared, or "
        "'generated'; without it: the bundle's own validation table"
    ),
]
Levels = Annotated[
    str | None,
    typer.Option("--thresholds", metavar="EXIT=T,...", help="instead of the bundle's, for every quality class"),
]
ItsCriterion = Annotated[
    str | None, typer.Option("--criterion", help=f"{', '.join(CRITERIA)}; thresholds are in its unit")
]
Answer = Annotated[str, typer.Option(help="where no branch is sure: final, or most-confident of all exits")]
Target = Annotated[float, typer.Option("--p-target", help="accuracy below which a batch is an outage")]
Deadline = Annotated[float | None, typer.Option("--deadline-ms", help="for missed deadlines; needs --profile")]
Batch = Annotated[int, typer.Option(min=1, help="samples in a batch")]
Reshuffles = Annotated[int, typer.Option(min=1, max=100_000, help="of the samples into batches")]
Sweep = Annotated[bool, typer.Option("--sweep", help="one threshold for all branches; BranchyNet's list")]
ChooseAccuracy = Annotated[float | None, typer.Option(help="the cheapest thresholds that are right so often")]
ChooseTime = Annotated[
    float | None, typer.Option("--choose-ms", help="the most accurate thresholds so quick; needs --profile")
]
Plot = Annotated[Path | None, typer.Option(help="draw into this folder (extra: plot)")]


def evaluate(
    bundle: shared.BundlePath = "default",
    data: Data = None,
    distort: shared.Distort = None,
    thresholds: Levels = None,
    criterion: ItsCriterion = None,
    answer: Answer = "final",
    p_target: Target = 0.8,
    deadline_ms: Deadline = None,
    profile: times.Profile = None,
    uplink_mbps: times.Uplink = None,
    rtt_ms: times.RoundTrip = 0.0,
    gamma: times.Gamma = None,
    cut: times.Cut = None,
    batch: Batch = 256,
    reshuffles: Reshuffles = 100,
    sweep: Sweep = False,
    choose_accuracy: ChooseAccuracy = None,
    choose_ms: ChooseTime = None,
    samples: shared.Samples = None,
    seed: shared.Seed = 2021,
    threads: shared.Threads = 0,
    plot: Plot = None,
    as_json: shared.AsJson = False,
) -> None:
    """Evaluate the exits of BUNDLE on photos, or on its own validation table."""
    question = _question(answer, p_target, deadline_ms, batch, reshuffles, seed, sweep, choose_accuracy, choose_ms)
    if profile is None and (deadline_ms is not None or choose_ms is not None):
        raise InputError("--deadline-ms and --choose-ms: times are not known, expected --profile too")
    times.check_alone(profile, uplink_mbps, rtt_ms, gamma, cut)
    if plot is not None:
        from popexd.lab.pictures import check_pictures

        check_pictures("--plot", plot)
    loaded = bundles.load(bundle)
    policy = _policy(loaded, thresholds, criterion, chosen=question.target is not None)
    priced = None if profile is None else times.exit_times(loaded, profile, uplink_mbps, rtt_ms, gamma, cut)
    if priced is not None:
        policy = policy.only(priced.running)
    question = replace(question, sweep=_sweeps(policy, asked=sweep, drawn=plot is not None))
    answers, groups, origin = _answers(loaded, data, distort, samples, seed, threads, quiet=as_json)
    _report(loaded, policy, answers, groups, origin, question, priced, plot, as_json=as_json)


def _report(
    loaded: Bundle,
    policy: Policy,
    answers: Answers,
    groups: dict[str, npt.NDArray[np.bool_]] | None,
    origin: str,
    question: Question,
    priced: times.ExitTimes | None,
    plot: Path | None,
    *,
    as_json: bool,
) -> None:
    """Examine, draw and print; a target that is out of reach, or that other samples refute, is the last word."""
    from popexd.cli import evaluation_report
    from popexd.evaluation.report import ALL, examine, refuted
    from popexd.evaluation.sweeps import depth

    if priced is None:
        report = examine(answers, policy, depth(loaded), question, groups=groups)
    else:
        report = examine(answers, policy, priced.seconds, question, timed=True, groups=groups)
    where = f"{loaded.name}, {origin}" + ("" if priced is None else f", cut after {priced.cut}")
    if as_json:
        head: dict[str, Any] = {"bundle": loaded.name, "fingerprint": loaded.fingerprint, "data": origin}
        print(json.dumps(head | ({} if priced is None else {"cut": priced.cut}) | report.to_json(), indent=2))
    else:
        evaluation_report.show(where, report)
    if plot is not None:
        evaluation_report.draw(plot, where, report)
        if not as_json:
            print(f"drawn into {plot}")
    if report.choices and report.choices[ALL].chosen is None:
        raise Infeasible(report.choices[ALL].refusal)
    if complaint := refuted(report):
        raise Infeasible(complaint)


def _question(
    answer: str,
    p_target: float,
    deadline_ms: float | None,
    batch: int,
    reshuffles: int,
    seed: int,
    sweep: bool,
    choose_accuracy: float | None,
    choose_ms: float | None,
) -> Question:
    from popexd.evaluation.choosing import Target as Wanted
    from popexd.evaluation.metrics import ANSWER_RULES
    from popexd.evaluation.report import Question

    shared.in_unit("--p-target", p_target)
    shared.in_unit("--choose-accuracy", choose_accuracy)
    if choose_accuracy is not None and choose_ms is not None:
        raise InputError("--choose-ms: together with --choose-accuracy, expected one of them")
    target = None
    if choose_accuracy is not None:
        target = Wanted(accuracy=choose_accuracy)
    elif choose_ms is not None:
        target = Wanted(cost=shared.positive_seconds("--choose-ms", choose_ms))
    return Question(
        rule=shared.one_of("--answer", answer, ANSWER_RULES),
        p_target=p_target,
        deadline_seconds=None if deadline_ms is None else shared.positive_seconds("--deadline-ms", deadline_ms),
        batch=batch,
        reshuffles=reshuffles,
        seed=seed,
        sweep=sweep,
        target=target,
    )


def _sweeps(policy: Policy, *, asked: bool, drawn: bool) -> bool:
    """Whether one threshold is tried for all branches; pictures have that where it makes sense.

    Raises InputError where it is asked for and does not.
    """
    from popexd.evaluation.report import one_criterion

    if not policy.thresholds or not (asked or drawn):
        return False
    try:
        one_criterion(policy)
    except InputError:
        if asked:
            raise
        return False
    return True


def _policy(bundle: Bundle, thresholds: str | None, criterion: str | None, *, chosen: bool) -> Policy:
    """The bundle's rule, with the thresholds and the criterion that are given."""
    from popexd.evaluation.policy import Policy, of_bundle
    from popexd.evaluation.sweeps import nothing

    own = of_bundle(bundle)
    given = _levels(bundle, thresholds)
    criteria = dict(own.criteria)
    if criterion is not None:
        wanted = Criterion(shared.one_of("--criterion", criterion, CRITERIA), len(bundle.classes))
        unknown = [name for name in own.thresholds if name not in given and own.criterion(name) != wanted]
        if unknown and not chosen:
            raise InputError(
                f"--criterion: {criterion}: {', '.join(unknown)} would have no thresholds in its unit, expected "
                "--thresholds too"
            )
        criteria = dict.fromkeys(own.thresholds, wanted)
        # Thresholds are about to be chosen; until then no branch answers.
        given = {name: nothing(wanted) for name in unknown} | given
    by_quality = {
        name: {branch: level for branch, level in levels.items() if branch not in given}
        for name, levels in own.by_quality.items()
    }
    return Policy({**own.thresholds, **given}, criteria, by_quality)


def _levels(bundle: Bundle, text: str | None) -> dict[str, float]:
    names = [exit_.name for exit_ in bundle.exits]
    found = {}
    for part in (text or "").split(",") if text is not None else ():
        name, equals, number = part.strip().partition("=")
        try:
            found[name] = float(number) if equals else math.nan
        except ValueError:
            found[name] = math.nan
        if name not in names:
            raise InputError(f"--thresholds: no exit {name!r} in {bundle.name}, expected some of: {', '.join(names)}")
        if not (math.isfinite(found[name]) and found[name] >= 0):
            raise InputError(
                f"--thresholds: {part.strip()!r}, expected EXIT=T with T zero or more, such as {names[0]}=0.9"
            )
    return found


def _answers(
    bundle: Bundle,
    data: str | None,
    distort: str | None,
    samples: int | None,
    seed: int,
    threads: int,
    *,
    quiet: bool,
) -> tuple[Answers, dict[str, npt.NDArray[np.bool_]] | None, str]:
    """What the exits say, which samples belong together, and where they are from."""
    from popexd.evaluation.outcomes import of_table
    from popexd.evaluation.recalibration import Said, scaled
    from popexd.lab import photos

    if data is None:
        if distort is not None or samples is not None:
            option = "--distort" if distort is not None else "--samples"
            raise InputError(f"{option}: the validation table holds no photos, expected --data too")
        table = bundle.validation
        return of_table(table, len(bundle.classes)), None, f"its {table.samples} validation frames"
    names = photos.distortions(distort)
    chosen = photos.photos(data, bundle, samples, seed, whole=True)
    frames = shared.read_frames(bundle, chosen.report, names, seed, quiet)
    seen = shared.seen_by(bundle.quality, frames)
    said = Said(
        shared.ask_exits(bundle, frames, seen, threads, quiet), frames.label, frames.quality, seen, frames.photo
    )
    groups = {name: frames.variant == name for name in (photos.AS_IT_IS, *names)} if names else None
    return scaled(bundle, said), groups, chosen.origin
