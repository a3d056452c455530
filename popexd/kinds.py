"""The kinds of values that a configuration is made of, each checked by itself."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from popexd.bounds import BOUNDS
from popexd.complaints import nearest
from popexd.errors import InputError
from popexd.protocol.topics import checked_name
from popexd.solvers import NAMES

MOST_TEXT = 1024
MOST_PATH = 4095
"""The longest path that Linux opens."""
_MOST_NAMES = 64

Mode = Literal["auto", "device", "edge", "cloud"]
Objective = Literal["seconds", "p95", "bytes", "device_seconds", "throughput"]


def _plain(text: str) -> str:
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            raise ValueError(f"has the character {character!r}, expected plain text")
    return text


def _host(name: str) -> str:
    try:
        name.encode("idna")
    except UnicodeError as error:
        raise ValueError("expected the name or address of a machine") from error
    if " " in name:
        raise ValueError("expected the name or address of a machine")
    return name


def _path(given: Path) -> Path:
    _plain(str(given))
    try:
        found = given.expanduser()
    except RuntimeError as error:
        raise ValueError("expected a user that there is after ~") from error
    if len(str(found)) > MOST_PATH:
        raise ValueError(f"has {len(str(found))} characters, expected at most {MOST_PATH}")
    return found


def _solver(name: str) -> str:
    if name not in NAMES:
        raise ValueError(f"no such solver{nearest(name, NAMES)}")
    return name


def _topic_level(name: str) -> str:
    try:
        return checked_name(name, "name")
    except InputError as error:
        raise ValueError("expected 1-64 letters, digits, '.', '_' or '-', starting with a letter or digit") from error


def _device_name(name: str) -> str:
    if name in ("workers", "tier"):
        raise ValueError("is a reserved word of the topic tree, expected another name")
    return _topic_level(name)


Text = Annotated[str, Field(min_length=1, max_length=MOST_TEXT), AfterValidator(_plain)]
Host = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_plain), AfterValidator(_host)]
Name = Annotated[str, AfterValidator(_topic_level)]
DeviceName = Annotated[str, AfterValidator(_device_name)]
SolverName = Annotated[str, AfterValidator(_solver)]
UserPath = Annotated[Path, AfterValidator(_path)]
BundleName = Annotated[str, Field(min_length=1, max_length=MOST_PATH), AfterValidator(_plain)]
BundleNames = Annotated[list[BundleName], Field(max_length=_MOST_NAMES)]
Threshold = Annotated[float, Field(ge=BOUNDS["planner.thresholds"].least, le=BOUNDS["planner.thresholds"].most)]


def number(key: str, default: float | None, description: str) -> Any:
    """Return the field of a number, `section.key`, with its bounds.

    A whole number's bounds are whole, so that a complaint names them so.
    """
    least, most = BOUNDS[key]
    whole = isinstance(default, int)
    return Field(
        default=default,
        ge=int(least) if whole else least,
        le=int(most) if whole else most,
        description=description,
    )
