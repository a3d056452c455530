"""The quickest way to ship from each cut of a chain and have the rest done above."""

from __future__ import annotations

import math
from dataclasses import dataclass

from popexd.plan import Tier
from popexd.profile import INPUT, CodecCost
from popexd.solvers.problem import Problem


@dataclass(frozen=True, slots=True)
class Offer:
    """Seconds from encoding to the answer, for a frame that is shipped; bytes on the way; the codec."""

    seconds: float
    bytes: float
    codec: str


def allowed_costs(problem: Problem, point: str) -> dict[str, CodecCost]:
    """What may ship what leaves `point`: the codecs allowed by name, agreement and size, with what each costs."""
    limit = math.inf if problem.max_packet_bytes is None else problem.max_packet_bytes
    costs = {codec: problem.graph.codec_cost(point, codec) for codec in problem.codec_names(point)}
    return {
        codec: cost for codec, cost in costs.items() if cost.bytes <= limit and cost.agreement >= problem.min_agreement
    }


def offers_at(problem: Problem, remote: Tier, point: str, rest: float) -> list[Offer]:
    """An offer for every codec allowed at `point`, after which the remote tier works for `rest` seconds."""
    links = problem.network.links
    route = [links[hop] for hop in problem.network.route(Tier.DEVICE, remote) or ()]
    back = sum(link.transfer_seconds(problem.graph.result_bytes) for link in route)
    found = []
    for codec, cost in allowed_costs(problem, point).items():
        way = sum(link.transfer_seconds(cost.bytes) + link.round_trip_seconds for link in route)
        found.append(Offer(cost.encode_seconds + way + cost.decode_seconds + rest + back, cost.bytes, codec))
    return found


def offers(problem: Problem, remote: Tier) -> dict[str, Offer]:
    """For every cut of a chain from `input` to the last layer but one, the offer with the quickest codec allowed.

    A cut that no allowed codec fits is missing. Ties go to the smaller codec.
    """
    graph = problem.graph
    rest = sum(layer.seconds[remote] for layer in graph.layers)
    best = {}
    for point, following in zip((INPUT, *graph.names), graph.layers, strict=False):
        found = offers_at(problem, remote, point, rest)
        if found:
            best[point] = min(found, key=lambda offer: (offer.seconds, offer.bytes))
        rest -= following.seconds[remote]
    return best
