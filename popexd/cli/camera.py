"""`popexd camera`: publish frames as a camera would, at a steady rate."""

from __future__ import annotations

import json
import math
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Annotated

import typer

from popexd.bus.base import Bus, Delivery
from popexd.cli import connection, sources
from popexd.config import DeviceBroker
from popexd.errors import BusError
from popexd.protocol.topics import checked_name

FLUSH_SECONDS = 5.0


class Schedule:
    """Ticks `fps` times a second without drifting: every tick is counted from the start, missed ones are left out."""

    def __init__(self, fps: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.interval_seconds = 1 / fps
        self._fps = fps
        self._monotonic = monotonic
        self._start = monotonic()
        self._next = 0

    def wait_seconds(self) -> float:
        """Return how long it is until the next tick, 0 if it is due."""
        return max(0.0, self._start + self._next / self._fps - self._monotonic())

    def tick(self) -> None:
        """Note that the tick was used; the next one lies in the future."""
        elapsed = self._monotonic() - self._start
        self._next = max(self._next + 1, math.ceil(elapsed * self._fps))


class Tally:
    """What became of the frames; counted on the bus's thread, read on ours."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.published = 0
        self.bytes = 0
        self.delivered = 0
        self.lost = 0
        self.refused = False

    def done(self, delivery: Delivery) -> None:
        """Count one frame that has left, or never will."""
        with self._changed:
            arrived = delivery in (Delivery.DELIVERED, Delivery.NO_SUBSCRIBERS)
            self.delivered += arrived
            self.lost += not arrived
            self.refused = self.refused or delivery is Delivery.REFUSED
            self._changed.notify_all()

    def flush(self, seconds: float) -> None:
        """Wait until every published frame is accounted for."""
        with self._changed:
            self._changed.wait_for(lambda: self.delivered + self.lost >= self.published, seconds)


@connection.with_broker
def camera(
    broker: DeviceBroker,
    source: Annotated[str, typer.Option(help="folder of images, 'generated', /dev/videoN, or a URL")] = "generated",
    fps: Annotated[float, typer.Option(help="frames a second", min=0.01, max=1000)] = 5.0,
    count: Annotated[int | None, typer.Option(help="stop after so many frames", min=1)] = None,
    loop: Annotated[bool, typer.Option("--loop", help="begin a folder again at its end")] = False,
    seed: Annotated[int, typer.Option(help="of the generated series", min=0)] = 1,
    name: Annotated[str, typer.Option("--camera", help="the camera's name in topics")] = "camera",
    as_json: Annotated[bool, typer.Option("--json", help="print the final counts as JSON")] = False,
) -> None:
    """Publish the frames of a folder, of a video device or stream, or generated ones, for an agent to answer.

    Files are sent as they are. Each frame carries a frame_id, which comes back in its result.
    """
    checked_name(name, "--camera")
    frames = sources.frames(source, fps, loop, seed)
    topic = connection.device_topics(broker).frames(name)
    tally = Tally()
    with connection.connected(broker) as bus:
        try:
            _publish_all(bus, topic, _paced(frames, Schedule(fps), sources.is_live(source)), count, tally)
        finally:
            tally.flush(FLUSH_SECONDS)
            _report(tally, topic, as_json)
    if tally.refused:
        raise BusError(f"the broker refuses frames on {topic}, expected an account that may publish them")
    if tally.published and not tally.delivered:
        raise BusError(f"none of {tally.published} frames reached the broker")


def _paced(frames: Iterator[bytes], schedule: Schedule, live: bool) -> Iterator[bytes]:
    """Yield frames when they are due; of a live source, those nearer to the tick before are left out."""
    pause = threading.Event()
    for frame in frames:
        wait = schedule.wait_seconds()
        if not live:
            pause.wait(wait)
        elif wait > schedule.interval_seconds / 2:
            continue
        schedule.tick()
        yield frame


def _publish_all(bus: Bus, topic: str, frames: Iterator[bytes], count: int | None, tally: Tally) -> None:
    run = secrets.token_hex(3)
    prefix = topic.rsplit("/", 1)[1]
    for frame in frames:
        if tally.refused:
            return
        identifier = f"{prefix}-{run}-{tally.published:06d}"
        tally.published += 1
        tally.bytes += len(frame)
        # Only at QoS 1 does a broker say that it refuses; the first frame asks for all.
        qos = 1 if tally.published == 1 else 0
        bus.publish_bulk(topic, frame, qos=qos, user_properties=[("frame_id", identifier)], on_done=tally.done)
        if tally.published == count:
            return


def _report(tally: Tally, topic: str, as_json: bool) -> None:
    if as_json:
        counts = {"topic": topic, "frames": tally.published, "bytes": tally.bytes, "lost": tally.lost}
        print(json.dumps(counts))
    else:
        lost = f", {tally.lost} lost on the way to the broker" if tally.lost else ""
        print(f"{tally.published} frames, {tally.bytes:,} bytes to {topic}{lost}", file=sys.stderr)
