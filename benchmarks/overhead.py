"""What the machinery adds: from the published frame to its answer, less decoding and computing."""

from __future__ import annotations

import itertools
from statistics import median

from popexd.bus.base import Message
from popexd.protocol.replies import Reply

from .device import Device
from .figures import Figure, percentile
from .options import Options
from .pictures import generated
from .pins import ship
from .stage import BenchmarkError, Stage

AT_MOST_SECONDS = 0.003
CUT, CODEC = "pool5", "q8+zstd"
_WARM_UP = 30


def measure(options: Options) -> list[Figure]:
    """Send frames one after the other through one broker, cut at pool5; see where the time goes."""
    count = 60 if options.quick else 400
    with Stage() as stage:
        device = stage.agent("pinned", pin=ship(CUT, lambda codec: codec == CODEC, min_agreement=0.0))
        replies: list[bytes] = []
        stage.site.subscribe(device.topics.reply(device.name), lambda message: _keep(replies, message))
        parts = _split(device, replies, count)
    beyond = parts["beyond"]
    medians = {name: median(values) for name, values in parts.items()}
    shares = ", ".join(f"{name} {1000 * medians[name]:.2f}" for name in ("decode", "device", "cloud compute"))
    name = f"frame to answer, {CUT} {CODEC}, loopback: beyond decode, device and cloud compute, median"
    note = f"p95 {1000 * percentile(beyond, 0.95):.1f} ms; beside it {shares} ms"
    details = {"frames": len(beyond), "medians": medians, "p95": percentile(beyond, 0.95), "least": min(beyond)}
    return [Figure("overhead", name, median(beyond), "ms", at_most=AT_MOST_SECONDS, note=note, details=details)]


def _keep(replies: list[bytes], message: Message) -> None:
    replies.append(message.payload)


def _split(device: Device, replies: list[bytes], count: int) -> dict[str, list[float]]:
    """Return the seconds of each part, by frame; `beyond` is what the target is about."""
    parts: dict[str, list[float]] = {}
    for number, picture in zip(range(count + _WARM_UP), itertools.cycle(generated(32)), strict=False):
        answer = device.ask(picture)
        if number < _WARM_UP:
            continue
        if answer is None or answer.result.tier != "cloud" or device.decision is None or device.decision.cut != CUT:
            raise BenchmarkError(f"a frame was not shipped at {CUT}: {answer}")
        # The worker's reply reaches us before the agent's answer: the broker keeps the order of one connection.
        far = Reply.from_bytes(replies[-1]).seconds
        here = answer.result.seconds
        decode, computed = here.decode or 0.0, here.device or 0.0
        frame = {
            "total": answer.seconds,
            "decode": decode,
            "device": computed,
            "cloud compute": far["compute"],
            "beyond": answer.seconds - decode - computed - far["compute"],
            "encode": here.encode or 0.0,
            "agent's inbox": here.queue or 0.0,
            "worker's inbox": far["queue"],
            "worker's decode": far["decode"],
            "on the way": (here.transfer or 0.0),
            "outside the agent": answer.seconds - here.total,
        }
        for part, seconds in frame.items():
            parts.setdefault(part, []).append(seconds)
    return parts
