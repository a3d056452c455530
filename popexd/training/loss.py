"""The joint loss of all exits, as BranchyNet trains them: a weighted sum of one cross-entropy per exit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from popexd.errors import InputError

WEIGHTINGS = ("decreasing", "equal", "increasing")


def exit_weights(weighting: str, exits: int) -> tuple[float, ...]:
    """Weigh the exits, first to last: "decreasing" is POPEX's linspace(1, 0.3), "increasing" its mirror, "equal" ones.

    Raises InputError for another name.
    """
    if weighting not in WEIGHTINGS:
        raise InputError(f"--weighting: {weighting!r}, expected one of {', '.join(WEIGHTINGS)}")
    if weighting == "equal":
        return (1.0,) * exits
    weights = torch.linspace(1, 0.3, exits, dtype=torch.float64).tolist()
    return tuple(weights if weighting == "decreasing" else weights[::-1])


def joint_loss(logits: Sequence[Tensor], labels: Tensor, weights: Sequence[float]) -> Tensor:
    """Sum weights[n] x cross-entropy of exit n; `logits` are [batch, classes] per exit, `labels` [batch]."""
    losses = [
        weight * functional.cross_entropy(exit_logits.float(), labels)
        for weight, exit_logits in zip(weights, logits, strict=True)
    ]
    return torch.stack(losses).sum()
