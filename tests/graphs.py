"""Makers of the models that the planning tests speak of."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from popexd.latency import predict
from popexd.network import Link, NetworkState
from popexd.plan import ExitChoice, Plan, Tier
from popexd.profile import INPUT, CodecCost, Exit, Layer, LayerGraph
from popexd.validation import FINAL, Validation

DEVICE, EDGE, CLOUD = Tier


def chain(
    cloud_ms: Sequence[float],
    sizes: Sequence[float],
    branches: Sequence[tuple[int, float, float]] = (),
    gamma: float = 1.0,
    model: str = "chain",
) -> LayerGraph:
    """A chain v1..vN on a device `gamma` times slower than the cloud.

    Times are the cloud's in milliseconds; sizes begin with the input's and may leave out the last layer's; branches are
    (after which layer, cloud milliseconds, probability).
    """
    sizes = [*sizes, *[4.0] * (len(cloud_ms) + 1 - len(sizes))]
    layers = tuple(
        Layer(f"v{i}", (f"v{i - 1}" if i > 1 else INPUT,), {CLOUD: ms / 1e3}, sizes[i])
        for i, ms in enumerate(cloud_ms, start=1)
    )
    exits = tuple(Exit(f"b{after}", f"v{after}", {CLOUD: ms / 1e3}, p) for after, ms, p in branches)
    return LayerGraph(model, sizes[0], layers, exits).with_gamma(gamma)


def toy(gamma: float, p: float) -> LayerGraph:
    """POPEX's Fig. 2: three layers, a branch after v1."""
    return chain((1, 2, 3), (100_000, 50_000, 10_000), [(1, 0.5, p)], gamma, "toy")


def two_branches(p2: float, p4: float) -> LayerGraph:
    """Five layers, branches after v2 and v4, a device 20 times slower."""
    return chain((2, 3, 3, 2, 1), (150_000, 80_000, 60_000, 30_000, 4_000), [(2, 0.4, p2), (4, 0.3, p4)], 20)


def synthetic(gamma: float, p: float) -> LayerGraph:
    """B-AlexNet with invented times, such that the paper's published facts hold; a branch after v1."""
    times = (6.056, 8.353, 6.961, 6.961, 5.569, 20, 15, 5)
    sizes = (602_112, 186_624, 129_792, 259_584, 173_056, 36_864, 16_384, 16_384)
    return chain(times, sizes, [(1, 2.5, p)], gamma, "synthetic B-AlexNet")


def uplink(mbps: float, rtt_ms: float = 0.0) -> NetworkState:
    """One link from the device straight to the cloud."""
    return NetworkState(Link(mbps * 1e6, rtt_ms / 1e3))


def cut_plan(graph: LayerGraph, cut: int, running: Sequence[str] = (), codec: str = "f32") -> Plan:
    """The first `cut` layers on the device, the rest in the cloud."""
    tiers = {name: DEVICE if index < cut else CLOUD for index, name in enumerate(graph.names)}
    exits = {branch.name: ExitChoice(branch.name in running) for branch in graph.exits}
    return Plan(tiers, exits, {"device": codec})


def cost_ms(graph: LayerGraph, network: NetworkState, label: str) -> float:
    """Expected milliseconds of a cut by its name in the spec: `input`, `v2`, `v2 run`, `v2 skip`, `output`.

    Every branch before the cut runs; right at the cut it runs unless `skip` says otherwise.
    """
    name, _, at_cut = label.partition(" ")
    cut = {"input": 0, "output": len(graph.layers)}.get(name) if name in ("input", "output") else int(name[1:])
    assert cut is not None
    places = {branch.name: graph.names.index(branch.after) + 1 for branch in graph.exits}
    running = [branch for branch, place in places.items() if place < cut or (place == cut and at_cut != "skip")]
    return 1e3 * predict(cut_plan(graph, cut, running), graph, network).seconds


def label_of(plan: Plan, graph: LayerGraph) -> str:
    """Name the cut of a two-tier plan on a chain as the spec does."""
    cut = sum(tier is DEVICE for tier in plan.tiers.values())
    if cut in (0, len(graph.layers)):
        return "input" if cut == 0 else "output"
    here = [branch for branch in graph.exits if branch.after == f"v{cut}"]
    return f"v{cut}" + "".join(" run" if plan.runs(branch.name) else " skip" for branch in here)


def random_network(rng: random.Random, three: bool = True) -> NetworkState:
    """Links of all kinds, from 0.1 to 100 Mbit/s."""

    def link() -> Link:
        return Link(10 ** rng.uniform(5, 8), rng.choice([0.0, rng.uniform(0, 0.05)]))

    if not three:
        return NetworkState(link())
    return NetworkState(link(), link() if rng.random() < 0.7 else None, link() if rng.random() < 0.3 else None)


def random_chain(
    rng: random.Random, layers: int, branches: int, tiers: Sequence[Tier] = (DEVICE, CLOUD), *, rich: bool = False
) -> LayerGraph:
    """A chain of random figures; `rich` adds codecs, an input cost, an answer's size and a validation table."""
    names = [f"v{i}" for i in range(1, layers + 1)]
    parents = [(INPUT,), *((name,) for name in names[:-1])]
    return _dressed(rng, names, parents, branches, tiers, rich)


def random_dag(
    rng: random.Random, layers: int, branches: int, tiers: Sequence[Tier] = tuple(Tier), *, rich: bool = False
) -> LayerGraph:
    """A DAG of random figures, in which each layer reads one or two earlier points."""
    names = [f"v{i}" for i in range(1, layers + 1)]
    parents = []
    for index in range(layers):
        earlier = [INPUT, *names[:index]]
        parents.append(tuple(rng.sample(earlier, min(len(earlier), rng.choice([1, 2])))))
    return _dressed(rng, names, parents, branches, tiers, rich)


def _dressed(
    rng: random.Random,
    names: Sequence[str],
    parents: Sequence[tuple[str, ...]],
    branches: int,
    tiers: Sequence[Tier],
    rich: bool,
) -> LayerGraph:
    slower = {DEVICE: 10.0, EDGE: 3.0, CLOUD: 1.0}
    layers = tuple(
        Layer(name, after, {t: rng.uniform(1e-4, 1e-2) * slower[t] for t in tiers}, rng.uniform(10, 1e5))
        for name, after in zip(names, parents, strict=True)
    )
    read = sorted({parent for after in parents for parent in after} - {INPUT})
    exits = tuple(
        Exit(f"b{i}", rng.choice(read), {t: rng.uniform(0, 3e-3) for t in tiers}, rng.choice([0.0, 1.0, rng.random()]))
        for i in range(branches if read else 0)
    )
    graph = LayerGraph("random", rng.uniform(1e3, 1e5), layers, exits)
    return _enriched(rng, graph) if rich else graph


def _enriched(rng: random.Random, graph: LayerGraph) -> LayerGraph:
    exits = [*(branch.name for branch in graph.exits), FINAL]
    numbers = np.random.default_rng(rng.randrange(2**32))
    table = Validation(exits, numbers.random((len(exits), 40)), numbers.random((len(exits), 40)) < 0.7)
    codecs = {
        point: {
            codec: CodecCost(
                rng.uniform(10, 2e4), rng.uniform(0, 1e-3), rng.uniform(0, 1e-3), rng.uniform(0.5, 0.75), rng.random()
            )
            for codec in rng.sample(["f32", "q8", "q4+zstd"], rng.choice([2, 3]))
        }
        for point in (INPUT, *graph.names)
    }
    return LayerGraph(
        graph.model,
        graph.input_bytes,
        graph.layers,
        graph.exits,
        codecs,
        {DEVICE: rng.uniform(0, 0.01)},
        rng.choice([0.0, 500.0]),
        table,
        {branch.name: rng.random() for branch in graph.exits},
    )
