"""What a number in the configuration may be: one table, for the file, the environment, SIGHUP and `request/set` alike.

Whatever lies within can be carried out: no thread spins on it, no clock, packet or memory is too small for it.
"""

from __future__ import annotations

from typing import NamedTuple

HOUR = 3600.0
YEAR = 365 * 24 * HOUR
MOST_PACKET_BYTES = 268_435_455
"""The largest message that MQTT has a length for."""


class Bounds(NamedTuple):
    """The least and the greatest value, both allowed."""

    least: float
    most: float


_SPAN = Bounds(0.05, YEAR)
_SHARE = Bounds(0, 1)
_MESSAGE = Bounds(1, MOST_PACKET_BYTES)

BOUNDS: dict[str, Bounds] = {
    "mqtt.port": Bounds(1, 65_535),
    "mqtt.keepalive_seconds": Bounds(5, HOUR),
    "mqtt.session_seconds": Bounds(0, HOUR),
    "planner.min_accuracy": _SHARE,
    "planner.min_agreement": _SHARE,
    "planner.deadline_seconds": Bounds(0.001, HOUR),
    "planner.dwell_seconds": Bounds(0, HOUR),
    "planner.quantile": Bounds(0.001, 0.999),
    # Above the entropy of any model's classes, in nats.
    "planner.thresholds": Bounds(0, 12),
    "probe.interval_seconds": _SPAN,
    "probe.daily_bytes": Bounds(0, 1_000_000_000_000),
    "limits.frame_bytes": _MESSAGE,
    "limits.frame_pixels": Bounds(1, 1_000_000_000),
    "limits.tensor_bytes": _MESSAGE,
    "metrics.interval_seconds": _SPAN,
    "metrics.window_seconds": _SPAN,
    "runtime.threads": Bounds(0, 1024),
    "runtime.slowdown": Bounds(1, 10_000),
}
"""By section and key; `uplink` has those of `mqtt`."""
