"""What the bus promises, on the memory broker and on a real Mosquitto alike."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from popexd.bus import Delivery, Message, Will
from popexd.bus.base import packet_bytes
from tests.bus.conftest import World, WorldMaker
from tests.bus.waiting import PATIENCE_SECONDS, Fates, Inbox, until


def test_a_message_arrives_as_it_was_published(world: World) -> None:
    """Payload and properties come through byte for byte, in order."""
    inbox = Inbox()
    world.listen(("a/+/c", inbox))
    payload = bytes(range(256)) * 9
    pairs = (("frame_id", "7"), ("frame_id", "again"), ("ключ", "значение"))

    world.bus().publish(
        "a/b/c",
        payload,
        qos=1,
        correlation_data=b"\x00\xff",
        user_properties=pairs,
        response_topic="back/to/me",
        expiry_seconds=600,
    )

    assert inbox.next() == Message("a/b/c", payload, 1, False, b"\x00\xff", pairs, "back/to/me")


def test_only_what_matches_is_heard(world: World) -> None:
    """`+` is one level, `#` the rest, and nothing else gets through."""
    one, rest = Inbox(), Inbox()
    world.listen(("x/+/z", one), ("y/#", rest))
    speaker = world.bus()

    for topic in ("x/1/z", "x/1/2/z", "x/z", "y", "y/1", "y/1/2", "z/y/1", "end"):
        speaker.publish(topic, topic.encode(), qos=1)
    speaker.publish("x/end/z", b"end", qos=1)
    speaker.publish("y/end", b"end", qos=1)

    assert one.payloads(2) == [b"x/1/z", b"end"]
    assert rest.payloads(4) == [b"y", b"y/1", b"y/1/2", b"end"]


def test_overlapping_filters_hear_a_message_once_each(world: World) -> None:
    """A handler hears a message once for each subscription of its own that matches."""
    narrow, wide, shared = Inbox(), Inbox(), Inbox()
    world.listen(("t/a", narrow), ("t/#", wide), ("$share/group/t/+", shared))
    speaker = world.bus()

    for number in range(5):
        speaker.publish("t/a", b"%d" % number, qos=1)
    speaker.publish("t/a", b"end", qos=1)

    for inbox in (narrow, wide, shared):
        assert inbox.payloads(6) == [b"0", b"1", b"2", b"3", b"4", b"end"]


def test_a_late_subscriber_hears_what_is_retained(world: World) -> None:
    """Retained messages are marked as such, live ones are not."""
    speaker, early, late = world.bus(), Inbox(), Inbox()
    listener = world.listen(("state", early))
    speaker.publish("state", b"online", qos=1, retain=True)
    live = early.next()
    listener.subscribe("state", late)

    assert (live.payload, live.retain) == (b"online", False)
    kept = late.next()
    assert (kept.payload, kept.retain) == (b"online", True)


def test_an_empty_retained_message_clears_the_topic(world: World) -> None:
    """Whoever subscribes afterwards hears nothing of it."""
    speaker, inbox = world.bus(), Inbox()
    speaker.publish("state", b"online", qos=1, retain=True)
    speaker.publish("state", b"", qos=1, retain=True)
    fates = Fates()
    speaker.publish("state", b"", qos=1, on_done=fates.on_done())
    fates.wait()
    listener = world.bus()
    listener.subscribe("state", inbox)
    listener.subscribe("end", inbox)
    listener.publish("end", b"end", qos=1)

    assert inbox.next().payload == b"end"


def test_shared_subscribers_split_the_load(world: World) -> None:
    """Each message goes to one of the group, and every member gets its part."""
    speaker, first, second = world.bus(), Inbox(), Inbox()
    world.listen(("$share/workers/work/+", first))
    world.listen(("$share/workers/work/+", second))

    for number in range(10):
        speaker.publish("work/x", b"%d" % number, qos=1)
    until(lambda: len(first) + len(second) == 10, "all ten")

    assert (len(first), len(second)) == (5, 5)


def test_nobody_listening_is_reported(world: World) -> None:
    """At QoS 1 the broker tells at once that no worker is there."""
    bus, fates = world.bus(), Fates()
    bus.publish_bulk("work", b"tensor", on_done=fates.on_done("alone"))
    assert fates.wait("alone") is Delivery.NO_SUBSCRIBERS

    world.listen(("work", Inbox()))
    bus.publish_bulk("work", b"tensor", on_done=fates.on_done("heard"))
    assert fates.wait("heard") is Delivery.DELIVERED


def test_a_publish_at_qos_0_is_done_when_handed_over(world: World) -> None:
    """Nobody acknowledges it, so it counts as delivered."""
    bus, fates = world.bus(), Fates()

    bus.publish("nowhere", b"x", on_done=fates.on_done())

    assert fates.wait() is Delivery.DELIVERED


@pytest.mark.parametrize("qos", [0, 1])
def test_a_burst_flows_at_the_pace_of_the_connection(world: World, qos: int) -> None:
    """A window that empties is filled again at once, acknowledged or not."""
    inbox = Inbox()
    world.listen(("t", inbox))
    bus = world.bus()

    for number in range(900):
        bus.publish("t", b"%d" % number, qos=qos)

    assert inbox.payloads(900) == [b"%d" % number for number in range(900)]


@pytest.mark.parametrize("bulk", [False, True])
def test_too_large_is_reported_and_the_connection_survives(make_world: WorldMaker, *, bulk: bool) -> None:
    """The broker's limit counts the whole packet: exactly that much passes, one byte more is never sent."""
    world = make_world(max_packet_bytes=2_000)
    inbox, fates, changes = Inbox(), Fates(), []
    bus = world.listen(("t", inbox))
    bus.on_connection(lambda connected, reason: changes.append((connected, reason)))
    assert bus.max_packet_bytes == 2_000
    properties: dict[str, Any] = {"correlation_data": b"12345", "expiry_seconds": 600}
    overhead = packet_bytes(Message("t", bytes(1_000), 1, correlation_data=b"12345"), 600) - 1_000
    largest = 2_000 - overhead

    def publish(name: str, payload: bytes) -> None:
        if bulk:
            bus.publish_bulk("t", payload, on_done=fates.on_done(name), **properties)
        else:
            bus.publish("t", payload, qos=1, on_done=fates.on_done(name), **properties)

    publish("over", bytes(largest + 1))
    publish("full", bytes(largest))

    assert fates.wait("over") is Delivery.TOO_LARGE
    assert fates.wait("full") is Delivery.DELIVERED
    assert len(inbox.next().payload) == largest
    assert changes == []


def test_without_a_connection_only_qos_1_waits(world: World) -> None:
    """QoS 0 and bulk report that they went nowhere; QoS 1 arrives later, in order."""
    world.stop()
    bus, fates, inbox = world.bus(started=False), Fates(), Inbox()
    bus.subscribe("result", inbox)
    bus.start()

    bus.publish("metrics", b"x", on_done=fates.on_done("metrics"))
    bus.publish_bulk("work", b"x", on_done=fates.on_done("bulk"))
    for number in range(50):
        bus.publish("result", b"%d" % number, qos=1, on_done=fates.on_done(number))
    assert fates.wait("metrics") is Delivery.DISCONNECTED
    assert fates.wait("bulk") is Delivery.DISCONNECTED
    world.restart()

    assert [b"%d" % number for number in range(50)] == inbox.payloads(50)
    assert [fates.wait(number) for number in range(50)] == [Delivery.DELIVERED] * 50


def test_after_a_restart_of_the_broker_everything_is_back(world: World) -> None:
    """Subscriptions are in force, the retained set is retained again in its last state."""
    agent, inbox, late, changes = world.bus(), Inbox(), Inbox(), []
    agent.on_connection(lambda connected, _: changes.append(connected))
    agent.retain("state", b"online")
    agent.retain("decision", b"old")
    agent.subscribe("frames/+", inbox)

    world.stop()
    until(lambda: not agent.connected, "the loss of the connection")
    agent.retain("decision", b"new", qos=0)
    world.restart()
    until(lambda: agent.connected, "the connection")
    other = world.bus()
    other.publish("frames/1", b"frame", qos=1)
    until(lambda: len(inbox) == 1)
    other.subscribe("state", late)
    other.subscribe("decision", late)

    assert inbox.next().payload == b"frame"
    assert {b"online", b"new"} == set(late.payloads(2))
    assert changes == [False, True]


def test_the_undo_of_a_subscription_may_be_called_twice(world: World) -> None:
    """After it the handler hears nothing, and a second handler of the same filter still does."""
    bus, gone, stays = world.bus(), Inbox(), Inbox()
    undo = bus.subscribe("t", gone)
    undo_stays = bus.subscribe("t", stays)

    undo()
    undo()
    bus.publish("t", b"x", qos=1)
    assert stays.next().payload == b"x"
    assert len(gone) == 0

    undo_stays()
    fates = Fates()
    bus.publish("t", b"y", qos=1, on_done=fates.on_done())
    assert fates.wait() is Delivery.NO_SUBSCRIBERS


def test_a_raising_callback_is_counted_and_harms_nobody(world: World) -> None:
    """Handlers, outcomes and connection callbacks may all raise; the transport lives on."""
    bus, inbox = world.bus(started=False), Inbox()

    def raises(*_: object) -> None:
        raise RuntimeError("on purpose")

    bus.on_connection(raises)
    bus.subscribe("t", raises)
    bus.subscribe("t", inbox)
    bus.start()
    bus.wait_connected(PATIENCE_SECONDS)
    bus.publish("t", b"first", qos=1, on_done=raises)
    bus.publish("t", b"second", qos=1)

    assert inbox.payloads(2) == [b"first", b"second"]
    until(lambda: bus.callback_errors >= 4, "four counted errors")


def test_a_handler_may_publish(world: World) -> None:
    """A question is answered from within the handler that hears it."""
    inbox = Inbox()
    client = world.listen(("answer", inbox))
    server = world.listen(("question", lambda message: server.publish("answer", message.payload[::-1], qos=1)))

    client.publish("question", b"abc", qos=1)

    assert inbox.next().payload == b"cba"


def test_stop_is_a_farewell_that_flushes(world: World) -> None:
    """What was published before is delivered, the will is not, and what comes after goes nowhere."""
    inbox, fates = Inbox(), Fates()
    listener = world.listen(("#", inbox))
    bus = world.bus(Will("state", b"died"))

    for number in range(100):
        bus.publish("result", b"%d" % number, qos=1)
    bus.stop()
    bus.publish("result", b"late", qos=1, on_done=fates.on_done())
    bus.stop()

    assert fates.wait() is Delivery.DISCONNECTED
    assert [b"%d" % number for number in range(100)] == inbox.payloads(100)
    listener.publish("end", b"end", qos=1)
    assert inbox.next().payload == b"end"


def test_a_stopped_bus_can_be_started_again(world: World) -> None:
    """Subscriptions and the retained set come with it."""
    bus, inbox = world.bus(), Inbox()
    bus.subscribe("t", inbox)
    bus.stop()
    assert not bus.connected

    bus.start()
    bus.wait_connected(PATIENCE_SECONDS)
    bus.publish("t", b"x", qos=1)

    assert inbox.next().payload == b"x"


@pytest.mark.parametrize("topic", ["", "a/+", "#", "a\0b", "x" * 65_536])
def test_what_is_no_topic_is_refused_in_the_call(world: World, topic: str) -> None:
    """A mistake of ours shows where it is made, not on another thread."""
    with pytest.raises(ValueError, match="no topic"):
        world.bus(started=False).publish(topic, b"")


@pytest.mark.parametrize("topic_filter", ["", "a/#/b", "a+/b", "$share/g", "$share//a"])
def test_what_is_no_filter_is_refused_in_the_call(world: World, topic_filter: str) -> None:
    """So is a filter the broker would throw us out for."""
    with pytest.raises(ValueError, match="no topic filter"):
        world.bus(started=False).subscribe(topic_filter, Inbox())


def test_who_retires_hears_what_was_on_its_way_and_then_no_more(world: World) -> None:
    """The others of the group get the rest; nothing is lost between."""
    leaving, staying, fates = Inbox(), Inbox(), Fates()
    one = world.listen(("$share/workers/work", leaving))
    world.listen(("$share/workers/work", staying))
    speaker, retired = world.bus(), threading.Event()
    heard_when_done = []

    def done() -> None:
        heard_when_done.append(len(leaving))
        retired.set()

    for number in range(30):
        speaker.publish("work", b"%d" % number, qos=1, on_done=fates.on_done(number))
        if number == 10:
            one.retire("$share/workers/work", done)
    assert retired.wait(PATIENCE_SECONDS)
    until(lambda: len(leaving) + len(staying) == 30, "all thirty")
    assert heard_when_done == [len(leaving)]
    assert len(staying) >= 15


def test_retiring_without_a_connection_is_done_at_once(world: World) -> None:
    """Nothing can come; nor does it from a filter that nobody subscribed to."""
    bus, done = world.listen(("work", Inbox())), []
    bus.retire("other", lambda: done.append("other"))
    assert done == ["other"]
    world.stop()
    until(lambda: not bus.connected, "the connection being lost")
    bus.retire("work", lambda: done.append("work"))
    assert done == ["other", "work"]
