"""A validation table for the models of tests/graphs.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from popexd.profile import LayerGraph
from popexd.validation import FINAL, Validation


def tabled(graph: LayerGraph, samples: int = 400, seed: int = 0) -> LayerGraph:
    """Add a table in which later exits are surer and more often right, and sure ones more often right."""
    numbers = np.random.default_rng(seed)
    exits = [*(branch.name for branch in graph.exits), FINAL]
    ease = numbers.random(samples)
    skill = np.linspace(0.75, 1.0, len(exits))[:, None]
    confidence = np.clip(0.25 + 0.75 * ease * skill + 0.1 * numbers.standard_normal((len(exits), samples)), 0, 1)
    correct = numbers.random((len(exits), samples)) < np.clip(0.3 + 0.7 * confidence, 0, 0.98)
    return replace(graph, validation=Validation(exits, confidence, correct))
