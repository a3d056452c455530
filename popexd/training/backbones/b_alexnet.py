"""B-AlexNet at 224 x 224: a moderate AlexNet with two side branches, as a chain of named segments.

Five convolutions and three fully connected layers as in AlexNet (Krizhevsky et al. 2012), side branches after the first
and the third convolution as in BranchyNet (Teerapittayanon et al. 2016); batch normalisation in place of local response
normalisation, folded into the convolutions at export.
"""

from __future__ import annotations

from torch import nn

from popexd.training.early_exit import Backbone, BranchPlace, Normalise


def b_alexnet(classes: int) -> Backbone:
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
    return Backbone("b-alexnet", 224, segments, branches)


def b_alexnet_tiny(classes: int) -> Backbone:
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
    return Backbone("b-alexnet-tiny", 64, segments, branches)


def _convolution(inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]
