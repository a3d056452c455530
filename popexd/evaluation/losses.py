"""What leaving early costs: frames that a branch answers wrongly and the network's end would not, less the reverse.

Branch and end answer the same frames, so what counts is the pairs that differ. A share of frames counted on a few is
luck in part; the bounds say how much more it may be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NORMAL_90, NORMAL_95 = 1.2815515655446004, 1.6448536269514722
"""One-sided quantiles of the normal distribution."""

_NORMAL_975 = 1.959963984540054


@dataclass(frozen=True)
class Loss:
    """What the frames that leave at a branch lose to the network's end.

    Attributes:
        samples: how many leave there.
        share: of them that the end would have answered rightly and the branch did not, less the reverse.
        at_most: what it may be on any number of such frames, with a confidence of 95 %.
    """

    samples: int
    share: float
    at_most: float


def paired(branch: npt.NDArray[np.bool_], end: npt.NDArray[np.bool_]) -> Loss | None:
    """Compare what branch and end were right about on the same frames: [samples] each; None where there are none.

    The bound is that of Bonett and Price (2012): one frame is added to either kind of pair that differs, so that frames
    without a loss are not taken for a proof that there is none.
    """
    samples = int(branch.size)
    if not samples:
        return None
    lost, gained = int((end & ~branch).sum()), int((branch & ~end).sum())
    return Loss(samples, (lost - gained) / samples, float(bound(lost + 1, gained + 1, samples + 2, NORMAL_95)))


def interval(share: float, samples: int) -> tuple[float, float]:
    """Between what a share may be that was counted on so many samples, with a confidence of 95 % (Wilson, 1927)."""
    square = _NORMAL_975**2
    centre = (share * samples + square / 2) / (samples + square)
    width = _NORMAL_975 * np.sqrt(samples * share * (1 - share) + square / 4) / (samples + square)
    return max(0.0, float(centre - width)), min(1.0, float(centre + width))


def bound(lost: npt.ArrayLike, gained: npt.ArrayLike, samples: npt.ArrayLike, normal: float) -> npt.NDArray[np.float64]:
    """The upper bound of the share (lost - gained) / samples, elementwise, `normal` standard errors above it."""
    count = np.maximum(np.asarray(samples, dtype=np.float64), 1)
    one, other = np.asarray(lost) / count, np.asarray(gained) / count
    share = one - other
    # A variance of nothing may round to below it.
    return np.asarray(share + normal * np.sqrt(np.maximum(one + other - share**2, 0) / count))
