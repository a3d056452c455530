"""Writes the generated tables of reference.md from the code they describe; a test compares. Run it with `make docs`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic_core import PydanticUndefined

from popexd.bounds import BOUNDS
from popexd.cli.main import COMMANDS
from popexd.config import AgentConfig, WorkerConfig
from popexd.protocol.files import FILES
from popexd.protocol.messages import PAYLOADS
from popexd.protocol.payload import Payload, schema
from popexd.protocol.topics import TABLE

REFERENCE = Path(__file__).parent / "reference.md"


def topics() -> str:
    """Render the topic table."""
    rows = [
        (
            f"`{rule.pattern.replace('{', '<').replace('}', '>')}`",
            ", ".join(rule.writers),
            ", ".join(rule.readers),
            "yes" if rule.retained else "no",
            str(rule.qos),
            rule.payload,
        )
        for rule in TABLE
    ]
    return table(("topic", "who writes", "who reads", "retained", "QoS", "payload"), rows)


def payloads() -> str:
    """Render a list of fields for every payload and file."""
    return "\n\n".join(payload(kind) for kind in (*PAYLOADS.values(), *FILES.values()))


def payload(kind: type[Payload]) -> str:
    """Render one payload: its sentence and its fields, nested ones with a dot."""
    sentence = " ".join((kind.__doc__ or "").split())
    document = schema(kind)
    rows = list(fields(document, document.get("$defs", {})))
    return f"### `{kind.SCHEMA}`\n\n{sentence}\n\n" + table(("field", "type", "meaning"), rows)


def fields(node: dict[str, Any], definitions: dict[str, Any], above: str = "") -> Iterator[tuple[str, str, str]]:
    """Walk the properties of a JSON Schema object."""
    for name, each in node.get("properties", {}).items():
        if "const" in each:
            continue  # `schema`, which the heading states
        path = f"{above}{name}"
        target = definition(each, definitions)
        if target is not None:
            yield f"`{path}`", kind_of(each), meaning(each, target)
            yield from fields(target, definitions, f"{path}.")
            continue
        inner = each.get("additionalProperties") or each.get("items")
        target = definition(inner, definitions) if isinstance(inner, dict) else None
        yield f"`{path}`", kind_of(each), meaning(each, target or {})
        if target is not None:
            yield from fields(target, definitions, f"{path}.{'<name>' if 'items' not in each else '#'}.")


def definition(node: dict[str, Any], definitions: dict[str, Any]) -> Any:
    """Return the object a property refers to, if it does."""
    for each in [node, *node.get("anyOf", [])]:
        if "$ref" in each:
            return definitions[each["$ref"].rpartition("/")[2]]
    return None


def meaning(node: dict[str, Any], target: dict[str, Any]) -> str:
    """Return a property's description, else that of what it refers to."""
    return (
        str(node.get("description") or target.get("description") or "")
        .replace("\n", " ")
        .replace("|", "\\|")
        .replace("<", "&lt;")
    )


def kind_of(node: dict[str, Any]) -> str:
    """Say a property's type in a word or two."""
    if "enum" in node:
        return ", ".join(f"`{each}`" for each in node["enum"])
    if "anyOf" in node:
        return " or ".join(dict.fromkeys(kind_of(each) for each in node["anyOf"]))
    if "$ref" in node:
        return "object"
    if node.get("type") == "array":
        return f"list of {kind_of(node.get('items', {}))}"
    if node.get("type") == "object" and isinstance(node.get("additionalProperties"), dict):
        return f"object of {kind_of(node['additionalProperties'])}"
    return str(node.get("type", "any"))


def commands() -> str:
    """Render the list of commands."""
    rows = [(f"`popexd {name}`", entry.summary) for group in COMMANDS.values() for name, entry in group.items()]
    return table(("command", "does"), rows)


def configuration(kind: Any) -> str:
    """Render every key of a program's configuration."""
    rows = []
    for section, field in kind.model_fields.items():
        if section == "uplink":
            continue  # the keys of [mqtt] again
        for key, each in field.annotation.model_fields.items():
            value = type_of(each.annotation) + bounds(f"{section}.{key}")
            rows.append((f"`{section}.{key}`", default(each), value, each.description or ""))
    return table(("key", "default", "value", "meaning"), rows)


def default(field: Any) -> str:
    """Say a key's default; those that depend on the machine say so in their description."""
    if field.default_factory in {dict, list}:
        return f"`{'{}' if field.default_factory is dict else '[]'}`"
    if field.default is PydanticUndefined or field.default is None:
        return ""
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    if isinstance(field.default, str):
        return f'`"{field.default}"`'
    return f"`{field.default:_}`" if field.default >= 10_000 else f"`{field.default}`"


def type_of(annotation: Any) -> str:
    """Say what a key takes."""
    arguments = [each for each in get_args(annotation) if each is not type(None)]
    if arguments and all(isinstance(each, str) for each in arguments):
        return ", ".join(f'`"{each}"`' for each in arguments)
    name = getattr(annotation, "__name__", "")
    if name in {"dict", "list"}:
        return "table of numbers" if name == "dict" else "list of texts"
    plain = arguments[0] if arguments and name not in {"str", "int", "float", "bool", "Path"} else annotation
    plain = get_args(plain)[0] if get_args(plain) and not isinstance(plain, type) else plain
    return {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "Path": "path"}[
        plain.__name__
    ]


def bounds(key: str) -> str:
    """Say between which numbers a key's value lies, if it is one; begins with a comma."""
    if key not in BOUNDS:
        return ""
    least, most = BOUNDS[key]
    return f", {least:g} to {f'{most:_.0f}' if most >= 10_000 else f'{most:g}'}"


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Render a Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def rendered(text: str) -> str:
    """Return the document with every generated part written anew."""
    parts = {
        "topics": topics(),
        "payloads": payloads(),
        "commands": commands(),
        "agent configuration": configuration(AgentConfig),
        "worker configuration": configuration(WorkerConfig),
    }
    for name, body in parts.items():
        begin, end = f"<!-- {name}: written by `make docs` -->", f"<!-- end of {name} -->"
        if begin not in text or end not in text:
            raise SystemExit(f"{REFERENCE}: the part {name!r} is missing, expected {begin} … {end}")
        before, rest = text.split(begin, 1)
        text = f"{before}{begin}\n\n{body}\n\n{end}{rest.split(end, 1)[1]}"
    return text


if __name__ == "__main__":
    REFERENCE.write_text(rendered(REFERENCE.read_text(encoding="utf-8")), encoding="utf-8")
