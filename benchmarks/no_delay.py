"""A QoS 1 round trip between two clients with and without Nagle's algorithm on all ends."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from statistics import median
from unittest.mock import patch

from broker.config import BrokerSettings
from broker.process import Broker
from popexd.bus import mqtt
from popexd.bus.mqtt import MqttBus, MqttSettings

from .figures import Figure
from .options import Options
from .stage import BenchmarkError

_WARM_UP = 5


def measure(options: Options) -> list[Figure]:
    """Send messages to and fro through a real broker, one after the other, as an agent and a worker do."""
    prompt = round_trip_seconds(50 if options.quick else 400, nodelay=True)
    delayed = round_trip_seconds(10 if options.quick else 25, nodelay=False)
    note = f"{1000 * prompt:.2f} ms with, {1000 * delayed:.1f} ms without, medians"
    details = {"with_seconds": prompt, "without_seconds": delayed}
    name = "QoS 1 there and back without TCP_NODELAY, against with it"
    return [Figure("nodelay", name, delayed / prompt, "x", note=note, details=details)]


def round_trip_seconds(count: int, *, nodelay: bool) -> float:
    """Return the median seconds from a message of ours to the answer of another client."""
    with ExitStack() as stack:
        settings = BrokerSettings(extra_lines=(f"set_tcp_nodelay {str(nodelay).lower()}",))
        port = stack.enter_context(Broker(settings=settings)).port
        if not nodelay:
            # The bus has no switch for it, and needs none: only here is the option left out.
            stack.enter_context(patch.object(mqtt, "_without_delay", lambda *_: None))
        near, far = (MqttBus(MqttSettings(port=port)) for _ in range(2))
        heard = threading.Event()
        near.subscribe("pong", lambda _: heard.set(), qos=1)
        far.subscribe("ping", lambda message: far.publish("pong", message.payload, qos=1), qos=1)
        for bus in (near, far):
            stack.callback(bus.stop)
            bus.start()
            bus.wait_connected(10)
        seconds = [_round_trip(near, heard) for _ in range(count + _WARM_UP)]
    return median(seconds[_WARM_UP:])


def _round_trip(bus: MqttBus, heard: threading.Event) -> float:
    heard.clear()
    began = time.perf_counter()
    bus.publish("ping", b"x" * 200, qos=1)
    if not heard.wait(10):
        raise BenchmarkError("a message that another client was to answer did not come back")
    return time.perf_counter() - began
