"""From a checkpoint to a bundle: ONNX segments checked against torch, thresholds, validation and codec tables."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from popexd import bundle as bundles
from popexd.bundle import Bundle
from popexd.errors import InputError
from popexd.evaluation.calibration import temperature
from popexd.runtime.segments import SegmentRunner
from popexd.training import checkpoint, measure, onnx_files
from popexd.training.data import DataSet, Split, reopen
from popexd.training.early_exit import EarlyExitNet, multiply_adds
from popexd.training.loop import evaluate

TOLERANCE = 1e-4
ALLOWANCE = 0.005
PIXELS = {"channels": 3, "dtype": "uint8", "layout": "NHWC"}

Progress = Callable[[str], None]


def export(
    source: Path,
    out: Path,
    *,
    name: str = "conveyor-b-alexnet",
    cache: Path | None = None,
    allowance: float = ALLOWANCE,
    codec_frames: int = 512,
    on_step: Progress | None = None,
) -> Bundle:
    """Turn the checkpoint `source` into a bundle at `out`, whole or not at all.

    Temperatures and thresholds come from the tuning split (see `measure.default_thresholds`), all else is measured on
    the validation split. `cache` is the prepared data, by default where the checkpoint says. Raises InputError.
    """
    say = on_step or (lambda step: None)  # noqa: ARG005 - a silent progress
    content = checkpoint.load(source)
    net = checkpoint.restore(content, Path(source))
    data = _data_of(content, Path(source), cache)
    tuning, validation = data.split("tuning"), data.split("validation")
    say("thresholds")
    tuned = evaluate(net, tuning.images)
    # The final exit stays as it is: nothing is decided by its confidence.
    temperatures = np.array([*(round(temperature(own, tuning.labels), 4) for own in tuned[:-1]), 1.0], dtype=np.float32)
    scaled = tuned / temperatures[:, None, None]
    thresholds = measure.default_thresholds(net.exits, scaled, tuning.labels, allowance)
    say("validation")
    logits = evaluate(net, validation.images) / temperatures[:, None, None]
    say("codecs")
    codecs = measure.codec_table(net, validation, codec_frames, lambda cut: say(f"codecs at {cut}"))
    say("segments")
    described, files = _segments(net, thresholds, dict(zip(net.exits, temperatures.tolist(), strict=True)))
    files["validation.npz"] = measure.validation_file(net.exits, logits, validation)
    facts: dict[str, Any] = {
        "schema": bundles.SCHEMA,
        "name": name,
        "classes": list(data.classes),
        "input": {"name": "input", "height": net.side, "width": net.side, **PIXELS},
        **described,
        "codecs": codecs,
        "validation": _summary(net, thresholds, logits, validation),
        "training": _training_facts(content, data, allowance, min(codec_frames, len(validation)), net),
    }
    with tempfile.TemporaryDirectory() as scratch:
        tried = bundles.write(Path(scratch) / "bundle", facts, files)
        say("check against torch")
        facts["training"]["largest_difference_to_torch"] = _compare(net, tried, validation)
    return bundles.write(Path(out), facts, files)


def _data_of(content: dict[str, Any], source: Path, cache: Path | None) -> DataSet:
    try:
        folder, facts = Path(cache or content["data"]["folder"]), content["data"]["facts"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{source}: data: missing, expected the data set the checkpoint was trained on") from error
    data = reopen(folder)
    if data.facts != facts:
        raise InputError(f"{folder}: holds other data than {source} was trained on, expected the same")
    return data


def _segments(
    net: EarlyExitNet, thresholds: dict[str, float], temperatures: dict[str, float]
) -> tuple[dict[str, Any], dict[str, bytes]]:
    files: dict[str, bytes] = {}
    segments: list[dict[str, Any]] = []
    exits: list[dict[str, Any]] = []
    pixels = torch.zeros(1, net.side, net.side, 3, dtype=torch.uint8)
    with torch.inference_mode():
        logits, outputs = net.resume("input", pixels)
    shapes = {"input": tuple(pixels.shape)} | {key: tuple(tensor.shape) for key, tensor in outputs.items()}
    before = "input"
    for name in net.names:
        module = net.segment(name)
        file = f"segments/{name}.onnx"
        files[file] = onnx_files.segment(
            module, name, takes=before, taken=shapes[before], gives=shapes[name], pixels=before == "input"
        )
        output = {"shape": list(shapes[name]), "dtype": "float32"}
        segments.append({"name": name, "file": file, "after": [before], "output": output})
        before = name
    for place, shape in zip(net.places, (tuple(tensor.shape) for tensor in logits), strict=False):
        file = f"segments/{place.name}.onnx"
        module = net.branch(place.name)
        files[file] = onnx_files.segment(
            module, place.name, takes=place.after, taken=shapes[place.after], gives=shape, pixels=False
        )
        exits.append(
            {
                "name": place.name,
                "after": place.after,
                "file": file,
                "temperature": round(temperatures[place.name], 4),
                "threshold": thresholds[place.name],
                "criterion": "confidence",
            }
        )
    return {"segments": segments, "exits": exits}, files


def _compare(net: EarlyExitNet, tried: Bundle, validation: Split, frames: int = 16) -> float:
    """Run the written files in a chain beside torch and return the largest difference of any logit at any exit."""
    runner = SegmentRunner(tried, threads=1)
    images = np.array(validation.images[:frames])
    expected = evaluate(net, images)
    largest = 0.0
    for frame, image in enumerate(images):
        tensors: dict[str, Any] = {"input": image[None]}
        found: dict[str, Any] = {}
        for segment in tried.segments:
            tensors = runner.run(tensors, [segment.name])
            for exit_ in tried.exits:
                if exit_.after == segment.name:
                    found[exit_.name] = runner.classify(exit_.name, tensors[segment.name]).logits
        found["final"] = tensors[tried.segments[-1].name].reshape(-1)
        for index, name in enumerate(net.exits):
            difference = float(np.abs(found[name] - expected[index, frame]).max())
            largest = max(largest, difference)
            if not difference <= TOLERANCE:
                raise InputError(
                    f"export: exit {name} differs by {difference:.2g} from torch, expected at most {TOLERANCE:g}"
                )
    runner.close()
    return largest


def _summary(net: EarlyExitNet, thresholds: dict[str, float], logits: measure.Logits, split: Split) -> dict[str, Any]:
    """Sum up the validation table: alone, every exit's accuracy; at the default thresholds, shares and accuracies."""
    likely = measure.probabilities(logits)
    confidence, correct = likely.max(axis=2), likely.argmax(axis=2) == split.labels
    taken = np.full(len(split), len(net.exits) - 1)
    for index in reversed(range(len(net.exits) - 1)):
        taken[confidence[index] >= thresholds[net.exits[index]]] = index
    answered = correct[taken, np.arange(len(split))]
    by_quality = {}
    for quality in sorted(set(split.quality.tolist())):
        own = split.quality == quality
        by_quality[quality] = {
            "samples": int(own.sum()),
            "accuracy": {name: _share(correct[index][own]) for index, name in enumerate(net.exits)},
            "shares": {name: _share(taken[own] == index) for index, name in enumerate(net.exits)},
            "joint_accuracy": _share(answered[own]),
        }
    return {
        "file": "validation.npz",
        "samples": len(split),
        "accuracy": {name: _share(correct[index]) for index, name in enumerate(net.exits)},
        "shares": {name: _share(taken == index) for index, name in enumerate(net.exits)},
        "accuracy_where_taken": {
            name: _share(answered[taken == index]) for index, name in enumerate(net.exits) if (taken == index).any()
        },
        "joint_accuracy": _share(answered),
        "by_quality": by_quality,
    }


def _share(flags: Any) -> float:
    return round(float(np.mean(flags)), 5)


def _training_facts(
    content: dict[str, Any], data: DataSet, allowance: float, codec_frames: int, net: EarlyExitNet
) -> dict[str, Any]:
    return {
        "backbone": content["backbone"],
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "multiply_adds": multiply_adds(net),
        "data": {key: value for key, value in data.facts.items() if key not in ("schema", "classes")},
        "recipe": content["recipe"],
        "best_epoch": content["epoch"] + 1,
        "seconds": round(content["seconds"]),
        "threshold_rule": f"leaving frames as often right as the final exit on all, at most {allowance:.1%} lost to it",
        "codec_frames": codec_frames,
        "torch": torch.__version__,
    }
