"""Logging: events named `noun.past_verb` with fields, to standard error, in UTC.

On a terminal a line is coloured for people, elsewhere it is `time level event key=value …`, on request JSON. Under
systemd an event goes to the journal with its priority and its fields, which keeps the time itself. A warning that
repeats is thinned out, and a value whose key names a secret is never written.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any, Literal, TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from popexd.journal import JournalLogger, prefixed

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "console", "json"]

MASK = "********"
MOST_KINDS = 512
_REFUSED = ("user", "client", "topic", "filter", "why")
BURST = 5
WINDOW_SECONDS = 60.0

_SECRET_KEY = re.compile(r"password(?!_file)|passphrase|secret|token|credential|private_key", re.IGNORECASE)
_SECRET_IN_URL = re.compile(r"(://[^/\s:@]+):[^/\s@]+@")


def configure(level: Level = "info", format: Format = "auto", stream: TextIO | None = None) -> None:  # noqa: A002 the configuration's own word
    """Send everything of at least `level`, other libraries' warnings included, to `stream` (standard error)."""
    stream = sys.stderr if stream is None else stream
    journal = _is_journal(stream)
    coloured = not journal and (format == "console" or (format == "auto" and stream.isatty()))
    final: list[Processor] = [_renderer(format, coloured)]
    factory: Callable[..., WrappedLogger] = structlog.WriteLoggerFactory(file=cast(TextIO, Unfailing(stream)))
    if coloured:
        final.insert(0, _printable)
    if journal and format != "json":
        final = [_entry]
        native = JournalLogger(stream)
        factory = lambda *_: native  # noqa: E731 a factory is what structlog asks for
    elif journal:
        final.append(_with_priority)
    else:
        final.insert(0, structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"))
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            Thinning(),
            _without_secrets,
            structlog.processors.format_exc_info,
            *final,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=factory,
        cache_logger_on_first_use=False,
    )
    # Libraries log sentences, not events; below a warning they are of no use to an operator.
    logging.basicConfig(handlers=[_Foreign()], level=logging.WARNING, force=True)


def get_logger(name: str) -> FilteringBoundLogger:
    """Return the logger of a module; `name` becomes the field `module`."""
    return cast(FilteringBoundLogger, structlog.get_logger(module=name))


def fault(error: Exception) -> str:
    """Say in one line what went wrong and where, for what a program survives though it should not have happened."""
    where = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(where[-1].filename).name}:{where[-1].lineno})" if where else ""
    return " ".join(f"{type(error).__name__}: {error}{place}".split())[:500]


class Thinning:
    """Lets through the first warnings of a kind in a while and then counts: the next one says how many were held.

    A kind is the module, the event's name and, for a refusal, who was refused what: a noisy client must not hide what
    another one tries. `burst` of a kind pass in `window_seconds`; beyond `MOST_KINDS` they are told apart no longer.
    """

    def __init__(
        self,
        burst: int = BURST,
        window_seconds: float = WINDOW_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._burst = burst
        self._window_seconds = window_seconds
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str, ...], tuple[float, int]] = {}

    def __call__(self, _logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """Pass the event on, or drop it."""
        if method not in {"warning", "error", "exception"}:
            return event
        now = self._monotonic()
        with self._lock:
            kind = self._kind(event, now)
            began, seen = self._kinds.get(kind, (now, 0))
            held = 0
            if now - began >= self._window_seconds:
                held = max(0, seen - self._burst)
                began, seen = now, 0
            self._kinds[kind] = (began, seen + 1)
        if seen >= self._burst:
            raise structlog.DropEvent
        if held:
            event["held_back"] = held
        return event

    def _kind(self, event: EventDict, now: float) -> tuple[str, ...]:
        general = (str(event.get("module")), str(event["event"]))
        kind = (*general, *(str(event[name]) for name in _REFUSED if name in event))
        if kind in self._kinds or len(self._kinds) < MOST_KINDS:
            return kind
        self._kinds = {known: seen for known, seen in self._kinds.items() if now - seen[0] < self._window_seconds}
        return kind if len(self._kinds) < MOST_KINDS else general


class Unfailing:
    """A stream that drops what cannot be written: a full disk or a closed pipe costs lines, not frames."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write, or drop."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        """Flush, or leave it."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


class _Foreign(logging.Handler):
    """Says what a library logs through the standard module in our form."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass the record on; never raises, as the logging module asks of a handler."""
        try:
            text = record.getMessage()
            event, fields = ("library.spoke", {"text": text}) if " " in text else (text, {})
            own = record.name.split(".")[0] in {"popexd", "agent", "cloud_worker", "broker"}
            if own and (match := re.match(r"([a-z_]+\.[a-z_]+)(?: (.*))?$", text, re.DOTALL)):
                event, fields = match[1], {"text": match[2]} if match[2] else {}
            logger = structlog.get_logger(module=record.name)
            logger.log(record.levelno, event, exc_info=record.exc_info, **fields)
        except Exception:  # noqa: BLE001 the logging module's own way to report a handler's fault
            self.handleError(record)


def _is_journal(stream: TextIO) -> bool:
    """Tell whether `stream` goes to the journal: systemd names its device and inode, see systemd.exec(5)."""
    named = os.environ.get("JOURNAL_STREAM")
    if not named:
        return False
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return named == f"{status.st_dev}:{status.st_ino}"


def _renderer(format: Format, coloured: bool) -> Processor:  # noqa: A002 as above
    if format == "json":
        return structlog.processors.JSONRenderer(default=str)
    if coloured:
        return cast(
            Processor,
            structlog.dev.ConsoleRenderer(timestamp_key="at", exception_formatter=structlog.dev.plain_traceback),
        )
    return _plain


def _plain(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """Write `time level event key=value …`, with a traceback on the lines below."""
    traceback = event.pop("exception", None)
    head = [str(event.pop(key)) for key in ("at", "level", "event") if key in event]
    fields = [f"{key}={_value(value)}" for key, value in event.items() if value is not None]
    line = " ".join([*head, *fields])
    return f"{line}\n{traceback}" if traceback else line


def _value(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if text.isprintable() and re.fullmatch(r"[^\s\"'=]+", text) else repr(text)


def _printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Show control characters instead of sending them to a terminal; a traceback keeps its line breaks."""
    return {
        key: repr(value) if isinstance(value, str) and key != "exception" and not value.isprintable() else value
        for key, value in event.items()
    }


def _with_priority(_logger: WrappedLogger, method: str, rendered: Any) -> str:
    return prefixed(str(rendered), _level(method))


def _entry(
    logger: WrappedLogger, method: str, event: EventDict
) -> tuple[tuple[str, str, dict[str, Any]], dict[str, Any]]:
    """Return the arguments of `JournalLogger`: the line for people, the priority's name, the fields by themselves."""
    fields = {key: value for key, value in event.items() if key not in {"level", "exception"}}
    return (_plain(logger, method, event), _level(method), fields), {}


def _level(method: str) -> str:
    return "error" if method == "exception" else method


def _without_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return cast(EventDict, _masked(event))


def _masked(value: Any) -> Any:
    if isinstance(value, MutableMapping | Mapping):
        return {key: MASK if _SECRET_KEY.search(str(key)) and item else _masked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(item) for item in value]
    if isinstance(value, str):
        return _SECRET_IN_URL.sub(rf"\1:{MASK}@", value)
    return value
