"""Topic names and filters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popexd.bus.topic import check_filter, matches, shared_group, unshared

levels = st.lists(st.sampled_from(["a", "b", "", "$SYS"]), min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/", False),
        ("a/+", "a/", True),
        ("a/+", "a", False),
        ("+/+", "/finance", True),
        ("+", "/finance", False),
        ("a/#", "a", True),
        ("a/#", "ab", False),
        ("#", "a/b/c", True),
        ("#", "$SYS/broker", False),
        ("+/broker", "$SYS/broker", False),
        ("$SYS/#", "$SYS/broker", True),
        ("$share/g/a/+", "a/b", True),
        ("$share/g/a/+", "g/a/b", False),
    ],
)
def test_filters_match_as_the_standard_says(topic_filter: str, topic: str, *, expected: bool) -> None:
    """The examples of MQTT 5, section 4.7."""
    assert matches(topic_filter, topic) is expected


@given(levels)
def test_every_topic_matches_itself(parts: list[str]) -> None:
    """A filter without wildcards is one topic."""
    topic = "/".join(parts)

    assert matches(topic, topic)


@given(levels, st.integers(0, 3))
def test_a_wildcard_in_place_of_a_level_still_matches(parts: list[str], index: int) -> None:
    """Below the first level `+` and a final `#` only widen a filter."""
    topic = "/".join(["x", *parts])
    index = 1 + index % len(parts)
    widened = ["x", *parts]
    widened[index] = "+"

    assert matches("/".join(widened), topic)
    assert matches("/".join([*widened[:index], "#"]), topic)


def test_a_shared_filter_is_taken_apart() -> None:
    """Group and filter, where there is one."""
    assert (shared_group("$share/g/a/b"), unshared("$share/g/a/b")) == ("g", "a/b")
    assert (shared_group("a/b"), unshared("a/b")) == (None, "a/b")
    check_filter("$share/g/a/#")
