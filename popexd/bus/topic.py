"""MQTT's own rules of topic names and filters (MQTT 5, section 4.7 and 4.8.2)."""

from __future__ import annotations

_LONGEST_BYTES = 65_535


def check_topic(topic: str) -> None:
    """Raise ValueError unless a message can be published on `topic`."""
    if not topic or "+" in topic or "#" in topic or "\0" in topic or len(topic.encode()) > _LONGEST_BYTES:
        raise ValueError(f"{topic[:80]!r} is no topic to publish on: empty, too long, or with a wildcard")


def check_filter(topic_filter: str) -> None:
    """Raise ValueError unless one can subscribe to `topic_filter`."""
    levels = unshared(topic_filter).split("/")
    wrong = (
        levels == [""]
        or "\0" in topic_filter
        or len(topic_filter.encode()) > _LONGEST_BYTES
        or any(("+" in level or "#" in level) and len(level) > 1 for level in levels)
        or "#" in levels[:-1]
    )
    if wrong:
        raise ValueError(f"{topic_filter[:80]!r} is no topic filter")


def shared_group(topic_filter: str) -> str | None:
    """Return the group of a shared subscription `$share/<group>/<filter>`, None for a plain one."""
    return topic_filter.split("/", 2)[1] if topic_filter.startswith("$share/") else None


def unshared(topic_filter: str) -> str:
    """Return the filter without its `$share/<group>/`."""
    if not topic_filter.startswith("$share/"):
        return topic_filter
    parts = topic_filter.split("/", 2)
    return parts[2] if len(parts) == 3 and parts[1] else ""


def matches(topic_filter: str, topic: str) -> bool:
    """Tell whether a message on `topic` belongs to `topic_filter`, shared or not.

    A wildcard in the first level never matches a topic that begins with `$`.
    """
    wanted = unshared(topic_filter).split("/")
    levels = topic.split("/")
    if topic.startswith("$") and wanted[0] in {"+", "#"}:
        return False
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in {"+", levels[index]}:
            return False
    return len(wanted) == len(levels)
