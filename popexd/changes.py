"""What differs between two configurations, and what of it can change while a program runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from popexd.config import AgentConfig, Config, Planner, WorkerConfig

LIVE: dict[type[AgentConfig] | type[WorkerConfig], dict[str, frozenset[str]]] = {
    AgentConfig: {
        "planner": frozenset(Planner.model_fields),
        "probe": frozenset({"interval_seconds", "daily_bytes"}),
        "metrics": frozenset({"interval_seconds", "window_seconds"}),
        "log": frozenset({"level", "format"}),
    },
    WorkerConfig: {"metrics": frozenset({"interval_seconds"}), "log": frozenset({"level", "format"})},
}
"""Section and key of everything that SIGHUP puts in force; all the rest needs a restart."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Keys, as `section.key`, that differ: those that can change now, and those that wait for a restart."""

    live: tuple[str, ...]
    waiting: tuple[str, ...]

    @property
    def note(self) -> str:
        """What an operator has to know; nothing where nothing waits."""
        return f"needs a restart: {', '.join(self.waiting)}" if self.waiting else ""


def changes(old: Config, new: Config) -> Changes:
    """Compare two configurations of one program."""
    live: list[str] = []
    waiting: list[str] = []
    before: dict[str, Any] = old.model_dump()
    after: dict[str, Any] = new.model_dump()
    for section, table in after.items():
        was: dict[str, Any] = before[section] or {}
        will_be: dict[str, Any] = table or {}
        for key in sorted({*was, *will_be}):
            if was.get(key) != will_be.get(key):
                found = live if key in LIVE[type(new)].get(section, ()) else waiting
                found.append(f"{section}.{key}")
    return Changes(tuple(live), tuple(waiting))


def merged(old: Config, new: Config) -> Config:
    """Return the old configuration with what can change now as in the new one."""
    sections = {}
    for section, live in LIVE[type(new)].items():
        told = getattr(new, section)
        sections[section] = getattr(old, section).model_copy(update={key: getattr(told, key) for key in live})
    return old.model_copy(update=sections)
