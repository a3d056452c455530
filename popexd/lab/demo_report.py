"""What the demo shows: a live table, and the summary."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from popexd.protocol.messages import DecisionPayload, MetricsPayload, QualityPlan, ResultPayload

RIVALS = {"device-only": "device only", "camera-jpeg-to-cloud": "camera JPEG to the cloud"}
"""What one would do without a planner: the strategies that the summary shows beside what was measured."""


@dataclass
class Sent:
    """One published frame."""

    phase: int
    class_name: str
    jpeg_bytes: int
    at: float


@dataclass
class Phase:
    """What happened while the link was as it was."""

    name: str
    published: int = 0
    answers: list[ResultPayload] = field(default_factory=list)
    right: int = 0
    jpeg_bytes: int = 0
    cuts: Counter[str] = field(default_factory=Counter)
    ratio: float | None = None
    rivals: dict[str, list[float]] = field(default_factory=dict)
    decided_after: float | None = None


class Report:
    """Everything heard and published, by phase."""

    def __init__(self, phases: list[str]) -> None:
        self.phases = [Phase(name) for name in phases]
        self.phase = 0
        self.online = False
        self.decision: DecisionPayload | None = None
        self.last: MetricsPayload | None = None
        self._decisions: dict[str, DecisionPayload] = {}
        self._sent: dict[str, Sent] = {}
        self._entered_at = time.monotonic()
        self._answered: set[str] = set()
        self.twice = 0

    @property
    def reaches_worker(self) -> bool:
        """Whether the agent has measured its way to the worker."""
        return self.decision is not None and bool(self.decision.network)

    def enter(self, phase: int) -> None:
        """Begin a phase."""
        self.phase = phase
        self._entered_at = time.monotonic()

    def published(self, frame_id: str, class_name: str, jpeg_bytes: int, at: float) -> None:
        """Take in a published frame."""
        phase = self.phases[self.phase]
        phase.published += 1
        phase.jpeg_bytes += jpeg_bytes
        self._sent[frame_id] = Sent(self.phase, class_name, jpeg_bytes, at)

    def result(self, result: ResultPayload, at: float) -> str | None:
        """Take in an answer; return a line about the very first one."""
        sent = self._sent.get(result.frame_id)
        if sent is None:
            return None
        if result.frame_id in self._answered:
            self.twice += 1
            return None
        self._answered.add(result.frame_id)
        phase = self.phases[sent.phase]
        phase.answers.append(result)
        phase.right += result.label == sent.class_name
        decision = self._decisions.get(result.plan_id)
        if decision is not None:
            phase.cuts[where(_plan_of(decision, result.quality))] += 1
        if len(self._answered) > 1:
            return None
        return f"first answer after {1000 * (at - sent.at):.0f} ms: {result.label} ({result.confidence:.0%} sure)"

    def decided(self, decision: DecisionPayload) -> None:
        """Take in a decision; what rivals are predicted to take belongs to the phase."""
        before = self.decision
        self.decision = self._decisions[decision.plan_id] = decision
        phase = self.phases[self.phase]
        for alternative in decision.alternatives:
            phase.rivals.setdefault(alternative.strategy, []).append(alternative.seconds)
        if before is not None and before.plan_id != decision.plan_id and phase.decided_after is None:
            phase.decided_after = time.monotonic() - self._entered_at

    def metrics(self, metrics: MetricsPayload) -> None:
        """Take in metrics; the last ones of a phase say how good its predictions were."""
        self.last = metrics
        if metrics.prediction_error.median_ratio is not None and time.monotonic() - self._entered_at > 3:
            self.phases[self.phase].ratio = metrics.prediction_error.median_ratio

    @property
    def unanswered(self) -> int:
        """Taken frames that nobody has answered."""
        return 0 if self.last is None else self.last.frames.taken - len(self._answered)

    def complete(self) -> bool:
        """Whether every frame that was taken has been answered, and no more are expected."""
        return self.last is not None and not self.unanswered and self.last.frames.taken == self.last.frames.answered


def _plan_of(decision: DecisionPayload, quality: str | None) -> DecisionPayload | QualityPlan:
    return decision.by_quality.get(quality or "", decision)


def where(plan: DecisionPayload | QualityPlan) -> str:
    """Say where a plan cuts, and how it ships."""
    cut = plan.cut if isinstance(plan.cut, str) else "+".join(plan.cut)
    if cut == "output":
        return "device"
    return f"{cut} {plan.codec}"


def _plans(decision: DecisionPayload) -> list[DecisionPayload | QualityPlan]:
    """Return the plans that frames go by, the most frequent class of image quality first."""
    classes = sorted(decision.by_quality.values(), key=lambda plan: -plan.share)
    return [*classes] or [decision]


def _exits(decision: DecisionPayload) -> str:
    running = {name for plan in _plans(decision) for name, setting in plan.exits.items() if setting.runs}
    return ", ".join(name for name in decision.exits if name in running) or "none"


def _ways(decision: DecisionPayload) -> str:
    return " / ".join(dict.fromkeys(where(plan) for plan in _plans(decision)))


def changed_line(decision: DecisionPayload) -> str:
    """Say in one line what was decided."""
    link = decision.network.get("device")
    rate = "no link" if link is None or link.bits_per_second is None else f"{link.bits_per_second / 1e6:.3g} Mbit/s"
    others = {item.strategy: item.seconds for item in decision.alternatives}
    beside = ", ".join(f"{text} {1000 * others[name]:.0f}" for name, text in RIVALS.items() if name in others)
    return (
        f"    cut -> {_ways(decision):<18} exits {_exits(decision):<8} {rate:>13} "
        f"expected {1000 * decision.predicted.seconds:.0f} ms ({beside} ms)"
    )


def _percentile(values: list[float], share: float) -> float | None:
    if not values:
        return None
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def as_json(report: Report) -> dict[str, Any]:
    """Return the summary for machines; seconds and bytes."""
    answers = [answer for phase in report.phases for answer in phase.answers]
    published = sum(phase.published for phase in report.phases)
    frames = {} if report.last is None else report.last.frames.model_dump()
    return {
        "published": published,
        "frames": frames,
        "unanswered": report.unanswered,
        "answered_twice": report.twice,
        "accuracy": sum(phase.right for phase in report.phases) / len(answers) if answers else None,
        "seconds": _seconds(answers),
        "bytes_sent": sum(answer.bytes_sent for answer in answers),
        "jpeg_bytes": sum(phase.jpeg_bytes for phase in report.phases),
        "exits": dict(Counter(answer.exit for answer in answers)),
        "tiers": dict(Counter(answer.tier for answer in answers)),
        "fallbacks": dict(Counter(answer.fallback for answer in answers if answer.fallback)),
        "cuts": dict(sum((phase.cuts for phase in report.phases), Counter())),
        "phases": [_phase(phase) for phase in report.phases],
    }


def _seconds(answers: list[ResultPayload]) -> dict[str, float | None]:
    totals = [answer.seconds.total for answer in answers]
    return {name: _percentile(totals, share) for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}


def _phase(phase: Phase) -> dict[str, Any]:
    return {
        "name": phase.name,
        "published": phase.published,
        "answered": len(phase.answers),
        "seconds": _seconds(phase.answers),
        "predicted_rivals": {name: statistics.median(phase.rivals[name]) for name in RIVALS if phase.rivals.get(name)},
        "cuts": dict(phase.cuts),
        "exits": dict(Counter(answer.exit for answer in phase.answers)),
        "accuracy": phase.right / len(phase.answers) if phase.answers else None,
        "bytes_sent": sum(answer.bytes_sent for answer in phase.answers),
        "jpeg_bytes": phase.jpeg_bytes,
        "measured_over_predicted": phase.ratio,
        "decided_after_seconds": phase.decided_after,
    }


def _table(report: Report) -> Table:
    table = Table(title="", box=None, header_style="bold", pad_edge=False)
    for name in (
        "link",
        "frames",
        "p50 ms",
        "p95 ms",
        "device only",
        "JPEG to cloud",
        "answered at",
        "exits",
        "kB/frame",
        "right",
    ):
        table.add_column(name, justify="left" if name in ("link", "answered at", "exits") else "right", overflow="fold")
    for index, phase in enumerate(report.phases):
        facts = _phase(phase)
        if not phase.published:
            table.add_row(phase.name, *[""] * 9, style="dim")
            continue
        count = max(1, len(phase.answers))
        table.add_row(
            phase.name,
            str(phase.published),
            _ms(facts["seconds"]["p50"]),
            _ms(facts["seconds"]["p95"]),
            _ms(facts["predicted_rivals"].get("device-only")),
            _ms(facts["predicted_rivals"].get("camera-jpeg-to-cloud")),
            _shares(phase.cuts),
            _shares(Counter(answer.exit for answer in phase.answers)),
            f"{facts['bytes_sent'] / count / 1000:.1f}",
            f"{100 * phase.right / count:.0f} %",
            style="bold" if index == report.phase else None,
        )
    return table


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.0f}"


def _shares(counts: Counter[str]) -> str:
    total = counts.total()
    return ", ".join(f"{name} {100 * count / total:.0f}%" for name, count in counts.most_common(3))


class _LiveTable:
    def __init__(self, report: Report) -> None:
        self._report = report

    def __rich__(self) -> Group:
        decision = self._report.decision
        now = Text("waiting for a decision" if decision is None else changed_line(decision).strip())
        return Group(Text("popexd demo", style="bold"), _table(self._report), Text(""), now)


def show_live(report: Report) -> Live:
    """Return the live table; enter it to show it."""
    return Live(_LiveTable(report), refresh_per_second=4, transient=True)


def show_summary(report: Report) -> None:
    """Print what happened."""
    console = Console(width=None if Console().is_terminal else 132)
    facts = as_json(report)
    console.print()
    console.print(_table(report))
    jpeg, sent = facts["jpeg_bytes"], facts["bytes_sent"]
    counts = facts["frames"]
    console.print(
        "\ndevice only, JPEG to cloud: what these would have taken by the agent's own figures, p50 is measured"
    )
    console.print(
        f"{facts['published']} frames published, {counts.get('taken', 0)} taken, {counts.get('dropped', 0)} dropped "
        f"for newer ones, {counts.get('rejected', 0)} rejected, {facts['unanswered']} unanswered"
    )
    if facts["accuracy"] is not None:
        console.print(
            f"{facts['accuracy']:.1%} right; {sent / 1e6:.2f} MB sent, {100 * sent / max(1, jpeg):.0f} % of the "
            f"camera's JPEGs ({jpeg / 1e6:.2f} MB)"
        )
    ratios = ", ".join(f"{p.name} {p.ratio:.2f}" for p in report.phases if p.ratio is not None)
    console.print(f"measured over predicted seconds, median: {ratios}")
