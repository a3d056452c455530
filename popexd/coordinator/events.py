"""What the brain is told (events) and what it orders (effects). Plain values: no clock, thread, socket or file.

Every instant is in seconds on the caller's monotonic clock; a shell that publishes turns them into calendar time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from popexd.coordinator.decision import Choice as Choice  # noqa: PLC0414 an effect tells of it
from popexd.coordinator.decision import Decision as Decision  # noqa: PLC0414
from popexd.plan import Tier
from popexd.protocol.tensors import Stage

# ---------------------------------------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class FrameReceived:
    """A camera published a frame; `payload` is untouched.

    `ticket` is the shell's: it comes back once, with the answer or in `Settled`. A frame that comes `again` may have
    been taken before we died: no newer one of its camera pushes it out.
    """

    camera: str
    payload: bytes
    frame_id: str | None = None
    correlation: bytes | None = None
    ticket: object = None
    again: bool = False


@dataclass(frozen=True, slots=True)
class FramesSkipped:
    """Frames of a camera were pushed out by newer ones before anyone looked at them, or need not be looked at."""

    camera: str
    count: int
    reason: str = "newer"


@dataclass(frozen=True, slots=True)
class InputRejected:
    """Something on a frame topic can never be a frame of ours."""

    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Classified:
    """What an exit says about a frame; `certainty` is what its bound is compared with, None: the confidence."""

    class_index: int
    label: str
    confidence: float
    certainty: float | None = None

    def sure(self, bound: float | None) -> bool:
        """Whether the answer stands from this bound on; None: whatever it says."""
        return bound is None or (self.confidence if self.certainty is None else self.certainty) >= bound


@dataclass(frozen=True, slots=True)
class RunDone:
    """The compute thread carried out a `Run`. Seconds that were not spent are zero.

    `quality` is the frame's class, once it was decoded and if the model tells them apart.
    """

    key: int
    decode_seconds: float = 0.0
    device_seconds: float = 0.0
    encode_seconds: float = 0.0
    classified: Classified | None = None
    image_bytes: int | None = None
    shipment_bytes: int | None = None
    quality: str | None = None


@dataclass(frozen=True, slots=True)
class RunFailed:
    """The compute thread could not carry out a `Run`: the frame is unusable, or a segment failed."""

    key: int
    unusable: bool
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ShipmentEnded:
    """The bus says what became of a shipment: `outcome` is `delivered` or the reason it was not."""

    key: int
    attempt: int
    outcome: str


@dataclass(frozen=True, slots=True)
class Replied:
    """A worker answered, or said why it cannot; `plan_id` is that of the shipment it answers."""

    key: int
    attempt: int
    worker: str
    tier: Tier
    message_bytes: int
    seconds: Mapping[str, float]
    classified: Classified | None = None
    exit: str = "final"
    error: str | None = None
    plan_id: str = ""


@dataclass(frozen=True, slots=True)
class ReplyRejected:
    """Something on the reply topic could not be used."""

    reason: str


@dataclass(frozen=True, slots=True)
class UplinkChanged:
    """The uplink's broker was reached or lost."""

    connected: bool
    reason: str = ""
    max_packet_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class WorkerChanged:
    """A worker of a tier came, went, or published its profile for our model; `instead` tells what else it serves."""

    worker: str
    tier: Tier
    online: bool
    profile: Any = None
    instead: Mapping[str, Mapping[str, str]] | None = None


@dataclass(frozen=True, slots=True)
class ProbeReturned:
    """A probe came back; `far_seconds` is the worker's own time."""

    sequence: int
    far_seconds: float


@dataclass(frozen=True, slots=True)
class ProbeEnded:
    """The bus says what became of a probe: `outcome` is `delivered` or the reason it was not."""

    sequence: int
    outcome: str


@dataclass(frozen=True, slots=True)
class SpeedMeasured:
    """An outside speed test finished."""

    bits_per_second: float


@dataclass(frozen=True, slots=True)
class RequestReceived:
    """Someone asks for something; `fields` are the request's own, `asked_by` is who it says it is, if it does."""

    verb: str
    transaction: str | int | None
    fields: Mapping[str, Any] = field(default_factory=dict)
    asked_by: str | None = None


@dataclass(frozen=True, slots=True)
class RequestRejected:
    """Something on a request topic could not be used; without a transaction there is nobody to tell."""

    verb: str
    reason: str
    detail: str = ""
    transaction: str | int | None = None


@dataclass(frozen=True, slots=True)
class Reconfigured:
    """The configuration was read again; `settings` are the brain's, as they are to be from now on."""

    settings: Any


@dataclass(frozen=True, slots=True)
class Due:
    """The schedule says that something is due: `probe`, `replan` or `metrics`."""

    what: str


@dataclass(frozen=True, slots=True)
class Wakeup:
    """The instant that `next_wakeup` named has come."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Take no more frames, answer those taken, then stop."""


Event = (
    FrameReceived
    | FramesSkipped
    | InputRejected
    | RunDone
    | RunFailed
    | ShipmentEnded
    | Replied
    | ReplyRejected
    | UplinkChanged
    | WorkerChanged
    | ProbeReturned
    | ProbeEnded
    | SpeedMeasured
    | RequestReceived
    | RequestRejected
    | Reconfigured
    | Due
    | Wakeup
    | Drain
)

# ---------------------------------------------------------------------------------------------------- effects


@dataclass(frozen=True, slots=True)
class Run:
    """Order the compute thread: open (and decode), run segments, ask an exit, encode what leaves.

    One `Run` is out at a time. `payload` comes with a frame's first; later ones work on the tensors kept under `key`.
    """

    key: int
    segments: tuple[str, ...]
    exit: str | None = None
    codec: str | None = None
    decode: bool = False
    payload: bytes | None = None


@dataclass(frozen=True, slots=True)
class Ship:
    """Publish the encoded tensors kept under `key` to a tier, with the route that is still ahead."""

    key: int
    attempt: int
    tier: Tier
    route: tuple[Stage, ...]
    plan_id: str
    deadline_seconds: float
    quality: str | None = None


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop what is kept under `key`."""

    key: int


@dataclass(frozen=True, slots=True)
class SendProbe:
    """Publish a sized probe to a tier."""

    sequence: int
    tier: Tier
    bytes: int


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the seconds of a frame went; None means: not involved."""

    total: float
    queue: float
    decode: float | None = None
    device: float | None = None
    encode: float | None = None
    transfer: float | None = None
    edge: float | None = None
    cloud: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The one answer for a taken frame."""

    key: int
    frame_id: str | None
    correlation: bytes | None
    camera: str
    classified: Classified
    exit: str
    tier: Tier
    fallback: str | None
    plan_id: str
    captured_at: float
    timing: Timing
    bytes_sent: int
    quality: str | None = None
    ticket: object = None


@dataclass(frozen=True, slots=True)
class Settled:
    """The frame that came with this ticket was dropped or rejected."""

    ticket: object


@dataclass(frozen=True, slots=True)
class Notice:
    """One notable thing for the event topic; `event` is `<noun.past_verb>`."""

    event: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decided:
    """Publish a decision."""

    decision: Decision


@dataclass(frozen=True, slots=True)
class Report:
    """Publish metrics; the figures are those of `Statistics.snapshot`."""

    figures: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Respond:
    """Answer a request."""

    verb: str
    transaction: str | int
    data: Mapping[str, Any] | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Drained:
    """Every taken frame is answered; the shell may stop."""


Effect = Run | Ship | Forget | SendProbe | Answer | Settled | Notice | Decided | Report | Respond | Drained
