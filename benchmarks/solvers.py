"""How far every planner is from the optimum on a generated suite, and how long planning takes.

    python -m benchmarks.solvers [--problems N] [--json]

The row of Inception-v4 needs the extra `train`, for the graph only.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from popexd.errors import Infeasible, InputError
from popexd.network import Link, NetworkState
from popexd.plan import Tier
from popexd.profile import INPUT, CodecCost, Exit, Layer, LayerGraph
from popexd.solvers import NAMES, Problem, solve, solver
from popexd.solvers.hpa import guarded
from popexd.solvers.problem import THRESHOLDS
from popexd.validation import FINAL, Validation

from .figures import Figure
from .options import Options

SLOWER = {Tier.DEVICE: 12.0, Tier.EDGE: 3.0, Tier.CLOUD: 1.0}
ROUNDS = 7


@dataclass(frozen=True)
class Gap:
    """One solver over the suite: how much longer its plans take than the optimum, as shares."""

    solver: str
    solved: int
    mean: float
    median: float
    worst: float
    optimal: float


@dataclass(frozen=True)
class Speed:
    """One figure of speed: the best and the median of some rounds, against its goal."""

    what: str
    best_seconds: float
    median_seconds: float
    goal_seconds: float


def suite(count: int) -> list[Problem]:
    """Chains with exits, residual networks, Inception-like ones; two and three tiers; links from 0.3 to 100 Mbit/s."""
    return [_problem(random.Random(seed)) for seed in range(count)]


def _problem(numbers: random.Random) -> Problem:
    arms = numbers.choice([(1,), (1,), (2, 0), (1, 2, 3, 2)])
    layers, spine = [], [INPUT]
    size = 10 ** numbers.uniform(4.5, 6)
    tiers = numbers.choice([(Tier.DEVICE, Tier.CLOUD), tuple(Tier), tuple(Tier)])

    def add(after: tuple[str, ...], bytes_: float) -> str:
        work = 10 ** numbers.uniform(-4, -2.3)
        seconds = {tier: work * SLOWER[tier] * numbers.uniform(0.7, 1.4) for tier in tiers}
        layers.append(Layer(f"v{len(layers) + 1}", after, seconds, bytes_))
        return layers[-1].name

    for _ in range(numbers.randint(3, 6)):
        size *= numbers.uniform(0.3, 1.3)
        ends = []
        for length in arms:
            end = spine[-1]
            for _ in range(length):
                end = add((end,), size * numbers.uniform(0.3, 1.0))
            ends.append(end)
        # An arm of no layers, the shortcut, reads what the block does.
        spine.append(ends[0] if len(arms) == 1 else add(tuple(dict.fromkeys(ends)), size))
    add((spine[-1],), 4000.0)
    hosts = numbers.sample(spine[1:], min(2, len(spine) - 1)) if numbers.random() < 0.6 else []
    exits = tuple(
        Exit(f"b{index}", host, {tier: 2e-4 * SLOWER[tier] for tier in tiers}, numbers.uniform(0.1, 0.7))
        for index, host in enumerate(hosts)
    )
    links = (
        Link(10 ** numbers.uniform(5.5, 8), numbers.choice([0.0, 0.01, 0.04])),
        Link(10 ** numbers.uniform(6.5, 8.5)),
    )
    graph = LayerGraph("generated", 10 ** numbers.uniform(5, 6), tuple(layers), exits)
    return Problem(graph, NetworkState(links[0], links[1] if len(tiers) == 3 else None))


def gaps(problems: Sequence[Problem]) -> list[Gap]:
    """Let every solver try every problem; `exact` is the yardstick."""
    methods: dict[str, Callable[[Problem], object]] = {
        name: solver(name) for name in NAMES if name not in {"exact", "brute-force"}
    }
    methods["hpa-guard"] = guarded
    least = [solve("exact", problem).prediction.seconds for problem in problems]
    found = []
    for name, method in methods.items():
        behind = []
        for problem, best in zip(problems, least, strict=True):
            try:
                solution: object = method(problem)
            except (InputError, Infeasible):
                continue
            behind.append(solution.prediction.seconds / best - 1)  # type: ignore[attr-defined]
        if behind:
            optimal = sum(gap < 1e-9 for gap in behind) / len(behind)
            found.append(
                Gap(name, len(behind), statistics.fmean(behind), statistics.median(behind), max(behind), optimal)
            )
    return found


def large(samples: int = 2000) -> LayerGraph:
    """5 exits, 30 cuts, 6 codecs, 3 tiers, a validation table."""
    numbers, draws = random.Random(1), np.random.default_rng(0)
    names = [f"v{index}" for index in range(1, 31)]
    layers = tuple(
        Layer(
            name,
            (names[index - 1] if index else INPUT,),
            {tier: numbers.uniform(1e-4, 1e-2) * SLOWER[tier] for tier in Tier},
            numbers.uniform(1e3, 1e5),
        )
        for index, name in enumerate(names)
    )
    exits = tuple(Exit(f"b{k}", f"v{5 * k + 3}", {Tier.DEVICE: 0.01, Tier.EDGE: 0.003}) for k in range(5))
    ease, skill = draws.random(samples), np.linspace(0.4, 1, 6)[:, None]
    confidence = np.clip(0.3 + 0.7 * ease * skill + 0.1 * draws.standard_normal((6, samples)), 0, 1)
    correct = draws.random((6, samples)) < np.clip(0.3 + 0.7 * confidence, 0, 0.98)
    kinds = (("f32", 1, 0.1, 0), ("f16", 0.5, 0.2, 0.1), ("q8", 0.25, 0.3, 0.3), ("q8+zstd", 0.15, 0.8, 0.3))
    kinds += (("q4", 0.125, 0.3, 1), ("q4+zstd", 0.08, 0.9, 1))
    codecs = {
        point: {
            name: CodecCost(share * size, work / 1e3, work / 2e3, 0.8 - 0.02 * loss, 1 - 0.01 * loss)
            for name, share, work, loss in kinds
        }
        for point, size in [(INPUT, 150_000.0), *((layer.name, layer.output_bytes) for layer in layers)]
    }
    table = Validation([*(branch.name for branch in exits), FINAL], confidence, correct)
    return LayerGraph("large", 150_000.0, layers, exits, codecs, {Tier.DEVICE: 0.004}, 200, table)


def default_bundle() -> LayerGraph:
    """The bundle that ships, measured here for a moment."""
    from popexd import bundle
    from popexd.protocol.tensors import ENVELOPE_BYTES
    from popexd.runtime.background import graph, measure
    from popexd.runtime.segments import SegmentRunner

    loaded = bundle.load("default")
    runner = SegmentRunner(loaded, 1)
    here = measure(runner, loaded, 0.5)
    runner.close()
    return graph(loaded, here.slowed(8.0), {Tier.CLOUD: here}, envelope_bytes=ENVELOPE_BYTES)


def inception() -> LayerGraph | None:
    """Inception-v4 on three tiers, 20 G multiply-adds a second in the cloud; None without torch."""
    try:
        from popexd.training.vertices import load
    except ModuleNotFoundError:
        return None
    network = load("inception_v4")
    layers = tuple(
        Layer(
            vertex.name,
            vertex.after,
            {tier: slower * (2e-5 + vertex.multiply_adds / 20e9) for tier, slower in SLOWER.items()},
            vertex.output_bytes,
        )
        for vertex in network.vertices
    )
    return LayerGraph(network.name, network.input_bytes, layers)


def speeds() -> list[Speed]:
    """The table of issue 3."""
    uplink, onwards = Link(5e6, 0.03), Link(50e6, 0.01)
    bundled, wide = default_bundle(), large()
    swept = Problem(wide, NetworkState(uplink, onwards), thresholds=THRESHOLDS, min_accuracy=0.7)
    found = [
        _timed("joint, default bundle", "joint", Problem(bundled, NetworkState(uplink), min_agreement=0.98), 0.010),
        _timed("joint, 5 exits x 30 cuts x 6 codecs x 3 tiers", "joint", replace(swept, thresholds=None), 0.150),
        _timed("the same, 5 thresholds a branch swept", "joint", swept, 0.150),
        _timed("shortest-path, 200 layers", "shortest-path", Problem(_long(), NetworkState(uplink)), 0.020),
    ]
    five = inception()
    if five is not None:
        relayed = NetworkState(Link(85e6, 0.005), Link(20e6, 0.02))
        found.append(_timed("exact, Inception-v4, three tiers, relayed", "exact", Problem(five, relayed), 0.100))
        direct = replace(relayed, direct=Link(10e6, 0.03))
        found.append(_timed("exact, Inception-v4, three tiers, direct link", "exact", Problem(five, direct), 1.0))
    return [*found, _imported()]


def _long() -> LayerGraph:
    numbers = random.Random(0)
    names = [f"v{index}" for index in range(1, 201)]
    layers = tuple(
        Layer(
            name,
            (names[index - 1] if index else INPUT,),
            {tier: numbers.uniform(1e-4, 1e-3) * SLOWER[tier] for tier in (Tier.DEVICE, Tier.CLOUD)},
            numbers.uniform(1e3, 1e5),
        )
        for index, name in enumerate(names)
    )
    exits = tuple(Exit(f"b{k}", f"v{20 * k}", {Tier.DEVICE: 1e-3}, 0.2) for k in range(1, 9))
    return LayerGraph("long", 150_000.0, layers, exits)


def _timed(what: str, name: str, problem: Problem, goal_seconds: float) -> Speed:
    find = solver(name)
    times = []
    for _ in range(ROUNDS):
        # Costs are worked out anew, as in a replan; only the layout is kept from the round before.
        fresh = replace(problem, graph=replace(problem.graph))
        started = time.perf_counter()
        find(fresh)
        times.append(time.perf_counter() - started)
    return Speed(what, min(times), statistics.median(times), goal_seconds)


def _imported() -> Speed:
    code = "import time; started = time.perf_counter(); import popexd.solvers; print(time.perf_counter() - started)"
    times = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    ]
    return Speed("import popexd.solvers", min(times), statistics.median(times), 0.5)


def measure(options: Options) -> list[Figure]:
    """Hold the joint planner against the optimum, and every planner's time against its goal."""
    count = 60 if options.quick else 300
    behind = {gap.solver: gap for gap in gaps(suite(count))}
    joint = behind["joint"]
    others = ", ".join(f"{name} {1 + gap.mean:.2f}" for name, gap in behind.items() if name != "joint")
    name = f"the joint planner's plans against the optimum, worst of {joint.solved} generated problems"
    details = {"gaps": [asdict(gap) for gap in behind.values()]}
    worst = Figure("planners", name, 1 + joint.worst, "x", None, 1 + 1e-9, f"means of the others: {others}", details)
    return [worst, *(_figure(speed) for speed in speeds())]


def _figure(speed: Speed) -> Figure:
    note = f"the best {1e3 * speed.best_seconds:.1f} ms"
    return Figure("planners", speed.what, speed.median_seconds, "ms", None, speed.goal_seconds, note, asdict(speed))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    behind, fast = gaps(suite(options.problems)), speeds()
    if options.json:
        print(json.dumps({"gaps": [asdict(each) for each in behind], "speeds": [asdict(each) for each in fast]}))
        return
    print(f"behind the optimum, {options.problems} generated problems\n")
    print(f"{'solver':16} {'taken':>6} {'mean':>9} {'median':>9} {'worst':>9} {'optimal':>9}")
    for gap in behind:
        print(f"{gap.solver:16} {gap.solved:6} {gap.mean:9.1%} {gap.median:9.1%} {gap.worst:9.1%} {gap.optimal:9.1%}")
    print(f"\n{'':48} {'best ms':>9} {'median':>9} {'goal':>7}")
    for speed in fast:
        print(
            f"{speed.what:48} {1e3 * speed.best_seconds:9.1f} {1e3 * speed.median_seconds:9.1f} "
            f"{1e3 * speed.goal_seconds:7.0f}"
        )


if __name__ == "__main__":
    main()
