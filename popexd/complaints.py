"""One line about what is wrong in a file a user wrote, out of what pydantic says."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from types import UnionType
from typing import get_args, get_origin

from pydantic import BaseModel, ValidationError

_LONGEST = 80


def complaint(
    error: ValidationError, kind: type[BaseModel], spelling: Callable[[Iterable[str]], str] = ".".join
) -> str:
    """Say the first thing that is wrong: the key, its value, what was expected.

    `kind` is the model that was validated; `spelling` writes the path to a key as the user wrote it.
    """
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    key = shortened(spelling(path))
    if first["type"] == "extra_forbidden":
        # The value is not repeated: it may be a password in the wrong place.
        what = "unknown section" if len(path) == 1 else "unknown key"
        if path[-1] == "password":
            return f"{key}: {what}, expected password_file: a password is read from a file only"
        return f"{key}: {what}{nearest(path[-1], keys(kind, path[:-1]))}"
    text = first["msg"].removeprefix("Value error, ")
    for theirs, ours in (("Input should be", "expected"), ("an object", "a table"), ("valid dictionary", "table")):
        text = text.replace(theirs, ours)
    value = "" if isinstance(first["input"], Mapping | BaseModel) else f" = {shortened(repr(first['input']))}"
    return f"{key}{value}: {text[:1].lower()}{text[1:]}"


def shortened(text: str) -> str:
    """Return what a user wrote so that it fits on a line and steers no terminal."""
    safe = text if text.isprintable() else repr(text)[1:-1]
    return safe if len(safe) <= _LONGEST else f"{safe[:_LONGEST]}…"


def nearest(word: str, known: Iterable[str]) -> str:
    """Say what `word` probably was meant to be, else what it could have been; begins with a comma."""
    choices = sorted(known)
    close = difflib.get_close_matches(word, choices, n=1)
    if close:
        return f", did you mean {close[0]!r}?"
    return f", expected one of {', '.join(choices)}" if choices else ""


def keys(kind: type[BaseModel], path: list[str]) -> set[str]:
    """Return the keys of the table at `path` of a model; none where there is no table."""
    for part in path:
        field = kind.model_fields.get(part)
        annotation = field.annotation if field else None
        choices = get_args(annotation) if get_origin(annotation) is UnionType else (annotation,)
        tables = [each for each in choices if isinstance(each, type) and issubclass(each, BaseModel)]
        if not tables:
            return set()
        kind = tables[0]
    return set(kind.model_fields)
