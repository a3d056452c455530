"""A small early-exit model with a validation table, to run the brain on without any network weights."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from popexd.plan import Tier
from popexd.profile import CodecCost, Exit, Layer, LayerGraph
from popexd.validation import FINAL, Validation

FRAME_BYTES = 20_000
NAMES = ("v1", "v2", "v3")


def graph(chance: random.Random, samples: int = 64, edge: bool = False, qualities: bool = False) -> LayerGraph:
    """Draw a chain of three layers with two branches; times and sizes of a small camera.

    With `qualities` the samples are of two image-quality classes, and a frame of the worse one leaves more rarely.
    """
    slower = {Tier.DEVICE: chance.uniform(2, 40), Tier.CLOUD: 1.0, **({Tier.EDGE: 2.0} if edge else {})}
    cloud = [chance.uniform(0.0005, 0.004) for _ in range(3)]
    sizes = [chance.uniform(5_000, 60_000), chance.uniform(2_000, 20_000), 32.0]

    def on_all(seconds: float) -> dict[Tier, float]:
        return {tier: factor * seconds for tier, factor in slower.items()}

    layers = tuple(
        Layer(name, (before,), on_all(seconds), size)
        for name, before, seconds, size in zip(NAMES, ("input", *NAMES), cloud, sizes, strict=False)
    )
    exits = (Exit("b1", "v1", on_all(0.0004)), Exit("b2", "v2", on_all(0.0003)))
    dice = np.random.default_rng(chance.randrange(2**32))
    confidence = np.sort(dice.random((3, samples)), axis=0)
    quality = np.where(np.arange(samples) % 2, "blurred", "clear") if qualities else None
    if quality is not None:
        confidence[:, quality == "blurred"] *= 0.6
    correct = dice.random((3, samples)) < confidence
    codecs = {
        "input": {"camera": CodecCost(FRAME_BYTES, 0.0, 0.002)},
        **{
            name: {"q8+zstd": CodecCost(size / 5, 0.0005, 0.0003, agreement=0.99)}
            for name, size in zip(NAMES[:2], sizes, strict=False)
        },
    }
    return LayerGraph(
        model="simulated",
        input_bytes=150_000,
        layers=layers,
        exits=exits,
        codecs=codecs,
        input_seconds={Tier.DEVICE: 0.003},
        validation=Validation(("b1", "b2", FINAL), confidence, correct, None, quality),
        thresholds={"b1": chance.uniform(0.2, 0.6), "b2": chance.uniform(0.4, 0.8)},
        quality_thresholds={"blurred": {"b1": chance.uniform(0.2, 1.01)}} if qualities else {},
    )


def assemble(whole: LayerGraph, profiles: Mapping[Tier, Any]) -> LayerGraph:
    """Return the graph as the agent knows it: with the times of the tiers that have told theirs."""
    known = {Tier.DEVICE, *profiles}

    def told(seconds: Mapping[Tier, float]) -> dict[Tier, float]:
        return {tier: value for tier, value in seconds.items() if tier in known}

    return replace(
        whole,
        layers=tuple(replace(layer, seconds=told(layer.seconds)) for layer in whole.layers),
        exits=tuple(replace(branch, seconds=told(branch.seconds)) for branch in whole.exits),
    )
