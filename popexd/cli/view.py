"""What an agent says, gathered into one picture for the terminal."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from datetime import datetime

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from popexd.cli.words import cut, link, milliseconds, printable, share
from popexd.errors import MessageRejected
from popexd.protocol.messages import (
    AgentState,
    DecisionPayload,
    EventPayload,
    ExitSetting,
    MetricsPayload,
    QualityPlan,
    ResultPayload,
)
from popexd.protocol.payload import Payload
from popexd.protocol.topics import DeviceTopics

RESULTS = 12
EVENTS = 6


class View:
    """The latest state, decision and metrics of one agent, and its last results and events."""

    def __init__(self, topics: DeviceTopics) -> None:
        self.connection = "connected"
        self.results_seen = 0
        self.unreadable = 0
        self._topics = topics
        self._state: AgentState | None = None
        self._decision: DecisionPayload | None = None
        self._metrics: MetricsPayload | None = None
        self._results: deque[ResultPayload] = deque(maxlen=RESULTS)
        self._events: deque[EventPayload] = deque(maxlen=EVENTS)

    def update(self, topic: str, payload: bytes) -> Payload | None:
        """Take in one message of the control tree; return it, or None if it cannot be read."""
        try:
            return self._take(topic, payload)
        except MessageRejected:
            self.unreadable += 1
            return None

    def _take(self, topic: str, payload: bytes) -> Payload:
        if topic == self._topics.state:
            self._state = AgentState.from_bytes(payload)
            return self._state
        if topic == self._topics.decision:
            self._decision = DecisionPayload.from_bytes(payload)
            return self._decision
        if topic == self._topics.metrics:
            self._metrics = MetricsPayload.from_bytes(payload)
            return self._metrics
        if topic == self._topics.event:
            self._events.append(EventPayload.from_bytes(payload))
            return self._events[-1]
        self._results.append(ResultPayload.from_bytes(payload))
        self.results_seen += 1
        return self._results[-1]

    def __rich__(self) -> RenderableType:
        """Draw everything that is known so far."""
        parts: list[RenderableType] = [self._headline()]
        if self._decision is not None:
            parts.append(Panel(_pairs(_decision_rows(self._decision)), title="decision", title_align="left"))
        if self._metrics is not None:
            parts.append(Panel(_pairs(_metrics_rows(self._metrics)), title="metrics", title_align="left"))
        parts.append(self._result_table())
        if self._events:
            lines = "\n".join(line(event) for event in self._events)
            parts.append(Panel(Text(lines), title="events", title_align="left"))
        return Group(*parts)

    def _headline(self) -> Text:
        name = f"{self._topics.site}/{self._topics.device}"
        if self._state is None:
            text = Text(f"{name}: no agent has been heard of yet", style="yellow")
        else:
            style = "green" if self._state.state == "online" else "red"
            text = Text(f"{name}: {printable(line(self._state))}", style=style)
        if self.connection != "connected":
            text.append(f"  {printable(self.connection)}", style="red")
        if self.unreadable:
            text.append(f"  {self.unreadable} unreadable messages", style="red")
        return text

    def _result_table(self) -> Table:
        table = Table(title=f"results ({self.results_seen})", title_justify="left", expand=True, box=box.SIMPLE_HEAD)
        for heading in ("time", "camera", "label", "confidence", "exit", "tier", "ms", "bytes", "quality", "fallback"):
            right = heading in {"confidence", "ms", "bytes"}
            table.add_column(heading, justify="right" if right else "left", overflow="fold")
        for result in self._results:
            table.add_row(*(Text(cell) for cell in _result_cells(result)))
        return table


def line(payload: Payload) -> str:
    """Write one message as one line of text."""
    match payload:
        case AgentState():
            words = [payload.state, payload.model, f"popexd {payload.version}" if payload.version else ""]
            words.append(f"since {_clock(payload.since)}" if payload.since else "")
            return printable(" ".join(word for word in [*words, payload.reason or ""] if word))
        case DecisionPayload():
            return "  ".join(f"{key} {value}" for key, value in _decision_rows(payload).items())
        case MetricsPayload():
            return "  ".join(f"{key} {value}" for key, value in _metrics_rows(payload).items())
        case ResultPayload():
            return "  ".join(cell for cell in _result_cells(payload) if cell)
        case EventPayload():
            fields = " ".join(f"{key}={value}" for key, value in (payload.model_extra or {}).items())
            return printable(f"{_clock(payload.at)} {payload.event} {fields}".rstrip())
        case _:
            return printable(payload.model_dump_json(by_alias=True))


def _decision_rows(decision: DecisionPayload) -> dict[str, str]:
    predicted = decision.predicted
    return {
        "cut": _cut(decision),
        "exits": _exits(decision),
        "by quality": "; ".join(
            f"{printable(name)} ({share(plan.share)}) {_cut(plan)}, exits {_exits(plan)}"
            for name, plan in decision.by_quality.items()
        ),
        "predicted": f"{milliseconds(predicted.seconds)} ms, {predicted.bytes:.0f} bytes, "
        f"accuracy {share(predicted.accuracy)}",
        "instead of": ", ".join(
            f"{printable(other.strategy)} {milliseconds(other.seconds)} ms" for other in decision.alternatives
        ),
        "network": "; ".join(f"{printable(hop)} {link(figures)}" for hop, figures in decision.network.items()),
        "why": printable(
            f"{decision.reason} at {_clock(decision.decided_at)}, solver {decision.solver}, "
            f"{milliseconds(decision.solve_seconds)} ms"
        ),
    }


def _cut(plan: DecisionPayload | QualityPlan) -> str:
    return f"{cut(plan.cut)}" + (f" as {printable(plan.codec)}" if plan.codec else "")


def _exits(plan: DecisionPayload | QualityPlan) -> str:
    return printable(", ".join(f"{name} {_setting(exit_)}" for name, exit_ in plan.exits.items())) or "none"


def _setting(exit_: ExitSetting) -> str:
    if not exit_.runs:
        return "off"
    if exit_.threshold is None:
        return "on"
    return f"{'from' if exit_.criterion == 'confidence' else 'below'} {exit_.threshold:g}"


def _metrics_rows(metrics: MetricsPayload) -> dict[str, str]:
    frames, seconds = metrics.frames, metrics.seconds
    ratio = metrics.prediction_error.median_ratio
    return {
        "frames": f"{frames.received} received, {frames.taken} taken, {frames.answered} answered, "
        f"{frames.dropped} dropped, {frames.rejected} rejected",
        "ms": f"p50 {milliseconds(seconds.p50)}, p95 {milliseconds(seconds.p95)}, p99 {milliseconds(seconds.p99)}",
        "exits": _counts(metrics.exits),
        "tiers": _counts(metrics.tiers),
        "fallbacks": _counts(metrics.fallbacks),
        "measured/predicted": "-" if ratio is None else f"{ratio:.2f}",
        "quality": ", ".join(f"{printable(name)} {share(mix.share)}" for name, mix in metrics.drift.quality.items()),
        "drifting": printable(", ".join(metrics.drift.drifting)),
    }


def _result_cells(result: ResultPayload) -> tuple[str, ...]:
    return (
        _clock(result.captured_at),
        printable(result.camera),
        printable(result.label),
        f"{result.confidence:.3f}",
        printable(result.exit),
        result.tier,
        milliseconds(result.seconds.total),
        str(result.bytes_sent),
        printable(result.quality or ""),
        printable(result.fallback or ""),
    )


def _pairs(rows: Mapping[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    for key, value in rows.items():
        if value:
            table.add_row(Text(key, style="bold"), Text(value))
    return table


def _counts(counts: Mapping[str, int]) -> str:
    return printable(", ".join(f"{name} {count}" for name, count in counts.items())) or "none"


def _clock(at: datetime) -> str:
    """Write the time of day here; people watch in their own zone."""
    return at.astimezone().strftime("%H:%M:%S")
