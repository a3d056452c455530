"""The schedule: jobs that only put something into the mailbox.

APScheduler runs on the wall clock. On a machine without a clock chip a time correction stalls it (backward): so a step
is noticed and every job starts anew from now. Forward it would list every run that it believes to have missed, millions
for a year, before it coalesces them: so our trigger never looks back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from popexd.logs import fault, get_logger

log = get_logger("agent.schedule")

_STEP_SECONDS = 2.0
_LOOK_SECONDS = 1.0


class Every(BaseTrigger):  # type: ignore[misc]  # APScheduler publishes no types
    """Fires every `seconds`; what was missed is missed: the next time always lies ahead."""

    def __init__(self, seconds: float) -> None:
        self.interval = timedelta(seconds=seconds)

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime:
        """Return one interval after the run before, or after `now` if that has passed."""
        following = now if previous is None else previous
        following += self.interval
        return following if following > now else now + self.interval


class Schedule:
    """Calls each job's function every so many seconds, on a thread of its own; the functions may only enqueue.

    `progress` counts the calls.
    """

    def __init__(self, jobs: dict[str, tuple[float, Callable[[], None]]]) -> None:
        self.progress = 0
        self._jobs = jobs
        # One thread is plenty for what only enqueues; the default is ten, which it comes to over the days.
        self._scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(1)},
            timezone=UTC,
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        self._offset = 0.0
        self._stopped = threading.Event()
        self._guard = threading.Thread(target=self._watch, name="clock guard", daemon=True)

    def start(self) -> None:
        """Begin; each job runs for the first time after its interval."""
        for name, (seconds, _) in self._jobs.items():
            self._scheduler.add_job(partial(self._run, name), Every(seconds), id=name)
        self._offset = time.time() - time.monotonic()
        self._scheduler.start()
        self._guard.start()

    def change(self, name: str, seconds: float) -> None:
        """Run a job at another interval, first after it."""
        self._jobs[name] = (seconds, self._jobs[name][1])
        self._scheduler.reschedule_job(name, trigger=Every(seconds))

    def stop(self) -> None:
        """End; nothing runs afterwards."""
        self._stopped.set()
        self._scheduler.shutdown(wait=False)
        self._guard.join(5)

    def _watch(self) -> None:
        # The guard waits on the monotonic clock: the scheduler's own wake-ups are what a step breaks.
        while not self._stopped.wait(_LOOK_SECONDS):
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 without the guard no step of the clock would be noticed any more
                log.error("clock.failed", detail=fault(error))  # noqa: TRY400 one line

    def _run(self, name: str) -> None:
        self.progress += 1
        self._jobs[name][1]()

    def look(self) -> bool:
        """Start every job anew if the wall clock has been stepped; tell whether it was."""
        offset = time.time() - time.monotonic()
        step, self._offset = offset - self._offset, offset
        if abs(step) <= _STEP_SECONDS:
            return False
        log.warning("clock.stepped", seconds=round(step, 3))
        for name, (seconds, _) in self._jobs.items():
            self._scheduler.modify_job(name, next_run_time=datetime.now(UTC) + timedelta(seconds=seconds))
        self._scheduler.wakeup()
        return True
