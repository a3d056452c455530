"""What the device's work and its radio draw."""

from __future__ import annotations

import math
from dataclasses import dataclass

from popexd.errors import ProfileError


@dataclass(frozen=True, slots=True)
class Power:
    """Watts above idle while the device computes, and while it sends.

    The defaults stand in for a Raspberry Pi 4 on Wi-Fi where nobody has measured: their ratio decides, not their size.

    Raises:
        ProfileError: a number that is negative or not finite.
    """

    compute_watts: float = 3.5
    transmit_watts: float = 1.0

    def __post_init__(self) -> None:
        for name in ("compute_watts", "transmit_watts"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ProfileError(f"power.{name}: {value:g}, expected a finite number, zero or more")

    def joules(self, compute_seconds: float, transmit_seconds: float) -> float:
        """Energy of so much work and sending (Neurosurgeon: sum of TM_i PM_i, plus TU PU)."""
        return self.compute_watts * compute_seconds + self.transmit_watts * transmit_seconds
