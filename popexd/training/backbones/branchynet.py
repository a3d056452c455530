"""B-AlexNet at 32 x 32 for CIFAR-10, layer for layer as BranchyNet publishes it, as a chain of named segments.

Teerapittayanon, McDanel, Kung, "BranchyNet: Fast Inference via Early Exiting from Deep Neural Networks" (ICPR 2016).
Its pools cover the whole map (`ceil_mode`): 32, 16, 8, 4. The published branches begin with the same rectifier (the
first also with the same pool and response normalisation) as the main branch goes on with. Here they share it: the same
function, computed once, and the first branch hangs on the small tensor behind the pool.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from popexd.training.early_exit import Backbone, BranchPlace, Normalise


class ResponseNorm(nn.Module):
    """Local response normalisation over three neighbouring channels: x / (1 + 5e-5 / 3 x sum of squares)^0.75.

    The same as `nn.LocalResponseNorm(3, 5e-5, 0.75)`, which goes through a three-dimensional average pool and a power
    and takes nearly half of a training step in bfloat16 with them.
    """

    scale = 5e-5 / 3

    def forward(self, values: Tensor) -> Tensor:
        """Map [N, C, H, W] to the same shape."""
        squares = functional.pad(values * values, (0, 0, 0, 0, 1, 1))
        around = squares[:, :-2] + squares[:, 1:-1] + squares[:, 2:]
        root = (1 + self.scale * around).rsqrt()
        return values * (root * root.sqrt())


def b_alexnet_cifar(classes: int) -> Backbone:
    """Build B-AlexNet for 32 x 32 frames: 30 M multiply-adds with both branches a frame, 0.6 M parameters."""
    segments = {
        "pool1": nn.Sequential(Normalise(), nn.Conv2d(3, 32, 5, padding=2), nn.ReLU(), _pool(), ResponseNorm()),
        "pool2": nn.Sequential(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), _pool(), ResponseNorm()),
        "conv3": nn.Sequential(nn.Conv2d(64, 96, 3, padding=1), nn.ReLU()),
        "conv4": nn.Sequential(nn.Conv2d(96, 96, 3, padding=1), nn.ReLU()),
        "pool5": nn.Sequential(nn.Conv2d(96, 64, 3, padding=1), nn.ReLU(), _pool()),
        "fc6": nn.Sequential(nn.Flatten(), nn.Linear(1024, 256), nn.ReLU(), nn.Dropout(0.5)),
        "fc7": nn.Sequential(nn.Linear(256, 128), nn.ReLU(), nn.Dropout(0.5)),
        "fc8": nn.Sequential(nn.Linear(128, classes)),
    }
    branches = {
        BranchPlace("b1", "pool2"): nn.Sequential(
            nn.Conv2d(64, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            _pool(),
            nn.Flatten(),
            nn.Linear(512, classes),
        ),
        BranchPlace("b2", "conv3"): nn.Sequential(
            _pool(),
            ResponseNorm(),
            nn.Conv2d(96, 32, 3, padding=1),
            nn.ReLU(),
            _pool(),
            nn.Flatten(),
            nn.Linear(128, classes),
        ),
    }
    return Backbone("b-alexnet-cifar", 32, segments, branches)


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, ceil_mode=True)
