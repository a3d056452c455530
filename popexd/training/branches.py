"""Side branches for any backbone: where they hang, and a small head that fits the map there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from popexd.bundle import FINAL, INPUT, NAME
from popexd.errors import InputError
from popexd.training.early_exit import Backbone, BranchPlace, EarlyExitNet, costs, key_of

PUBLISHED = ""
"""The backbone's own branches; where it has none, two at even shares."""

_USUAL = 2
_GRID = 4
_LARGEST_MAP = 16
_NARROWEST, _WIDEST = 32, 64


def equip(backbone: Backbone, classes: int, branches: str = PUBLISHED) -> EarlyExitNet:
    """Give a backbone its branches: PUBLISHED, a number of them ("3"), or places ("b1=layer1.1,b2=layer3.0").

    A place that the authors have a branch for gets theirs. Raises InputError for places that are not there.
    """
    places = _places(backbone, branches)
    shapes = output_shapes(backbone)
    modules = {
        place: backbone.published[place] if place in backbone.published else head(shapes[place.after], classes)
        for place in places
    }
    return EarlyExitNet(backbone.name, backbone.segments, modules, backbone.side)


def head(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Make a side branch for an output [channels, height, width] or [numbers] of one frame.

    A map is pooled to at most 16 x 16, convolved once to 32 to 64 channels, pooled to at most 4 x 4, and weighed.
    """
    if len(shape) == 1:
        return nn.Sequential(nn.Linear(shape[0], classes))
    channels, side = shape[0], max(shape[1:])
    layers: list[nn.Module] = []
    if side > _LARGEST_MAP:
        factor = -(-side // _LARGEST_MAP)
        layers.append(nn.MaxPool2d(factor, factor, ceil_mode=True))
        shape = (channels, *(-(-each // factor) for each in shape[1:]))
    width = min(max(channels, _NARROWEST), _WIDEST)
    layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    factor = -(-max(shape[1:]) // _GRID)
    if factor > 1:
        layers.append(nn.MaxPool2d(factor, factor, ceil_mode=True))
        shape = (channels, *(-(-each // factor) for each in shape[1:]))
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(width * shape[1] * shape[2], classes))


def output_shapes(backbone: Backbone) -> dict[str, tuple[int, ...]]:
    """Every segment's output for one frame, without the batch."""
    tensor: Tensor = torch.zeros(1, backbone.side, backbone.side, 3, dtype=torch.uint8)
    shapes: dict[str, tuple[int, ...]] = {}
    with torch.inference_mode():
        for name, module in backbone.segments.items():
            was_training = module.training
            tensor = module.eval()(tensor)
            module.train(was_training)
            shapes[name] = tuple(tensor.shape[1:])
    return shapes


def even_places(backbone: Backbone, count: int) -> tuple[BranchPlace, ...]:
    """Choose the segments whose share of the multiply-adds up to and with them is nearest to even steps.

    Raises InputError for more branches than there are segments before the last.
    """
    candidates = list(backbone.segments)[:-1]
    if not 1 <= count <= len(candidates):
        raise InputError(f"--branches: {count}, expected 1 to {len(candidates)} for {backbone.name}")
    shares = _shares(backbone)
    chosen: list[str] = []
    for step in range(1, count + 1):
        # Those behind must find a place too.
        start = candidates.index(chosen[-1]) + 1 if chosen else 0
        free = candidates[start : len(candidates) - (count - step)]
        chosen.append(min(free, key=lambda name: abs(shares[name] - step / (count + 1))))
    return tuple(BranchPlace(f"b{index}", after) for index, after in enumerate(chosen, start=1))


def _shares(backbone: Backbone) -> Mapping[str, float]:
    chain = EarlyExitNet(backbone.name, backbone.segments, {}, backbone.side)
    of_layers = costs(chain, backbone.side)
    running, shares = 0, {}
    for name, module in backbone.segments.items():
        running += sum(of_layers.get(layer, 0) for layer in module.modules())
        shares[name] = running / sum(of_layers.values())
    return shares


def _places(backbone: Backbone, branches: str) -> Sequence[BranchPlace]:
    if branches == PUBLISHED:
        return tuple(backbone.published) or even_places(backbone, _USUAL)
    if branches.isdecimal():
        return even_places(backbone, int(branches))
    names = list(backbone.segments)
    places: list[BranchPlace] = []
    for word in branches.split(","):
        name, _, after = word.partition("=")
        if after not in names[:-1]:
            raise InputError(f"--branch: {word!r}, expected NAME=SEGMENT with one of {', '.join(names[:-1])}")
        if not NAME.fullmatch(name):
            expected = "a name of 1 to 64 letters, digits, '_', '-', '.', a letter or digit first"
            raise InputError(f"--branch: {word!r}, expected {expected}")
        # Not only the same name: what torch calls them must differ too.
        taken = {key_of(each): each for each in (*names, INPUT, FINAL, *(place.name for place in places))}
        if key_of(name) in taken:
            raise InputError(f"--branch: {word!r}, expected a name that is not taken: there is {taken[key_of(name)]!r}")
        places.append(BranchPlace(name, after))
    return sorted(places, key=lambda place: names.index(place.after))
