"""How figures and foreign text are written for people; the only place where seconds become milliseconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from popexd.criteria import Criterion
from popexd.protocol.messages import LinkFigures

if TYPE_CHECKING:
    from popexd.evaluation.losses import Loss


def printable(text: str) -> str:
    """Return text from outside with control characters shown instead of sent to the terminal."""
    return text if text.isprintable() else repr(text)[1:-1]


def milliseconds(seconds: float | None) -> str:
    """Write a duration in milliseconds, `-` for none."""
    return "-" if seconds is None else f"{seconds * 1000:.1f}"


def share(value: float | None) -> str:
    """Write a share in per cent, `-` for none."""
    return "-" if value is None else f"{value * 100:.1f} %"


def lost(found: Loss) -> str:
    """Write what the frames that leave at a branch lose to the network's end, and how sure that is."""
    told = f"loses {share(found.share)}" if found.share > 0 else f"gains {share(-found.share)}"
    if not found.share:
        told = "loses nothing"
    worst = f"at most {share(found.at_most)}"
    if found.share < 0:
        worst = f"at least {share(-found.at_most)}" if found.at_most <= 0 else f"or loses {worst}"
    return f"{told} against the network's end on {found.samples} frames, {worst} (95 %)"


def asked(accuracy: float, right: float, samples: int) -> str:
    """Say what accuracy was asked for, and what frames that nothing was chosen on give, and how sure that is."""
    from popexd.evaluation.losses import interval

    low, high = interval(right, samples)
    return (
        f"{share(accuracy)} right were asked for, {share(right)} are on {samples} frames not chosen on (95 %: "
        f"{share(low)} to {share(high)})"
    )


def asked_time(seconds: float, taken: float, samples: int) -> str:
    """Say what mean time was asked for, and what frames take that nothing was chosen on."""
    return (
        f"{milliseconds(seconds)} ms at most were asked for, {milliseconds(taken)} ms are taken by {samples} frames "
        "not chosen on"
    )


def threshold(value: float, criterion: Criterion) -> str:
    """Write a branch's threshold; one at which it answers nothing is `never`."""
    return f"{value:g}" if criterion.bound(value) <= 1 else "never"


def link(figures: LinkFigures) -> str:
    """Write what is known of a hop: rate and round trip."""
    if figures.bits_per_second is None:
        return "unknown"
    rate = f"{'at least ' if figures.at_least else ''}{figures.bits_per_second / 1e6:.3g} Mbit/s"
    if figures.round_trip_seconds is None:
        return rate
    return f"{rate}, {milliseconds(figures.round_trip_seconds)} ms round trip"


def cut(where: str | list[str]) -> str:
    """Say in words where the model is cut."""
    if where == "input":
        return "input (all of it away from the device)"
    if where == "output":
        return "output (all of it on the device)"
    return printable(where if isinstance(where, str) else " + ".join(where))
