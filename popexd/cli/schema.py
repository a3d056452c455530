"""`popexd schema`: the payloads' JSON Schemas, from the code's own message types."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from popexd.complaints import nearest
from popexd.errors import InputError
from popexd.protocol.files import FILES
from popexd.protocol.messages import PAYLOADS
from popexd.protocol.payload import schema as json_schema

KINDS = {**PAYLOADS, **FILES}


def schema(
    name: Annotated[str | None, typer.Argument(help="state, decision, result …; without it: list them")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="without NAME: every schema in one object")] = False,
) -> None:
    """Print the JSON Schema (2020-12) of the payload or file called NAME, or list them."""
    if name is not None:
        key = name.removeprefix("popexd/").removesuffix("/1")
        if key not in KINDS:
            raise InputError(f"schema: nothing called {name!r}{nearest(key, KINDS)}")
        print(json.dumps(json_schema(KINDS[key]), indent=2))
    elif as_json:
        print(json.dumps({each: json_schema(kind) for each, kind in KINDS.items()}, indent=2))
    else:
        for each, kind in KINDS.items():
            print(f"{each:<15} {(kind.__doc__ or '').splitlines()[0]}")
