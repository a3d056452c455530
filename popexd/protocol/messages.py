"""The JSON payloads of the control tree; their JSON Schemas are what `popexd schema` prints.

Times are seconds, instants RFC 3339 in UTC, sizes bytes, rates bits per second. Unknown fields are ignored, an unknown
major version is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, ValidationError

from popexd.errors import MessageRejected
from popexd.protocol.nesting import MAX_DEPTH, nested_deeper

MAX_JSON_BYTES = 1_000_000

Instant = Annotated[
    datetime,
    PlainSerializer(
        lambda at: at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"), return_type=str
    ),
]
"""A point in time, RFC 3339 in UTC on the wire."""

TierName = Literal["device", "edge", "cloud"]
Cut = str | list[str]


class Payload(BaseModel):
    """A JSON payload with a schema name and major version."""

    model_config = ConfigDict(populate_by_name=True, extra="ignore", allow_inf_nan=False, ser_json_inf_nan="null")

    SCHEMA: ClassVar[str]
    DIGITS: ClassVar[int | None] = None
    """Significant digits of floats on the wire, where people read along; None keeps every one."""
    schema_: str = Field(default="", alias="schema", description="popexd/<name>/<major version>")

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Make the schema's name the default and the only accepted value."""
        super().__pydantic_init_subclass__(**kwargs)
        if "SCHEMA" in cls.__dict__:
            cls.model_fields["schema_"].default = cls.SCHEMA
            cls.model_fields["schema_"].json_schema_extra = {"const": cls.SCHEMA}
            cls.model_rebuild(force=True)

    def to_bytes(self) -> bytes:
        """Return the payload as UTF-8 JSON."""
        if self.DIGITS is None:
            return self.model_dump_json(by_alias=True).encode()
        plain = _rounded(self.model_dump(mode="json", by_alias=True), self.DIGITS)
        return json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, payload: bytes) -> Self:
        """Parse and check a payload from outside.

        Raises:
            MessageRejected: too large, not JSON, another schema, or fields of the wrong form.

        """
        data = parse_json(payload)
        schema = data.get("schema", cls.SCHEMA)
        if schema != cls.SCHEMA:
            raise MessageRejected("schema", f"{str(schema)[:80]!r}, expected {cls.SCHEMA!r}")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise MessageRejected("field", f"{field}: {first['msg']}") from error


def parse_json(payload: bytes) -> dict[str, Any]:
    """Parse a JSON object from outside, bounded in size and depth.

    Raises:
        MessageRejected: too large, not UTF-8 JSON, nested too deeply, or not an object.

    """
    if len(payload) > MAX_JSON_BYTES:
        raise MessageRejected("too-large", f"{len(payload)} bytes of JSON, expected at most {MAX_JSON_BYTES}")
    if nested_deeper(payload):
        raise MessageRejected("json", f"nested more than {MAX_DEPTH} deep")
    try:
        data = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise MessageRejected("json", f"not JSON: {str(error)[:80]}") from error
    if b"\\u" in payload and not _is_text(data):
        raise MessageRejected("json", "half a surrogate pair, which no text of ours could repeat")
    if not isinstance(data, dict):
        raise MessageRejected("json", f"a JSON {type(data).__name__}, expected an object")
    return data


def _is_text(data: Any) -> bool:
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


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
    round_trip_seconds: float | None = None
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


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {key: _rounded(item, digits) for key, item in value.items()}
    return [_rounded(item, digits) for item in value] if isinstance(value, list) else value


def schema(kind: type[Payload]) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a payload or file."""
    document = kind.model_json_schema(by_alias=True, mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": kind.SCHEMA, **document}
