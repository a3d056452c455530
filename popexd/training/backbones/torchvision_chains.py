"""torchvision's classifiers as chains of their own blocks, named as torchvision names them: `layer1.1`, `features.3`.

Between two blocks there is one tensor, so every block's end is a cut and may carry a side branch; what a block does
inside (residuals, squeeze and excitation) stays whole.
"""

from __future__ import annotations

import urllib.error
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from popexd.errors import InputError
from popexd.training.early_exit import Backbone

NETWORKS: Mapping[str, str] = {
    "alexnet": "alexnet",
    "mobilenet-v2": "mobilenet_v2",
    "mobilenet-v3-small": "mobilenet_v3_small",
    "mobilenet-v3-large": "mobilenet_v3_large",
    "resnet18": "resnet18",
    "efficientnet-b0": "efficientnet_b0",
}
"""Our name of a backbone, and torchvision's."""

SIDE = 224
# AlexNet's is the one whose pool before the classifier does nothing but at its own size.
_FIXED = frozenset({"alexnet"})
_LEAST_SIDE = 32


class ImageNetNormalise(nn.Module):
    """Turn uint8 NHWC pixels into float32 NCHW as ImageNet's classifiers are trained: its mean 0, its deviation 1.

    It is part of the first segment, so that frames travel as bytes.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        self.register_buffer("scale", (1 / (255 * deviation)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / deviation).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map [N, H, W, 3] uint8 to [N, 3, H, W] float32."""
        return pixels.permute(0, 3, 1, 2).float() * self.scale + self.shift


def torchvision_chain(backbone: str, classes: int, side: int = SIDE, pretrained: bool = False) -> Backbone:
    """Build one of NETWORKS as a chain; with `pretrained`, torchvision's weights below a head of its own.

    Raises InputError for a side that the network cannot take, and where the weights cannot be had.
    """
    if side != SIDE and (backbone in _FIXED or not _LEAST_SIDE <= side <= 1024):
        expected = f"{SIDE}" if backbone in _FIXED else f"{_LEAST_SIDE} to 1024"
        raise InputError(f"--side: {side}, expected {expected} for {backbone}")
    model = _model(NETWORKS[backbone], classes, pretrained)
    blocks = dict(_resnet(model) if backbone.startswith("resnet") else _features(model))
    first = next(iter(blocks))
    blocks[first] = nn.Sequential(ImageNetNormalise(), blocks[first])
    return Backbone(backbone, side, blocks, {})


def _model(name: str, classes: int, pretrained: bool) -> nn.Module:
    from torchvision import models

    model: nn.Module
    if not pretrained:
        model = models.get_model(name, weights=None, num_classes=classes)
        return model
    try:
        model = models.get_model(name, weights="DEFAULT")
    except (OSError, RuntimeError, urllib.error.URLError) as error:
        place = Path(torch.hub.get_dir()) / "checkpoints"
        raise InputError(
            f"--pretrained: {name}: torchvision's weights cannot be had ({str(error).splitlines()[0][:80]}), "
            f"expected a connection or its file in {place}"
        ) from error
    owner = model if name.startswith("resnet") else model.get_submodule("classifier")
    key = list(dict(owner.named_children()))[-1]
    last = owner.get_submodule(key)
    assert isinstance(last, nn.Linear)
    setattr(owner, key, nn.Linear(last.in_features, classes))
    return model


def _resnet(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    parts = dict(model.named_children())
    yield "stem", nn.Sequential(parts["conv1"], parts["bn1"], parts["relu"], parts["maxpool"])
    for layer in ("layer1", "layer2", "layer3", "layer4"):
        for name, block in parts[layer].named_children():
            yield f"{layer}.{name}", block
    yield "head", nn.Sequential(parts["avgpool"], nn.Flatten(), parts["fc"])


def _features(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Cut `features`, `avgpool`, `classifier`, as AlexNet, the MobileNets and the EfficientNets are made."""
    parts = dict(model.named_children())
    layers = list(parts["features"].children())
    if all(not list(layer.children()) for layer in layers):
        yield from _alexnet(layers, parts["avgpool"], list(parts["classifier"].children()))
        return
    for index, layer in enumerate(layers):
        stage = type(layer) is nn.Sequential
        for name, block in layer.named_children() if stage else [("", layer)]:
            yield f"features.{index}{'.' if stage else ''}{name}", block
    pool = parts.get("avgpool", nn.AdaptiveAvgPool2d(1))
    yield "head", nn.Sequential(pool, nn.Flatten(), parts["classifier"])


def _alexnet(layers: list[nn.Module], pool: nn.Module, classifier: list[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """The same cuts as B-AlexNet's; at 224 x 224 the pool before the classifier changes nothing."""
    assert isinstance(pool, nn.AdaptiveAvgPool2d)
    bounds = {"pool1": (0, 3), "pool2": (3, 6), "conv3": (6, 8), "conv4": (8, 10), "pool5": (10, 13)}
    for name, (start, stop) in bounds.items():
        yield name, nn.Sequential(*layers[start:stop])
    yield "fc6", nn.Sequential(nn.Flatten(), *classifier[0:3])
    yield "fc7", nn.Sequential(*classifier[3:6])
    yield "fc8", nn.Sequential(*classifier[6:])
