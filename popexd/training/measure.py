"""What an early-exit net is worth on held-out frames: validation table, default thresholds, the codecs' price."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from popexd.protocol import codec as tensor_codec
from popexd.runtime.frames import encode_image, load_image
from popexd.training.data import Split
from popexd.training.early_exit import EarlyExitNet

IMAGE_CODECS = ("jpeg-90", "jpeg-75", "jpeg-50", "webp-75", "webp-50")
LEAST_LEAVING = 20

Logits = npt.NDArray[np.float32]
Progress = Callable[[str], None]
CodecTable = dict[str, dict[str, dict[str, float]]]


def probabilities(logits: Logits) -> Logits:
    """Softmax over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), dtype=np.float32)


def default_thresholds(
    exits: tuple[str, ...], logits: Logits, labels: npt.NDArray[np.uint8], allowance: float
) -> dict[str, float]:
    """Choose every branch's confidence threshold on a tuning split, first branch first.

    The rule: the lowest threshold at which the frames that leave there (of those that come that far) are answered as
    often right as the final exit answers all frames, and lose at most `allowance` (a share of them) against the final
    exit's answers to the same frames. A branch that never gets there, or only for fewer than LEAST_LEAVING frames, gets
    1.0. `logits` are [exits, samples, classes], divided by their temperatures.
    """
    likely = probabilities(logits)
    confidence, correct = likely.max(axis=2), likely.argmax(axis=2) == labels
    remaining = np.ones(labels.size, dtype=bool)
    thresholds: dict[str, float] = {}
    for index, name in enumerate(exits[:-1]):
        order = np.flatnonzero(remaining)[np.argsort(-confidence[index][remaining], kind="stable")]
        leaving = np.arange(1, order.size + 1)
        right, right_at_the_end = (np.cumsum(correct[which][order]) for which in (index, -1))
        kept = (right >= correct[-1].mean() * leaving) & (right_at_the_end - right <= allowance * leaving)
        good = np.flatnonzero(kept & (leaving >= LEAST_LEAVING))
        lowest = float(confidence[index][order[good[-1]]]) if good.size else 1.0
        thresholds[name] = min(1.0, math.ceil(lowest * 1000) / 1000)
        remaining &= confidence[index] < thresholds[name]
    return thresholds


def validation_file(exits: tuple[str, ...], logits: Logits, split: Split) -> bytes:
    """Write validation.npz: confidence, correctness and prediction of every exit for every held-out frame."""
    likely = probabilities(logits)
    predicted = likely.argmax(axis=2).astype(np.uint8)
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        exits=np.array(exits),
        confidence=likely.max(axis=2).astype(np.float32),
        correct=predicted == split.labels,
        predicted=predicted,
        label=split.labels,
        quality=split.quality,
    )
    return stream.getvalue()


def codec_table(net: EarlyExitNet, split: Split, frames: int, on_cut: Progress | None = None) -> CodecTable:
    """Measure every codec at every cut on the first `frames` of a split: mean bytes, accuracy, answers kept.

    "Answers kept" (agreement) is the share of the final exit's answers that are the same as without the codec.
    """
    images = np.array(split.images[:frames])
    labels = split.labels[: len(images)]
    with torch.inference_mode():
        logits, outputs = _in_batches(net, "input", images)
    plain = logits.argmax(axis=1)
    score = _scorer(plain, labels)
    camera = score(plain, np.asarray(split.camera_bytes[: len(images)]))
    table: CodecTable = {"input": {"camera": camera, "f32": score(plain, np.array([images[0].nbytes]))}}
    for name in IMAGE_CODECS:
        files = [encode_image(image, name) for image in images]
        seen = np.concatenate([load_image(file, net.side, net.side) for file in files])
        answers = _in_batches(net, "input", seen)[0].argmax(axis=1)
        table["input"][name] = score(answers, np.array([len(file) for file in files]))
    for cut in net.names[:-1]:
        if on_cut is not None:
            on_cut(cut)
        table[cut] = _cut_table(net, cut, outputs[cut], score)
    return table


def _cut_table(
    net: EarlyExitNet, cut: str, tensors: npt.NDArray[np.float32], score: Callable[[Any, Any], dict[str, float]]
) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for name in tensor_codec.CODECS:
        if name.endswith("+zstd"):
            continue
        encoded = [tensor_codec.encode(tensor[None], name) for tensor in tensors]
        restored = np.concatenate([tensor_codec.decode(one) for one in encoded])
        answers = _in_batches(net, cut, restored)[0].argmax(axis=1)
        found[name] = score(answers, np.array([one.size_bytes for one in encoded]))
        packed = [tensor_codec.encode(tensor[None], f"{name}+zstd").size_bytes for tensor in tensors]
        found[f"{name}+zstd"] = score(answers, np.array(packed))
    return found


def _scorer(
    plain: npt.NDArray[np.intp], labels: npt.NDArray[np.uint8]
) -> Callable[[npt.NDArray[np.intp], npt.NDArray[np.int64]], dict[str, float]]:
    def score(answers: npt.NDArray[np.intp], sizes: npt.NDArray[np.int64]) -> dict[str, float]:
        return {
            "bytes": round(float(sizes.mean()), 1),
            "accuracy": round(float((answers == labels).mean()), 5),
            "agreement": round(float((answers == plain).mean()), 5),
        }

    return score


def _in_batches(
    net: EarlyExitNet, cut: str, tensors: npt.NDArray[Any], batch: int = 128
) -> tuple[npt.NDArray[np.float32], Mapping[str, npt.NDArray[np.float32]]]:
    """Run from a cut on: the final logits, and the output of every segment behind it."""
    finals, outputs = [], []
    with torch.inference_mode():
        for start in range(0, len(tensors), batch):
            logits, behind = net.resume(cut, torch.from_numpy(np.array(tensors[start : start + batch])))
            finals.append(logits[-1].numpy())
            outputs.append({name: tensor.contiguous().numpy() for name, tensor in behind.items()})
    joined = {name: np.concatenate([part[name] for part in outputs]) for name in outputs[0]}
    return np.concatenate(finals), joined
