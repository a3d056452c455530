"""`popexd compare`: every solver side by side on the same problem."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from popexd.cli import problem as ask
from popexd.cli.plan import brief
from popexd.cli.words import cut, milliseconds, printable, share
from popexd.cut import cut_of
from popexd.errors import Infeasible, InputError
from popexd.solvers import NAMES, NOTES, Problem, Solution, solver

AGAIN_SECONDS = 0.2

Names = Annotated[str | None, typer.Option("--solvers", metavar="NAME,...", help="these only")]
Plot = Annotated[Path | None, typer.Option(help="draw the comparison into this file (extra: plot)")]
Sweep = Annotated[
    str | None, typer.Option(metavar="RATE,...", help="uplinks to draw the expected time over, e.g. cat1,3g,4g,wifi")
]


def compare(
    profile: ask.Profile,
    uplink_mbps: ask.Rate,
    rtt_ms: ask.RoundTrip = 0.0,
    jitter_ms: ask.Jitter = 0.0,
    edge_uplink_mbps: ask.EdgeRate = None,
    edge_rtt_ms: ask.EdgeRoundTrip = 0.0,
    direct_uplink_mbps: ask.DirectRate = None,
    gamma: ask.Gamma = None,
    exit_probability: ask.ExitProbability = None,
    quality: ask.Quality = None,
    names: Names = None,
    objective: ask.Objective = "seconds",
    min_accuracy: ask.MinAccuracy = None,
    deadline_ms: ask.Deadline = None,
    thresholds: ask.Thresholds = None,
    max_packet_bytes: ask.Packet = None,
    frames_per_second: ask.FrameRate = None,
    plot: Plot = None,
    sweep: Sweep = None,
    as_json: ask.AsJson = False,
) -> None:
    """Solve for PROFILE with every solver and show what each expects, what it takes and how far it is from exact."""
    if plot is not None:
        from popexd.lab.pictures import check_picture

        check_picture("--plot", plot)
    chosen = _names(names)
    graph = ask.graph(profile, gamma, exit_probability, quality)
    links = ask.network(uplink_mbps, rtt_ms, jitter_ms, edge_uplink_mbps, edge_rtt_ms, direct_uplink_mbps)
    problem = ask.problem(
        graph, links, objective, min_accuracy, deadline_ms, thresholds, max_packet_bytes, frames_per_second
    )
    rates = [ask.rate("--sweep", text) for text in sweep.split(",")] if sweep is not None else []
    attempts = attempt(problem, chosen)
    swept = {rate: attempt(ask.at_rate(problem, rate), chosen) for rate in sorted(rates)}
    if plot is not None:
        draw(plot, problem, attempts, swept)
    if as_json:
        print(json.dumps(form(problem, attempts, swept), indent=2))
    else:
        _show(problem, attempts)
        if plot is not None:
            print(f"drawn into {plot}")


@dataclass(frozen=True)
class Attempt:
    """What one solver made of a problem: a solution, or the line that says why there is none."""

    name: str
    solution: Solution | None
    refusal: str
    solve_seconds: float


def attempt(problem: Problem, names: Iterable[str]) -> list[Attempt]:
    """Let each solver try, timed; what one cannot take it says."""
    found = []
    for name in names:
        first = _tried(name, problem)
        # What a first call loads is not part of solving; who is slow anyway is not asked twice.
        found.append(_tried(name, problem) if first.solution and first.solve_seconds < AGAIN_SECONDS else first)
    return found


def _tried(name: str, problem: Problem) -> Attempt:
    find = solver(name)
    solution, refusal, started = None, "", time.perf_counter()
    try:
        solution = find(problem)
    except (Infeasible, InputError) as error:
        refusal = str(error)
    return Attempt(name, solution, refusal, time.perf_counter() - started)


def optimum(problem: Problem, attempts: Iterable[Attempt]) -> float | None:
    """The least value of the objective, which `joint` finds; `exact` where joint was not asked."""
    by_name = {each.name: each for each in attempts}
    for name in ("joint", "exact", "brute-force"):
        known = by_name.get(name) or attempt(problem, [name])[0]
        if known.solution is not None:
            return known.solution.prediction.value(problem.objective)
    return None


def gap(problem: Problem, each: Attempt, least: float | None) -> float | None:
    """How far above the optimum a solver's plan is expected to be, as a share; None where that makes no sense."""
    if each.solution is None or least is None:
        return None
    value = each.solution.prediction.value(problem.objective)
    if least > 0:
        return value / least - 1
    return 0.0 if value == 0 else None


def form(problem: Problem, attempts: list[Attempt], swept: dict[float, list[Attempt]]) -> dict[str, Any]:
    """The comparison as JSON."""
    least = optimum(problem, attempts)
    rows = []
    for each in attempts:
        row: dict[str, Any] = {"solver": each.name, "solve_seconds": each.solve_seconds}
        if each.solution is None:
            row["refusal"] = each.refusal
        else:
            row |= brief(problem, each.solution) | {"solver": each.name, "gap_to_exact": gap(problem, each, least)}
        rows.append(row)
    found: dict[str, Any] = {"model": problem.graph.model, "objective": problem.objective, "solvers": rows}
    if swept:
        found["sweep"] = [
            {
                "uplink_mbps": rate,
                "seconds": {each.name: each.solution.prediction.seconds for each in tries if each.solution is not None},
            }
            for rate, tries in swept.items()
        ]
    return found


def draw(path: Path, problem: Problem, attempts: list[Attempt], swept: dict[float, list[Attempt]]) -> None:
    """Draw the comparison; over the rates of the sweep too, where there is one."""
    from popexd.lab.panels import Bars, Curves, save_panels

    solved = [each for each in attempts if each.solution is not None]
    least = optimum(problem, attempts)
    predictions = [each.solution.prediction for each in solved if each.solution is not None]
    names = [each.name for each in solved]
    bars = [
        Bars("expected time, ms", names, [1e3 * each.seconds for each in predictions]),
        Bars("bytes sent per frame, kB", names, [each.bytes / 1e3 for each in predictions]),
        Bars("device's energy per frame, mJ", names, [1e3 * each.device_joules for each in predictions]),
        Bars("time to solve, ms", names, [1e3 * each.solve_seconds for each in solved], logarithmic=True),
    ]
    if least is not None:
        bars.append(Bars("behind the optimum, %", names, [100 * (gap(problem, each, least) or 0.0) for each in solved]))
    lines = None
    if swept:
        rates = list(swept)
        curves = {name: (rates, [_milliseconds(tries, name) for tries in swept.values()]) for name in names}
        axes = ("over the uplink's rate", "uplink, Mbit/s", "expected time, ms")
        lines = Curves(*axes, curves, from_zero=False, x_logarithmic=True, y_logarithmic=True, x_ticks=rates)
    save_panels(path, f"{problem.graph.model}: {problem.objective}", bars, below=lines)


def _milliseconds(tries: Iterable[Attempt], name: str) -> float:
    for each in tries:
        if each.name == name and each.solution is not None:
            return 1e3 * each.solution.prediction.seconds
    return math.nan


def _names(text: str | None) -> tuple[str, ...]:
    if text is None:
        return NAMES
    chosen = tuple(part.strip() for part in text.split(","))
    for name in chosen:
        if name not in NAMES:
            raise InputError(f"--solvers: {name!r}, expected some of: {', '.join(NAMES)}")
    return chosen


def _show(problem: Problem, attempts: list[Attempt]) -> None:
    from rich import box
    from rich.table import Table

    from popexd.cli.tables import show

    least = optimum(problem, attempts)
    title = f"{printable(problem.graph.model)}, {problem.objective}"
    table = Table("solver", "cut after", "ms", "right", "kB", "mJ", "gap", "solve ms", title=title, box=box.SIMPLE_HEAD)
    for column in table.columns[2:]:
        column.justify = "right"
    refusals = []
    for each in attempts:
        if each.solution is None:
            refusals.append(f"{each.name}: {printable(each.refusal.removeprefix('solver: '))}")
            continue
        expected, behind = each.solution.prediction, gap(problem, each, least)
        table.add_row(
            each.name,
            cut(cut_of(each.solution.plan, problem.graph)).partition(" (")[0],
            milliseconds(expected.seconds),
            share(expected.accuracy),
            f"{expected.bytes / 1e3:.1f}",
            f"{1e3 * expected.device_joules:.1f}",
            share(behind),
            milliseconds(each.solve_seconds),
        )
    show(table)
    for line in [*refusals, *(f"{name}: {NOTES[name]}" for name in NOTES if name in {each.name for each in attempts})]:
        print(line)
