"""`popexd schema`: the payloads' JSON Schemas, from the code's own message types."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from popexd.complaints import nearest
from popexd.errors import InputError
from popexd.protocol.messages import PAYLOADS
from popexd.protocol.messages import schema as json_schema


def schema(
    name: Annotated[str | None, typer.Argument(help="state, decision, result …; without it: list them")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="without NAME: every schema in one object")] = False,
) -> None:
    """Print the JSON Schema (2020-12) of the payload called NAME, or list the payloads."""
    if name is not None:
        key = name.removeprefix("popexd/").removesuffix("/1")
        if key not in PAYLOADS:
            raise InputError(f"schema: no payload {name!r}{nearest(key, PAYLOADS)}")
        print(json.dumps(json_schema(key), indent=2))
    elif as_json:
        print(json.dumps({each: json_schema(each) for each in PAYLOADS}, indent=2))
    else:
        for each, kind in PAYLOADS.items():
            print(f"{each:<15} {(kind.__doc__ or '').splitlines()[0]}")
