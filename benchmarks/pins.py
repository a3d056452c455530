"""Agents that can only do one thing: the measured profile of this machine, edited so that the rest is dear.

What an agent may choose is what its profile offers. So a rival or a cut is pinned in the unchanged daemon by the cache
that it reads at its start; what is left keeps its honest seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_DEAR_SECONDS = 20.0

Profile = dict[str, Any]
Tables = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Pin:
    """An edit of a profile in its JSON form, and the `[planner]` keys that go with it."""

    edit: Callable[[Profile], Profile]
    planner: Mapping[str, Any] = field(default_factory=dict)


def ship(cut: str, codecs: Callable[[str], bool], **planner: Any) -> Pin:
    """Ship every frame at `cut` with the best of the codecs that `codecs` accepts by name; no branch answers."""

    def edit(profile: Profile) -> Profile:
        encode = {point: {"f32": _DEAR_SECONDS} for point in profile["encode"]}
        encode[cut] = {name: seconds for name, seconds in profile["encode"][cut].items() if codecs(name)}
        return {**profile, "encode": encode}

    return Pin(edit, {"mode": "cloud", **planner})


def alone() -> Pin:
    """Finish every frame on the device with the whole model; no branch answers."""
    return Pin(lambda profile: {**profile, "exits": dict.fromkeys(profile["exits"], _DEAR_SECONDS)}, {"mode": "device"})


def camera() -> Pin:
    """Send every frame on as the camera wrote it."""
    return ship("input", lambda codec: codec == "camera")


def resized() -> Pin:
    """Send every frame as the best JPEG or WebP of the network's size."""
    return ship("input", lambda codec: codec.startswith(("jpeg-", "webp-")))
