"""A chain of named segments with side branches: what is trained here, whatever its backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Of 255: what is added to a frame's deviation, so that a black frame stays black and does not become noise.
FLOOR = 4.0

_EMPTY = nn.ModuleDict()


class Normalise(nn.Module):
    """Turn uint8 NHWC pixels into float32 NCHW with mean 0 and deviation about 1 in each frame, whatever its exposure.

    It is part of the first segment, so that frames travel as bytes.
    """

    def forward(self, pixels: Tensor) -> Tensor:
        """Map [N, H, W, 3] uint8 to [N, 3, H, W] float32."""
        values = pixels.permute(0, 3, 1, 2).float()
        centred = values - mean_of_frame(values)
        deviation = mean_of_frame(centred.square()).sqrt()
        return centred / (deviation + FLOOR)


def mean_of_frame(values: Tensor) -> Tensor:
    """Average [N, C, H, W] axis by axis: ONNX Runtime sums naively in float32, and 150,000 values cost it digits."""
    return values.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True).mean(dim=1, keepdim=True)


@dataclass(frozen=True)
class BranchPlace:
    """Where a side branch hangs: its own name, and that of a segment."""

    name: str
    after: str


@dataclass(frozen=True)
class Backbone:
    """A chain before it has branches.

    Attributes:
        side: of the square frames that it takes.
        segments: named, in order; the last one gives the logits.
        published: the side branches that its authors give it, none if it has none.
    """

    name: str
    side: int
    segments: Mapping[str, nn.Module]
    published: Mapping[BranchPlace, nn.Module]


class EarlyExitNet(nn.Module):
    """A chain of segments with side branches; `forward` computes every exit; where to stop is decided elsewhere."""

    def __init__(
        self, backbone: str, segments: Mapping[str, nn.Module], branches: Mapping[BranchPlace, nn.Module], side: int
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.side = side
        self.segments = _named(segments)
        self.branches = _named({place.name: module for place, module in branches.items()})
        self.names = tuple(segments)
        self.places = tuple(branches)

    @property
    def exits(self) -> tuple[str, ...]:
        """The names of all exits, "final" last."""
        return (*(place.name for place in self.places), "final")

    @property
    def head(self) -> nn.Linear:
        """The last layer of the main branch, which tells its classes apart."""
        return last_linear(self.segment(self.names[-1]))

    def segment(self, name: str) -> nn.Module:
        """The segment of that name."""
        return self.segments[key_of(name)]

    def branch(self, name: str) -> nn.Module:
        """The side branch of that name."""
        return self.branches[key_of(name)]

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return the logits [N, classes] of every exit for uint8 pixels [N, H, W, 3]."""
        return self.resume("input", pixels)[0]

    def resume(self, cut: str, tensor: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Run on from the tensor at `cut` ("input" or a segment): logits of the exits behind it, every output."""
        start = 0 if cut == "input" else self.names.index(cut) + 1
        logits: list[Tensor] = []
        outputs: dict[str, Tensor] = {}
        for name in self.names[start:]:
            tensor = self.segment(name)(tensor)
            outputs[name] = tensor
            logits.extend(self.branch(place.name)(tensor) for place in self.places if place.after == name)
        return [*logits, tensor], outputs


def last_linear(part: nn.Module) -> nn.Linear:
    """The layer that an exit ends in."""
    return [module for module in part.modules() if isinstance(module, nn.Linear)][-1]


def key_of(name: str) -> str:
    """What a segment or branch is called inside torch, which keeps dots and its own attributes (`keys`) for itself."""
    key = name.replace(".", "_")
    return f"{key}_" if hasattr(_EMPTY, key) else key


def _named(modules: Mapping[str, nn.Module]) -> nn.ModuleDict:
    keys = {key_of(name): module for name, module in modules.items()}
    if len(keys) < len(modules):
        raise ValueError(f"two of {', '.join(modules)} have one name inside torch, expected all to differ")
    return nn.ModuleDict(keys)


def multiply_adds(net: EarlyExitNet) -> int:
    """Count the multiply-adds of one frame through the main branch and all side branches."""
    return sum(costs(net, net.side).values())


def costs(net: nn.Module, side: int) -> dict[nn.Module, int]:
    """Count every layer's multiply-adds for one frame of that side."""
    found: dict[nn.Module, int] = {}

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            found[module] = output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            found[module] = module.weight.numel()

    hooks = [module.register_forward_hook(count) for module in net.modules()]
    was_training = net.training
    net.eval()
    device = next(net.parameters()).device
    with torch.inference_mode():
        net(torch.zeros(1, side, side, 3, dtype=torch.uint8, device=device))
    net.train(was_training)
    for hook in hooks:
        hook.remove()
    return found
