"""How long a decision takes to make."""

from __future__ import annotations

import itertools
import time
from statistics import median

from popexd import bundle
from popexd.bundle import Bundle
from popexd.network import Link, NetworkState
from popexd.plan import Tier
from popexd.runtime import background
from popexd.runtime.background import MachineProfile
from popexd.runtime.segments import SegmentRunner
from popexd.solvers import Problem, solve

from .figures import Figure, percentile
from .options import Options
from .virtual import VirtualDaemon

AT_MOST_SECONDS = 0.005
_RATES = (18.8e6, 1.1e6, 5.5e6, 40e6, 3e6)
_SLOWDOWN = 30.0
_FRAMES = 60
_WARM_UP = 5


def measure(options: Options) -> list[Figure]:
    """Solve the default bundle's problem, the way the daemon does and by the solver alone."""
    model = bundle.load("default")
    profile = background.measure(SegmentRunner(model, 1), model, 0.5)
    count = 50 if options.quick else 300
    whole = decision_seconds(model, profile, count)
    alone = _solver_seconds(model, profile, count)
    name = "a decision for the default bundle, the daemon's way, median"
    note = f"p95 {1000 * percentile(whole, 0.95):.1f} ms; with corrections, exit shares and the alternatives beside it"
    found = Figure("solve", name, median(whole), "ms", at_most=AT_MOST_SECONDS, note=note)
    note = f"p95 {1000 * percentile(alone, 0.95):.1f} ms"
    name = "the joint solver alone, median"
    return [found, Figure("solve", name, median(alone), "ms", at_most=AT_MOST_SECONDS, note=note)]


def decision_seconds(model: Bundle, profile: MachineProfile, count: int) -> list[float]:
    """Return the seconds of `count` decisions of a brain that frames have taught, made on a link that changes."""
    daemon = VirtualDaemon(model, profile.slowed(_SLOWDOWN), profile, _RATES[0])
    for _ in range(_FRAMES):
        daemon.frame()
    daemon.decision_seconds.clear()
    for rate in itertools.islice(itertools.cycle(_RATES), 4 * (count + _WARM_UP)):
        daemon.link(rate)
        if len(daemon.decision_seconds) >= count + _WARM_UP:
            break
    return daemon.decision_seconds[_WARM_UP : count + _WARM_UP]


def _solver_seconds(model: Bundle, profile: MachineProfile, count: int) -> list[float]:
    graph = background.graph(model, profile.slowed(_SLOWDOWN), {Tier.CLOUD: profile})
    tiers = frozenset({Tier.DEVICE, Tier.CLOUD})
    seconds = []
    for rate in itertools.islice(itertools.cycle(_RATES), count + _WARM_UP):
        problem = Problem(graph=graph, network=NetworkState(Link(rate, 0.02)), min_agreement=0.5, tiers=tiers)
        began = time.perf_counter()
        solve("joint", problem)
        seconds.append(time.perf_counter() - began)
    return seconds[_WARM_UP:]
