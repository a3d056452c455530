"""Bytes that nearly are what a reader expects."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from .targets import Target

# What has been too much for some reader somewhere.
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1 << 31, 1 << 63, -(1 << 63), 10**30, 10**400, 0.0, -0.0, 1e-320, 1e308, 0.5,
    float("nan"), float("inf"), "", " ", "0", "a/b", "#", "$SYS", "../x", "a\0b", "\ud800", "é" * 40, "x" * 5_000,
    "input", "final", [], {}, [[]], [{}], {"": None}, [None] * 70, ["input"] * 3, {"__metadata__": {}},
)  # fmt: skip
TOKENS: tuple[bytes, ...] = (
    b"\0", b"\xff" * 8, b"\xff\xd8\xff\xd9", b"\xff\xda", b"IHDR", b"RIFF", b"WEBP", b"VP8X",
    b"PK\x03\x04", b"PK\x05\x06",
    b"(1000000000000, 1000)", b"'O'", b"fortran_order': True", b"[" * 40, b'{"a":' * 40, b'"', b"\\", b"\n",
    b"]]", b"}}",
    b"1e999", b"-1", b"9" * 40, b"NaN", b"null", b"\xf0\x9f\x92\xa9", b"#", b"'", b"=", b"[mqtt]\n", b"\r\n",
)  # fmt: skip


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Anything; a good example with damage; a good example of JSON with another value somewhere."""
    found = [st.binary(max_size=400), mutated(target.seeds())]
    if target.is_json:
        found.append(replaced(target.seeds()))
    return st.one_of(found)


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Cut, repeat, overwrite and insert, a few times."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(1, 16))
        match draw(st.sampled_from(("flip", "token", "cut", "repeat", "end", "bytes"))):
            case "flip" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "token":
                token = draw(st.sampled_from(TOKENS))
                data[at : at + draw(st.sampled_from((0, len(token))))] = token
            case "cut":
                del data[at : at + length]
            case "repeat":
                data[at:at] = data[at : at + length] * draw(st.integers(1, 50))
            case "end":
                del data[at:]
            case "bytes":
                data[at : at + length] = draw(st.binary(max_size=16))
    return bytes(data)


@st.composite
def replaced(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """One or two values, or keys, of a JSON document are others."""
    document = json.loads(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 2))):
        document = _replaced(draw, document)
    return json.dumps(document).encode()


def _replaced(draw: st.DrawFn, value: Any) -> Any:
    if isinstance(value, dict | list) and value and draw(st.integers(0, 5)):
        copy = value.copy()
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = draw(st.sampled_from(keys))
        match draw(st.sampled_from(("inside", "inside", "inside", "gone", "twice"))):
            case "gone":
                del copy[key]
            case "twice" if isinstance(copy, list):
                copy.append(copy[key])
            case "twice":
                copy[draw(st.text(max_size=4))] = copy[key]
            case _:
                copy[key] = _replaced(draw, copy[key])
        return copy
    return draw(st.sampled_from(ODD))
