"""`popexd plan`: one decision for a profile and a link."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

from popexd.cli import problem as ask
from popexd.cli.words import cut, milliseconds, printable, share
from popexd.cut import plan_to_json
from popexd.errors import Infeasible, InputError
from popexd.solvers import NOTES, Problem, Solution, solver
from popexd.solvers.strategies import alternatives


def plan(
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
    solver_name: Annotated[str, typer.Option("--solver", help="joint, exact, shortest-path, ...")] = "joint",
    objective: ask.Objective = "seconds",
    min_accuracy: ask.MinAccuracy = None,
    deadline_ms: ask.Deadline = None,
    thresholds: ask.Thresholds = None,
    max_packet_bytes: ask.Packet = None,
    frames_per_second: ask.FrameRate = None,
    guard: Annotated[bool, typer.Option("--guard", help="hpa: the best of the simple plans beside it")] = False,
    as_json: ask.AsJson = False,
) -> None:
    """Decide where to cut the model of PROFILE, which branches run, and how what crosses is encoded."""
    find = solver(solver_name)
    if guard and solver_name != "hpa":
        raise InputError(f"--guard: with solver {solver_name!r}, expected hpa")
    graph = ask.graph(profile, gamma, exit_probability, quality)
    links = ask.network(uplink_mbps, rtt_ms, jitter_ms, edge_uplink_mbps, edge_rtt_ms, direct_uplink_mbps)
    problem = ask.problem(
        graph, links, objective, min_accuracy, deadline_ms, thresholds, max_packet_bytes, frames_per_second
    )
    started = time.perf_counter()
    try:
        solution = find(problem)
    except Infeasible as error:
        _show_nearest(problem, error, as_json=as_json)
        raise
    solve_seconds = time.perf_counter() - started
    beside = _guarded(problem) if guard else None
    if as_json:
        found = decision(problem, solution, solve_seconds)
        if beside is not None:
            found["guard"] = brief(problem, beside)
        print(json.dumps(found, indent=2))
    else:
        _show(problem, solution, solve_seconds, beside)
        if graph.quality_thresholds:
            names = ", ".join(sorted(graph.quality_thresholds))
            print(f"one plan for all frames; the daemon plans for each class: --quality with one of {printable(names)}")


def _guarded(problem: Problem) -> Solution:
    from popexd.solvers.hpa import guarded

    return guarded(problem)


def decision(problem: Problem, solution: Solution, solve_seconds: float) -> dict[str, Any]:
    """The decision as JSON."""
    return {
        **brief(problem, solution),
        "alternatives": [{"strategy": name, "seconds": seconds} for name, seconds in alternatives(problem)],
        "solve_seconds": solve_seconds,
    }


def brief(problem: Problem, solution: Solution) -> dict[str, Any]:
    """A plan and what is expected of it, as JSON."""
    expected = solution.prediction
    note = {"note": NOTES[solution.solver]} if solution.solver in NOTES else {}
    return {
        "solver": solution.solver,
        **note,
        "objective": problem.objective,
        **plan_to_json(solution.plan, problem.graph, problem.network),
        "expected_seconds": expected.seconds,
        "p95_seconds": expected.p95_seconds,
        "expected_accuracy": expected.accuracy,
        "bytes": expected.bytes,
        "bytes_by_hop": dict(expected.bytes_by_hop),
        "packet_bytes": expected.packet_bytes,
        "device_seconds": expected.device_seconds,
        "device_joules": expected.device_joules,
        "frames_per_second": 1 / expected.bottleneck_seconds if expected.bottleneck_seconds else None,
        "exit_probabilities": dict(expected.exit_probabilities),
    }


def _show_nearest(problem: Problem, error: Infeasible, *, as_json: bool) -> None:
    """Show the plans that come closest, where the solver knows them."""
    nearest: tuple[Solution, ...] = error.nearest
    if as_json:
        plans = [brief(problem, solution) for solution in nearest]
        print(json.dumps({"infeasible": str(error), "nearest": plans}, indent=2))
        return
    for solution in nearest:
        expected = solution.prediction
        form = plan_to_json(solution.plan, problem.graph, problem.network)
        right = "" if expected.accuracy is None else f", accuracy {share(expected.accuracy)}"
        print(
            f"nearest: cut after {cut(form['cut'])}, {milliseconds(expected.seconds)} ms "
            f"(95 of 100 in {milliseconds(expected.p95_seconds)}){right}, message {expected.packet_bytes:,.0f} bytes"
        )


def _show(problem: Problem, solution: Solution, solve_seconds: float, guard: Solution | None) -> None:
    from rich.table import Table

    from popexd.cli.tables import show

    form, expected = plan_to_json(solution.plan, problem.graph, problem.network), solution.prediction
    places = list(form["tiers"].values())
    running = [
        name if choice["threshold"] is None else f"{name} from {choice['threshold']:g}"
        for name, choice in form["exits"].items()
        if choice["runs"]
    ]
    facts = Table(title=f"{printable(problem.graph.model)}, {solution.solver}", show_header=False)
    if solution.solver in NOTES:
        facts.add_row(solution.solver, NOTES[solution.solver])
    facts.add_row("cut after", cut(form["cut"]))
    facts.add_row("layers", ", ".join(f"{places.count(tier)} {tier}" for tier in dict.fromkeys(places)))
    facts.add_row("exits that run", printable(", ".join(running)) or "none")
    facts.add_row("codec", " then ".join(form["codecs"].values()) or "nothing is sent")
    facts.add_row(
        "expected", f"{milliseconds(expected.seconds)} ms (95 of 100 in {milliseconds(expected.p95_seconds)})"
    )
    facts.add_row("accuracy", share(expected.accuracy))
    facts.add_row("bytes sent", f"{expected.bytes:,.0f} a frame")
    answers = (f"{printable(name)} {share(part)}" for name, part in expected.exit_probabilities.items())
    facts.add_row("answered by", ", ".join(answers))
    facts.add_row("solved in", f"{milliseconds(solve_seconds)} ms")
    beside = Table("instead", "expected ms", title="without a planner")
    beside.columns[1].justify = "right"
    for strategy, seconds in alternatives(problem):
        beside.add_row(strategy, milliseconds(seconds))
    if guard is not None:
        beside.add_row(f"guard: {NOTES[guard.solver]}", milliseconds(guard.prediction.seconds))
    show(facts, beside)
