"""What each step of a frame teaches the planner."""

from __future__ import annotations

from popexd.coordinator.events import Replied, Run, RunDone
from popexd.coordinator.frames import Frame, Phase
from popexd.coordinator.planning import Planner
from popexd.plan import Tier
from popexd.validation import FINAL


def learn_here(planner: Planner, frame: Frame, order: Run, event: RunDone, now: float) -> None:
    """Learn from an order that was carried out on this machine."""
    learnt = planner.corrections
    if event.decode_seconds > 0:
        learnt.decoded(event.decode_seconds, now)
        planner.qualities.saw(event.quality, now)
    if event.image_bytes is not None:
        learnt.camera_frame(event.image_bytes, now)
    if event.shipment_bytes is not None and frame.itinerary.codec is not None:
        learnt.encoded(frame.choice.cut, frame.itinerary.codec, event.encode_seconds, event.shipment_bytes, now)
    if frame.phase is Phase.RUNNING and order.segments:
        exits = () if order.exit is None or order.exit == FINAL else (order.exit,)
        profiled = planner.profiled_seconds(Tier.DEVICE, order.segments, exits)
        learnt.compute(Tier.DEVICE, event.device_seconds, profiled, now)


def learn_there(planner: Planner, frame: Frame, event: Replied, now: float) -> None:
    """Learn from a worker's answer."""
    learnt = planner.corrections
    plan = frame.itinerary
    if plan.codec is not None and "decode" in event.seconds:
        learnt.far_decoded(frame.choice.cut, plan.codec, event.seconds["decode"], now)
    if "queue" in event.seconds:
        learnt.far_queued(event.seconds["queue"], now)
    if len(plan.route) == 1 and "compute" in event.seconds and event.exit == FINAL:
        stage = plan.route[0]
        profiled = planner.profiled_seconds(stage.tier, stage.segments, tuple(stage.exits))
        learnt.compute(stage.tier, event.seconds["compute"], profiled, now)


def learn_exit(planner: Planner, frame: Frame, left_at: str, now: float) -> None:
    """Learn at which exit a frame left, if it was asked at all those that are in force."""
    rates = planner.qualities.rates(frame.quality if frame.ways.looks else None)
    thresholds = frame.itinerary.thresholds
    if rates is None or not thresholds or thresholds != rates.thresholds:
        return
    by_worker = bool(frame.itinerary.route) and frame.phase is Phase.SHIPPED
    if left_at != FINAL or by_worker or frame.asked == thresholds.keys():
        rates.add(left_at, now)
