"""`popexd plan`: one decision for a profile and a link."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from popexd.cli.words import cut, milliseconds, printable, share
from popexd.cut import plan_to_json
from popexd.errors import InputError, ProfileError
from popexd.network import Link, NetworkState
from popexd.profile import LayerGraph
from popexd.solvers import Problem, Solution, solver
from popexd.solvers.strategies import alternatives


def plan(
    profile: Annotated[Path, typer.Argument(help="layer profile file (popexd/profile/1)")],
    uplink_mbps: Annotated[float, typer.Option(help="rate of what leaves the device, in 10^6 bit/s")],
    rtt_ms: Annotated[float, typer.Option(help="round trip of the device's links")] = 0.0,
    edge_uplink_mbps: Annotated[float | None, typer.Option(help="rate of what leaves the edge; uses the edge")] = None,
    edge_rtt_ms: Annotated[float, typer.Option(help="round trip from the edge to the cloud")] = 0.0,
    direct_uplink_mbps: Annotated[float | None, typer.Option(help="the device's own link to the cloud")] = None,
    gamma: Annotated[float | None, typer.Option(help="how many times slower than the cloud the device is")] = None,
    exit_probability: Annotated[list[str] | None, typer.Option(metavar="EXIT=P", help="may be repeated")] = None,
    solver_name: Annotated[str, typer.Option("--solver", help="joint, shortest-path, brute-force, ...")] = "joint",
    objective: Annotated[str, typer.Option(help="seconds, p95, bytes, device_seconds, throughput")] = "seconds",
    min_accuracy: Annotated[float | None, typer.Option(help="least expected accuracy, 0..1")] = None,
    deadline_ms: Annotated[float | None, typer.Option(help="most expected milliseconds")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
) -> None:
    """Decide where to cut the model of PROFILE, which branches run, and how what crosses is encoded."""
    graph = _graph(profile, gamma, _probabilities(exit_probability or ()))
    uplink = _link("--uplink-mbps", uplink_mbps, "--rtt-ms", rtt_ms)
    edge_uplink = _link("--edge-uplink-mbps", edge_uplink_mbps, "--edge-rtt-ms", edge_rtt_ms)
    direct = _link("--direct-uplink-mbps", direct_uplink_mbps, "--rtt-ms", rtt_ms)
    deadline = None if deadline_ms is None else deadline_ms / 1000
    problem = Problem(graph, NetworkState(uplink, edge_uplink, direct), min_accuracy, deadline, objective)
    find = solver(solver_name)
    started = time.perf_counter()
    solution = find(problem)
    solve_seconds = time.perf_counter() - started
    if as_json:
        print(json.dumps(decision(problem, solution, solve_seconds), indent=2))
    else:
        _show(problem, solution, solve_seconds)


def decision(problem: Problem, solution: Solution, solve_seconds: float) -> dict[str, Any]:
    """The decision as JSON."""
    expected = solution.prediction
    return {
        "solver": solution.solver,
        "objective": problem.objective,
        **plan_to_json(solution.plan, problem.graph, problem.network),
        "expected_seconds": expected.seconds,
        "p95_seconds": expected.p95_seconds,
        "expected_accuracy": expected.accuracy,
        "bytes": expected.bytes,
        "bytes_by_hop": dict(expected.bytes_by_hop),
        "exit_probabilities": dict(expected.exit_probabilities),
        "alternatives": [{"strategy": name, "seconds": seconds} for name, seconds in alternatives(problem)],
        "solve_seconds": solve_seconds,
    }


def _graph(profile: Path, gamma: float | None, probabilities: Mapping[str, float]) -> LayerGraph:
    graph = LayerGraph.load(profile)
    try:
        return (graph if gamma is None else graph.with_gamma(gamma)).with_probabilities(probabilities)
    except ProfileError as error:
        raise ProfileError(f"{profile}: {error}") from error


def _link(rate_option: str, rate_mbps: float | None, wait_option: str, wait_ms: float) -> Link | None:
    if not (math.isfinite(wait_ms) and wait_ms >= 0):
        raise InputError(f"{wait_option}: {wait_ms:g}, expected zero or more milliseconds")
    if rate_mbps is None:
        return None
    if not (math.isfinite(rate_mbps) and rate_mbps > 0):
        raise InputError(f"{rate_option}: {rate_mbps:g}, expected a positive number of Mbit/s")
    return Link(rate_mbps * 1e6, wait_ms / 1000)


def _probabilities(given: Sequence[str]) -> dict[str, float]:
    found = {}
    for text in given:
        name, equals, number = text.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            equals = ""
        if not equals or not 0 <= found[name] <= 1:
            raise InputError(f"--exit-probability: {text!r}, expected EXIT=P with P in 0..1")
    return found


def _show(problem: Problem, solution: Solution, solve_seconds: float) -> None:
    from rich.console import Console
    from rich.table import Table

    form, expected = plan_to_json(solution.plan, problem.graph, problem.network), solution.prediction
    places = list(form["tiers"].values())
    running = [name for name, choice in form["exits"].items() if choice["runs"]]
    facts = Table(title=f"{printable(problem.graph.model)}, {solution.solver}", show_header=False)
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
    console = Console()
    console.print(facts, beside)
