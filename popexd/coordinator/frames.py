"""Frames on their way: waiting in the inbox, or taken and owed an answer."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from popexd.coordinator.decision import Choice, Decision
from popexd.coordinator.events import FrameReceived
from popexd.coordinator.itinerary import Itinerary, Ways
from popexd.validation import FINAL

_MOST_CAMERAS = 256
_REMEMBERED = 1024
_REMEMBERED_SECONDS = 60.0


class Phase(Enum):
    """Where a taken frame is."""

    RUNNING = "running"
    """Its next order waits for the compute thread, or is being carried out."""
    SHIPPED = "shipped"
    """A worker has it, or the network."""
    FINISHING = "finishing"
    """The device finishes what was planned for another tier."""


@dataclass
class Frame:
    """A taken frame; it gets exactly one answer, whatever happens."""

    key: int
    camera: str
    frame_id: str | None
    correlation: bytes | None
    received_at: float
    taken_at: float
    decision: Decision
    ways: Ways
    deadline_at: float
    phase: Phase = Phase.RUNNING
    step: int = 0
    decoded: bool = False
    done: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    decode_seconds: float = 0.0
    device_seconds: float = 0.0
    encode_seconds: float = 0.0
    attempt: int = 0
    shipment_bytes: int = 0
    bytes_sent: int = 0
    shipped_at: float = 0.0
    waited_seconds: float = 0.0
    patient_until: float = float("inf")
    rescue_seconds: float = 0.0
    fallback: str | None = None
    quality: str | None = None
    ticket: object = None

    @property
    def itinerary(self) -> Itinerary:
        """Its way, as far as its image-quality class is known."""
        return self.ways.of(self.quality)

    @property
    def choice(self) -> Choice:
        """The plan it goes by."""
        return self.decision.of(self.quality)

    @property
    def expected_seconds(self) -> float:
        """What the plan expects for a frame that no branch answers."""
        return self.choice.expected_seconds(FINAL)

    @property
    def overdue_at(self) -> float:
        """When a shipped frame is so late that something is wrong; nobody gives up sooner."""
        return self.shipped_at + 2 * self.expected_seconds + 0.05


@dataclass(frozen=True, slots=True)
class Waiting:
    """A frame in its camera's slot, not taken yet."""

    received: FrameReceived
    at: float


class Inbox:
    """One slot per camera, newest wins, and one for each frame that comes again; what waits longest goes first."""

    def __init__(self) -> None:
        self._slots: OrderedDict[tuple[str, object], Waiting] = OrderedDict()
        self._seen: OrderedDict[tuple[str, str, int], float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._slots)

    def put(self, received: FrameReceived, now: float) -> tuple[str, FrameReceived] | None:
        """Put a frame into its slot; return the frame that was dropped for it and why, None if none was."""
        if self._again(received, now):
            return "duplicate", received
        slot = (received.camera, received.ticket if received.again else None)
        pushed_out = self._slots.get(slot)
        # The slot keeps its place in the order: a fast camera must not starve itself by pushing itself back.
        self._slots[slot] = Waiting(received, now)
        if pushed_out is not None:
            return "newer", pushed_out.received
        if len(self._slots) > _MOST_CAMERAS:
            return "cameras", self._slots.popitem(last=False)[1].received
        return None

    def _again(self, received: FrameReceived, now: float) -> bool:
        """Whether the broker delivered the very same frame once more, as it may after a restart."""
        if received.frame_id is None:
            return False
        while self._seen and now - next(iter(self._seen.values())) > _REMEMBERED_SECONDS:
            self._seen.popitem(last=False)
        mark = (received.camera, received.frame_id, zlib.crc32(received.payload))
        again = mark in self._seen
        self._seen[mark] = now
        self._seen.move_to_end(mark)
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return again

    @property
    def oldest(self) -> Waiting | None:
        """The frame that waits longest."""
        return next(iter(self._slots.values()), None)

    def take(self) -> Waiting | None:
        """Take out the frame that waits longest."""
        return self._slots.popitem(last=False)[1] if self._slots else None

    def clear(self) -> Iterator[Waiting]:
        """Take out everything."""
        while self._slots:
            yield self._slots.popitem(last=False)[1]
