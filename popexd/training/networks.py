"""Two of D3's five networks that torchvision does not have: Darknet-53 and Inception-v4, without weights."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn


def convolution(
    inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, *, same: bool = True
) -> nn.Sequential:
    """A convolution without bias, batch normalisation and ReLU; `same` pads so that stride 1 keeps the size."""
    high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (high // 2, wide // 2) if same else (0, 0)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, (high, wide), stride, padding, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=False),
    )


class Residual(nn.Module):
    """Darknet's block: 1 x 1 to half the channels, 3 x 3 back, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.narrow = convolution(channels, channels // 2, 1)
        self.wide = convolution(channels // 2, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        widened: Tensor = self.wide(self.narrow(x))
        return x + widened


def darknet53(classes: int = 1000) -> nn.Sequential:
    """Build Darknet-53 for 256 x 256 images (Redmon, Farhadi: YOLOv3, 2018): 52 convolutions, 23 residual blocks."""
    layers: list[nn.Module] = [convolution(3, 32, 3)]
    channels = 32
    for blocks in (1, 2, 8, 8, 4):
        layers += [convolution(channels, 2 * channels, 3, 2), *(Residual(2 * channels) for _ in range(blocks))]
        channels *= 2
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class Parallel(nn.Module):
    """Arms that read the same tensor, their outputs side by side."""

    def __init__(self, *arms: nn.Module) -> None:
        super().__init__()
        self.arms = nn.ModuleList(arms)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate over channels."""
        return torch.cat([arm(x) for arm in self.arms], 1)


class Forked(nn.Module):
    """A stem whose output two or more arms read, side by side."""

    def __init__(self, stem: nn.Module, *arms: nn.Module) -> None:
        super().__init__()
        self.stem = stem
        self.arms = nn.ModuleList(arms)


class InceptionC(nn.Module):
    """The last kind of block, with arms that fork; the forks' ends join the block's concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = convolution(1536, 256, 1)
        self.second = Forked(convolution(1536, 384, 1), convolution(384, 256, (1, 3)), convolution(384, 256, (3, 1)))
        stem = nn.Sequential(convolution(1536, 384, 1), convolution(384, 448, (3, 1)), convolution(448, 512, (1, 3)))
        self.third = Forked(stem, convolution(512, 256, (1, 3)), convolution(512, 256, (3, 1)))
        self.fourth = nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), convolution(1536, 256, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        parts = [self.first(x)]
        for fork in (self.second, self.third):
            stem = fork.stem(x)
            parts += [arm(stem) for arm in fork.arms]
        return torch.cat([*parts, self.fourth(x)], 1)


def _inception_a() -> Parallel:
    return Parallel(
        convolution(384, 96, 1),
        nn.Sequential(convolution(384, 64, 1), convolution(64, 96, 3)),
        nn.Sequential(convolution(384, 64, 1), convolution(64, 96, 3), convolution(96, 96, 3)),
        nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), convolution(384, 96, 1)),
    )


def _inception_b() -> Parallel:
    row, column = (1, 7), (7, 1)
    return Parallel(
        convolution(1024, 384, 1),
        nn.Sequential(convolution(1024, 192, 1), convolution(192, 224, row), convolution(224, 256, column)),
        nn.Sequential(
            convolution(1024, 192, 1),
            convolution(192, 192, column),
            convolution(192, 224, row),
            convolution(224, 224, column),
            convolution(224, 256, row),
        ),
        nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), convolution(1024, 128, 1)),
    )


def _stem() -> list[tuple[str, nn.Module]]:
    row, column = (1, 7), (7, 1)
    return [
        ("conv1", convolution(3, 32, 3, 2, same=False)),
        ("conv2", convolution(32, 32, 3, same=False)),
        ("conv3", convolution(32, 64, 3)),
        ("mixed3", Parallel(nn.MaxPool2d(3, 2), convolution(64, 96, 3, 2, same=False))),
        (
            "mixed4",
            Parallel(
                nn.Sequential(convolution(160, 64, 1), convolution(64, 96, 3, same=False)),
                nn.Sequential(
                    convolution(160, 64, 1),
                    convolution(64, 64, row),
                    convolution(64, 64, column),
                    convolution(64, 96, 3, same=False),
                ),
            ),
        ),
        ("mixed5", Parallel(convolution(192, 192, 3, 2, same=False), nn.MaxPool2d(3, 2))),
    ]


def inception_v4(classes: int = 1000) -> nn.Sequential:
    """Build Inception-v4 for 299 x 299 images (Szegedy et al., AAAI 2017): 149 convolutions, 17 Inception blocks."""
    reduction_a = Parallel(
        convolution(384, 384, 3, 2, same=False),
        nn.Sequential(convolution(384, 192, 1), convolution(192, 224, 3), convolution(224, 256, 3, 2, same=False)),
        nn.MaxPool2d(3, 2),
    )
    reduction_b = Parallel(
        nn.Sequential(convolution(1024, 192, 1), convolution(192, 192, 3, 2, same=False)),
        nn.Sequential(
            convolution(1024, 256, 1),
            convolution(256, 256, (1, 7)),
            convolution(256, 320, (7, 1)),
            convolution(320, 320, 3, 2, same=False),
        ),
        nn.MaxPool2d(3, 2),
    )
    layers = [
        *_stem(),
        *((f"a{index}", _inception_a()) for index in range(1, 5)),
        ("reduction_a", reduction_a),
        *((f"b{index}", _inception_b()) for index in range(1, 8)),
        ("reduction_b", reduction_b),
        *((f"c{index}", InceptionC()) for index in range(1, 4)),
        ("pool", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("classifier", nn.Linear(1536, classes)),
    ]
    return nn.Sequential(OrderedDict(layers))
