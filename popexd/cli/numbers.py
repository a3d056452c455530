"""The numbers of any command's options: finite, and no larger than what counts, seeds and the machine can be."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

from popexd.errors import InputError

MOST = 2**32 - 1
"""Of a whole number. Seeds are mixed with other numbers into 64 bits; nothing that is counted here comes near."""


def checked(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command refuse numbers that no option means; its own bounds come besides.

    NaN passes every least and greatest value: no comparison with it is true.
    """

    @wraps(command)
    def calling(**options: Any) -> Any:
        for name, value in options.items():
            for each in value if isinstance(value, list | tuple) else [value]:
                _check(f"--{name.replace('_', '-')}", each)
        return command(**options)

    return calling


def _check(option: str, value: object) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{option}: {value:g}, expected a finite number")
    if isinstance(value, int) and abs(value) > MOST:
        raise InputError(f"{option}: {value}, expected at most {MOST}")
