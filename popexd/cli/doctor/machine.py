"""The machine we are on: processor, memory, disk, clock."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from .findings import Finding, fail, ok, sized, warn

_MACHINES = ("x86_64", "amd64", "aarch64", "arm64")
_FASTER = {"x86_64": "avx2", "amd64": "avx2", "aarch64": "asimddp", "arm64": "asimddp"}
_IMPORT_SECONDS = 60.0
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
_NO_EARLIER = 1_767_225_600.0  # 2026-01-01: before that this version was not written


def processor() -> Finding:
    """Look at the kind of processor, and whether ONNX Runtime starts on it."""
    machine = platform.machine().lower()
    if machine not in _MACHINES:
        return fail("processor", f"{machine}", "install a 64-bit system: ONNX Runtime has no build for others")
    code = "import onnxruntime; print(onnxruntime.__version__)"
    try:
        done = subprocess.run(  # noqa: S603 our own interpreter and a constant
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=_IMPORT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return fail("processor", f"ONNX Runtime did not start in {_IMPORT_SECONDS:g} s", "free the machine, try again")
    if done.returncode == -signal.SIGILL:
        return fail("processor", f"{machine} lacks an instruction ONNX Runtime uses", "install another onnxruntime")
    if done.returncode:
        words = (done.stderr.strip().splitlines() or ["no words"])[-1]
        return fail("processor", f"ONNX Runtime does not start: {words[:120]}", "install popexd again")
    cores, wanted = len(os.sched_getaffinity(0)), _FASTER[machine]
    what = f"{machine}, {cores} cores, ONNX Runtime {done.stdout.strip()}"
    if wanted not in features():
        return warn("processor", f"{what}, without {wanted}", "expect segments to run several times slower")
    return ok("processor", f"{what}, {wanted}")


def features(path: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Return the processor's features as Linux names them; none where it does not say."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    named = (line.partition(":") for line in lines)
    return {word for key, _, words in named if key.strip() in ("flags", "Features") for word in words.split()}


def memory(path: Path = Path("/proc/meminfo")) -> Finding:
    """Look at the memory that a new program could have."""
    try:
        table = dict(line.split(":") for line in path.read_text(encoding="ascii").splitlines() if ":" in line)
        available = int(table["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        return warn("memory", "cannot be told", "see that 300 MB are free")
    if available < 100e6:
        return fail("memory", f"{sized(available)} available", "agent and worker need about 200 MB each")
    if available < 300e6:
        return warn("memory", f"{sized(available)} available", "agent and worker need about 200 MB each")
    return ok("memory", f"{sized(available)} available")


def disk(folder: Path) -> Finding:
    """Look at the room where measurements are kept."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        usage = shutil.disk_usage(place)
    except OSError as error:
        return warn("disk", f"{place}: {error.strerror}", "see that there is room")
    says = f"{sized(usage.free)} free at {place}"
    if usage.free < 20e6:
        return fail("disk", says, "make room: measurements and logs cannot be written")
    if usage.free < 200e6:
        return warn("disk", says, "make room, or bound the journal with SystemMaxUse=")
    return ok("disk", says)


def clock() -> Finding:
    """Look whether the kernel takes its clock for right: certificates and time stamps depend on it."""
    if time.time() < _NO_EARLIER:
        return fail("clock", time.strftime("it says %Y-%m-%d", time.gmtime()), "set it: timedatectl set-ntp true")
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(512))
    except (OSError, AttributeError):
        state = -1
    if state < 0:
        return warn("clock", "the system does not say whether it is synchronised", "see that the time is right")
    if state == _TIME_ERROR:
        return warn("clock", "not synchronised", "timedatectl set-ntp true; without it certificates may seem expired")
    return ok("clock", "synchronised")
