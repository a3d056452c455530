"""Worlds to talk in: the memory broker, and a real Mosquitto of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from broker.config import BrokerSettings
from broker.process import Broker
from popexd.bus import Bus, Will
from popexd.bus.base import Handler
from popexd.bus.memory import MemoryBroker
from popexd.bus.mqtt import MqttBus, MqttSettings
from tests.bus.waiting import PATIENCE_SECONDS


class World:
    """A broker that can die and come back, and started buses on it."""

    stop: Callable[[], None]
    restart: Callable[[], None]

    def bus(self, will: Will | None = None, *, started: bool = True) -> Bus:
        """A new bus, connected unless told otherwise."""
        raise NotImplementedError

    def listen(self, *subscriptions: tuple[str, Handler], will: Will | None = None) -> Bus:
        """A connected bus whose subscriptions are in force."""
        bus = self.bus(will, started=False)
        for topic_filter, handler in subscriptions:
            bus.subscribe(topic_filter, handler)
        bus.start()
        bus.wait_connected(PATIENCE_SECONDS)
        return bus


class MemoryWorld(World):
    def __init__(self, max_packet_bytes: int | None = None) -> None:
        self.broker = MemoryBroker(max_packet_bytes)
        self.stop, self.restart = self.broker.stop, self.broker.restart

    def bus(self, will: Will | None = None, *, started: bool = True) -> Bus:
        """A client of the memory broker."""
        bus = self.broker.bus(will)
        if started:
            bus.start()
        return bus


class MosquittoWorld(World):
    def __init__(self, stack: ExitStack, max_packet_bytes: int | None = None) -> None:
        settings = BrokerSettings()
        if max_packet_bytes is not None:
            settings = replace(settings, max_packet_bytes=max_packet_bytes)
        self.broker = stack.enter_context(Broker(settings=settings))
        self.stop, self.restart = self.broker.kill, self.broker.start
        self._stack = stack

    def bus(self, will: Will | None = None, *, started: bool = True) -> Bus:
        """A client of the real broker, stopped with the test."""
        bus = MqttBus(MqttSettings(port=self.broker.port), will)
        self._stack.callback(bus.stop)
        if started:
            bus.start()
            bus.wait_connected(PATIENCE_SECONDS)
        return bus


WorldMaker = Callable[..., World]


@pytest.fixture(params=["memory", "mosquitto"])
def make_world(request: pytest.FixtureRequest) -> Iterator[WorldMaker]:
    """Builds a world of either kind: whatever a test promises, both transports keep."""
    with ExitStack() as stack:

        def make(**limits: Any) -> World:
            return MemoryWorld(**limits) if request.param == "memory" else MosquittoWorld(stack, **limits)

        yield make


@pytest.fixture
def world(make_world: WorldMaker) -> World:
    """A world without limits."""
    return make_world()


@pytest.fixture
def broker() -> Iterator[Broker]:
    """A real Mosquitto on a port of its own."""
    with Broker() as broker:
        yield broker


@pytest.fixture
def connect() -> Iterator[Callable[..., MqttBus]]:
    """Starts buses and stops them afterwards: `connect(port, will=…, wait=False, **settings)`."""
    with ExitStack() as stack:

        def connect(port: int, *, will: Will | None = None, wait: bool = True, **settings: Any) -> MqttBus:
            bus = MqttBus(MqttSettings(port=port, **settings), will)
            stack.callback(bus.stop)
            bus.start()
            if wait:
                bus.wait_connected(PATIENCE_SECONDS)
            return bus

        yield connect
