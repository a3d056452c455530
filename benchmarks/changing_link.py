"""A link that changes under traffic: how soon the agent decides anew, and how right its expectations are in between."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from statistics import fmean, median
from typing import Any

from popexd.lab.demo_report import where
from popexd.lab.link import FOURTH_GENERATION, THIRD_GENERATION, WIFI, Profile

from .device import Answer, Device
from .figures import Figure
from .options import Options
from .pictures import generated
from .stage import BenchmarkError, Stage

AT_MOST_SECONDS = 3.0
RATIO = (0.85, 1.15)
_FRAMES_PER_SECOND = 5.0
_PHASES = (WIFI, FOURTH_GENERATION, THIRD_GENERATION)
_SETTLING_SECONDS = 4.0
_GIVE_UP_SECONDS = 20.0


@dataclass
class Reaction:
    """One change of the link, and the seconds until a decision was made on the new rate; `_GIVE_UP_SECONDS` at most."""

    way: str
    seconds: float
    replanned: bool


@dataclass
class Traffic:
    """Publishes frames steadily from a thread of its own, whatever becomes of them."""

    device: Device
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> None:
        self._thread = threading.Thread(target=self._run, name="traffic")
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join()

    def _run(self) -> None:
        began = time.monotonic()
        for number, picture in enumerate(itertools.cycle(generated(64))):
            if self._stop.wait(max(0.0, began + number / _FRAMES_PER_SECOND - time.monotonic())):
                return
            self.device.publish(picture)


def measure(options: Options) -> list[Figure]:
    """Run one agent, braked as the demo's is, over a link that changes."""
    generated(64)
    with Stage(WIFI) as stage:
        tables = {
            "probe": {"interval_seconds": 3.0},
            "metrics": {"interval_seconds": 1.0, "window_seconds": 5.0 if options.quick else 10.0},
            "runtime": stage.braked(),
        }
        device = stage.agent("agent", tables)
        with Traffic(device):
            phases = [_phase(stage, device, profile, 5.0 if options.quick else 10.0) for profile in _PHASES]
            reactions = [_react(stage, device, *change) for change in _changes(1 if options.quick else 3)]
    return [_reaction_figure(reactions), *phases]


# ---------------------------------------------------------------------------------------------- expectations


def _phase(stage: Stage, device: Device, profile: Profile, seconds: float) -> Figure:
    """Let the agent settle on a link, then compare what frames take with what it expected of each."""
    stage.link.set(profile)
    settled = _settle(device, profile)
    device.taken_answers()
    _pause(seconds)
    answers = device.taken_answers()
    if device.metrics is None or not answers:
        raise BenchmarkError(f"no answers over {profile.name}")
    ratio = device.metrics.prediction_error.median_ratio
    details = _facts(answers)
    note = f"{details['mean']:.2f} of the means; {details['frames']} frames, {', '.join(details['plans'])}"
    if not settled:
        note += f"; no decision on this link's rate within {_GIVE_UP_SECONDS:g} s"
    name = f"measured over expected seconds, {profile.name}, median"
    value = float("nan") if ratio is None else ratio
    return Figure("link", name, value, "x", *RATIO, note, details)


def _facts(answers: list[Answer]) -> dict[str, Any]:
    """Compare the mean of the answers with the mean that their plans predicted, and list the plans."""
    plans = [(answer, answer.plan) for answer in answers if answer.plan is not None]
    served = [answer.result.seconds.total - (answer.result.seconds.queue or 0.0) for answer, _ in plans]
    return {
        "frames": len(answers),
        "mean": fmean(served) / fmean(plan.predicted.seconds for _, plan in plans),
        "plans": dict(Counter(where(plan) for _, plan in plans).most_common()),
        "exits": dict(Counter(answer.result.exit for answer in answers)),
        "fallbacks": dict(Counter(answer.result.fallback for answer in answers if answer.result.fallback)),
    }


# ---------------------------------------------------------------------------------------------- reactions


def _changes(times: int) -> Iterator[tuple[Profile, Profile, float]]:
    """Yield changes by five, down and up by turns, on a slow link and on a fast one, and how long to wait before."""
    slow, fast = FOURTH_GENERATION, WIFI
    number = 0
    for upper in (slow, fast):
        rate_up, rate_down = upper.bits_per_second_up / 5, upper.bits_per_second_down / 5
        lower = replace(upper, name=f"{upper.name}/5", bits_per_second_up=rate_up, bits_per_second_down=rate_down)
        for _ in range(times):
            for old, new in ((upper, lower), (lower, upper)):
                # Out of step with the probes, which come every three seconds.
                yield old, new, 1.0 + 0.7 * (number % 4)
                number += 1


def _react(stage: Stage, device: Device, old: Profile, new: Profile, wait_seconds: float) -> Reaction:
    stage.link.set(old)
    _settle(device, old)
    _pause(wait_seconds)
    before = device.decision
    changed_at = time.monotonic()
    stage.link.set(new)

    def decided() -> float | None:
        times = (at for at, made in device.decisions if at > changed_at and device.close_to(_rate(new), made))
        return next(times, None)

    with device.changed:
        decided_at = device.changed.wait_for(decided, _GIVE_UP_SECONDS)
    after = device.decision
    if before is None or after is None or device.program.ended:
        raise BenchmarkError(f"the agent has ended or never decided: {device.program.last_words}")
    seconds = _GIVE_UP_SECONDS if decided_at is None else decided_at - changed_at
    mbit = [f"{_rate(profile) / 1e6:g}" for profile in (old, new)]
    return Reaction(" to ".join(mbit), seconds, after.plan_id != before.plan_id)


def _rate(profile: Profile) -> float:
    return profile.bits_per_second_up


def _reaction_figure(reactions: list[Reaction]) -> Figure:
    seconds = [reaction.seconds for reaction in reactions]
    ways = {way: max(one.seconds for one in reactions if one.way == way) for way in sorted({r.way for r in reactions})}
    worst = ", ".join(f"{way} {slowest:.1f}" for way, slowest in ways.items())
    name = "link's rate changes by 5x to decision on the topic, median"
    note = f"slowest of {len(seconds)}: {max(seconds):.1f} s; by Mbit/s: {worst}"
    details = {"reactions": [reaction.__dict__ for reaction in reactions]}
    return Figure("link", name, median(seconds), "s", None, AT_MOST_SECONDS, note, details)


# ---------------------------------------------------------------------------------------------- waiting


def _settle(device: Device, profile: Profile) -> bool:
    """Wait until the agent has decided on this link's rate, and a while longer for the round trip and the window."""
    with device.changed:
        settled = device.changed.wait_for(lambda: device.close_to(_rate(profile)), _GIVE_UP_SECONDS)
    _pause(_SETTLING_SECONDS)
    return bool(settled)


def _pause(seconds: float) -> None:
    time.sleep(seconds)
