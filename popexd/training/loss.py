"""The joint loss of all exits, as BranchyNet trains them: a weighted sum of one cross-entropy per exit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from popexd.errors import InputError

WEIGHTINGS = ("decreasing", "equal", "increasing")


def exit_weights(weighting: str, exits: int) -> tuple[float, ...]:
    """Weigh the exits, first to last: by name, or by one number per exit ("1.0,0.3" as in BranchyNet's paper).

    "decreasing" is POPEX's linspace(1, 0.3), "increasing" its mirror, "equal" ones. Raises InputError.
    """
    if "," in weighting or weighting[:1].isdecimal():
        return _given(weighting, exits)
    if weighting not in WEIGHTINGS:
        raise InputError(f"--weighting: {weighting!r}, expected one of {', '.join(WEIGHTINGS)}")
    if weighting == "equal":
        return (1.0,) * exits
    weights = torch.linspace(1, 0.3, exits, dtype=torch.float64).tolist()
    return tuple(weights if weighting == "decreasing" else weights[::-1])


def _given(weighting: str, exits: int) -> tuple[float, ...]:
    try:
        weights = tuple(float(word) for word in weighting.split(","))
    except ValueError as error:
        raise InputError(f"--weights: {weighting!r}, expected numbers with commas between them") from error
    if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
        raise InputError(f"--weights: {weighting!r}, expected finite numbers from 0 on, one of them above 0")
    if len(weights) != exits:
        raise InputError(f"--weights: {len(weights)} numbers, expected {exits}: one per exit, the final one last")
    return weights


def joint_loss(logits: Sequence[Tensor], labels: Tensor, weights: Sequence[float]) -> Tensor:
    """Sum weights[n] x cross-entropy of exit n; `logits` are [batch, classes] per exit, `labels` [batch]."""
    losses = [
        weight * functional.cross_entropy(exit_logits.float(), labels)
        for weight, exit_logits in zip(weights, logits, strict=True)
        if weight > 0
    ]
    return torch.stack(losses).sum()
