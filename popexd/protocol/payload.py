"""What all JSON payloads have in common: a schema's name, bounds on what is parsed, and their JSON Schema.

Times are seconds, instants RFC 3339 in UTC, sizes bytes, rates bits per second. Unknown fields are ignored, an unknown
major version is refused.
"""

from __future__ import annotations

import json
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
    FROM_OTHERS: ClassVar[bool] = False
    """Whether others write it: its schema says what we accept then, and else what we write."""
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


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {key: _rounded(item, digits) for key, item in value.items()}
    return [_rounded(item, digits) for item in value] if isinstance(value, list) else value


def schema(kind: type[Payload]) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a payload or file."""
    if kind.FROM_OTHERS:
        document = kind.model_json_schema(by_alias=True, mode="validation")
    else:
        document = kind.model_json_schema(by_alias=True, mode="serialization")
        document["required"] = ["schema", *document.get("required", ())]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": kind.SCHEMA, **document}
