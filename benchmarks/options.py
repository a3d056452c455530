"""What every benchmark is told."""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """`quick`: a fifth of the work, to see that it runs; its figures are noisy."""

    quick: bool = False
    quiet: bool = False

    def say(self, text: str) -> None:
        """Tell on stderr what goes on."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)
