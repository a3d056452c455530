"""The quickest way to ship from each cut of a chain and have the rest done above."""

from __future__ import annotations

import math
from dataclasses import dataclass

from popexd.plan import Tier
from popexd.profile import INPUT
from popexd.solvers.problem import Problem


@dataclass(frozen=True, slots=True)
class Offer:
    """Seconds from encoding to the answer, for a frame that is shipped; bytes on the way; the codec."""

    seconds: float
    bytes: float
    codec: str


def allowed_codecs(problem: Problem, point: str) -> list[str]:
    """Codecs that may ship what leaves `point`: allowed by name, agreement and size."""
    limit = math.inf if problem.max_packet_bytes is None else problem.max_packet_bytes
    costs = {codec: problem.graph.codec_cost(point, codec) for codec in problem.codec_names(point)}
    return [codec for codec, cost in costs.items() if cost.bytes <= limit and cost.agreement >= problem.min_agreement]


def offers(problem: Problem, remote: Tier) -> dict[str, Offer]:
    """For every cut of a chain from `input` to the last layer but one, the offer with the quickest codec allowed.

    A cut that no allowed codec fits is missing. Ties go to the smaller codec.
    """
    graph, links = problem.graph, problem.network.links
    route = [links[hop] for hop in problem.network.route(Tier.DEVICE, remote) or ()]
    back = sum(link.transfer_seconds(graph.result_bytes) for link in route)
    rest = sum(layer.seconds[remote] for layer in graph.layers)
    best = {}
    for point, following in zip((INPUT, *graph.names), graph.layers, strict=False):
        found = []
        for codec in allowed_codecs(problem, point):
            cost = graph.codec_cost(point, codec)
            way = sum(link.transfer_seconds(cost.bytes) + link.round_trip_seconds for link in route)
            found.append(Offer(cost.encode_seconds + way + cost.decode_seconds + rest + back, cost.bytes, codec))
        if found:
            best[point] = min(found, key=lambda offer: (offer.seconds, offer.bytes))
        rest -= following.seconds[remote]
    return best
