"""Backbones by name, as chains of named segments; `build` gives them side branches."""

from __future__ import annotations

from collections.abc import Callable

from popexd.complaints import nearest
from popexd.errors import InputError
from popexd.training.backbones.b_alexnet import b_alexnet, b_alexnet_tiny
from popexd.training.backbones.branchynet import b_alexnet_cifar
from popexd.training.backbones.torchvision_chains import NETWORKS, SIDE, torchvision_chain
from popexd.training.branches import PUBLISHED, equip
from popexd.training.early_exit import Backbone, EarlyExitNet

OWN: dict[str, Callable[[int], Backbone]] = {
    "b-alexnet": b_alexnet,
    "b-alexnet-cifar": b_alexnet_cifar,
    "b-alexnet-tiny": b_alexnet_tiny,
}
BACKBONES = (*OWN, *NETWORKS)


def build(
    backbone: str, classes: int, branches: str = PUBLISHED, side: int = 0, pretrained: bool = False
) -> EarlyExitNet:
    """Build an early-exit net by its backbone's name, with random weights; for `branches` see `branches.equip`.

    Raises InputError for an unknown backbone, a place or a side that it does not have.
    """
    return equip(chain(backbone, classes, side, pretrained), classes, branches)


def chain(backbone: str, classes: int, side: int = 0, pretrained: bool = False) -> Backbone:
    """Build a backbone without branches, for its usual `side` if that is 0. Raises InputError."""
    if backbone in NETWORKS:
        return torchvision_chain(backbone, classes, side or SIDE, pretrained)
    if backbone not in OWN:
        raise InputError(f"--backbone: {backbone!r}{nearest(backbone, BACKBONES)}")
    own = OWN[backbone](classes)
    if side not in (0, own.side):
        raise InputError(f"--side: {side}, expected {own.side} for {backbone}")
    return own
