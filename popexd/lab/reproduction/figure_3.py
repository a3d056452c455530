"""Figure 3: expected inference time against the probability of an exit, for three links and two devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from popexd.lab.reproduction.figure import Curve, Fact, Figure, Panel
from popexd.lab.reproduction.partition import GAMMAS, Decision, agrees, as_in_paper, decide, flat_until, question
from popexd.profile import LayerGraph

PROBABILITIES = tuple(step / 20 for step in range(21))
PUBLISHED_REDUCTION_PERCENT = 87.27
"""Of p = 1 against p = 0 at 1.1 Mbit/s and gamma 10."""


@dataclass(frozen=True)
class _Sweep:
    """One curve: the decisions over p, and up to which p the time does not fall."""

    decisions: tuple[Decision, ...]
    flat_until: float

    @property
    def reduction(self) -> float:
        """Share of the time of p = 0 that p = 1 saves."""
        return 1 - self.decisions[-1].seconds / self.decisions[0].seconds


def figure_3(graph: LayerGraph, links: Mapping[str, float], at_cut: str = "either", *, codecs: bool = False) -> Figure:
    """Sweep p at every link for gamma 10 and 100.

    Args:
        graph: a chain with at least one branch and times of the cloud; all else of it is left out.
        links: Mbit/s by name, slowest first.
        at_cut: what becomes of a branch right at the cut: `either`, `skip` (the authors' code) or `run`.
        codecs: ship with the profile's codecs instead of raw float32.

    Raises:
        ProfileError: the profile does not fit.
    """
    model = as_in_paper(graph, codecs=codecs)
    wrong, asked, sweeps = 0, 0, dict[tuple[float, str], _Sweep]()
    for gamma in GAMMAS:
        for name, mbps in links.items():
            decisions = []
            for probability in PROBABILITIES:
                problem = question(model, gamma, probability, mbps)
                decisions.append(decide(problem, at_cut))
                asked, wrong = asked + 1, wrong + (not agrees(problem, decisions[-1], at_cut))
            sweeps[gamma, name] = _Sweep(tuple(decisions), flat_until(model, gamma, mbps, at_cut))
    panels = [
        Panel(
            f"γ = {gamma:g}",
            "exit_probability",
            "expected_seconds",
            "probability of an exit at the first branch",
            "expected inference time, ms",
            [
                Curve(
                    f"{name}, {mbps:g} Mbit/s",
                    PROBABILITIES,
                    [each.seconds for each in sweeps[gamma, name].decisions],
                    [each.cut for each in sweeps[gamma, name].decisions],
                )
                for name, mbps in links.items()
            ],
            y_factor=1e3,
        )
        for gamma in GAMMAS
    ]
    facts = [*_facts(sweeps, list(links), len(model.layers)), _least(asked, wrong)]
    settings = {"mbps": dict(links), "gammas": list(GAMMAS), "at_cut": at_cut, "codecs": codecs}
    settings["flat_until"] = {f"{name}, gamma {gamma:g}": each.flat_until for (gamma, name), each in sweeps.items()}
    return Figure("3", "Expected inference time against exit probability", model.model, panels, facts, settings)


def _facts(sweeps: Mapping[tuple[float, str], _Sweep], names: list[str], layers: int) -> list[Fact]:
    slowest, (quick, slow) = names[0], GAMMAS
    first = sweeps[quick, slowest]
    percent = 100 * first.reduction
    low = first.decisions[0]
    flat = {name: sweeps[slow, name].flat_until for name in names}
    flat_cuts = {name: sweeps[slow, name].decisions[0].cut for name in names if flat[name] > 0}
    flat_layers = {sweeps[slow, name].decisions[0].layers for name in flat_cuts}
    savings = {gamma: [sweeps[gamma, name].reduction for name in names] for gamma in GAMMAS}
    return [
        Fact(
            "3",
            f"γ 10, slowest link: p = 1 takes {PUBLISHED_REDUCTION_PERCENT} % less than p = 0",
            f"{percent:.2f} % less",
            round(percent, 2) == PUBLISHED_REDUCTION_PERCENT,
        ),
        Fact(
            "3",
            "γ 10, slowest link: at low p part of the layers run in the cloud",
            f"at p = 0 cut at {low.cut}",
            0 < low.layers < layers,
        ),
        Fact(
            "3",
            "γ 100: constant over p at first, then falling",
            "constant until p = " + ", ".join(f"{flat[name]:.3f} ({name})" for name in names),
            any(0 < until < 1 for until in flat.values()),
        ),
        Fact(
            "3",
            "γ 100: while constant, all is in the cloud",
            ", ".join(f"{cut} ({name})" for name, cut in flat_cuts.items()) or "never constant",
            flat_layers == {0},
        ),
        Fact(
            "3",
            "the slower the link, the more p matters",
            "; ".join(
                f"γ {gamma:g}: p = 1 saves " + ", ".join(f"{100 * share:.1f}" for share in shares) + " %"
                for gamma, shares in savings.items()
            ),
            all(shares == sorted(shares, reverse=True) and shares[0] > shares[-1] for shares in savings.values()),
        ),
    ]


def _least(asked: int, wrong: int) -> Fact:
    found = f"{asked - wrong} of {asked} decisions are the least of all plans, priced one by one"
    return Fact("3", "the shortest path finds the optimum", found, wrong == 0)
