"""The laboratory's brake: pretend that this machine is so many times slower."""

from __future__ import annotations

import time
from types import TracebackType


class Brake:
    """A context manager: what runs inside takes `factor` times as long, the rest of it asleep.

    The processor is free meanwhile, as it would be if the work were done elsewhere: so a fast worker and a slow device
    can share one machine in a demo.
    """

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self._begun = 0.0

    def __enter__(self) -> Brake:
        self._begun = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.factor > 1:
            time.sleep((self.factor - 1) * (time.perf_counter() - self._begun))
