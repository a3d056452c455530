"""The links between the tiers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from popexd.errors import InputError
from popexd.plan import Tier


@dataclass(frozen=True, slots=True)
class Link:
    """One measured or given link.

    Attributes:
        bits_per_second: rate of the payload.
        round_trip_seconds: paid once by each frame that crosses.
        source: how it was learnt (`given`, `passive`, `probe`, ...).
        measured_at: instant of the measurement, by the caller's clock.
        jitter_seconds: standard deviation of a crossing's time; moves the 95th percentile, not the mean.
        at_least: the link may be faster by any factor: what crossed it took too short a time to tell.

    Raises:
        InputError: the rate is not positive and finite, or another figure is negative or not finite.
    """

    bits_per_second: float
    round_trip_seconds: float = 0.0
    source: str = "given"
    measured_at: float | None = None
    jitter_seconds: float = 0.0
    at_least: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bits_per_second) and self.bits_per_second > 0):
            raise InputError(f"link: bits_per_second is {self.bits_per_second:g}, expected a positive number")
        for name in ("round_trip_seconds", "jitter_seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"link: {name} is {value:g}, expected zero or more")

    def transfer_seconds(self, size_bytes: float) -> float:
        """Seconds that `size_bytes` take, without the round trip."""
        return 8.0 * size_bytes / self.bits_per_second


@dataclass(frozen=True, slots=True)
class NetworkState:
    """What leaves the device (`uplink`), what leaves the edge (`edge_uplink`), and an own link device-cloud (`direct`).

    Without `edge_uplink` the edge tier is unused and `uplink` leads from the device straight to the cloud; with it,
    device to cloud is relayed by the edge and pays both hops, unless `direct` is there. `uplink` None is an outage.
    Hops are called by the tier they leave: `device`, `edge`; and `direct`.
    """

    uplink: Link | None
    edge_uplink: Link | None = None
    direct: Link | None = None

    @property
    def links(self) -> Mapping[str, Link]:
        """The link of every hop that there is."""
        hops = {"device": self.uplink, "edge": self.edge_uplink, "direct": self.direct}
        return {hop: link for hop, link in hops.items() if link is not None}

    def route(self, source: Tier, destination: Tier) -> tuple[str, ...] | None:
        """The hops from `source` up to `destination`: empty where they are the same, None where there is no way."""
        if destination <= source:
            return () if destination == source else None
        if source is Tier.EDGE:
            hops: tuple[str, ...] = ("edge",)
        elif destination is Tier.EDGE:
            hops = ("device", "edge")  # the edge tier is in use only where something leaves it
            return hops[:1] if self._has(hops) else None
        elif self.direct is not None:
            hops = ("direct",)
        else:
            hops = ("device", "edge") if self.edge_uplink is not None else ("device",)
        return hops if self._has(hops) else None

    def _has(self, hops: tuple[str, ...]) -> bool:
        links = self.links
        return all(hop in links for hop in hops)
