"""The brake: slow on purpose, and only then."""

from __future__ import annotations

import time

import pytest

from popexd.runtime.brake import Brake


def busy(seconds: float) -> None:
    """Keep the processor busy."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def test_a_brake_stretches_what_runs_inside() -> None:
    """Work inside takes at least the factor times as long."""
    begun = time.perf_counter()
    with Brake(4.0):
        busy(0.005)

    assert time.perf_counter() - begun >= 4 * 0.005


def test_without_a_factor_nothing_is_braked(monkeypatch: pytest.MonkeyPatch) -> None:
    """With factor one nobody sleeps."""
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("slept"))
    with Brake():
        busy(0.001)


def test_errors_pass_through_a_brake() -> None:
    """What is raised inside comes out."""
    with pytest.raises(KeyError), Brake(2.0):
        raise KeyError
