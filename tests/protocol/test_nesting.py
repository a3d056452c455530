"""How deep JSON is nested, without building it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popexd.errors import FrameRejected, MessageRejected
from popexd.protocol.nesting import MAX_DEPTH, nested_deeper
from popexd.protocol.payload import parse_json
from popexd.runtime.frames import sniff

values = st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


def depth(value: Any) -> int:
    """The depth of a value that is there."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@given(value=values, limit=st.integers(0, 6), plain=st.booleans())
def test_it_agrees_with_the_value_that_would_be_built(value: Any, limit: int, plain: bool) -> None:
    """Brackets inside of strings count for nothing."""
    assert nested_deeper(json.dumps(value, ensure_ascii=plain).encode(), limit) is (depth(value) > limit)


@pytest.mark.parametrize("unit", [b'"', b'\\"', b'"\\', b"[", b'["', b'{"a":', b"\\", b'[]"', b'"\\"\\'])
def test_no_text_takes_long(unit: bytes) -> None:
    """A megabyte of anything is read once, whether or not its strings end."""
    begun = time.process_time()
    for head in (b"", b'"', b"[" * 40 + b"]" * 40, b"[]" * 40 + b'"'):
        for tail in (b"", b"\\", b'"', b"]"):
            nested_deeper(head + unit * (1_000_000 // len(unit)) + tail)
    assert time.process_time() - begun < 60, "some sixteen megabytes; a quadratic reader needs hours"


def test_deep_json_is_refused_before_it_is_read() -> None:
    """In messages and in frames, with the reason `json`."""
    deep = b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1)
    with pytest.raises(MessageRejected, match="nested more than 32 deep"):
        parse_json(deep)
    with pytest.raises(FrameRejected, match="nested too deeply"):
        sniff(deep)
    assert parse_json(b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH)
