"""`popexd watch`: what an agent says, live."""

from __future__ import annotations

import json
import queue
import sys
import time
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.live import Live

from popexd.bus.base import Bus, Message
from popexd.cli import connection
from popexd.cli.view import View, line
from popexd.config import DeviceBroker
from popexd.errors import MessageRejected
from popexd.protocol.payload import parse_json
from popexd.protocol.topics import DeviceTopics

_REDRAW_SECONDS = 0.2

Heard = Message | tuple[bool, str]


@connection.with_broker
def watch(
    broker: DeviceBroker,
    count: Annotated[int | None, typer.Option(help="end after so many results", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print every payload as one line of JSON")] = False,
) -> None:
    """Show an agent's state, decision, metrics, results and events as they come; Ctrl-C ends it.

    Away from a terminal, one line of text for each.
    """
    topics = connection.device_topics(broker)
    inbox: queue.SimpleQueue[Heard] = queue.SimpleQueue()

    def listen(bus: Bus) -> None:
        for topic in (topics.state, topics.decision, topics.metrics, topics.event, topics.results("+")):
            bus.subscribe(topic, inbox.put)
        bus.on_connection(lambda up, reason: inbox.put((up, reason)))

    with connection.connected(broker, listen):
        if as_json:
            _print_json(inbox, topics, count)
        elif sys.stdout.isatty():
            _draw(inbox, View(topics), count)
        else:
            _print_lines(inbox, View(topics), count)


def _messages(inbox: queue.SimpleQueue[Heard]) -> Iterator[Message]:
    while True:
        heard = inbox.get()
        if isinstance(heard, Message):
            yield heard
        elif not heard[0]:
            print(f"popexd: connection lost: {heard[1]}; trying again", file=sys.stderr)


def _print_json(inbox: queue.SimpleQueue[Heard], topics: DeviceTopics, count: int | None) -> None:
    seen = 0
    for message in _messages(inbox):
        try:
            payload = parse_json(message.payload)
        except MessageRejected as error:
            payload = {"unreadable": str(error)}
        print(json.dumps({"topic": message.topic, **payload}), flush=True)
        seen += message.topic.startswith(topics.results(""))
        if seen == count:
            return


def _print_lines(inbox: queue.SimpleQueue[Heard], view: View, count: int | None) -> None:
    for message in _messages(inbox):
        payload = view.update(message.topic, message.payload)
        leaf = message.topic.split("/")[3]
        print(f"{leaf:<9} {'unreadable' if payload is None else line(payload)}", flush=True)
        if view.results_seen == count:
            return


def _draw(inbox: queue.SimpleQueue[Heard], view: View, count: int | None) -> None:
    with Live(view, auto_refresh=False) as live:
        drawn = time.monotonic()
        while view.results_seen != count:
            try:
                heard = inbox.get(timeout=_REDRAW_SECONDS)
            except queue.Empty:
                heard = None
            if isinstance(heard, Message):
                view.update(heard.topic, heard.payload)
            elif heard is not None:
                view.connection = "connected" if heard[0] else f"connection lost: {heard[1]}"
            if heard is None or time.monotonic() - drawn > _REDRAW_SECONDS:
                live.refresh()
                drawn = time.monotonic()
        live.refresh()
