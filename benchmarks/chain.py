"""The chain of segments against the whole model in one session; measured by `benchmarks.segment_chain`."""

from __future__ import annotations

from dataclasses import asdict

from popexd import bundle

from . import segment_chain
from .figures import Figure
from .options import Options


def measure(options: Options) -> list[Figure]:
    """Time both with one thread and with two."""
    source = bundle.load("default")
    found = []
    for threads in (1, 2):
        figures = segment_chain.measure(
            source, threads, rounds=30 if options.quick else 100, loads=3 if options.quick else 9
        )
        note = (
            f"{1000 * figures.chain_seconds:.2f} ms against {1000 * figures.whole_seconds:.2f} ms; "
            f"{min(figures.ratios):.2f} to {max(figures.ratios):.2f} over loads"
        )
        name = f"chain of segments against the whole model, {threads} thread{'s' if threads > 1 else ''}"
        found.append(
            Figure("chain", name, figures.ratio, "x", at_most=segment_chain.GOAL, note=note, details=asdict(figures))
        )
    return found
