"""`make soak`: hours in minutes, as long as one likes; exit status 1 when something did not hold."""

from __future__ import annotations

import argparse
import json
import sys

from popexd import logs

from .run import soak


def main() -> int:
    """Run one soak and print its figures as JSON."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    words = parser.parse_args()
    logs.configure("error")  # the connections' own words are about faults that are meant
    figures = soak(words.minutes, words.seed, lambda line: print(line, file=sys.stderr, flush=True))
    print(json.dumps(figures.to_json(), indent=2))
    for complaint in figures.complaints:
        print(f"soak: {complaint}", file=sys.stderr)
    return 1 if figures.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
