"""Figure 4: where the network is cut against how much slower the device is, at two links."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence

from popexd.lab.reproduction.figure import Curve, Fact, Figure, Panel
from popexd.lab.reproduction.partition import Decision, agrees, as_in_paper, decide, question, stretches
from popexd.profile import LayerGraph

PROBABILITIES = (0.0, 0.2, 0.5, 0.8, 1.0)
"""The paper speaks of 0.8; the others show what p changes."""

MARKED = 0.8
PUBLISHED_GAMMA = 500
RANGE = (2, 5000)
"""The authors' gammas: whole, more than 1, and at most that of their largest experiment."""

GRID = (2, 3, 6, 10, 30, 50, 100, 200, 300, 400, 500, 1000, 1500, 2000, 3000, 5000)
"""Gammas at which their experiments stand; each is solved on its own to check what was found by halving intervals."""

Stretches = Sequence[tuple[int, Decision]]


def figure_4(graph: LayerGraph, links: Mapping[str, float], at_cut: str = "either", *, codecs: bool = False) -> Figure:
    """Find for the two slowest of `links` from which gamma on which cut is best.

    Args and Raises: those of `figure_3`.
    """
    model = as_in_paper(graph, codecs=codecs)
    shown = dict(list(links.items())[:2])
    found = {
        (name, probability): stretches(model, probability, mbps, RANGE, at_cut)
        for name, mbps in shown.items()
        for probability in PROBABILITIES
    }
    panels = [
        Panel(
            f"{name}, {mbps:g} Mbit/s",
            "gamma",
            "layers_on_the_device",
            "γ: how many times slower the device is",
            "cut after",
            [_curve(probability, found[name, probability]) for probability in PROBABILITIES],
            y_ticks=("input", *model.names[:-1], "output"),
            x_logarithmic=True,
            mark=(PUBLISHED_GAMMA, f"γ = {PUBLISHED_GAMMA}") if index == 0 else None,
        )
        for index, (name, mbps) in enumerate(shown.items())
    ]
    settings = {
        "mbps": shown,
        "probabilities": list(PROBABILITIES),
        "gammas": list(RANGE),
        "at_cut": at_cut,
        "codecs": codecs,
    }
    facts = [*_facts(found, list(shown), model), _check(model, shown, found, at_cut)]
    return Figure("4", "Where the network is cut against γ", model.model, panels, facts, settings)


def to_cloud(found: Stretches) -> tuple[int | None, str]:
    """Return the gamma from which all is in the cloud, None for never, and the layer at which it was cut before."""
    before = "-"
    for gamma, decision in found:
        if decision.layers == 0:
            return gamma, before
        before = decision.point
    return None, before


def _curve(probability: float, found: Stretches) -> Curve:
    name = f"p = {probability:g}" + (" (the paper's)" if probability == MARKED else "")
    gammas = [gamma for gamma, _ in found] + [RANGE[1]]
    decisions = [decision for _, decision in found] + [found[-1][1]]
    return Curve(name, gammas, [each.layers for each in decisions], [each.cut for each in decisions])


def _facts(found: Mapping[tuple[str, float], Stretches], names: Sequence[str], model: LayerGraph) -> list[Fact]:
    (slow, before), (quick, _) = (to_cloud(found[name, MARKED]) for name in names)
    return [
        Fact(
            "4",
            f"slowest link, p = 0.8: the cut moves from the first layer to the input at γ = {PUBLISHED_GAMMA}",
            _moved(slow, before),
            slow == PUBLISHED_GAMMA and before == model.names[0],
        ),
        Fact(
            "4",
            "next link, p = 0.8: it does so at a smaller γ",
            _moved(quick, to_cloud(found[names[1], MARKED])[1]),
            quick is not None and (slow is None or quick < slow),
        ),
    ]


def _moved(gamma: int | None, before: str) -> str:
    return f"never, up to γ = {RANGE[1]}: still {before}" if gamma is None else f"from {before} at γ = {gamma}"


def _check(
    model: LayerGraph, links: Mapping[str, float], found: Mapping[tuple[str, float], Stretches], at_cut: str
) -> Fact:
    """Solve at the authors' gammas anew: the cut only moves towards the input, is what was found, and the least."""
    asked = wrong = 0
    for (name, probability), curve in found.items():
        last = 2 * len(model.layers) + 1
        for gamma in GRID:
            problem = question(model, float(gamma), probability, links[name])
            here = decide(problem, at_cut)
            known = curve[bisect.bisect_right([start for start, _ in curve], gamma) - 1][1]
            asked += 1
            wrong += not (here.rank <= last and here.cut == known.cut and agrees(problem, here, at_cut))
            last = here.rank
    text = f"{asked - wrong} of {asked} decisions at the authors' γ, each the least of all plans"
    return Fact("4", "as γ grows the cut moves towards the input", text, wrong == 0)
