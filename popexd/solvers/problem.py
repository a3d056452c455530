"""What solvers are asked and what they answer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from popexd.errors import Infeasible, InputError
from popexd.latency import Prediction
from popexd.network import NetworkState
from popexd.plan import ExitChoice, Plan, Tier
from popexd.profile import Exit, LayerGraph

OBJECTIVES = ("seconds", "p95", "bytes", "device_seconds", "throughput")
"""What can be minimised: mean seconds, their 95th percentile, mean bytes leaving the device, mean seconds of work on
the device; `throughput` minimises the busiest stage."""

TARGETS = (*OBJECTIVES, "device_joules")
"""Those of the daemon, and the energy of the device's work and sending (Neurosurgeon)."""

THRESHOLDS = (0.6, 0.75, 0.85, 0.95)
"""The grid on which thresholds are swept where nothing else is asked for."""

MODES = ("auto", "device", "edge", "cloud")


@dataclass(frozen=True)
class Problem:
    """One question to a solver.

    Attributes:
        graph: the model, measured.
        network: the links.
        min_accuracy: expected accuracy of the answers, at least; needs the profile's validation table.
        deadline_seconds: expected seconds, at most (their 95th percentile where that is the objective).
        objective: one of `TARGETS`.
        codecs: names that may be used; None allows all that the profile has.
        min_agreement: share of offloaded frames whose answer the codecs must leave as it was.
        max_packet_bytes: largest single message, at most.
        tiers: tiers that may run layers.
        mode: `auto`, or the tier at which every frame is to be finished: neither a branch nor the network's end
            answers anywhere else. `device` keeps everything there; `cloud` runs no branch at all, but layers
            before the cut may still run on the device.
        thresholds: None takes each branch's threshold as the profile gives it; with a grid, `joint` and `brute-force`
            choose each running branch's threshold from it and the branch's own. Needs the validation table.
        frames_per_second: rate that every stage must keep up with; DADS's Q.

    Raises:
        InputError: an objective, mode or number that makes no sense.
    """

    graph: LayerGraph
    network: NetworkState
    min_accuracy: float | None = None
    deadline_seconds: float | None = None
    objective: str = "seconds"
    codecs: frozenset[str] | None = None
    min_agreement: float = 0.0
    max_packet_bytes: float | None = None
    tiers: frozenset[Tier] = frozenset(Tier)
    mode: str = "auto"
    thresholds: tuple[float, ...] | None = None
    frames_per_second: float | None = None

    def __post_init__(self) -> None:
        if self.objective not in TARGETS:
            raise InputError(f"objective: {self.objective!r}, expected one of: {', '.join(TARGETS)}")
        if self.mode not in MODES:
            raise InputError(f"mode: {self.mode!r}, expected one of: {', '.join(MODES)}")
        for name, value, upper in (
            ("min_accuracy", self.min_accuracy, 1.0),
            ("deadline_seconds", self.deadline_seconds, math.inf),
            ("min_agreement", self.min_agreement, 1.0),
            ("max_packet_bytes", self.max_packet_bytes, math.inf),
            ("frames_per_second", self.frames_per_second, math.inf),
            *(("thresholds", value, math.inf) for value in self.thresholds or ()),
        ):
            if value is not None and not (0 <= value <= upper):
                expected = "a number in 0..1" if upper == 1 else "a number, zero or more"
                raise InputError(f"{name}: {value:g}, expected {expected}")
        if self.min_accuracy is not None and self.graph.validation is None:
            raise InputError(
                f"min_accuracy: {self.min_accuracy:g}, but the profile of {self.graph.model!r} knows no accuracies, "
                "expected a profile with `joint`"
            )

    @cached_property
    def finisher(self) -> Tier | None:
        """The only tier that may answer frames, if pinned."""
        return None if self.mode == "auto" else Tier.of(self.mode)

    @cached_property
    def available(self) -> tuple[Tier, ...]:
        """Tiers that may run layers, have times, and can be reached.

        Raises:
            Infeasible: there is none, or not the one that the mode pins.
        """
        wanted = sorted(self.tiers & self.graph.tiers)
        usable = [tier for tier in wanted if self.network.route(Tier.DEVICE, tier) is not None]
        if self.finisher is not None:
            if self.finisher not in usable:
                raise Infeasible(f"mode {self.mode!r}: the {self.mode} has no times in the profile or no link to it")
            usable = [tier for tier in usable if tier <= self.finisher]
        if not usable:
            raise Infeasible("no tier can run the layers: none has times in the profile and a link that leads there")
        return tuple(usable)

    def can_run(self, branch: Exit, tier: Tier) -> bool:
        """Whether `branch` can run, and answer, when its layer is on `tier`."""
        pinned = self.finisher is not None and tier is not self.finisher
        return tier is not Tier.CLOUD and tier in branch.seconds and not pinned

    def exit_choices(self, running: Iterable[Exit]) -> dict[str, ExitChoice]:
        """Every branch's choice when those of `running` run, with the thresholds of the profile."""
        graph, names = self.graph, {branch.name for branch in running}
        choices = {}
        for branch in graph.exits:
            runs = branch.name in names
            known = runs and (graph.validation is not None or branch.name in graph.thresholds)
            choices[branch.name] = ExitChoice(runs, graph.threshold(branch.name) if known else None)
        return choices

    def exit_choices_at(self, thresholds: Mapping[str, float]) -> dict[str, ExitChoice]:
        """Every branch's choice when those named run, each from its threshold."""
        usual = self.exit_choices(branch for branch in self.graph.exits if branch.name in thresholds)
        return {
            name: choice if choice.threshold is None else ExitChoice(True, thresholds[name])
            for name, choice in usual.items()
        }

    def levels(self, branch: Exit) -> tuple[float, ...]:
        """The thresholds that `branch` may have, rising; just its own where none are swept."""
        own = self.graph.threshold(branch.name)
        swept = () if self.graph.validation is None else self.thresholds or ()
        return tuple(sorted({own, *swept}))

    def codec_names(self, point: str) -> tuple[str, ...]:
        """Codecs that may ship what leaves `point`."""
        names = self.graph.codec_names(point)
        return names if self.codecs is None else tuple(name for name in names if name in self.codecs)


@dataclass(frozen=True)
class Solution:
    """The plan chosen, what `latency.predict` says of it, and which solver chose it."""

    plan: Plan
    prediction: Prediction
    solver: str
