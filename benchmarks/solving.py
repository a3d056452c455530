"""How long a decision takes to make."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from statistics import median

from popexd import bundle
from popexd.coordinator.planning import Planner, PlannerSettings
from popexd.network import Link, NetworkState
from popexd.plan import Tier
from popexd.runtime import background
from popexd.runtime.background import MachineProfile
from popexd.runtime.segments import SegmentRunner
from popexd.solvers import Problem, solve

from .figures import Figure, percentile
from .options import Options

AT_MOST_SECONDS = 0.005
_RATES = (1.1e6, 5.5e6, 18.8e6, 3e6, 40e6)
_SLOWDOWN = 30.0


def measure(options: Options) -> list[Figure]:
    """Solve the default bundle's problem on changing links, alone and the way the daemon does."""
    model = bundle.load("default")
    profile = background.measure(SegmentRunner(model, 1), model, 0.5)
    count = 50 if options.quick else 300
    whole = _timed(_daemon(profile), count)
    alone = _timed(_solver(profile), count)
    name = "a decision for the default bundle, the daemon's way, median"
    note = f"p95 {1000 * percentile(whole, 0.95):.1f} ms; with corrections, exit shares and the alternatives beside it"
    found = Figure("solve", name, median(whole), "ms", at_most=AT_MOST_SECONDS, note=note)
    note = f"p95 {1000 * percentile(alone, 0.95):.1f} ms"
    return [
        found,
        Figure("solve", "the joint solver alone, median", median(alone), "ms", at_most=AT_MOST_SECONDS, note=note),
    ]


def _timed(work: Callable[[Link], object], count: int) -> list[float]:
    links = [Link(rate, 0.02) for rate in _RATES]
    seconds = []
    for number, link in zip(range(count + 5), itertools.cycle(links), strict=False):
        began = time.perf_counter()
        work(link)
        if number >= 5:
            seconds.append(time.perf_counter() - began)
    return seconds


def planner(profile: MachineProfile) -> Planner:
    """Return a planner that has seen traffic: live exit shares, and corrections of everything that can have one."""
    model = bundle.load("default")
    device = profile.slowed(_SLOWDOWN)
    made = Planner(
        lambda remote: background.graph(model, device, remote), PlannerSettings(), "bench", time.perf_counter
    )
    learnt = made.corrections
    for _ in range(31):
        learnt.compute(Tier.DEVICE, 0.011, 0.010)
        learnt.compute(Tier.CLOUD, 0.002, 0.0021)
        learnt.decoded(0.02, 50_000)
        for cut, table in profile.encode.items():
            for codec in table:
                learnt.encoded(cut, codec, 0.002)
                learnt.far_decoded(cut, codec, 0.001)
    assert made.exit_rates is not None
    for number in range(200):
        made.exit_rates.add(model.exits[number % len(model.exits)].name if number % 3 else "final")
    return made


def _daemon(profile: MachineProfile) -> Callable[[Link], object]:
    made = planner(profile)
    instants = itertools.count()
    return lambda link: made.consider({Tier.CLOUD: profile}, link, None, "bench", float(next(instants)), urgent=True)


def _solver(profile: MachineProfile) -> Callable[[Link], object]:
    graph = planner(profile).graph({Tier.CLOUD: profile}, 0.0)
    tiers = frozenset({Tier.DEVICE, Tier.CLOUD})
    return lambda link: solve(
        "joint", Problem(graph=graph, network=NetworkState(link), min_agreement=0.98, tiers=tiers)
    )
