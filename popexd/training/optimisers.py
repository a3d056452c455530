"""Optimisers by name, for what is to learn."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from popexd.training.early_exit import EarlyExitNet
from popexd.training.recipe import Recipe


def optimiser_of(net: EarlyExitNet, recipe: Recipe) -> torch.optim.Optimizer:
    """Make the recipe's optimiser over the whole net, or over what learns on a frozen backbone."""
    learning: nn.Module = net
    if recipe.freeze:
        net.segments.requires_grad_(False)
        learning = nn.ModuleList([net.branches, net.head] if recipe.new_head else [net.branches])
        learning.requires_grad_(True)
    groups = _parameter_groups(learning, recipe.weight_decay)
    match recipe.optimiser:
        case "sgd":
            return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9, nesterov=True)
        case "adam":
            return torch.optim.Adam(groups, lr=recipe.learning_rate)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate)


def _parameter_groups(part: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay the weights of convolutions and linear layers, nothing else."""
    decayed = [parameter for parameter in part.parameters() if parameter.ndim > 1]
    rest = [parameter for parameter in part.parameters() if parameter.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
