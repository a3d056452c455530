"""How long a frame takes that leaves at an exit: from a layer profile, a link and a cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from popexd.bundle import Bundle
from popexd.cli import problem as ask
from popexd.cut import cut_of
from popexd.errors import InputError
from popexd.latency import predict
from popexd.network import NetworkState
from popexd.plan import Plan, Tier
from popexd.profile import INPUT
from popexd.solvers import Problem, solver
from popexd.solvers.offers import offers

OUTPUT = "output"

Profile = Annotated[
    Path | None, typer.Option(help="layer profile of the bundle (popexd profile --out), for inference times")
]
Uplink = Annotated[
    str | None,
    typer.Option("--uplink-mbps", metavar="RATE", help="with --profile; without it nothing leaves the device"),
]
RoundTrip = Annotated[float, typer.Option("--rtt-ms", help="with --profile: round trip to the cloud")]
Gamma = Annotated[float | None, typer.Option(help="with --profile: how many times slower than the cloud the device is")]
Cut = Annotated[
    str | None,
    typer.Option(help="with --profile: 'input', the last segment on the device, or 'output'; else the quickest plan's"),
]


@dataclass(frozen=True)
class ExitTimes:
    """Seconds to the answer by exit, for the branches that run under a plan and for `final`; and where it cuts."""

    seconds: Mapping[str, float]
    cut: str

    @property
    def running(self) -> frozenset[str]:
        """The branches that run."""
        return frozenset(self.seconds) - {"final"}


def check_alone(profile: Path | None, uplink: str | None, rtt_ms: float, gamma: float | None, cut: str | None) -> None:
    """Raise InputError for an option that says nothing without a profile."""
    given = {"--uplink-mbps": uplink, "--rtt-ms": rtt_ms or None, "--gamma": gamma, "--cut": cut}
    alone = next((option for option, value in given.items() if value is not None), None)
    if profile is None and alone is not None:
        raise InputError(f"{alone}: times are not known, expected --profile too")


def exit_times(
    bundle: Bundle, profile: Path, uplink: str | None, rtt_ms: float, gamma: float | None, cut: str | None
) -> ExitTimes:
    """Price every exit by the one cost model, under the quickest plan (`joint`) or a cut that is given.

    A branch after the cut does not run: it is the device's.

    Raises:
        InputError: a profile of other exits, a rate, or a cut that makes no sense.
    """
    graph = ask.graph(profile, gamma, None)
    theirs, ours = {branch.name for branch in graph.exits}, {exit_.name for exit_ in bundle.exits}
    if theirs != ours:
        raise InputError(
            f"--profile: {profile}: exits {', '.join(sorted(theirs)) or 'none'}, expected those of {bundle.name}: "
            f"{', '.join(sorted(ours)) or 'none'}"
        )
    segments = tuple(segment.name for segment in bundle.segments)
    if set(graph.names) != set(segments):
        raise InputError(
            f"--profile: {profile}: layers {', '.join(graph.names[:4])}, …, expected the segments of {bundle.name}: "
            f"{', '.join(segments[:4])}, …"
        )
    links = NetworkState(None) if uplink is None else ask.network(uplink, rtt_ms, 0.0, None, 0.0, None)
    problem = Problem(graph, links)
    plan = solver("joint")(problem).plan if cut is None else _cut_at(problem, cut)
    expected = predict(plan, graph, links)
    where = cut_of(plan, graph)
    return ExitTimes(dict(expected.path_seconds), where if isinstance(where, str) else " + ".join(where))


def _cut_at(problem: Problem, cut: str) -> Plan:
    graph = problem.graph
    if cut == OUTPUT:
        return Plan(dict.fromkeys(graph.names, Tier.DEVICE), problem.exit_choices(graph.exits), {})
    if cut not in (INPUT, *graph.names[:-1]) or not graph.is_chain:
        raise InputError(f"--cut: {cut!r}, expected {INPUT}, {OUTPUT}, or one of {', '.join(graph.names[:-1])}")
    if Tier.CLOUD not in problem.available:
        raise InputError(f"--cut: {cut}: no way to the cloud, expected --uplink-mbps and a profile with its times")
    count = 0 if cut == INPUT else graph.names.index(cut) + 1
    tiers = {name: Tier.DEVICE if index < count else Tier.CLOUD for index, name in enumerate(graph.names)}
    running = [branch for branch in graph.exits if tiers[branch.after] is Tier.DEVICE]
    return Plan(tiers, problem.exit_choices(running), {Tier.DEVICE.label: offers(problem, Tier.CLOUD)[cut].codec})
