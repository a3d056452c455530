"""`python -m benchmarks`: measure, print one table, and write JSON where asked. `make bench` runs it."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from popexd.errors import PopexdError

from .figures import Figure, table
from .options import Options

BENCHMARKS = {
    "overhead": "overhead",
    "chain": "chain",
    "solve": "solving",
    "planners": "solvers",
    "quality": "looking",
    "agent": "agent_start",
    "nodelay": "no_delay",
    "link": "changing_link",
    "rivals": "rivals",
}
"""What `--only` accepts, and the module that measures it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks; the exit status is 1 only if one could not be carried out, never for a missed target."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="a fifth of the work; the figures are noisy")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every detail there")
    given = parser.parse_args(arguments)
    # Whoever ends us wants the processes of the stage to end, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = Options(quick=given.quick)
    began, load = time.monotonic(), os.getloadavg()
    figures, failures = _run(given.only or list(BENCHMARKS), options)
    width = None if sys.stdout.isatty() else 160
    Console(width=width).print(table(figures))
    minutes, seconds = divmod(int(time.monotonic() - began), 60)
    missed = sum(figure.met is False for figure in figures)
    print(f"\n{len(figures)} figures in {minutes}:{seconds:02d}, {missed} missed; load at the start {load[0]:.1f}")
    for failure in failures:
        print(f"not measured: {failure}", file=sys.stderr)
    if given.json is not None:
        report = {"environment": _environment(load), "figures": [figure.as_json() for figure in figures]}
        given.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 1 if failures else 0


def _run(names: Sequence[str], options: Options) -> tuple[list[Figure], list[str]]:
    figures: list[Figure] = []
    failures = []
    for name in names:
        began = time.monotonic()
        measure: Callable[[Options], list[Figure]] = import_module(f"benchmarks.{BENCHMARKS[name]}").measure
        try:
            figures += measure(options)
        except PopexdError as error:
            failures.append(f"{name}: {error}")
        options.say(f"{name}: {time.monotonic() - began:.0f} s")
    return figures, failures


def _environment(load: tuple[float, float, float]) -> dict[str, Any]:
    """Return what the figures depend on besides the code."""
    from popexd.runtime.background import machine

    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numpy", "onnxruntime", "paho-mqtt", "pillow", "zstandard")},
        "load_average": load,
    }


if __name__ == "__main__":
    sys.exit(main())
