"""B-AlexNet at 224 x 224: a moderate AlexNet with two side branches, as a chain of named segments.

Five convolutions and three fully connected layers as in AlexNet (Krizhevsky et al. 2012), side branches after the first
and the third convolution as in BranchyNet (Teerapittayanon et al. 2016); batch normalisation in place of local response
normalisation, folded into the convolutions at export.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from popexd.errors import InputError

# Of 255: what is added to a frame's deviation, so that a black frame stays black and does not become noise.
FLOOR = 4.0


class Normalise(nn.Module):
    """Turn uint8 NHWC pixels into float32 NCHW with mean 0 and deviation about 1 in each frame, whatever its exposure.

    It is part of the first segment, so that frames travel as bytes.
    """

    def forward(self, pixels: Tensor) -> Tensor:
        """Map [N, H, W, 3] uint8 to [N, 3, H, W] float32."""
        values = pixels.permute(0, 3, 1, 2).float()
        centred = values - values.mean(dim=(1, 2, 3), keepdim=True)
        deviation = centred.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        return centred / (deviation + FLOOR)


@dataclass(frozen=True)
class BranchPlace:
    """Where a side branch hangs."""

    name: str
    after: str


class EarlyExitNet(nn.Module):
    """A chain of segments with side branches; `forward` computes every exit; where to stop is decided elsewhere."""

    def __init__(
        self, backbone: str, segments: Mapping[str, nn.Module], branches: Mapping[BranchPlace, nn.Module], side: int
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.side = side
        self.segments = nn.ModuleDict(dict(segments))
        self.branches = nn.ModuleDict({place.name: module for place, module in branches.items()})
        self.places = tuple(branches)

    @property
    def exits(self) -> tuple[str, ...]:
        """The names of all exits, "final" last."""
        return (*(place.name for place in self.places), "final")

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return the logits [N, classes] of every exit for uint8 pixels [N, H, W, 3]."""
        return self.resume("input", pixels)[0]

    def resume(self, cut: str, tensor: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Run on from the tensor at `cut` ("input" or a segment): logits of the exits behind it, every output."""
        names = list(self.segments)
        start = 0 if cut == "input" else names.index(cut) + 1
        logits: list[Tensor] = []
        outputs: dict[str, Tensor] = {}
        for name in names[start:]:
            tensor = self.segments[name](tensor)
            outputs[name] = tensor
            logits.extend(self.branches[place.name](tensor) for place in self.places if place.after == name)
        return [*logits, tensor], outputs


def b_alexnet(classes: int) -> EarlyExitNet:
    """Build B-AlexNet for 224 x 224 frames: 150 M multiply-adds a frame, 1.9 M parameters."""
    segments = {
        "pool1": nn.Sequential(Normalise(), *_convolution(3, 32, 11, stride=4, padding=2), nn.MaxPool2d(3, 2)),
        "pool2": nn.Sequential(*_convolution(32, 64, 5, padding=2), nn.MaxPool2d(3, 2)),
        "conv3": nn.Sequential(*_convolution(64, 128, 3, padding=1)),
        "conv4": nn.Sequential(*_convolution(128, 128, 3, padding=1)),
        "pool5": nn.Sequential(*_convolution(128, 96, 3, padding=1), nn.MaxPool2d(3, 2)),
        "fc6": nn.Sequential(nn.Flatten(), nn.Dropout(0.4), nn.Linear(96 * 6 * 6, 384), nn.ReLU()),
        "fc7": nn.Sequential(nn.Dropout(0.3), nn.Linear(384, 192), nn.ReLU()),
        "fc8": nn.Sequential(nn.Linear(192, classes)),
    }
    branches = {
        BranchPlace("b1", "pool1"): nn.Sequential(
            *_convolution(32, 48, 3, stride=2, padding=1),
            *_convolution(48, 64, 3, padding=1),
            nn.MaxPool2d(3, 2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(64 * 6 * 6, classes),
        ),
        BranchPlace("b3", "conv3"): nn.Sequential(
            *_convolution(128, 64, 3, padding=1),
            nn.MaxPool2d(3, 2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(64 * 6 * 6, classes),
        ),
    }
    return EarlyExitNet("b-alexnet", segments, branches, side=224)


def b_alexnet_tiny(classes: int) -> EarlyExitNet:
    """Build the same shape of net for 64 x 64 frames, for trying the whole path out in seconds."""
    segments = {
        "pool1": nn.Sequential(Normalise(), *_convolution(3, 8, 7, stride=2, padding=3), nn.MaxPool2d(3, 2)),
        "pool2": nn.Sequential(*_convolution(8, 16, 5, padding=2), nn.MaxPool2d(3, 2)),
        "conv3": nn.Sequential(*_convolution(16, 16, 3, padding=1)),
        "fc6": nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(16 * 7 * 7, 32), nn.ReLU()),
        "fc8": nn.Sequential(nn.Linear(32, classes)),
    }
    branches = {
        BranchPlace("b1", "pool1"): nn.Sequential(nn.MaxPool2d(3, 3), nn.Flatten(), nn.Linear(8 * 5 * 5, classes)),
        BranchPlace("b3", "conv3"): nn.Sequential(nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(16 * 3 * 3, classes)),
    }
    return EarlyExitNet("b-alexnet-tiny", segments, branches, side=64)


BACKBONES: dict[str, Callable[[int], EarlyExitNet]] = {"b-alexnet": b_alexnet, "b-alexnet-tiny": b_alexnet_tiny}


def build(backbone: str, classes: int) -> EarlyExitNet:
    """Build a backbone by name. Raises InputError for an unknown one."""
    if backbone not in BACKBONES:
        raise InputError(f"backbone: {backbone!r}, expected one of {', '.join(BACKBONES)}")
    return BACKBONES[backbone](classes)


def multiply_adds(net: EarlyExitNet) -> int:
    """Count the multiply-adds of one frame through the main branch and all side branches."""
    total = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += module.weight.numel()

    hooks = [module.register_forward_hook(count) for module in net.modules()]
    was_training = net.training
    net.eval()
    with torch.inference_mode():
        net(torch.zeros(1, net.side, net.side, 3, dtype=torch.uint8))
    net.train(was_training)
    for hook in hooks:
        hook.remove()
    return total


def _convolution(inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]
