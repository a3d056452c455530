"""Rivals are pinned by what an agent's own profile offers it."""

from __future__ import annotations

from functools import cache

import pytest

from benchmarks import pins
from benchmarks.pins import Pin
from benchmarks.virtual import VirtualDaemon
from popexd import bundle
from popexd.coordinator.events import Decision
from popexd.plan import Tier
from popexd.runtime import background
from popexd.runtime.background import MachineProfile
from popexd.runtime.segments import SegmentRunner


@cache
def measured() -> MachineProfile:
    """The profile of this machine for the default bundle, from a few rounds."""
    model = bundle.load("default")
    return background.measure(SegmentRunner(model, 1), model, 0.01)


def decided(pin: Pin, bits_per_second: float, slowdown: float = 30.0) -> Decision:
    """What the daemon makes of a pinned profile, beside a worker as fast as this machine, once it knows the link."""
    device = MachineProfile.from_json(pin.edit(measured().to_json())).slowed(slowdown)
    planner = {"min_agreement": 0.0, **pin.planner}
    daemon = VirtualDaemon(bundle.load("default"), device, measured(), bits_per_second, **planner)
    return daemon.decisions[-1]


@pytest.mark.parametrize("bits_per_second", [1e5, 5e6, 1e9])
def test_a_pinned_cut_is_the_only_one(bits_per_second: float) -> None:
    """Whatever the link, the frame is shipped there, with that codec, and no branch answers."""
    made = decided(pins.ship("pool5", lambda codec: codec == "q8+zstd"), bits_per_second)

    assert (made.cut, made.form["codec"]) == ("pool5", "q8+zstd")
    assert not any(choice.runs for choice in made.plan.exits.values())


@pytest.mark.parametrize("bits_per_second", [1e5, 1e9])
def test_the_camera_rival_sends_every_frame_as_it_is(bits_per_second: float) -> None:
    """Even over a link on which that is a bad idea."""
    made = decided(pins.camera(), bits_per_second)

    assert (made.cut, made.form["codec"]) == ("input", "camera")


def test_the_resized_rival_takes_the_best_image_codec() -> None:
    """A JPEG or WebP of the network's size."""
    made = decided(pins.resized(), 1e6)

    assert made.cut == "input"
    assert made.form["codec"].startswith(("jpeg-", "webp-"))


def test_the_rival_that_stays_at_home_runs_the_whole_model() -> None:
    """No branch answers, and nothing leaves."""
    made = decided(pins.alone(), 1e9)

    assert set(made.plan.tiers.values()) == {Tier.DEVICE}
    assert not any(choice.runs for choice in made.plan.exits.values())


def test_a_pinned_plan_is_priced_honestly() -> None:
    """What the others are given as a price does not show in what is left."""
    made = decided(pins.ship("pool5", lambda codec: codec == "q8+zstd"), 5e6, slowdown=1.0)

    assert made.prediction.seconds < 1.0
