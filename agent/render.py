"""The brain's effects as payloads: monotonic instants become calendar time here and nowhere else."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from popexd.coordinator import events as ev
from popexd.network import Link
from popexd.plan import Tier
from popexd.protocol.messages import (
    Alternative,
    DecisionPayload,
    EventPayload,
    LinkFigures,
    MetricsPayload,
    PredictedFigures,
    QualityPlan,
    ResponsePayload,
    ResultPayload,
    ResultSeconds,
)


def utc(instant: float) -> datetime:
    """Return the calendar time of a monotonic instant, by today's clock."""
    return datetime.now(UTC) - timedelta(seconds=time.monotonic() - instant)


def link(figures: Link | None, now: float) -> LinkFigures:
    """Return what is known of a hop."""
    if figures is None:
        return LinkFigures()
    age = None if figures.measured_at is None else max(0.0, now - figures.measured_at)
    return LinkFigures(
        bits_per_second=figures.bits_per_second,
        at_least=figures.at_least,
        round_trip_seconds=figures.round_trip_seconds,
        jitter_seconds=figures.jitter_seconds,
        source=figures.source,
        age_seconds=age,
    )


def decision(made: ev.Decision, model: str) -> DecisionPayload:
    """Return the payload of a decision."""
    return DecisionPayload(
        plan_id=made.plan_id,
        decided_at=utc(made.decided_at),
        reason=made.reason,
        solver=made.solver,
        objective=made.objective,
        model=model,
        by_quality={
            name: QualityPlan(share=made.shares[name], **_plan(choice)) for name, choice in made.by_quality.items()
        },
        alternatives=[Alternative(strategy=name, seconds=seconds) for name, seconds in made.alternatives],
        network={hop: link(figures, made.decided_at) for hop, figures in made.network.items()},
        solve_seconds=made.solve_seconds,
        **_plan(made),
    )


def _plan(choice: ev.Choice) -> dict[str, Any]:
    expected = choice.prediction
    predicted = PredictedFigures(
        seconds=expected.seconds,
        p95_seconds=expected.p95_seconds,
        accuracy=expected.accuracy,
        bytes=expected.bytes,
        exit_probabilities=dict(expected.exit_probabilities),
    )
    return {**{key: choice.form[key] for key in ("cut", "cuts", "tiers", "exits", "codec")}, "predicted": predicted}


def result(answer: ev.Answer, frame_id: str) -> ResultPayload:
    """Return the payload of an answer."""
    timing = answer.timing
    return ResultPayload(
        frame_id=frame_id,
        camera=answer.camera,
        label=answer.classified.label,
        class_index=answer.classified.class_index,
        confidence=answer.classified.confidence,
        exit=answer.exit,
        tier=Tier.label.fget(answer.tier),  # type: ignore[attr-defined]
        fallback=answer.fallback,
        plan_id=answer.plan_id,
        captured_at=utc(answer.captured_at),
        quality=answer.quality,
        seconds=ResultSeconds(
            total=timing.total,
            queue=timing.queue,
            decode=timing.decode,
            device=timing.device,
            encode=timing.encode,
            transfer=timing.transfer,
            edge=timing.edge,
            cloud=timing.cloud,
        ),
        bytes_sent=answer.bytes_sent,
    )


def metrics(figures: Mapping[str, Any], started_at: float, now: float) -> MetricsPayload:
    """Return the payload of the figures that the brain reports."""
    network = {hop: link(known, now) for hop, known in figures["network"].items()}
    fields = {**figures, "network": network, "at": utc(now), "uptime_seconds": now - started_at}
    return MetricsPayload.model_validate(fields)


def status(model: str, made: ev.Decision | None, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the line that `systemctl status` shows: the cut, and shares of the answers between two reports."""
    exits = Counter(now.get("exits", {})) - Counter(before.get("exits", {}))
    tiers = Counter(now.get("tiers", {})) - Counter(before.get("tiers", {}))
    parts = [f"{model} cut at {made.cut}" if made is not None else model]
    if total := exits.total():
        parts.append("exits " + ", ".join(f"{name} {count / total:.0%}" for name, count in sorted(exits.items())))
        parts.append(f"offloaded {1 - tiers[Tier.DEVICE.label] / total:.0%}")
    else:
        parts.append("no frames lately")
    return "; ".join(parts)


def event(notice: ev.Notice, now: float) -> EventPayload:
    """Return the payload of a notable thing."""
    return EventPayload.model_validate({**notice.fields, "event": notice.event, "at": utc(now)})


def response(answer: ev.Respond) -> ResponsePayload:
    """Return the payload of a response."""
    return ResponsePayload(
        transaction=answer.transaction,
        status="ok" if answer.error is None else "error",
        data=None if answer.data is None else dict(answer.data),
        error=answer.error,
    )
