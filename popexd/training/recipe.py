"""Everything that decides the outcome of a training run, besides the data and the weights it starts from."""

from __future__ import annotations

from dataclasses import dataclass

from popexd.errors import InputError
from popexd.training.augmentation import augmentation
from popexd.training.backbones import build
from popexd.training.backbones.torchvision_chains import NETWORKS
from popexd.training.early_exit import EarlyExitNet
from popexd.training.loss import exit_weights

PRECISIONS = ("float32", "bfloat16")
OPTIMISERS = ("adamw", "adam", "sgd")


@dataclass(frozen=True)
class Recipe:
    """The options of `popexd train` that decide a run, and that it goes on with.

    Attributes:
        branches: as `branches.equip` reads them.
        side: of the square frames, 0 for the backbone's own.
        pretrained: whether the backbone starts with torchvision's weights.
        main_epochs: of the epochs, how many train the main branch alone at first, as BranchyNet does.
        weighting: a name of `loss.WEIGHTINGS`, or one number per exit ("1.0,0.3").
        freeze: only the side branches learn, and the head where it is new.
        patience: epochs without a better one after which the run ends; 0 for never. It and `epochs` (more of them) may
            be others when a run goes on.
    """

    backbone: str = "b-alexnet"
    branches: str = ""
    side: int = 0
    pretrained: bool = False
    epochs: int = 40
    main_epochs: int = 0
    seed: int = 1
    batch: int = 64
    optimiser: str = "adamw"
    learning_rate: float = 2e-3
    weight_decay: float = 2e-2
    weighting: str = "decreasing"
    augmentation: str = "turns"
    precision: str = "float32"
    freeze: bool = False
    patience: int = 0

    @property
    def new_head(self) -> bool:
        """Whether a frozen backbone has a random last layer: torchvision's knows other classes."""
        return self.freeze and self.pretrained

    def net(self, classes: int, *, weights: bool = True) -> EarlyExitNet:
        """Build the net, with pretrained `weights` if they are part of the recipe. Raises InputError."""
        return build(self.backbone, classes, self.branches, self.side, self.pretrained and weights)

    def check(self) -> None:
        """Raise InputError, with the option's name, for what cannot be."""
        exits = self.net(2, weights=False).exits
        if self.pretrained and self.backbone not in NETWORKS:
            raise InputError(f"--pretrained: there are no weights of {self.backbone}, expected {', '.join(NETWORKS)}")
        augmentation(self.augmentation)
        *of_branches, of_end = exit_weights(self.weighting, len(exits))
        if self.freeze and not any(of_branches):
            raise InputError(
                f"--weights: {self.weighting!r}, expected one above 0 for a branch: --freeze trains no other"
            )
        if self.new_head and not of_end:
            raise InputError(
                f"--weights: {self.weighting!r}, expected one above 0 for the end: its last layer is new, and learns"
            )
        if self.precision not in PRECISIONS:
            raise InputError(f"--precision: {self.precision!r}, expected {' or '.join(PRECISIONS)}")
        if self.optimiser not in OPTIMISERS:
            raise InputError(f"--optimiser: {self.optimiser!r}, expected one of {', '.join(OPTIMISERS)}")
        if self.main_epochs >= self.epochs:
            raise InputError(f"--main-epochs: {self.main_epochs}, expected fewer than the {self.epochs} epochs in all")
        if self.main_epochs and self.freeze:
            raise InputError(f"--main-epochs: {self.main_epochs}, expected none with --freeze")
