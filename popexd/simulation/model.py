"""A small early-exit model with a validation table, to run the brain on without any network weights."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np

from popexd.plan import Tier
from popexd.profile import CodecCost, Exit, Layer, LayerGraph
from popexd.validation import FINAL, Validation

FRAME_BYTES = 20_000


def graph(chance: random.Random, samples: int = 64) -> LayerGraph:
    """Draw a chain of three layers with two branches; times and sizes of a small camera."""
    slow = chance.uniform(2, 40)
    cloud = [chance.uniform(0.0005, 0.004) for _ in range(3)]
    sizes = [chance.uniform(5_000, 60_000), chance.uniform(2_000, 20_000), 32.0]
    names = ("v1", "v2", "v3")
    layers = tuple(
        Layer(name, (before,), {Tier.DEVICE: slow * seconds, Tier.CLOUD: seconds}, size)
        for name, before, seconds, size in zip(names, ("input", *names), cloud, sizes, strict=False)
    )
    exits = (
        Exit("b1", "v1", {Tier.DEVICE: slow * 0.0004, Tier.CLOUD: 0.0004}),
        Exit("b2", "v2", {Tier.DEVICE: slow * 0.0003, Tier.CLOUD: 0.0003}),
    )
    dice = np.random.default_rng(chance.randrange(2**32))
    confidence = np.sort(dice.random((3, samples)), axis=0)
    correct = dice.random((3, samples)) < confidence
    codecs = {
        "input": {"camera": CodecCost(FRAME_BYTES, 0.0, 0.002)},
        **{
            name: {"q8+zstd": CodecCost(size / 5, 0.0005, 0.0003, agreement=0.99)}
            for name, size in zip(names[:2], sizes, strict=False)
        },
    }
    return LayerGraph(
        model="simulated",
        input_bytes=150_000,
        layers=layers,
        exits=exits,
        codecs=codecs,
        input_seconds={Tier.DEVICE: 0.003},
        validation=Validation(("b1", "b2", FINAL), confidence, correct, None),
        thresholds={"b1": 0.8, "b2": 0.8},
    )


def assemble(whole: LayerGraph, profiles: Mapping[Tier, Any]) -> LayerGraph:
    """Return the graph as the agent would know it: without workers the cloud has no times worth planning with."""
    del profiles
    return whole
