"""`make fuzz`: the same targets for longer, guided by coverage where atheris is installed, else by Hypothesis.

An input that is a fault is kept in .hypothesis (and tried first next time), or as a file that atheris names.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from subprocess import PIPE, STDOUT

import structlog


def main() -> int:
    """Run each target for its share of the time; the status is the number of targets with a fault."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each target")
    parser.add_argument("--target", action="append", help="only this one; repeatable")
    parser.add_argument("--engine", choices=("atheris", "hypothesis"), help="default: atheris where it is installed")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    engine = options.engine or ("atheris" if importlib.util.find_spec("atheris") else "hypothesis")
    if options.one:
        (_atheris if engine == "atheris" else _hypothesis)(options.target[0], options.seconds)
        return 0
    from .targets import TARGETS

    faults = []
    for name in options.target or TARGETS:
        # A process each: a crash, a leak or a hang of one costs the others nothing.
        words = ["--one", "--target", name, "--seconds", str(options.seconds), "--engine", engine]
        done = subprocess.run(
            [sys.executable, "-m", __package__, *words], check=False, text=True, stdout=PIPE, stderr=STDOUT
        )
        if done.returncode:
            print(done.stdout)
        print(f"{name:<16} {'fault' if done.returncode else 'nothing'} ({engine})", flush=True)
        faults += [name] if done.returncode else []
    return len(faults)


def _hypothesis(name: str, seconds: float) -> None:
    from hypothesis import HealthCheck, given, settings

    from .strategies import inputs
    from .targets import TARGETS, prepare

    prepare()
    target = TARGETS[name]
    end = time.monotonic() + seconds
    while time.monotonic() < end:

        @settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
        @given(inputs(target))
        def search(data: bytes) -> None:
            if time.monotonic() < end:
                target.run(data)

        search()


def _atheris(name: str, seconds: float) -> None:
    import atheris  # type: ignore[import-not-found, unused-ignore]

    ours = ["popexd", "agent", "broker", "cloud_worker", "json", "zipfile", "tomllib", "safetensors"]
    with atheris.instrument_imports(include=ours):
        from .targets import TARGETS, prepare
    prepare()
    target = TARGETS[name]
    corpus = Path(tempfile.mkdtemp(prefix="popexd-corpus-"))
    for index, seed in enumerate(target.seeds()):
        (corpus / f"seed-{index}").write_bytes(seed)
    options = [f"-max_total_time={seconds:g}", "-rss_limit_mb=2048", "-timeout=10", "-verbosity=0", "-max_len=65536"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], target.run)
    with contextlib.suppress(SystemExit):
        atheris.Fuzz()


if __name__ == "__main__":
    try:
        sys.exit(main())
    finally:
        structlog.reset_defaults()
