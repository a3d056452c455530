"""The joint planner: exact by comparison with brute force, and plain about what cannot be."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popexd.errors import Infeasible, InputError
from popexd.network import Link, NetworkState
from popexd.plan import Tier
from popexd.profile import INPUT, Layer, LayerGraph
from popexd.solvers import MODES, Problem, Solution, solve
from popexd.solvers.problem import TARGETS, THRESHOLDS
from tests.graphs import (
    CLOUD,
    DEVICE,
    EDGE,
    chain,
    label_of,
    random_chain,
    random_dag,
    random_network,
    synthetic,
    toy,
    two_branches,
    uplink,
)
from tests.solvers.tables import tabled


def joint(problem: Problem) -> Solution:
    """Solve jointly."""
    return solve("joint", problem)


def outcome(name: str, problem: Problem) -> tuple[object, ...]:
    """What a solver makes of a problem: the objective in whole nanoseconds (or millibytes) and the plan, or why not."""
    try:
        found = solve(name, problem)
    except Infeasible as error:
        return (str(error),)
    figures = found.prediction
    values = {"p95": figures.p95_seconds, "throughput": figures.bottleneck_seconds, "bytes": figures.bytes * 1e-6}
    value = values.get(problem.objective, getattr(figures, problem.objective, 0.0))
    return round(value * 1e9), found.plan


def random_problem(seed: int) -> Problem:
    """Chains and DAGs over two or three tiers with exits, codecs, table, jitter and constraints of all kinds."""
    rng = random.Random(seed)
    tiers = rng.choice([(DEVICE, CLOUD), (DEVICE, EDGE), tuple(Tier), tuple(Tier)])
    rich = rng.random() < 0.6
    make = rng.choice([random_chain, random_chain, random_dag])
    graph = make(rng, rng.randint(1, 5), rng.randint(0, 3 if make is random_chain else 2), tiers, rich=rich)
    network = random_network(rng)
    if rng.random() < 0.3:
        links = (network.uplink, network.edge_uplink, network.direct)
        network = NetworkState(*(link and replace(link, jitter_seconds=rng.choice([0.0, 0.02])) for link in links))
    return Problem(
        graph,
        network,
        min_accuracy=rng.choice([None, None, 0.6, 0.7]) if rich else None,
        deadline_seconds=rng.choice([None, None, 0.05, 0.1]),
        objective=rng.choice(TARGETS),
        codecs=rng.choice([None, None, None, frozenset({"f32", "q8"}), frozenset({"f32"})]),
        min_agreement=rng.choice([0.0, 0.0, 0.3]),
        max_packet_bytes=rng.choice([None, None, 1e4]),
        mode=rng.choice(["auto", "auto", *MODES]),
        thresholds=rng.choice([None, None, (0.3,), (0.3, 0.7)]) if rich and len(graph.exits) < 3 else None,
        frames_per_second=rng.choice([None, None, None, 20.0]),
    )


@pytest.mark.parametrize("block", range(8))
def test_equals_brute_force(block: int) -> None:
    """400 random problems: the same plan to the nanosecond, or the same reason why there is none."""
    for seed in range(block * 50, block * 50 + 50):
        problem = random_problem(seed)

        assert outcome("joint", problem) == outcome("brute-force", problem), f"seed {seed}"


@given(st.integers(0, 10**9))
def test_equals_brute_force_on_any_seed(seed: int) -> None:
    """Likewise wherever Hypothesis looks."""
    problem = random_problem(seed)

    assert outcome("joint", problem) == outcome("brute-force", problem)


def optional_branches(graph: LayerGraph, mbps: float) -> float:
    """Spec 1.5: the backward programme that also chooses which branches run, on a two-tier chain."""
    rest = after = 0.0
    for layer in reversed(graph.layers):
        here = layer.seconds[DEVICE]
        if layer is graph.layers[-1]:
            after = here
        else:
            send = 8 * layer.output_bytes / (1e6 * mbps) + rest
            onwards = min(send, after)
            for branch in reversed(graph.branches.get(layer.name, ())):
                onwards = min(onwards, branch.seconds[DEVICE] + (1 - branch.probability) * onwards)
            after = here + onwards
        rest += layer.seconds[CLOUD]
    return min(8 * graph.output_bytes(INPUT) / (1e6 * mbps) + rest, after)


@given(st.integers(0, 10**9))
def test_equals_the_backward_programme(seed: int) -> None:
    """Spec 1.5: with independent branches, the optimum over cuts and branches to enable."""
    rng = random.Random(seed)
    graph = random_chain(rng, rng.randint(1, 15), rng.randint(0, 4))
    mbps = 10 ** rng.uniform(-1, 2)

    assert joint(Problem(graph, uplink(mbps))).prediction.seconds == pytest.approx(
        optional_branches(graph, mbps), rel=1e-9, abs=1e-9
    )


def test_two_branches_need_not_run() -> None:
    """Spec A2: (0, 0) runs no branch and takes 217 ms; (.1, .9) takes 204.93 ms."""
    idle = joint(Problem(two_branches(0, 0), uplink(2)))

    assert idle.prediction.seconds == pytest.approx(0.217)
    assert not any(choice.runs for choice in idle.plan.exits.values())
    assert joint(Problem(two_branches(0.1, 0.9), uplink(2))).prediction.seconds == pytest.approx(0.20493)


@pytest.mark.parametrize("name", ["joint", "brute-force"])
@pytest.mark.parametrize(
    ("gamma", "p", "label", "milliseconds"),
    [
        (10, 0.5, "v2", 31.5),
        (10, 0.8, "v2", 21.6),
        (10, 1, "output", 15),
        (50, 0.4, "v1 skip", 105),
        (50, 0.5, "v1 run", 102.5),
        (60, 0.70, "input", 106),
        (60, 0.71, "v1 run", 105.95),
        (100, 1, "input", 106),
    ],
)
def test_toy(name: str, gamma: float, p: float, label: str, milliseconds: float) -> None:
    """Spec A, where a branch before the cut is worth its time: the same optimum as POPEX's, the same tie."""
    graph = toy(gamma, p)
    found = solve(name, Problem(graph, uplink(8)))

    assert (label_of(found.plan, graph), found.prediction.seconds) == (label, pytest.approx(milliseconds / 1e3))


def test_toy_without_hope_for_its_branch() -> None:
    """At p = 0 POPEX runs the branch (48 ms); leaving it out takes 43."""
    found = joint(Problem(toy(10, 0), uplink(8)))

    assert found.prediction.seconds == pytest.approx(0.043)
    assert not found.plan.runs("b1")


@given(st.integers(0, 10**9))
def test_never_behind_the_shortest_path(seed: int) -> None:
    """It may do all that POPEX may."""
    rng = random.Random(seed)
    graph = random_chain(rng, rng.randint(1, 8), rng.randint(0, 3), tuple(Tier), rich=rng.random() < 0.5)
    problem = Problem(graph, random_network(rng))

    assert joint(problem).prediction.seconds <= solve("shortest-path", problem).prediction.seconds + 1e-9


def test_last_layer_is_not_overcharged() -> None:
    """Spec O, where leaving the useless branch out saves its half millisecond."""
    assert joint(Problem(toy(1, 0), uplink(0.08))).prediction.seconds == pytest.approx(0.006)


def test_the_synthetic_network_switches_like_popex_where_its_branch_pays() -> None:
    """Spec B at p = .8 and 1.1 Mbit/s."""
    switches = {7: "v6", 9: "v5", 36: "v2", 51: "v1 run", 457: "v1 skip", 500: "input"}

    for gamma, label in switches.items():
        graph = synthetic(gamma, 0.8)
        assert label_of(joint(Problem(graph, uplink(1.1))).plan, graph) == label


def test_an_infeasible_deadline_says_by_how_much() -> None:
    """Which constraint, its bound, the best there is, and what is missing."""
    with pytest.raises(Infeasible) as caught:
        joint(Problem(toy(10, 0.5), uplink(8), deadline_seconds=0.02))

    assert str(caught.value) == "deadline_seconds 0.02 s: the best plan has 0.0315 s, 0.0115 s over"


def test_an_infeasible_accuracy_says_by_how_much() -> None:
    """Likewise; the best plan's accuracy is that of brute force."""
    graph = random_chain(random.Random(7), 4, 1, rich=True)
    with pytest.raises(Infeasible, match=r"min_accuracy 0.99: the best plan has 0\.\d+, 0\.\d+ short"):
        joint(Problem(graph, uplink(8), min_accuracy=0.99))


def test_constraints_that_clash_are_all_named() -> None:
    """Each can be met, but not both: the answer says how far off either is when the other is kept."""
    graph = toy(10, 0.5)
    problem = Problem(graph, uplink(8), deadline_seconds=0.035, max_packet_bytes=100)

    with pytest.raises(Infeasible) as caught:
        joint(problem)
    assert str(caught.value) == (
        "the constraints hold one by one but not together: "
        "deadline_seconds 0.035 s: the best plan has 0.04 s, 0.005 s over or "
        "max_packet_bytes 100 bytes: the best plan has 10000 bytes, 9.9e+03 bytes over"
    )


def test_accuracy_is_bought_with_time() -> None:
    """A tighter bound never takes less time, and is kept."""
    for seed in range(20):
        graph = random_chain(random.Random(seed), 5, 3, rich=True)
        free = joint(Problem(graph, uplink(5)))
        assert free.prediction.accuracy is not None
        try:
            bound = joint(Problem(graph, uplink(5), min_accuracy=free.prediction.accuracy + 0.02))
        except Infeasible:
            continue
        assert bound.prediction.seconds >= free.prediction.seconds
        assert (bound.prediction.accuracy or 0) >= free.prediction.accuracy + 0.02 - 1e-9


@pytest.mark.parametrize(("mode", "tier"), [("device", DEVICE), ("edge", EDGE), ("cloud", CLOUD)])
def test_a_mode_pins_where_frames_are_finished(mode: str, tier: Tier) -> None:
    """Neither a branch nor the network's end answers anywhere else."""
    for seed in range(20):
        graph = random_chain(random.Random(seed), 5, 3, tuple(Tier))
        plan = joint(Problem(graph, NetworkState(Link(5e6), Link(5e7)), mode=mode)).plan
        assert plan.tiers[graph.names[-1]] is tier
        assert {plan.tiers[branch.after] for branch in graph.exits if plan.runs(branch.name)} <= {tier}


def test_a_mode_without_a_way_there_is_infeasible() -> None:
    """No link to the cloud, or no edge in the profile."""
    with pytest.raises(Infeasible, match="mode 'cloud': the cloud has no times in the profile or no link to it"):
        joint(Problem(toy(1, 0), NetworkState(None), mode="cloud"))
    with pytest.raises(Infeasible, match="mode 'edge'"):
        joint(Problem(toy(1, 0), uplink(5), mode="edge"))


def test_an_outage_leaves_the_device() -> None:
    """Nothing can leave."""
    plan = joint(Problem(toy(100, 0.2), NetworkState(None))).plan

    assert set(plan.tiers.values()) == {DEVICE}


def test_without_device_times_all_goes_up() -> None:
    """A profile of the cloud only, and no gamma."""
    graph = toy(1, 0)
    cloud_only = replace(graph, layers=tuple(replace(each, seconds={CLOUD: 0.01}) for each in graph.layers))

    assert set(joint(Problem(cloud_only, uplink(8))).plan.tiers.values()) == {CLOUD}
    with pytest.raises(Infeasible, match="no tier can run the layers"):
        joint(Problem(cloud_only, NetworkState(None)))


def test_what_it_cannot_do_it_says() -> None:
    """So many exits that their settings cannot be gone through; a graph of too many cuts, but for the time."""
    many = chain([1.0] * 20, [10.0] * 20, [(k, 0.1, 0.5) for k in range(1, 18)], 2)
    with pytest.raises(InputError, match=r"up to 100,000 settings of the exits and here are 131,072 for 17 exits"):
        joint(Problem(many, uplink(8)))
    with pytest.raises(InputError, match=r"too many cuts to list, so joint can minimise 'seconds' only"):
        joint(Problem(wide(), uplink(8), objective="bytes"))


def wide() -> LayerGraph:
    """Sixteen layers side by side: 65,536 cuts."""
    layers = tuple(Layer(f"v{i}", (INPUT,), {DEVICE: 0.01 * (i + 1), CLOUD: 0.001}, 10.0) for i in range(16))
    return LayerGraph("wide", 10_000, layers)


def test_a_graph_of_too_many_cuts_is_solved_exactly_all_the_same() -> None:
    """By the cut instead of the list; under the solver's own name."""
    found = joint(Problem(wide(), uplink(8)))

    assert found.solver == "joint"
    assert found.prediction.seconds == solve("exact", Problem(wide(), uplink(8))).prediction.seconds
    with pytest.raises(
        Infeasible, match=r"deadline_seconds 0.001 s: .* over \(of the quickest plan; the graph has too"
    ):
        joint(Problem(wide(), uplink(8), deadline_seconds=0.001))


def swept(seed: int, **constraints: float) -> Problem:
    """A chain on which its branches pay, with a believable table, thresholds swept."""
    return Problem(tabled(two_branches(0, 0), seed=seed), uplink(2), thresholds=THRESHOLDS, **constraints)  # type: ignore[arg-type]


def test_sweeping_thresholds_never_loses() -> None:
    """The profile's own thresholds are among those swept, so time under the same accuracy can only fall."""
    gained = 0
    for seed in range(15):
        fixed = joint(replace(swept(seed), thresholds=None))
        accuracy = (fixed.prediction.accuracy or 0.0) - 0.03
        fixed = joint(replace(swept(seed, min_accuracy=accuracy), thresholds=None))
        free = joint(swept(seed, min_accuracy=accuracy))
        assert free.prediction.seconds <= fixed.prediction.seconds + 1e-9
        assert (free.prediction.accuracy or 0) >= accuracy - 1e-9
        gained += free.prediction.seconds < fixed.prediction.seconds - 1e-6
    assert gained > 5


def test_thresholds_come_from_the_grid() -> None:
    """Each is one of those asked for, or the branch's own; the plan says which, and the prediction is of them."""
    for seed in range(10):
        problem = swept(seed)
        for name, choice in joint(problem).plan.exits.items():
            assert not choice.runs or choice.threshold in {*THRESHOLDS, problem.graph.threshold(name)}


def test_infeasible_names_the_nearest_plans() -> None:
    """For each constraint the plan that comes closest to it, the others kept where that is possible."""
    with pytest.raises(Infeasible) as caught:
        joint(Problem(toy(10, 0.5), uplink(8), deadline_seconds=0.035, max_packet_bytes=100))
    fast, small = caught.value.nearest

    assert fast.prediction.seconds == pytest.approx(0.04)
    assert fast.prediction.packet_bytes <= 100
    assert small.prediction.packet_bytes == 10_000
    assert small.prediction.seconds <= 0.035


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"objective": "joy"}, "objective: 'joy', expected one of: seconds, p95"),
        ({"mode": "fog"}, "mode: 'fog', expected one of: auto, device, edge, cloud"),
        ({"min_accuracy": 1.5}, "min_accuracy: 1.5, expected a number in 0..1"),
        ({"min_accuracy": 0.5}, "min_accuracy: 0.5, but the profile of 'toy' knows no accuracies"),
        ({"deadline_seconds": -1.0}, "deadline_seconds: -1, expected a number, zero or more"),
        ({"deadline_seconds": float("nan")}, "deadline_seconds: nan, expected a number, zero or more"),
    ],
)
def test_a_senseless_problem_is_refused(fields: dict[str, object], complaint: str) -> None:
    """One line that names the field."""
    with pytest.raises(InputError) as caught:
        Problem(toy(1, 0), uplink(1), **fields)  # type: ignore[arg-type]
    assert str(caught.value).startswith(complaint)


def test_solvers_import_without_torch_or_networkx() -> None:
    """Planning starts in a fraction of a second: nothing heavy comes with it."""
    import subprocess
    import sys

    code = "import sys, popexd.solvers, popexd.solvers.joint; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert not [name for name in ("torch", "networkx", "onnxruntime", "scipy", "pydantic") if f"'{name}'" in loaded]


@pytest.mark.parametrize(("limit", "value"), [("CELLS", 7), ("FEW", 0), ("FIRST", 1)])
def test_a_search_in_small_pieces_finds_the_same(monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    """In parts where the bounds do not fit in memory, by placement where plans are many, one plan after the other."""
    from popexd.solvers import search

    problems = [random_problem(seed) for seed in range(40)]
    whole = [outcome("joint", problem) for problem in problems]
    monkeypatch.setattr(search, limit, value)

    assert [outcome("joint", problem) for problem in problems] == whole


@pytest.mark.parametrize("seed", range(60))
def test_what_one_class_of_frames_was_planned_with_serves_another(seed: int) -> None:
    """Plans on graphs that differ in their frames alone, one after the other, are those on graphs of their own.

    What a codec costs in accuracy is told against the frames where the profile does not say it of `f32`.
    """
    rng = random.Random(seed)
    problem = random_problem(seed)
    codecs = {
        point: {name: replace(cost, accuracy=rng.uniform(0.3, 0.9)) for name, cost in costs.items() if name != "f32"}
        for point, costs in problem.graph.codecs.items()
    }
    graph = tabled(replace(problem.graph, codecs=codecs), seed=seed)
    problem = replace(problem, graph=graph, objective="seconds", min_accuracy=rng.uniform(0.4, 0.7))
    for turn in range(3):
        table = tabled(graph, samples=50, seed=1000 * turn + seed).validation
        thresholds = {branch.name: rng.choice([0.3, 0.6, 0.9]) for branch in graph.exits}
        shared = graph.for_frames(table, thresholds)
        own = replace(graph, validation=table, thresholds=thresholds)

        assert shared.base is graph
        assert outcome("joint", replace(problem, graph=shared)) == outcome("joint", replace(problem, graph=own))
