"""Jobs on the wall clock, and the clock being put right under them."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta, tzinfo
from types import SimpleNamespace
from typing import Self

import apscheduler.schedulers.base
import pytest

from agent import schedule
from agent.schedule import Schedule
from tests.bus.waiting import until


class WallClock:
    """The wall clock as APScheduler and the guard read it; it can be put forward and back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_seconds = 0.0
        clock = self

        class Stepped(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Self:
                real = datetime.now(UTC) + timedelta(seconds=clock.ahead_seconds)
                return cls.fromtimestamp(real.timestamp(), tz)

        patched = SimpleNamespace(time=lambda: time.time() + self.ahead_seconds, monotonic=time.monotonic)
        monkeypatch.setattr(schedule, "time", patched)
        monkeypatch.setattr(schedule, "datetime", Stepped)
        monkeypatch.setattr(apscheduler.schedulers.base, "datetime", Stepped)


class Runs:
    """Counts how often a job ran."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        """Run."""
        self.count += 1

    def goes_on(self) -> None:
        """Wait for two more runs: the first may have been under way."""
        before = self.count
        until(lambda: self.count >= before + 2, "the job to go on")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    """A wall clock of our own."""
    return WallClock(monkeypatch)


def test_a_guard_that_fails_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What went wrong once, whatever it was, does not leave the schedule to the next step of the clock."""
    monkeypatch.setattr(schedule, "_LOOK_SECONDS", 0.01)
    looks = Runs()

    class Failing(Schedule):
        def look(self) -> bool:
            looks()
            raise KeyError("gone")

    one = Failing({"job": (3600.0, lambda: None)})
    one.start()
    looks.goes_on()
    one.stop()


def test_every_job_runs_again_and_again() -> None:
    """Each at its own interval, none at once."""
    quick, slow = Runs(), Runs()
    schedule_ = Schedule({"quick": (0.05, quick), "slow": (3600.0, slow)})
    schedule_.start()
    try:
        quick.goes_on()
    finally:
        schedule_.stop()

    assert slow.count == 0
    assert not schedule_._guard.is_alive()


def test_a_job_that_fails_runs_again() -> None:
    """One bad turn is not the end of a job, nor of the others."""
    runs = Runs()

    def fails() -> None:
        runs()
        raise RuntimeError("a bad turn")

    schedule_ = Schedule({"job": (0.05, fails)})
    schedule_.start()
    try:
        runs.goes_on()
    finally:
        schedule_.stop()


def test_missed_runs_are_caught_up_once_and_never_forgotten() -> None:
    """However late the machine was: no grace time, one run for all that was missed, one at a time."""
    schedule_ = Schedule({"job": (0.05, lambda: None)})
    schedule_.start()
    try:
        (job,) = schedule_._scheduler.get_jobs()
        assert (job.misfire_grace_time, job.coalesce, job.max_instances) == (None, True, 1)
    finally:
        schedule_.stop()


def test_a_job_that_takes_long_is_not_started_twice() -> None:
    """The next run waits for its turn."""
    inside, most = threading.Semaphore(1), []
    runs = Runs()

    def slow() -> None:
        most.append(inside.acquire(blocking=False))
        pause.wait(0.2)
        inside.release()
        runs()

    pause = threading.Event()
    schedule_ = Schedule({"slow": (0.05, slow)})
    schedule_.start()
    try:
        runs.goes_on()
    finally:
        schedule_.stop()
        pause.set()

    assert all(most)


@pytest.mark.parametrize("years", [40, -40, 0.001, -0.001])
def test_a_step_of_the_clock_stalls_nothing(clock: WallClock, years: float) -> None:
    """Forward, where years of runs seem to be missed, or back, where the next is years away: jobs go on."""
    runs = Runs()
    schedule_ = Schedule({"job": (0.05, runs)})
    schedule_.start()
    try:
        runs.goes_on()
        clock.ahead_seconds = years * 365 * 86400
        before = runs.count
        schedule_.look()
        runs.goes_on()
        assert runs.count < before + 1000
    finally:
        schedule_.stop()


def test_the_guard_looks_by_itself(clock: WallClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to call it."""
    monkeypatch.setattr(schedule, "_LOOK_SECONDS", 0.05)
    runs = Runs()
    schedule_ = Schedule({"job": (0.1, runs)})
    schedule_.start()
    try:
        clock.ahead_seconds = -3600.0
        runs.goes_on()
    finally:
        schedule_.stop()


def test_a_clock_that_runs_true_is_left_alone(clock: WallClock) -> None:
    """Small corrections are no step; a step is told once."""
    schedule_ = Schedule({"job": (3600.0, lambda: None)})
    schedule_.start()
    try:
        assert not schedule_.look()
        clock.ahead_seconds = 1.5
        assert not schedule_.look()
        clock.ahead_seconds = 300.0
        assert schedule_.look()
        assert not schedule_.look()
    finally:
        schedule_.stop()


def test_an_interval_can_be_changed_while_running() -> None:
    """The job goes on at the new one."""
    runs = Runs()
    schedule_ = Schedule({"job": (3600.0, runs)})
    schedule_.start()
    try:
        schedule_.change("job", 0.05)
        runs.goes_on()
    finally:
        schedule_.stop()
