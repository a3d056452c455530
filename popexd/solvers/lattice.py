"""All ways to cut a graph once: the sets of layers that are closed under what their layers read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Sets = NDArray[np.bool_]


class TooWide(Exception):
    """The graph has more cuts than anyone asked to list."""


def lower_sets(parents: Sequence[Sequence[int]], limit: int) -> Sets:
    """List the sets of layers that could be all that is below a cut, [sets, layers], the empty one first.

    `parents` has for each layer, in a topological order, the places of the layers that it reads. A chain of n layers
    has n + 1 sets. A graph has a few for each block between layers that everything passes through, as parallel arms can
    be cut at different depths: ResNet-18 some dozens, Inception-v4 some thousands.

    Raises:
        TooWide: there are more than `limit`.
    """
    count = len(parents)
    if all(list(those) == [index - 1][:index] for index, those in enumerate(parents)):
        if count + 1 > limit:
            raise TooWide
        return np.tri(count + 1, count, -1, dtype=bool)
    sets: Sets = np.zeros((1, count), dtype=bool)
    for index, those in enumerate(parents):
        able = sets[sets[:, list(those)].all(axis=1)]
        able[:, index] = True
        sets = np.concatenate([sets, able])
        if len(sets) > limit:
            raise TooWide
    return sets


def nested_pairs(sets: Sets, limit: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Every pair of sets of which the first is within the second, as two columns of row numbers.

    Raises:
        TooWide: there are more than `limit`.
    """
    inside, outside = sets.astype(np.float32), (~sets).astype(np.float32)
    first, second = np.nonzero(inside @ outside.T == 0)
    if len(first) > limit:
        raise TooWide
    return first, second
