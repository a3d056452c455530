"""A plan: which tier runs each layer, which side branches answer, and how what crosses is encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from popexd.errors import InputError


class Tier(IntEnum):
    """Where a layer runs; data only ever flows upwards.

    >>> Tier.DEVICE < Tier.EDGE < Tier.CLOUD, Tier.of("edge").label
    (True, 'edge')
    """

    DEVICE = 0
    EDGE = 1
    CLOUD = 2

    @property
    def label(self) -> str:
        """The tier's name in files and messages."""
        return _LABELS[self]

    @classmethod
    def of(cls, label: str) -> Tier:
        """Return the tier called `label`.

        Raises:
            InputError: there is no such tier.
        """
        if label not in _LABELS:
            raise InputError(f"{label!r} is not a tier, expected one of: {', '.join(_LABELS)}")
        return cls(_LABELS.index(label))


_LABELS = tuple(tier.name.lower() for tier in Tier)


@dataclass(frozen=True, slots=True)
class ExitChoice:
    """Whether a side branch runs, and the confidence from which it answers (None: the profile's or bundle's own)."""

    runs: bool
    threshold: float | None = None


@dataclass(frozen=True)
class Plan:
    """One decision.

    Attributes:
        tiers: the tier of every layer, never decreasing along an edge of the graph.
        exits: what each side branch does; one that is missing does not run. A branch runs where its layer runs,
            on the device or the edge, never in the cloud.
        codecs: the codec of what each tier itself sends upwards, by that tier's label: `{"device": "q8+zstd"}`.
            Missing means `f32`, or that nothing leaves that tier. What the edge merely relays keeps its encoding.
    """

    tiers: Mapping[str, Tier]
    exits: Mapping[str, ExitChoice] = field(default_factory=dict)
    codecs: Mapping[str, str] = field(default_factory=dict)

    def runs(self, branch: str) -> bool:
        """Whether the side branch `branch` is evaluated."""
        choice = self.exits.get(branch)
        return choice is not None and choice.runs

    def codec(self, source: Tier) -> str:
        """The codec of the tensors that `source` sends upwards."""
        return self.codecs.get(source.label, "f32")
