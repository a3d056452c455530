"""The simple strategies that a decision is shown beside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import combinations

from popexd.latency import predict
from popexd.plan import Plan, Tier
from popexd.profile import INPUT, Exit
from popexd.solvers.offers import Offer, offers, offers_at
from popexd.solvers.placement import two_tier
from popexd.solvers.problem import Problem, Solution

MAX_BRANCHES = 6
"""Up to so many, every subset of branches is tried on the device; beyond, none or all."""


def alternatives(problem: Problem, chosen: Solution | None = None) -> list[tuple[str, float]]:
    """Expected seconds of what one would do without a planner, and of the plan `chosen` last.

    `device-only` (no exits), `device-with-exits`, `camera-jpeg-to-cloud` (the frame as it came),
    `resized-image-to-cloud` (the best JPEG or WebP at the network's size), `raw-tensor-to-cloud`, and
    `best-split-without-exits` (chains). What the profile or the links do not allow is missing; accuracy, deadline and
    mode do not count here. Where the cloud cannot be reached but the edge can, the names end in `-edge`.
    """
    free = replace(problem, mode="auto", objective="seconds", min_accuracy=None, deadline_seconds=None)
    reachable = free.available
    found: list[tuple[str, float]] = []
    if Tier.DEVICE in reachable:
        branches = [branch for branch in free.graph.exits if free.can_run(branch, Tier.DEVICE)]
        at_home = [_seconds(free, Tier.DEVICE, running) for running in _subsets(branches)]
        found.append(("device-only", at_home[0]))
        if branches:
            found.append(("device-with-exits", min(at_home)))
    if reachable[-1] is not Tier.DEVICE:
        found += _shipped(free, reachable[-1])
    return found if chosen is None else [*found, ("chosen", chosen.prediction.seconds)]


def _shipped(problem: Problem, remote: Tier) -> Iterator[tuple[str, float]]:
    kinds = {"camera": "camera-jpeg", "jpeg": "resized-image", "webp": "resized-image", "f32": "raw-tensor"}
    best: dict[str, Offer] = {}
    for offer in offers_at(problem, remote, INPUT, 0.0):
        kind = kinds.get(offer.codec.partition("-")[0])
        if kind is not None:
            best[kind] = min(offer, best.get(kind, offer), key=lambda each: each.seconds)
    for kind in dict.fromkeys(kinds.values()):
        if kind in best:
            yield f"{kind}-to-{remote.label}", _seconds(problem, remote, (), best[kind].codec)
    split = _best_split(problem, remote) if problem.graph.is_chain and Tier.DEVICE in problem.available else None
    if split is not None:
        yield "best-split-without-exits", split


def _best_split(problem: Problem, remote: Tier) -> float | None:
    graph = problem.graph
    found: list[tuple[float, int, str]] = []
    spent, offered = 0.0, offers(problem, remote)
    for cut, layer in enumerate(graph.layers, start=1):
        spent += layer.seconds[Tier.DEVICE]
        offer = offered.get(layer.name)
        if offer is not None:
            found.append((spent + offer.seconds, cut, offer.codec))
    if not found:
        return None
    _, cut, codec = min(found)
    tiers = two_tier(graph, graph.names[:cut], remote)
    plan = Plan(tiers, problem.exit_choices(()), {Tier.DEVICE.label: codec})
    return predict(plan, graph, problem.network).seconds


def _seconds(problem: Problem, tier: Tier, running: Iterable[Exit], codec: str | None = None) -> float:
    """Expected seconds when `tier` runs every layer."""
    codecs = {} if codec is None else {Tier.DEVICE.label: codec}
    plan = Plan(dict.fromkeys(problem.graph.names, tier), problem.exit_choices(running), codecs)
    return predict(plan, problem.graph, problem.network).seconds


def _subsets(branches: list[Exit]) -> Iterator[tuple[Exit, ...]]:
    sizes = range(len(branches) + 1) if len(branches) <= MAX_BRANCHES else (0, len(branches))
    for size in sizes:
        yield from combinations(branches, size)
