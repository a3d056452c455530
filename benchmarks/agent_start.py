"""The agent's start and its memory."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from statistics import median

from .device import SITE, Device
from .figures import Figure
from .options import Options
from .pictures import generated
from .stage import BenchmarkError, Stage

AT_MOST_SECONDS = 3.0
AT_MOST_BYTES = 250e6


def measure(options: Options) -> list[Figure]:
    """Start the agent with and without its measurements kept, then have it answer a thousand frames."""
    # As it comes: no threads are configured, so all cores are used.
    with Stage(threads=0) as stage:
        times = 1 if options.quick else 3
        cold = [_start(stage, f"cold{number}", stage.folder / f"none-{number}")[0] for number in range(times)]
        warm = []
        for number in range(times):
            seconds, device = _start(stage, f"warm{number}", stage.folder / "cache")
            warm.append(seconds)
            if number < times - 1:
                device.program.stop()
        memory = _work(device, 200 if options.quick else 1000)
    frames = memory["frames"]
    found = []
    for kind, seconds_of in (("measuring this machine first", cold), ("measured before", warm)):
        name = f"agent: process start to retained online, {kind}, median"
        note = f"slowest of {times}: {max(seconds_of):.2f} s"
        found.append(
            Figure("agent", name, median(seconds_of), "s", None, AT_MOST_SECONDS, note, {"seconds": seconds_of})
        )
    name = f"agent: resident memory after {frames} frames"
    note = f"highest {memory['VmHWM'] / 1e6:.0f} MB, at the start {memory['start'] / 1e6:.0f} MB"
    return [*found, Figure("agent", name, memory["VmRSS"], "MB", None, AT_MOST_BYTES, note, memory)]


def _start(stage: Stage, name: str, cache: Path) -> tuple[float, Device]:
    device = Device(stage.site, name)
    tables = {"mqtt": {"port": stage.site.settings.port, "site": SITE, "device": name}}
    began = time.monotonic()
    device.program = stage.program("agent", tables, name, cache)
    stage.wait(lambda: device.online_at > began, device.program, device.changed)
    if cache.name != "cache":
        device.program.stop()
    return device.online_at - began, device


def _work(device: Device, frames: int) -> dict[str, int]:
    """Have half of the frames answered as the daemon likes, half in the cloud."""
    at_start = device.program.memory_bytes()["VmRSS"]
    for number, picture in zip(range(frames), itertools.cycle(generated(32)), strict=False):
        if number == frames // 2:
            device.request("set", mode="cloud")
        if device.ask(picture) is None:
            raise BenchmarkError(f"no answer: {device.program.last_words}")
    return {**device.program.memory_bytes(), "start": at_start, "frames": frames}
