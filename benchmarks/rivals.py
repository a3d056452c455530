"""The honest rivals: what the daemon takes beside what one would do without it, on the same frames over the same link.

Every contender is an agent as it comes. The daemon decides as it likes; the rivals are pinned (`benchmarks.pins`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

from popexd.lab.demo_report import where
from popexd.lab.link import FOURTH_GENERATION, THIRD_GENERATION, WIFI, Profile

from . import pins
from .device import Answer, Device
from .figures import Figure
from .options import Options
from .pictures import Picture, generated, photos
from .stage import Stage

AT_MOST = 1.05
"""Behind the best rival by more than this is not noise."""

DAEMON, ALONE, CAMERA, RESIZED = "daemon", "device only", "camera JPEG", "resized image"
_BEATEN = (ALONE, CAMERA)
"""The rivals of the target: what anybody would do. A resized image is a choice of the daemon's own."""

_LINKS = (THIRD_GENERATION, FOURTH_GENERATION, WIFI)
_TELLING = {"cut", "codec", "reason", "predicted", "alternatives", "network"}
_WARM_UP_SECONDS = 12.0
_WARM_UP_FRAMES = (8, 40)


@dataclass
class Heat:
    """What the contenders made of one material over one link."""

    material: str
    profile: Profile
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    right: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, picture: Picture, answer: Answer | None) -> None:
        """Take in an answer; one that never came is left out here, and fails the e2e tests."""
        if answer is not None:
            self.answers.setdefault(name, []).append(answer)
            self.right[name] += answer.right(picture)

    def p50(self, name: str) -> float:
        """Median seconds of a contender; infinite if it was not there."""
        answers = self.answers.get(name)
        return median(answer.seconds for answer in answers) if answers else float("inf")

    def mean(self, name: str) -> float:
        """Mean seconds of a contender; infinite if it was not there."""
        answers = self.answers.get(name)
        return fmean(answer.seconds for answer in answers) if answers else float("inf")


def measure(options: Options) -> list[Figure]:
    """Let the contenders take turns, block by block, over each link and on each material."""
    rounds, block = (1, 8) if options.quick else (3, 12)
    heats = []
    for material, pictures in (("generated", generated(rounds * block)), ("photos", photos(rounds * block))):
        if not pictures:
            continue
        # Anew for each material: a device has one camera, and an agent remembers how large its frames are.
        with Stage(WIFI) as stage:
            contenders = _contenders(stage)
            for profile in _LINKS:
                heats.append(_heat(stage, contenders, Heat(material, profile), pictures, block))
                options.say(f"  {material}, {profile.name}: {_line(heats[-1])}")
    return [_figure(heat) for heat in heats]


def _contenders(stage: Stage) -> dict[str, Device]:
    tables = {"runtime": stage.braked()}
    found = {
        # How soon it learns of a link is another figure; here it is to know it. The rivals have no use for it.
        DAEMON: stage.agent("daemon", {**tables, "probe": {"interval_seconds": 3.0}}),
        ALONE: stage.agent("alone", tables, pins.alone()),
        CAMERA: stage.agent("camera", tables, pins.camera()),
    }
    resized = stage.agent("resized", tables, pins.resized())
    if resized.decision is not None and resized.decision.cut == "input":
        found[RESIZED] = resized  # else none of its codecs leaves enough answers as they are
    return found


def _heat(stage: Stage, contenders: Mapping[str, Device], heat: Heat, pictures: Sequence[Picture], block: int) -> Heat:
    stage.link.set(heat.profile)
    for name, device in contenders.items():
        _warm_up(name, device, heat.profile, pictures)
    for start in range(0, len(pictures), block):
        for name, device in contenders.items():
            for picture in pictures[start : start + block]:
                heat.add(name, picture, device.ask(picture))
    return heat


def _warm_up(name: str, device: Device, profile: Profile, pictures: Sequence[Picture]) -> None:
    """Send frames until the agent knows the link and nothing falls back; who stays at home needs but a few."""
    device.request("probe")
    deadline = time.monotonic() + _WARM_UP_SECONDS
    fewest, most = _WARM_UP_FRAMES
    calm = 0
    for number in range(most):
        before = device.decision
        answer = device.ask(pictures[number % len(pictures)])
        known = name == ALONE or device.close_to(profile.bits_per_second_up)
        steady = answer is not None and answer.result.fallback is None and device.decision is before
        calm = calm + 1 if known and steady else 0
        if (calm >= 4 and number >= fewest) or time.monotonic() > deadline:
            return


# ---------------------------------------------------------------------------------------------- what came of it


def _line(heat: Heat) -> str:
    return ", ".join(f"{name} {1000 * heat.p50(name):.0f}" for name in heat.answers)


def _figure(heat: Heat) -> Figure:
    best = min(_BEATEN, key=heat.p50)
    ratio = heat.p50(DAEMON) / heat.p50(best)
    mbit = f"{heat.profile.bits_per_second_up / 1e6:g} Mbit/s"
    name = f"daemon against the better of device only and camera JPEG, {heat.material}, {mbit}, p50"
    note = f"{_line(heat)} ms; {_choices(heat)}"
    return Figure("rivals", name, ratio, "x", at_most=AT_MOST, note=note, details=_details(heat, best))


def _choices(heat: Heat) -> str:
    plans = Counter(where(answer.plan) for answer in heat.answers[DAEMON] if answer.plan is not None)
    exits = Counter(answer.result.exit for answer in heat.answers[DAEMON])
    shares = ", ".join(f"{name} {100 * count / exits.total():.0f}%" for name, count in exits.most_common())
    return f"{', '.join(plans)}; exits {shares}"


def _details(heat: Heat, best: str) -> dict[str, Any]:
    found: dict[str, Any] = {"best_rival": best, "mean_ratio": heat.mean(DAEMON) / min(map(heat.mean, _BEATEN))}
    for name, answers in heat.answers.items():
        plans = [answer.plan for answer in answers if answer.plan is not None]
        found[name] = {
            "frames": len(answers),
            "p50_seconds": heat.p50(name),
            "mean_seconds": heat.mean(name),
            "accuracy": heat.right[name] / len(answers) if heat.material == "generated" else None,
            "bytes_sent": fmean(answer.result.bytes_sent for answer in answers),
            "plans": dict(Counter(map(where, plans))),
            "exits": dict(Counter(answer.result.exit for answer in answers)),
            "fallbacks": dict(Counter(answer.result.fallback for answer in answers if answer.result.fallback)),
            "predicted_seconds": fmean(plan.predicted.seconds for plan in plans) if plans else None,
            "decision": plans[-1].model_dump(mode="json", include=_TELLING) if plans else None,
        }
    return found
