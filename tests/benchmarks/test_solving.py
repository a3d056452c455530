"""The brain on a made-up clock decides as the daemon does."""

from __future__ import annotations

from benchmarks.solving import decision_seconds
from benchmarks.virtual import VirtualDaemon
from popexd import bundle
from popexd.plan import Tier

from .test_pins import measured


def test_the_virtual_daemon_learns_the_link_by_its_own_probes() -> None:
    """Its last decision was made on the rate that it was given, within a fifth."""
    profile = measured()
    daemon = VirtualDaemon(bundle.load("default"), profile.slowed(30), profile, 5e6)
    link = daemon.decisions[-1].network["device"]

    assert 4e6 < link.bits_per_second < 6e6


def test_frames_are_answered_and_teach_it() -> None:
    """On a link worth using, with a worker beside a slow device, some of the model runs there."""
    profile = measured()
    daemon = VirtualDaemon(bundle.load("default"), profile.slowed(100), profile, 1e9, min_agreement=0.0)
    for _ in range(20):
        daemon.frame()

    assert max(daemon.decisions[-1].plan.tiers.values()) is Tier.CLOUD


def test_as_many_decisions_are_timed_as_asked_for() -> None:
    """On a link that changes there is always another one."""
    assert len(decision_seconds(bundle.load("default"), measured(), 6)) == 6
