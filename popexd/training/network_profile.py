"""A layer profile of any classifier: measured on this machine, or predicted from others that were."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from popexd.errors import ProfileError
from popexd.plan import Tier
from popexd.profile import Layer, LayerGraph
from popexd.training.regression import TAUGHT_BY, LayerTimes, Trust, trust
from popexd.training.timing import Timing, measure
from popexd.training.vertices import Network, load


@dataclass(frozen=True)
class NetworkProfile:
    """The profile, and what it rests on: a measurement, or a prediction and how far to trust it."""

    network: Network
    graph: LayerGraph
    timing: Timing | None
    trust: Trust | None


def profile(
    name: str,
    seconds: float = 3.0,
    *,
    threads: int = 0,
    predicted: bool = False,
    slowdown: float = 1.0,
    cloud: LayerGraph | None = None,
    say: Callable[[str], None] | None = None,
) -> NetworkProfile:
    """Profile a classifier; the cloud is `cloud`'s device, or else this machine.

    Raises:
        InputError: no such classifier, or `cloud` is a profile of another.
    """
    network = load(name)
    timing, confidence = None, None
    if predicted:
        timings = []
        for other in TAUGHT_BY:
            if other != network.name:
                if say is not None:
                    say(f"measuring {other}")
                timings.append(measure(load(other), seconds / len(TAUGHT_BY), threads=threads))
        times: Mapping[str, float] = LayerTimes.fitted(timings).all_seconds(network)
        confidence = trust(timings)
    else:
        timing = measure(network, seconds, threads=threads)
        times = timing.seconds
    return NetworkProfile(network, graph_of(network, times, slowdown, cloud), timing, confidence)


def graph_of(
    network: Network, times: Mapping[str, float], slowdown: float = 1.0, cloud: LayerGraph | None = None
) -> LayerGraph:
    """Put vertices and seconds together."""
    layers = []
    for vertex in network.vertices:
        if cloud is None:
            there = times[vertex.name]
        elif vertex.name in cloud.by_name and Tier.DEVICE in cloud.by_name[vertex.name].seconds:
            there = cloud.by_name[vertex.name].seconds[Tier.DEVICE]
        else:
            raise ProfileError(
                f"--cloud: no seconds of the device for {vertex.name!r}, expected a profile of {network.name}"
            )
        seconds = {Tier.DEVICE: times[vertex.name] * slowdown, Tier.CLOUD: there}
        layers.append(Layer(vertex.name, vertex.after, seconds, vertex.output_bytes))
    return LayerGraph(network.name, network.input_bytes, tuple(layers))
