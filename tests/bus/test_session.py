"""What a broker keeps for us: acknowledged late, delivered again to our next start, never twice to one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from broker.process import Broker
from popexd.bus import Delivery, Message
from popexd.bus.mqtt import MqttBus, MqttSettings
from tests.bus.door import Door
from tests.bus.waiting import PATIENCE_SECONDS, Fates, Inbox, until


class Site:
    """A broker, a camera, and agents of one name that come and go."""

    def __init__(self, stack: ExitStack) -> None:
        self.broker = stack.enter_context(Broker())
        self._stack = stack
        self.camera = self.connected(MqttBus(MqttSettings(port=self.broker.port)))
        self.fates = Fates()

    def connected(self, bus: MqttBus) -> MqttBus:
        """Start a bus, stopped with the test."""
        self._stack.callback(bus.stop)
        bus.start()
        bus.wait_connected(PATIENCE_SECONDS)
        return bus

    def door(self) -> Door:
        """A way to the broker that breaks."""
        door = Door(self.broker.port)
        self._stack.callback(door.close)
        return door

    def agent(self, heard: Callable[[Message], None], port: int | None = None, *, held: bool = True) -> MqttBus:
        """A client that the broker remembers."""
        bus = MqttBus(MqttSettings(port=port or self.broker.port, client_id="agent", session_seconds=60))
        bus.subscribe("frames/+", heard, held=held)
        return self.connected(bus)

    def publish(self, *payloads: bytes) -> None:
        """Publish frames, and wait until the broker has them."""
        for payload in payloads:
            self.camera.publish("frames/c", payload, qos=1, on_done=self.fates.on_done(payload))
        for payload in payloads:
            assert self.fates.wait(payload) is Delivery.DELIVERED

    def has_heard(self, bus: MqttBus) -> None:
        """Wait until the broker has read all that a bus was to say so far, acknowledgements too."""
        for name in ("first", "then"):  # an acknowledgement goes behind what is published with it
            fates = Fates()
            bus.publish("said", b"", qos=1, on_done=fates.on_done(name))
            fates.wait(name)

    def leave(self, bus: MqttBus) -> None:
        """Stop a bus, and wait until the broker says that nobody listens any more."""
        bus.stop()
        tries = itertools.count()

        def left() -> bool:
            name = next(tries)
            self.camera.publish("frames/c", b"too late", qos=1, on_done=self.fates.on_done(name))
            return self.fates.wait(name) is Delivery.NO_SUBSCRIBERS

        until(left, "the broker having read the farewell")


@pytest.fixture
def site() -> Iterator[Site]:
    """A site without agents."""
    with ExitStack() as stack:
        yield Site(stack)


def acknowledged(message: Message) -> bytes:
    """Acknowledge a message; return its payload."""
    assert message.receipt is not None
    message.receipt.acknowledge()
    return message.payload


def test_what_was_not_acknowledged_comes_to_the_next_start(site: Site) -> None:
    """And says so; what was acknowledged does not, and what came meanwhile comes for the first time."""
    door, first, second = site.door(), Inbox(), Inbox()
    bus = site.agent(first, door.port)
    site.publish(b"held", b"done")
    held, done = first.next(), first.next()
    acknowledged(done)
    assert held.receipt is not None
    assert not held.receipt.again
    site.has_heard(bus)
    site.publish(b"last")
    first.next()
    door.close()
    site.publish(b"meanwhile")

    site.agent(second)
    again = [second.next() for _ in range(3)]
    assert [(each.payload, each.receipt is not None and each.receipt.again) for each in again] == [
        (b"held", True),
        (b"last", True),
        (b"meanwhile", False),
    ]
    assert again[0].receipt is not None
    assert again[0].receipt.mark == held.receipt.mark


def test_a_connection_that_breaks_brings_nothing_twice(site: Site) -> None:
    """What we hold, and what we acknowledged on the old one, is not heard again; the broker forgets both in the end."""
    door, inbox, later = site.door(), Inbox(), Inbox()
    bus = site.agent(inbox, door.port)
    site.publish(b"held", b"given", b"held and given meanwhile")
    held, given, meanwhile = (inbox.next() for _ in range(3))
    door.deaf = True
    acknowledged(given)
    until(lambda: door.swallowed > 0, "the acknowledgement being said to nobody")
    acknowledged(meanwhile)
    door.slam()
    site.publish(b"next")
    assert acknowledged(inbox.next()) == b"next"
    acknowledged(held)
    site.publish(b"end")
    assert acknowledged(inbox.next()) == b"end"
    assert len(inbox) == 0

    site.leave(bus)
    site.agent(later)
    site.publish(b"afterwards")
    assert later.next().payload == b"afterwards"


def test_a_broker_that_forgot_us_gets_no_old_acknowledgement(site: Site) -> None:
    """Its numbers begin anew: acknowledging by an old one would lose a frame of the new session."""
    door, inbox, later = site.door(), Inbox(), Inbox()
    bus = site.agent(inbox, door.port)
    site.publish(b"before")
    before = inbox.next()
    site.broker.restart()
    until(lambda: bus.connected and site.camera.connected, "both being back")
    site.publish(b"after")
    after = inbox.next()
    assert before.receipt is not None
    assert after.receipt is not None
    assert before.receipt.number == after.receipt.number
    acknowledged(before)
    assert not bus.receipts.due()
    door.close()

    site.agent(later)
    assert later.next().payload == b"after"


def test_an_answer_goes_ahead_of_its_acknowledgement(site: Site) -> None:
    """Whoever listens has heard it when the broker may forget the question; offline, both wait."""
    door, inbox, answers, later = site.door(), Inbox(), Inbox(), Inbox()
    bus = site.agent(inbox, door.port)
    site.camera.subscribe("results", answers)
    site.publish(b"question", b"another")
    for _ in range(2):
        message = inbox.next()
        bus.publish("results", b"answer to " + message.payload, qos=1, answers=message.receipt)
    assert answers.payloads(2) == [b"answer to question", b"answer to another"]
    site.publish(b"end")
    end = inbox.next()
    door.close()
    until(lambda: not bus.connected, "the connection being lost")
    bus.publish("results", b"said to nobody", qos=1, answers=end.receipt)

    site.agent(later)
    assert later.next().payload == b"end"
    assert len(later) == 0


def test_an_answer_that_cannot_be_sent_holds_nothing_back(site: Site) -> None:
    """Too large for the broker: there will be no better one, so the question is done with."""
    inbox = Inbox()
    bus = site.agent(inbox)
    limit = bus.max_packet_bytes
    assert limit is not None
    for number in range(2 * bus.window_messages):
        site.publish(b"%d" % number)
        bus.publish("results", bytes(limit), qos=1, answers=inbox.next().receipt)


def test_what_is_not_held_is_acknowledged_when_it_was_heard(site: Site) -> None:
    """As with any client: nobody has to think of it."""
    inbox, later = Inbox(), Inbox()
    door = site.door()
    bus = site.agent(inbox, door.port, held=False)
    numbers = [b"%d" % number for number in range(3 * bus.window_messages)]
    site.publish(*numbers)
    assert inbox.payloads(len(numbers)) == numbers
    site.publish(b"end")
    inbox.next()
    site.leave(bus)
    site.agent(later)
    site.publish(b"afterwards")
    assert later.next().payload == b"afterwards"


def test_a_farewell_ends_the_session(site: Site) -> None:
    """Who leaves is not to be waited for: a publisher hears that nobody listens."""
    inbox = Inbox()
    bus = site.agent(inbox)
    site.publish(b"held")
    inbox.next()
    site.leave(bus)

    later = Inbox()
    site.agent(later)
    site.publish(b"afterwards")
    assert later.next().payload == b"afterwards"


def test_numbers_of_an_earlier_start_mislead_nobody(site: Site) -> None:
    """A kept message bears the subscription number of back then, which means another filter now."""
    door, frames, orders = site.door(), Inbox(), Inbox()
    site.agent(frames, door.port)
    site.publish(b"frame")
    frames.next()
    door.close()

    bus = MqttBus(MqttSettings(port=site.broker.port, client_id="agent", session_seconds=60))
    bus.subscribe("orders", orders)
    bus.subscribe("frames/+", frames, held=True)
    site.connected(bus)
    assert frames.next().payload == b"frame"
    assert len(orders) == 0
