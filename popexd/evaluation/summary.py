"""The validation table of a bundle and the figures that bundle.json keeps of it, from what the exits say."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from popexd.evaluation.metrics import by_quality, figures
from popexd.evaluation.outcomes import Answers
from popexd.evaluation.policy import Policy

FILE = "validation.npz"


def table_file(answers: Answers, known: Mapping[str, npt.NDArray[Any]] | None = None) -> bytes:
    """Write validation.npz: confidence, entropy (nats), correctness and class of every exit for every sample.

    And which photos the network is `known` to have learned from, see `popexd.lab.provenance`.
    """
    columns: dict[str, Any] = {
        "exits": np.array(answers.exits),
        "confidence": answers.confidence.astype(np.float32),
        "correct": answers.correct,
        "predicted": answers.predicted.astype(np.uint8),
        "label": answers.label.astype(np.uint8),
        "quality": answers.quality.astype(np.str_),
    }
    if answers.entropy is not None:
        columns["entropy"] = answers.entropy.astype(np.float32)
    if answers.seen is not None:
        columns["seen"] = answers.seen.astype(np.str_)
    if answers.photo is not None:
        columns["photo"] = answers.photo.astype(np.uint64)
    columns |= known or {}
    stream = io.BytesIO()
    np.savez_compressed(stream, **columns)
    return stream.getvalue()


def summary(answers: Answers, policy: Policy) -> dict[str, Any]:
    """Sum up the table for bundle.json: alone, every exit's accuracy; by the policy, shares, accuracies and losses.

    Likewise for every class of what was done to the frames.
    """
    found = figures(answers, policy)
    return {
        "file": FILE,
        "samples": found.samples,
        "accuracy": _rounded(found.accuracy_alone),
        "shares": _rounded(found.shares),
        "accuracy_where_taken": _rounded({k: v for k, v in found.accuracy_where_taken.items() if v is not None}),
        "joint_accuracy": round(found.accuracy, 5),
        "calibration_error": _rounded(found.calibration_error),
        "lost": {
            name: {"samples": loss.samples, "share": round(loss.share, 5), "at_most": round(loss.at_most, 5)}
            for name, loss in found.lost.items()
        },
        "by_quality": {name: _of_class(own, policy) for name, own in by_quality(answers).items()},
    }


def _of_class(answers: Answers, policy: Policy) -> dict[str, Any]:
    found = figures(answers, policy)
    return {
        "samples": found.samples,
        "accuracy": _rounded(found.accuracy_alone),
        "shares": _rounded(found.shares),
        "joint_accuracy": round(found.accuracy, 5),
    }


def _rounded(values: Any) -> dict[str, float]:
    return {name: round(value, 5) for name, value in values.items()}
