"""Where the seconds of an answered frame went."""

from __future__ import annotations

from collections.abc import Mapping

from popexd.coordinator.events import Timing
from popexd.coordinator.frames import Frame
from popexd.plan import Tier


def timing(frame: Frame, tier: Tier, far: Mapping[str, float], now: float) -> Timing:
    """Split the total; parts add up to no more than it, None means that a part was not involved."""
    total = now - frame.received_at
    spent = (frame.taken_at - frame.received_at) + frame.decode_seconds + frame.device_seconds + frame.encode_seconds
    left = max(0.0, total - spent)
    transfer = frame.waited_seconds if frame.attempt else None
    edge = cloud = None
    if tier is not Tier.DEVICE:
        edge = min(far["edge"], left) if "edge" in far else None
        here = sum(seconds for part, seconds in far.items() if part != "edge")
        here = min(here, left - (edge or 0.0))
        edge, cloud = (here, None) if tier is Tier.EDGE else (edge, here)
        transfer = left - (edge or 0.0) - (cloud or 0.0)
    return Timing(
        total=total,
        queue=frame.taken_at - frame.received_at,
        decode=frame.decode_seconds or None,
        device=frame.device_seconds or None,
        encode=frame.encode_seconds or None,
        transfer=None if transfer is None else min(transfer, left),
        edge=edge,
        cloud=cloud,
    )
