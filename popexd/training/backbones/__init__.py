"""Backbones by name, as chains of named segments; `build` gives them side branches."""

from __future__ import annotations

from collections.abc import Callable

from popexd.errors import InputError
from popexd.training.backbones.b_alexnet import b_alexnet, b_alexnet_tiny
from popexd.training.backbones.branchynet import b_alexnet_cifar
from popexd.training.branches import PUBLISHED, equip
from popexd.training.early_exit import Backbone, EarlyExitNet

BACKBONES: dict[str, Callable[[int], Backbone]] = {
    "b-alexnet": b_alexnet,
    "b-alexnet-cifar": b_alexnet_cifar,
    "b-alexnet-tiny": b_alexnet_tiny,
}


def build(backbone: str, classes: int, branches: str = PUBLISHED) -> EarlyExitNet:
    """Build an early-exit net by its backbone's name, with random weights; for `branches` see `branches.equip`.

    Raises InputError for an unknown backbone or a place that it does not have.
    """
    return equip(chain(backbone, classes), classes, branches)


def chain(backbone: str, classes: int) -> Backbone:
    """Build a backbone without branches. Raises InputError for an unknown one."""
    if backbone not in BACKBONES:
        raise InputError(f"--backbone: {backbone!r}, expected one of {', '.join(BACKBONES)}")
    return BACKBONES[backbone](classes)
