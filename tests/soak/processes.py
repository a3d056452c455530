"""Agent and workers as processes of their own, watched from outside: memory, file descriptors, threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Sample:
    """What a process holds at one instant."""

    at: float
    resident_bytes: int
    file_descriptors: int
    threads: int


class Process:
    """`popexd agent run` or `popexd worker run`, started and ended as often as one likes."""

    def __init__(self, kind: str, config: Path) -> None:
        self.kind = kind
        self.config = config
        self.samples: list[Sample] = []
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run it."""
        with self.config.with_suffix(".log").open("ab") as log:
            self._child = subprocess.Popen(
                [Path(sys.executable).with_name("popexd"), self.kind, "run", "--config", self.config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        if self._child is not None:
            self._child.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal that ends it, and wait; returns the exit status."""
        child, self._child = self._child, None
        if child is None:
            return 0
        child.send_signal(number)
        child.send_signal(signal.SIGCONT)
        try:
            return child.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()

    @property
    def running(self) -> bool:
        """Whether it is alive, stopped or not."""
        return self._child is not None and self._child.poll() is None

    @property
    def log(self) -> str:
        """What it has written so far, all runs together."""
        return self.config.with_suffix(".log").read_text(errors="replace")

    def sample(self, at: float) -> None:
        """Look at what it holds now."""
        if self._child is None:
            return
        with suppress(OSError, StopIteration):
            folder = Path("/proc", str(self._child.pid))
            status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
            resident = int(status["VmRSS"].split()[0]) * 1024
            descriptors = len(os.listdir(folder / "fd"))  # noqa: PTH208 counted, nothing is opened
            self.samples.append(Sample(at, resident, descriptors, int(status["Threads"])))


@dataclass(frozen=True)
class Growth:
    """The last third of a run against its middle third."""

    resident_megabytes: float
    resident_growth: float
    file_descriptors: tuple[int, int]
    threads: tuple[int, int]

    @property
    def flat(self) -> bool:
        """Memory within 5 %, and no more file descriptors or threads than before, but for one in passing."""
        fewer = all(last <= middle + 1 for middle, last in (self.file_descriptors, self.threads))
        return self.resident_growth <= 0.05 and fewer


def growth(samples: list[Sample]) -> Growth:
    """Compare the thirds of a run; memory by its mean, the rest by its most."""
    begin, end = samples[0].at, samples[-1].at
    third = (end - begin) / 3
    middle = [each for each in samples if third <= each.at - begin < 2 * third]
    last = [each for each in samples if each.at - begin >= 2 * third]
    before, after = (sum(each.resident_bytes for each in part) / len(part) for part in (middle, last))
    return Growth(
        resident_megabytes=round(after / 1e6, 1),
        resident_growth=round(after / before - 1, 4),
        file_descriptors=(max(each.file_descriptors for each in middle), max(each.file_descriptors for each in last)),
        threads=(max(each.threads for each in middle), max(each.threads for each in last)),
    )
