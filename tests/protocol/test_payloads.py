"""The JSON payloads and what `popexd schema` says of them: what we write is described as it is written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from popexd.errors import MessageRejected
from popexd.protocol.messages import PAYLOADS
from popexd.protocol.payload import Payload, schema

INSTANT = "2026-01-01T00:00:00.000Z"


def least(kind: type[Payload]) -> dict[str, Any]:
    """The fewest fields that a payload's schema asks for."""
    document = schema(kind)
    found: dict[str, Any] = filled(document, document.get("$defs", {}))
    return found


def filled(node: dict[str, Any], definitions: dict[str, Any]) -> Any:
    """A value that a schema allows."""
    if "$ref" in node:
        return filled(definitions[node["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in node:
        return filled(node["anyOf"][0], definitions)
    if "const" in node:
        return node["const"]
    if "enum" in node:
        return node["enum"][0]
    if node["type"] == "object":
        fields = node.get("properties", {})
        return {name: filled(fields[name], definitions) for name in node.get("required", ())}
    # An instant's schema says text; whatever else is text may say so too.
    return {"string": INSTANT, "number": 0.5, "integer": 1, "boolean": True, "array": []}[node["type"]]


@pytest.mark.parametrize("kind", PAYLOADS.values(), ids=lambda kind: kind.SCHEMA)
def test_what_a_schema_requires_is_in_every_payload(kind: type[Payload]) -> None:
    """Its own name first of all, unless others write it."""
    required = schema(kind).get("required", [])
    written = json.loads(kind.model_validate(least(kind)).to_bytes())

    assert set(required) <= set(written) <= {*schema(kind)["properties"], *required}
    assert written["schema"] == kind.SCHEMA
    assert ("schema" in required) is not kind.FROM_OTHERS


@pytest.mark.parametrize("kind", PAYLOADS.values(), ids=lambda kind: kind.SCHEMA)
def test_a_payload_without_its_schema_is_read_and_one_with_another_is_not(kind: type[Payload]) -> None:
    """Publishers of old left it out."""
    fields = {name: value for name, value in least(kind).items() if name != "schema"}

    assert kind.from_bytes(json.dumps(fields).encode()).schema_ == kind.SCHEMA
    with pytest.raises(MessageRejected, match="schema"):
        kind.from_bytes(json.dumps({**fields, "schema": kind.SCHEMA.replace("/1", "/2")}).encode())


def test_only_requests_come_from_others() -> None:
    """All else on the control tree is ours to describe."""
    assert [name for name, kind in PAYLOADS.items() if kind.FROM_OTHERS] == ["request"]
