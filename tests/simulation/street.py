"""One street for the scenarios: AlexNet behind a camera, a link that does as it is told, a worker in the cloud."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from popexd.coordinator.brain import Settings
from popexd.coordinator.settings import PlannerSettings
from popexd.latency import predict
from popexd.network import Link, NetworkState
from popexd.plan import Tier
from popexd.profile import INPUT, CodecCost, Exit, Layer, LayerGraph
from popexd.simulation.agent_world import AgentWorld, Conditions
from popexd.solvers import Problem, solve
from popexd.validation import FINAL, Validation

DEVICE, CLOUD = Tier.DEVICE, Tier.CLOUD
PROBE_SECONDS = 3.0
PHOTO_BYTES = 22_800


def alexnet(slower: float = 13.0, photo_bytes: float = PHOTO_BYTES, early: float = 0.0) -> LayerGraph:
    """AlexNet at 224 on a device so many times slower than the cloud (13: 128 ms); `early` leave after pool1.

    Sizes and agreement are those measured on photos.
    """
    cloud = {"pool1": 1.6, "pool2": 2.2, "conv3": 1.2, "conv4": 1.2, "pool5": 1.0, "fc6": 1.6, "fc7": 0.7, "fc8": 0.3}
    raw = (186_624, 129_792, 259_584, 173_056, 36_864, 16_384, 16_384, 4_000)
    q8 = {
        "pool1": 22_000,
        "pool2": 14_000,
        "conv3": 18_000,
        "conv4": 12_000,
        "pool5": 3_700,
        "fc6": 6_000,
        "fc7": 6_000,
    }
    layers = tuple(
        Layer(name, (before,), {DEVICE: slower * ms / 1e3, CLOUD: ms / 1e3}, size)
        for (name, ms), before, size in zip(cloud.items(), (INPUT, *cloud), raw, strict=False)
    )
    sure = np.arange(200) < 200 * early
    codecs = {
        INPUT: {
            "camera": CodecCost(photo_bytes, 0.0, 0.006),
            "webp-75": CodecCost(5_200, 0.028, 0.002, agreement=0.985),
        },
        **{
            name: {
                "q8+zstd": CodecCost(size, 0.003, 0.0008),
                "q4+zstd": CodecCost(size / 2, 0.003, 0.0008, agreement=0.985),
            }
            for name, size in q8.items()
        },
    }
    return LayerGraph(
        model="alexnet",
        input_bytes=602_112,
        layers=layers,
        exits=(Exit("b1", "pool1", {DEVICE: slower * 0.0004, CLOUD: 0.0004}),),
        codecs=codecs,
        input_seconds={DEVICE: 0.008},
        result_bytes=550,
        validation=Validation(("b1", FINAL), np.where([sure, sure | ~sure], 0.99, 0.1), np.ones((2, 200), bool)),
        thresholds={"b1": 0.9},
    )


def photos_only(slower: float = 40.0, photo_bytes: float = 100_000) -> LayerGraph:
    """Nothing but the camera's own bytes can be sent."""
    whole = alexnet(slower, photo_bytes)
    return replace(whole, codecs={INPUT: {"camera": whole.codecs[INPUT]["camera"]}})


class Street:
    """A world in which cameras see something `fps` times a second, and time passes as the test says."""

    def __init__(
        self,
        graph: LayerGraph,
        bits_per_second: float,
        delay_seconds: float = 0.02,
        fps: float = 5.0,
        photo_bytes: Callable[[], int] | int = PHOTO_BYTES,
        seed: int = 1,
        jitter_seconds: float = 0.0,
        noise: tuple[float, float] = (0.95, 1.1),
        dwell_seconds: float = 2.0,
        probe_seconds: float = PROBE_SECONDS,
    ) -> None:
        self.chance = random.Random(seed)
        settings = Settings(PlannerSettings(dwell_seconds=dwell_seconds), probe_interval_seconds=probe_seconds)
        conditions = Conditions(graph, settings, bits_per_second, delay_seconds, jitter_seconds, noise=noise)
        self.world = AgentWorld(conditions, self.chance)
        self.photo_bytes = photo_bytes
        self.world.all_up()
        self.world.schedule(probe_seconds)
        self.world.every(1 / fps, self._see, begin=self.chance.random() / fps)

    def _see(self) -> None:
        size = self.photo_bytes if isinstance(self.photo_bytes, int) else self.photo_bytes()
        self.world.frame("c", size)

    @property
    def now(self) -> float:
        """The instant."""
        return self.world.clock.now

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.world.clock.run(self.now + seconds)

    def pace(self, bits_per_second: float) -> None:
        """Let the link be so fast from now on."""
        self.world.up.bits_per_second = bits_per_second
        self.world.down.bits_per_second = 10 * bits_per_second

    def cut(self, cut: bool) -> None:
        """Stall the link, or let it go on."""
        for link in (self.world.up, self.world.down):
            if cut:
                link.cut = True
            else:
                link.restore()

    @property
    def home(self) -> bool:
        """Whether the plan in force sends nothing."""
        return self.world.decision is not None and self.world.decision.cut == "output"

    def decided_after(self, bits_per_second: float, within: float) -> float:
        """Change the rate; return after how many seconds a decision was made on it, within a factor of two."""
        begin, before = self.now, len(self.world.decisions)
        self.pace(bits_per_second)
        while self.now < begin + within:
            self.run(0.1)
            for made in self.world.decisions[before:]:
                link = made.network.get("device")
                if link is not None and 0.5 <= link.bits_per_second / bits_per_second <= 2:
                    return made.decided_at - begin
        return float("inf")

    @property
    def estimate(self) -> Link | None:
        """What the daemon publishes of the link."""
        return self.world.brain.world.uplink.link

    def estimate_off(self) -> float:
        """By which factor the published rate is off, infinity if there is none."""
        if self.estimate is None:
            return float("inf")
        ratio = self.estimate.bits_per_second / self.world.up.bits_per_second
        return max(ratio, 1 / ratio)

    def behind(self) -> float:
        """Seconds that the plan in force is behind the best one, by what is true of the link."""
        world, planner = self.world, self.world.brain.world.planner
        graph = planner.graph({CLOUD: "profile"}, self.now)
        rate, delay = world.up.bits_per_second, world.conditions.delay_seconds
        network = NetworkState(Link(rate, 2 * delay + world.conditions.jitter_seconds / 2))
        problem = Problem(graph, network, min_agreement=planner.settings.min_agreement)
        assert world.decision is not None
        best = solve("joint", problem).prediction.seconds
        return predict(world.decision.plan, graph, network).seconds - best

    def good(self) -> bool:
        """Whether the plan in force is as good as the hysteresis asks for, and a little noise allows."""
        assert self.world.decision is not None
        return self.behind() <= max(0.1 * self.world.decision.prediction.seconds, 0.004)

    def settled_after(self, good: Callable[[], bool], within: float) -> float:
        """Let `within` seconds pass; return after how many `good` held for good."""
        begin, since = self.now, None
        while self.now < begin + within:
            self.run(0.1)
            if not good():
                since = None
            elif since is None:
                since = self.now - begin
        return float("inf") if since is None else since

    def typical_seconds(self, begin: float) -> float:
        """Median time of the frames answered since `begin`."""
        world = self.world
        recent = sorted(a.timing.total for key, a in world.answers.items() if world.answered_at[key] >= begin)
        return recent[len(recent) // 2]

    def slowest_since(self, begin: float) -> float:
        """Longest time of a frame answered since `begin`."""
        world = self.world
        return max(a.timing.total for key, a in world.answers.items() if world.answered_at[key] >= begin)
