"""The report of `popexd evaluate` for people: tables and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from popexd.cli.words import asked, asked_time, lost, milliseconds, printable, share, threshold
from popexd.errors import InputError

if TYPE_CHECKING:
    from popexd.evaluation.metrics import Probability
    from popexd.evaluation.report import Choice, Group, Report, Swept
    from popexd.lab.panels import Curves

SHOWN_LEVELS = (*(step / 10 for step in range(10)), 0.95, 1.0)
SHOWN_POINTS = 12


def show(title: str, report: Report) -> None:
    """Print tables."""
    from popexd.cli import tables

    tables.show(_exits(title, report))
    for line in _lines(report):
        print(line)
    if report.apart:
        tables.show(_apart(report))
    if report.swept:
        tables.show(_swept(report), _screened(report))
    if report.choices:
        if any(choice.held_out is not None for choice in report.choices.values()):
            tables.show(_chosen(report))
        for name, choice in report.choices.items():
            if choice.refusal and name != "all":
                print(f"{printable(name)}: {choice.refusal}")
            elif choice.held_out is not None:
                print(f"{printable(name)}: {_verdict(report, choice.held_out)}")


def draw(folder: Path, title: str, report: Report) -> None:
    """Draw reliability.png, sweep.png and outage.png into a folder. Raises InputError where that cannot be."""
    from popexd.evaluation.reliability import reliability
    from popexd.folders import made
    from popexd.lab.panels import Diagram, Panel, draw_panels
    from popexd.lab.pictures import put

    answers = report.answers
    pictures: dict[str, list[Panel]] = {
        "reliability": [
            Diagram(name, reliability(answers.confidence[row], answers.correct[row]))
            for row, name in enumerate(answers.exits)
        ]
    }
    if report.swept:
        pictures |= {"sweep": [*_sweep_panels(report)], "outage": [_outage_panel(report)]}
    try:
        with made(folder):
            put(
                {
                    folder / f"{name}.png": partial(draw_panels, title=title, panels=panels, columns=len(panels))
                    for name, panels in pictures.items()
                }
            )
    except OSError as error:
        raise InputError(
            f"--plot: {folder}: {error.strerror or error}, expected a folder that can be written"
        ) from error


def _exits(title: str, report: Report) -> Any:
    from rich import box
    from rich.table import Table

    found = report.every.figures
    columns = ["exit", "threshold", "alone right", "error", "share", "right there"]
    table = Table(*columns, *(["ms"] if report.timed else []), title=printable(title), box=box.SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for name in report.answers.exits:
        runs = name in report.policy.thresholds
        level = "" if name == "final" else "does not run"
        if runs:
            level = _threshold(report, name, report.policy.thresholds[name])
        row = [
            name,
            level,
            share(found.accuracy_alone[name]),
            share(found.calibration_error[name]),
            share(found.shares[name]),
            share(found.accuracy_where_taken[name]),
        ]
        table.add_row(*row, *([milliseconds(report.costs.get(name))] if report.timed else []))
    return table


def _lines(report: Report) -> Iterator[str]:
    found, asked = report.every.figures, report.question
    criteria = {report.policy.criterion(name).name for name in report.policy.thresholds}
    unsure = "the final exit's" if asked.rule == "final" else "the most confident exit's"
    yield (
        f"{found.samples} samples: {share(found.accuracy)} of all answers right; where no branch is sure, {unsure} "
        f"(criterion: {', '.join(sorted(criteria)) or 'none'})"
    )
    yield (
        f"answered at a branch {share(found.device_share)}, right there {share(found.device_accuracy)}; not "
        f"answered at a branch {share(found.offloading)} (offloading by the papers' definition)"
    )
    for name, loss in found.lost.items():
        yield f"{name} {lost(loss)}"
    for name, levels in report.policy.by_quality.items():
        if levels:
            shown = (f"{branch} {_threshold(report, branch, level)}" for branch, level in levels.items())
            yield f"where {name} is seen: {', '.join(shown)}"
    yield (
        f"inference outage (a batch of {report.every.outage.size} right on the device below {asked.p_target:g}): "
        f"{_probability(report.every.outage)}"
    )
    if report.every.missed_deadline is not None:
        yield (
            f"missed deadline (mean above {milliseconds(asked.deadline_seconds)} ms, or right below "
            f"{asked.p_target:g}): "
            f"{_probability(report.every.missed_deadline)}"
        )
    if report.every.seconds is not None:
        yield f"mean time to the answer: {milliseconds(report.every.seconds)} ms"


def _probability(found: Probability) -> str:
    sure = "" if found.low is None else f"95 %: {share(found.low)} to {share(found.high)}"
    if found.batches == 1:
        sure = "there are no more samples: one batch, and no interval"
    empty = ""
    if found.without_exits:
        empty = f"{found.without_exits} of {found.batches} batches without an exit, no outages"
    told = "; ".join(part for part in (sure, empty) if part)
    return f"{share(found.mean)}{f' ({told})' if told else ''}"


def _apart(report: Report) -> Any:
    from rich import box
    from rich.table import Table

    names = report.answers.exits
    table = Table("quality", "frames", *names, "right", "device", "right there", "outage", box=box.SIMPLE_HEAD)
    table.title = "by quality, in per cent: each exit alone; all answers; what leaves on the device"
    for column in table.columns[1:]:
        column.justify = "right"
    if any(group.outage.batches == 1 for group in report.apart.values()):
        table.caption = f"outage: of one batch where there are no more than {report.question.batch} frames"
    for quality, group in report.apart.items():
        found = group.figures
        table.add_row(
            printable(quality),
            str(found.samples),
            *(_per_cent(found.accuracy_alone[name]) for name in names),
            _per_cent(found.accuracy),
            _per_cent(found.device_share),
            _per_cent(found.device_accuracy),
            _per_cent(group.outage.mean),
        )
    return table


def _per_cent(value: float | None) -> str:
    """Write a share without its sign, where columns are many."""
    return "-" if value is None else f"{100 * value:.1f}"


def _swept(report: Report) -> Any:
    from rich import box
    from rich.table import Table

    branches = list(report.policy.thresholds)
    shares = (f"{name} answers" for name in branches)
    table = Table("threshold", "right", *shares, "at no branch", "right there", _cost_name(report), box=box.SIMPLE_HEAD)
    table.title = "one threshold for all branches"
    for column in table.columns:
        column.justify = "right"
    for each in _shown_levels(report):
        point = each.point
        table.add_row(
            f"{each.level:g}",
            share(point.accuracy),
            *(share(point.shares[name]) for name in branches),
            share(point.shares["final"]),
            share(point.device_accuracy),
            _cost(report, point.cost),
        )
    return table


def _shown_levels(report: Report) -> Iterator[Swept]:
    """The levels of a table: round shares of the largest, from the least that there is."""
    confident = all(report.policy.criterion(name).name == "confidence" for name in report.policy.thresholds)
    # A confidence is never below one of so many classes: up to there all leave.
    least = 1 / report.answers.classes if confident and report.answers.classes else 0.0
    there, top = [each for each in report.swept if each.level >= least], report.swept[-1].level
    for each in there:
        if each is there[0] or any(abs(each.level / top - shown) < 1e-4 for shown in SHOWN_LEVELS):
            yield each


def _screened(report: Report) -> Any:
    from rich import box
    from rich.table import Table

    branches = list(report.policy.thresholds)
    table = Table(*branches, "right", "at no branch", _cost_name(report), box=box.SIMPLE_HEAD)
    count = min(SHOWN_POINTS, len(report.screened))
    last = len(report.screened) - 1
    shown = [report.screened[round(index * last / max(count - 1, 1))] for index in range(count)]
    some = "" if len(shown) == len(report.screened) else f"{len(shown)} of "
    table.title = f"BranchyNet's screening: {some}{len(report.screened)} points that buy accuracy"
    for column in table.columns:
        column.justify = "right"
    for point in shown:
        levels = (_threshold(report, name, point.thresholds[name]) for name in branches)
        table.add_row(*levels, share(point.accuracy), share(point.shares["final"]), _cost(report, point.cost))
    return table


def _chosen(report: Report) -> Any:
    from rich import box
    from rich.table import Table

    branches = list(report.policy.thresholds)
    columns = ["quality", *branches, "frames", "right", "then frames", "right", "at no branch", _cost_name(report)]
    table = Table(*columns, box=box.SIMPLE_HEAD)
    table.title = "chosen thresholds: on one half, and then on the other"
    for column in table.columns[1:]:
        column.justify = "right"
    for name, choice in report.choices.items():
        if choice.chosen is not None and choice.held_out is not None:
            table.add_row(*_chosen_row(report, name, choice, choice.held_out, branches))
    return table


def _verdict(report: Report, held_out: Group) -> str:
    """What was asked for, and what the half that was not chosen on gives."""
    target = report.question.target
    assert target is not None
    if target.cost is not None:
        return asked_time(target.cost, held_out.seconds or 0.0, held_out.figures.samples)
    return asked(target.accuracy or 0.0, held_out.figures.accuracy, held_out.figures.samples)


def _chosen_row(report: Report, name: str, choice: Choice, held_out: Group, branches: list[str]) -> list[str]:
    assert choice.chosen is not None
    then = held_out.figures
    cost = held_out.seconds
    if cost is None:
        cost = sum(then.shares[each] * report.costs[each] for each in then.shares if each in report.costs)
    return [
        printable(name),
        *(_threshold(report, branch, choice.chosen.thresholds[branch]) for branch in branches),
        str(choice.samples),
        share(choice.chosen.accuracy),
        str(then.samples),
        share(then.accuracy),
        share(then.offloading),
        _cost(report, cost),
    ]


def _threshold(report: Report, branch: str, level: float) -> str:
    return threshold(level, report.policy.criterion(branch))


def _cost_name(report: Report) -> str:
    return "ms" if report.timed else "depth"


def _cost(report: Report, cost: float) -> str:
    return milliseconds(cost) if report.timed else share(cost)


def _sweep_panels(report: Report) -> list[Curves]:
    from popexd.lab.panels import Curves

    x = [each.level for each in report.swept]
    criterion = {report.policy.criterion(name).name for name in report.policy.thresholds}.pop()
    unit = {"entropy": "entropy threshold, nats"}.get(criterion, f"{criterion} threshold")
    nothing = float("nan")
    right = {
        "all answers": [each.point.accuracy for each in report.swept],
        "on the device": [
            nothing if each.point.device_accuracy is None else each.point.device_accuracy for each in report.swept
        ],
        "the final exit alone": [report.every.figures.accuracy_alone["final"]] * len(x),
    }
    shares = {
        name: [each.point.shares[name] for each in report.swept]
        for name in report.answers.exits
        if name in _ran(report)
    }
    return [
        Curves("accuracy", unit, "share that is right", _over(x, right), from_zero=False),
        Curves("who answers", unit, "share of the frames", _over(x, shares)),
    ]


def _ran(report: Report) -> set[str]:
    return {*report.policy.thresholds, "final"}


def _outage_panel(report: Report) -> Curves:
    from popexd.lab.panels import Curves

    curves = {"at these thresholds": (list(report.outages), list(report.outages.values()))}
    if all(report.policy.criterion(name).name == "confidence" for name in report.policy.thresholds):
        some = [each for each in report.swept if each.level >= min(report.outages)]
        curves["thresholds at the target"] = ([each.level for each in some], [each.outage.mean for each in some])
    title = f"batches of {report.question.batch}"
    return Curves(title, "target accuracy on the device", "inference outage probability", curves)


def _over(x: list[float], curves: Mapping[str, list[float]]) -> dict[str, tuple[list[float], list[float]]]:
    return {name: (x, y) for name, y in curves.items()}
