"""The JSON payloads of the control tree; their JSON Schemas are what `popexd schema` prints.

Times are seconds, instants RFC 3339 in UTC, sizes bytes, rates bits per second. Unknown fields are ignored, an unknown
major version is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from popexd.protocol.payload import Cut, Instant, Payload, TierName


class AgentState(Payload):
    """Presence of the agent, retained; `offline` is also its last will."""

    SCHEMA: ClassVar[str] = "popexd/state/1"
    state: Literal["online", "offline"]
    version: str = ""
    model: str = ""
    since: Instant | None = None
    reason: str | None = None


class ExitSetting(BaseModel):
    """Whether a side branch runs, and the confidence from which, or the entropy below which, it answers."""

    runs: bool
    threshold: float | None = None
    criterion: Literal["confidence", "entropy", "normalised-entropy"] = "confidence"


class PredictedFigures(BaseModel):
    """What the plan in force is expected to cost and to score."""

    seconds: float
    p95_seconds: float | None = None
    accuracy: float | None = None
    bytes: float = 0.0
    exit_probabilities: dict[str, float] = Field(default_factory=dict)


class Alternative(BaseModel):
    """What another strategy would have cost on the same network."""

    strategy: str
    seconds: float


class LinkFigures(BaseModel):
    """What is known of one hop."""

    bits_per_second: float | None = None
    at_least: bool = Field(default=False, description="it may be faster: what crossed took too short a time to tell")
    round_trip_seconds: float | None = None
    jitter_seconds: float | None = Field(default=None, description="standard deviation of a crossing's time")
    source: str = "none"
    age_seconds: float | None = None


class PlanFigures(BaseModel):
    """A plan and what is expected of it."""

    cut: Cut
    cuts: dict[str, list[str]] = Field(default_factory=dict)
    tiers: dict[str, TierName]
    exits: dict[str, ExitSetting]
    codec: str | None = None
    predicted: PredictedFigures


class QualityPlan(PlanFigures):
    """The plan for frames of one image-quality class."""

    share: float = Field(description="how large a part of the frames is of this class")


class DecisionPayload(Payload):
    """The plan in force, why, and what was known when it was chosen.

    With `by_quality`, frames are decoded first and go by the plan of their own image-quality class; the plan itself is
    for frames whose class is not known, and what is predicted is over all frames.
    """

    SCHEMA: ClassVar[str] = "popexd/decision/1"
    DIGITS: ClassVar[int | None] = 6
    plan_id: str
    decided_at: Instant
    reason: str
    solver: str
    objective: str
    model: str
    cut: Cut
    cuts: dict[str, list[str]] = Field(default_factory=dict)
    tiers: dict[str, TierName]
    exits: dict[str, ExitSetting]
    codec: str | None = None
    predicted: PredictedFigures
    by_quality: dict[str, QualityPlan] = Field(default_factory=dict)
    alternatives: list[Alternative] = Field(default_factory=list)
    network: dict[str, LinkFigures] = Field(default_factory=dict)
    solve_seconds: float


class ResultSeconds(BaseModel):
    """Where the time of one frame went; null means: not involved. The parts never exceed the total."""

    total: float
    queue: float | None = None
    decode: float | None = None
    device: float | None = None
    encode: float | None = None
    transfer: float | None = None
    edge: float | None = None
    cloud: float | None = None


class ResultPayload(Payload):
    """The answer for one frame."""

    SCHEMA: ClassVar[str] = "popexd/result/1"
    DIGITS: ClassVar[int | None] = 6
    frame_id: str
    camera: str
    label: str
    class_index: int
    confidence: float
    exit: str = Field(description="a side branch's name, or 'final'")
    tier: TierName = Field(description="who finished")
    fallback: str | None = Field(default=None, description="why the device finished what was planned for another tier")
    plan_id: str
    captured_at: Instant
    quality: str | None = None
    seconds: ResultSeconds
    bytes_sent: int


class FrameCounts(BaseModel):
    """Counts since the agent started; at rest received = taken + dropped + rejected and taken = answered."""

    received: int = 0
    taken: int = 0
    dropped: int = 0
    answered: int = 0
    rejected: int = 0
    rejected_by_reason: dict[str, int] = Field(default_factory=dict)
    dropped_by_reason: dict[str, int] = Field(default_factory=dict)


class Percentiles(BaseModel):
    """Seconds from the frame's arrival to its answer, over the window."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    mean: float | None = None


class PredictionError(BaseModel):
    """Measured over predicted seconds, over the window."""

    median_ratio: float | None = None


class Rejections(BaseModel):
    """How many messages of a kind were refused, by reason."""

    rejected: int = 0
    by_reason: dict[str, int] = Field(default_factory=dict)


class ExitDrift(BaseModel):
    """An exit on live frames, and on validation samples that came as far; `distance` is of the certainties, 0..1."""

    frames: int
    share: float = Field(description="of the frames asked, how many it answered")
    expected_share: float
    confidence: float = Field(description="mean certainty of the frames asked")
    expected_confidence: float
    distance: float
    scenes: float | None = Field(default=None, description="how many independent frames these are worth")


class QualityShare(BaseModel):
    """How large a part of the frames is of one image-quality class, and was of the validation samples."""

    share: float
    expected_share: float


class DriftFigures(BaseModel):
    """The last few hundred frames against the validation table; `drifting` names what is out of bounds."""

    exits: dict[str, ExitDrift] = Field(default_factory=dict)
    quality: dict[str, QualityShare] = Field(default_factory=dict)
    quality_scenes: float | None = Field(default=None, description="how many independent frames these shares are of")
    drifting: list[str] = Field(default_factory=list)


class MetricsPayload(Payload):
    """Statistics: counts since the start; percentiles, shares and errors over the window."""

    SCHEMA: ClassVar[str] = "popexd/metrics/1"
    DIGITS: ClassVar[int | None] = 6
    at: Instant
    window_seconds: float
    uptime_seconds: float
    frames: FrameCounts
    exits: dict[str, int] = Field(default_factory=dict)
    tiers: dict[str, int] = Field(default_factory=dict)
    fallbacks: dict[str, int] = Field(default_factory=dict)
    seconds: Percentiles
    prediction_error: PredictionError
    bytes_sent: int = 0
    probe_bytes: int = 0
    exit_probabilities: dict[str, float] = Field(default_factory=dict)
    network: dict[str, LinkFigures] = Field(default_factory=dict)
    replies: Rejections = Field(default_factory=Rejections)
    requests: Rejections = Field(default_factory=Rejections)
    plan_id: str | None = None
    drift: DriftFigures = Field(default_factory=DriftFigures)


class EventPayload(Payload):
    """One notable thing; further fields depend on the event."""

    model_config = ConfigDict(populate_by_name=True, extra="allow", ser_json_inf_nan="null")

    SCHEMA: ClassVar[str] = "popexd/event/1"
    event: str = Field(description="<noun.past_verb>")
    at: Instant


class RequestPayload(Payload):
    """A request to the agent; further fields depend on the verb."""

    model_config = ConfigDict(populate_by_name=True, extra="allow", allow_inf_nan=False)

    SCHEMA: ClassVar[str] = "popexd/request/1"
    FROM_OTHERS: ClassVar[bool] = True
    transaction: str | int | None = None


class ResponsePayload(Payload):
    """The outcome of a request."""

    SCHEMA: ClassVar[str] = "popexd/response/1"
    transaction: str | int | None
    status: Literal["ok", "error"]
    data: dict[str, Any] | None = None
    error: str | None = None


class WorkerState(Payload):
    """Presence of a worker, retained; `offline` is also its last will."""

    SCHEMA: ClassVar[str] = "popexd/worker-state/1"
    state: Literal["online", "offline"]
    worker: str = ""
    tier: TierName = "cloud"
    version: str = ""
    models: dict[str, str] = Field(default_factory=dict, description="bundle name to fingerprint")
    since: Instant | None = None
    reason: str | None = None


class WorkerProfile(Payload):
    """What a worker's machine needs for each model it serves."""

    SCHEMA: ClassVar[str] = "popexd/worker-profile/1"
    worker: str
    tier: TierName
    models: dict[str, dict[str, Any]] = Field(description="fingerprint to the machine's profile for that model")


class TensorCounts(BaseModel):
    """Tensor messages since the worker started."""

    received: int = 0
    answered: int = 0
    forwarded: int = 0
    rejected: dict[str, int] = Field(default_factory=dict)


class WorkerMetrics(Payload):
    """A worker's load."""

    SCHEMA: ClassVar[str] = "popexd/worker-metrics/1"
    DIGITS: ClassVar[int | None] = 6
    at: Instant
    worker: str
    tier: TierName
    queue_depth: int
    tensors: TensorCounts
    rate_per_second: float
    seconds: Percentiles


PAYLOADS: Mapping[str, type[Payload]] = {
    kind.SCHEMA.split("/")[1]: kind
    for kind in (
        AgentState,
        DecisionPayload,
        MetricsPayload,
        EventPayload,
        ResultPayload,
        RequestPayload,
        ResponsePayload,
        WorkerState,
        WorkerProfile,
        WorkerMetrics,
    )
}
